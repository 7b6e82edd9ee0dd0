"""An app of somebody else: what it releases, what it cannot, and how its errors show."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from hanse_client import app as client_app
from hanse_client import clipped_sum, customer_sums, secure, trained_arrays
from hanse_common import PrivacyPlan
from hanse_common.privacy.ledger import Ledger
from hanse_server import SecureGrid
from hanse_server.strategies import make_strategy
from hanse_simulations import make_federation
from kits.apps.secure_federation import FaultGrid
from kits.errors import raises

STORES = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, rows):
        return self.layer(rows)


def data(store: int):
    rows = torch.tensor(np.random.default_rng(store).normal(size=(40, 3)), dtype=torch.float32)
    return {"rows": rows, "labels": (rows[:, 0] > 0).long()}


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["rows"]), batch["labels"], reduction="none")


@cache
def plan_of(rounds, evaluation):
    return PrivacyPlan.solve(
        target_epsilon=20.0,
        target_delta=1e-4,
        rounds=rounds,
        sample_rate=0.9,
        evaluation_noise_multiplier=evaluation,
    )


class Own:
    """Somebody's app and its federation in one process."""

    def __init__(self, folder, monkeypatch, *, metrics=(), evaluation=None, rounds=3) -> None:
        plan = plan_of(rounds, evaluation)
        self.folder = make_federation(
            folder / "federation",
            plan,
            trained_arrays(Net()),
            stores=STORES,
            learning_rate=20.0,
            expected_batch_size=36,
            metrics=metrics,
            seed=1,
        )
        monkeypatch.setenv("HANSE_FEDERATION", str(self.folder))
        client_app._node.cache_clear()
        self.app = secure(ClientApp())
        self.grid = FaultGrid(sorted(path.name for path in (self.folder / "stores").iterdir()))
        self.grid.client = self.app
        self.rounds = rounds

    def run(self, **options):
        return FedAvg(**{"fraction_evaluate": 0.0, "min_available_nodes": STORES, **options}).start(
            grid=SecureGrid.from_federation(self.folder, self.grid),
            initial_arrays=ArrayRecord(Net().state_dict()),
            num_rounds=self.rounds,
        )

    def said(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("stores/*/log.jsonl"))


def store_of(context) -> int:
    return int(context.node_config["partition-id"])


@pytest.mark.slow
def test_flowers_own_start_trains_on_masked_noisy_sums(tmp_path, monkeypatch):
    own = Own(tmp_path, monkeypatch)

    @own.app.train()
    def train(message, context):
        clipped_sum(Net(), loss, data(store_of(context)))
        return Message(RecordDict(), reply_to=message)

    result = own.run()
    model = Net()
    before = float(loss(model, data(99)).mean())
    model.load_state_dict(result.arrays.to_torch_state_dict())
    assert float(loss(model, data(99)).mean()) < before
    for path in own.folder.glob("stores/*"):
        charges = [e for e in Ledger.open(path / "ledger.sqlite") if e.spends]
        assert len(charges) == own.rounds and charges[-1].epsilon_after <= 20.0
        assert json.loads((path / "clipping-check.json").read_text())


@pytest.mark.slow
def test_an_evaluation_releases_the_metrics_that_the_app_named(tmp_path, monkeypatch):
    own = Own(tmp_path, monkeypatch, metrics=("accuracy",), evaluation=2.0, rounds=1)

    @own.app.train()
    def train(message, context):
        clipped_sum(Net(), loss, data(store_of(context)))
        return Message(RecordDict(), reply_to=message)

    @own.app.evaluate()
    def evaluate(message, context):
        customer_sums(accuracy=np.full(40, 2.0))  # beyond 1, so clipped
        return Message(RecordDict(), reply_to=message)

    metrics = own.run(fraction_evaluate=1.0).evaluate_metrics_clientapp[1]
    assert set(metrics) == {"customers", "accuracy"}
    assert metrics["customers"] == pytest.approx(160, abs=30)
    assert metrics["accuracy"] == pytest.approx(160, abs=30)


@pytest.mark.slow
def test_an_error_of_the_app_ends_the_round_loudly(tmp_path, monkeypatch, caplog):
    own = Own(tmp_path, monkeypatch, rounds=1)

    @own.app.train()
    def train(message, context):
        raise ZeroDivisionError("a bug")

    with raises("round-failed"):
        own.run()
    assert "store store-000 is not in the sum" in caplog.text
    assert "a bug" in own.said()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("releases", "why"),
    [
        (lambda rows: None, "released no clipped_sum"),
        (lambda rows: [clipped_sum(Net(), loss, rows) for _ in "12"], "released twice"),
        (lambda rows: clipped_sum(nn.Linear(3, 5), loss, rows), "the terms say"),
        (
            lambda rows: clipped_sum(Net(), lambda m, b: loss(m, b) * loss(m, b).mean(), rows),
            "off by",
        ),
    ],
)
def test_an_app_that_breaks_the_promise_sends_noise_or_nothing(
    tmp_path, monkeypatch, releases, why
):
    own = Own(tmp_path, monkeypatch, rounds=1)

    @own.app.train()
    def train(message, context):
        releases(data(store_of(context)))
        return Message(RecordDict(), reply_to=message)

    try:
        own.run()
    except Exception as error:
        assert "hello" in str(error)
    assert why in own.said()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_clipped_and_checked_there(tmp_path, monkeypatch):
    own = Own(tmp_path, monkeypatch, rounds=1)

    @own.app.train()
    def train(message, context):
        clipped_sum(Net().cuda(), loss, data(store_of(context)))
        return Message(RecordDict(), reply_to=message)

    own.run()
    assert "error" not in own.said()


def test_nothing_is_released_outside_an_order():
    with raises("config"):
        clipped_sum(Net(), loss, data(0))
    with raises("config"):
        customer_sums(accuracy=[1.0])


class Ours(FedAvg):
    """A strategy of another package."""


def test_a_strategy_is_found_by_its_entry_point(monkeypatch):
    from importlib.metadata import EntryPoint

    from hanse_common.app_settings import app_settings

    settings = app_settings(
        target_epsilon=1.0, target_delta=1e-5, rounds=2, sample_rate=0.1, max_grad_norm=1.0
    ).with_changes({"federation.strategy": "ours"})
    found = {"ours": f"{__name__}:Ours", "wrong": f"{__name__}:Net"}
    monkeypatch.setattr(
        "hanse_server.strategies.entry_points",
        lambda group, name: [EntryPoint(name, found[name], group)] if name in found else [],
    )
    assert type(make_strategy(settings)).__name__ == "Ours"
    for name in ("wrong", "unknown"):
        with raises("config"):
            make_strategy(settings.with_changes({"federation.strategy": name}))


def test_settings_without_metrics_are_those_of_the_version_before():
    from hanse_common.recipes import smoke

    assert "metrics" not in smoke().model_dump(mode="json")
