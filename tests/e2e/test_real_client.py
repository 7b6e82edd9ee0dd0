"""The store's real ClientApp: what its replies hold, and the same model from both engines."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from hanse_client.node import Node, list_nodes
from hanse_client.tasks.interest import InterestModel
from hanse_client.training.train import trained_arrays
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_server.checkpoint import write_arrays
from hanse_simulations.engines import run_federation
from hanse_simulations.experiment.prepare import make_nodes
from hanse_simulations.runs.arm_folder import ArmFolder
from kits.apps.local_grid import LocalGrid


def initial(prepared, settings):
    model = InterestModel.from_pretrained(prepared.base_model)
    model.train_only(settings.model.trainable)
    return trained_arrays(model)


@pytest.fixture
def ask(small_stores, tmp_path, monkeypatch):
    """Send a message to the first small store's ClientApp."""
    settings, prepared = small_stores
    federation = make_nodes(prepared, ArmFolder(tmp_path), settings, salt="test")
    monkeypatch.setenv("HANSE_FEDERATION", str(federation))
    grid = LocalGrid(2, "hanse_simulations.engines.store_app:app")
    arrays = ArrayRecord({n: Array(a) for n, a in initial(prepared, settings).items()})

    def send(kind, changes=(), **config):
        record = {"settings": settings.with_changes(dict(changes)).model_dump_json(), **config}
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(record)})
        node = next(iter(n for n, c in grid.contexts.items() if c.node_config["partition-id"] == 0))
        (reply,) = grid.send_and_receive([Message(content, node, kind)])
        return reply

    send.stores = federation
    send.arrays = arrays
    return send


def test_a_store_says_its_name_and_no_more(ask):
    reply = ask("query.describe")
    assert {name: dict(record) for name, record in reply.content.items()} == {
        "config": {"store": "synthetic-01"}
    }


def test_a_training_reply_holds_the_update_and_a_public_constant(ask):
    """No count, loss or metric of the store's customers is in the reply."""
    reply = ask("train", **{"server-round": 1})
    assert set(reply.content) == {"arrays", "metrics"}
    assert dict(reply.content["metrics"]) == {"num-examples": 1}
    assert set(reply.content["arrays"]) == set(ask.arrays)
    assert any(
        not np.array_equal(reply.content["arrays"][name].numpy(), array.numpy())
        for name, array in ask.arrays.items()
    )


def test_an_evaluation_reply_holds_nothing_of_the_figures(ask):
    reply = ask("evaluate", **{"server-round": 1, "split": "test"})
    assert {name: dict(record) for name, record in reply.content.items()} == {
        "metrics": {"num-examples": 1}
    }
    assert (ask.stores / "synthetic-01" / "evaluations" / "test-00001.npz").exists()


def test_a_refusal_carries_its_code_and_charges_nothing(ask):
    """Without privacy a store that is too small says so."""
    open_terms = {"privacy.mode": "none", "privacy.noise_multiplier": None}
    reply = ask("train", {"data.min_customers": 99, **open_terms}, **{"server-round": 1})
    assert reply.error.reason.startswith("[too-few-customers] store 'synthetic-01' has 24")
    assert not (ask.stores / "synthetic-01" / "ledger.sqlite").exists()


def test_terms_that_promise_too_much_are_refused_by_the_store(ask):
    reply = ask("train", {"privacy.noise_multiplier": 0.1}, **{"server-round": 1})
    assert reply.error.reason.startswith("[privacy]")
    assert not (ask.stores / "synthetic-01" / "ledger.sqlite").exists()


def federate(folder, small_stores, **compute):
    settings, prepared = small_stores
    settings = settings.with_changes({f"compute.{key}": value for key, value in compute.items()})
    make_nodes(prepared, ArmFolder(folder), settings, salt="test")
    write_arrays(folder / INITIAL_FILE, initial(prepared, settings))
    run_federation(folder, folder / "stores", settings)
    spent = [Node(path).spent() for path in list_nodes(folder / "stores")]
    return (folder / GLOBAL_FILE).read_bytes(), spent


def test_workers_do_not_change_the_private_model(small_stores, tmp_path):
    one = federate(tmp_path / "one", small_stores, workers=1)
    assert one == federate(tmp_path / "two", small_stores, workers=2)
    assert one[1][0] == [SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.5, count=4)]


@pytest.mark.slow
def test_ray_gives_the_same_private_model_and_charges_the_same(small_stores, tmp_path):
    ours = federate(tmp_path / "ours", small_stores, workers=2)
    assert ours == federate(tmp_path / "ray", small_stores, engine="ray", workers=2)
