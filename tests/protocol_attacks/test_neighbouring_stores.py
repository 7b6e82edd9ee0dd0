"""Every reply of a store over pairs of neighbouring data sets: with and without one customer.

Apart from the masked vector, which is noised and charged, a store's replies must not depend on
its customers: not in what they say, not in how long they are, and not in whether they are
errors. The pairs lie at the borders of every limit that a store looks at.
"""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from hanse_client.deployment.node_loop import REPORTED_GRID, reported_seconds
from hanse_client.features.by_customer import customers_and_means
from hanse_client.features.histories import Histories
from hanse_common.errors import UNABLE, PrivacyError
from hanse_common.secagg.messages import Hello
from kits.apps.secure_federation import said
from kits.replies import replies

STORE = "synthetic-03"


def keep(federation, customers: np.ndarray) -> None:
    """Give the store these customers alone."""
    node = federation.node(STORE)
    everything = Histories.load(node.settings.histories)
    assert len(everything) == 24
    some = everything.only(np.asarray(customers, np.int64))
    path = node.folder / "histories.npz"
    some.save(path)
    table = json.loads((node.folder / "node.json").read_text())
    (node.folder / "node.json").write_text(json.dumps(table | {"histories": str(path)}))


def by_length(federation) -> np.ndarray:
    """Customers of the store, the one with the longest history first."""
    sizes = Histories.load(federation.node(STORE).settings.histories).sizes
    return np.argsort(-sizes, kind="stable")


PAIRS = {
    "at the least number of customers": lambda order: (order, order[:-1]),
    "far below it": lambda order: (order[:3], order[:2]),
    "one and none": lambda order: (order[:1], order[:0]),
    "with and without the longest history": lambda order: (order, order[1:]),
    "with and without the shortest history": lambda order: (order, order[:-1]),
}


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("pair", PAIRS)
def test_replies_do_not_depend_on_a_customer(pair, kind, mode, found_federation):
    said_by = []
    for number in (0, 1):
        changes = {
            "data.min_customers": 24,
            "privacy.mode": mode,
            "privacy.evaluation_noise_multiplier": 30.0,
            "privacy.target_epsilon": 60.0,
            "training.local_steps": 1,
            "training.sample_rate": 1.0,
        }
        federation = found_federation(changes, name=f"{number}")
        keep(federation, PAIRS[pair](by_length(federation))[number])
        extra = {} if kind == "train" else {"split": "validate", "server-round": 2}
        said_by.append(replies(federation, STORE, kind, **extra))
    assert said_by[0] == said_by[1]
    assert not any(isinstance(answer, tuple) for answer in said_by[0].values()), said_by[0]


BROKEN = {
    "no file": lambda path: path.unlink(),
    "no archive": lambda path: path.write_bytes(b"Ada"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "of another task": lambda path: np.savez(path, customers=np.array(["Ada"])),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_whatever_is_wrong_with_the_data_the_coordinator_hears_one_sentence(fault, federation):
    keep(federation, np.arange(24))
    BROKEN[fault](federation.node(STORE).folder / "histories.npz")
    reply = federation.tell(STORE)
    assert reply.error.reason == UNABLE
    log = (federation.node(STORE).folder / "log.jsonl").read_text()
    assert "error" in log  # the store's own log has the words
    assert federation.charged(STORE) == 0


def test_an_inexact_clip_is_the_same_sentence(federation, monkeypatch):
    (federation.node(STORE).folder / "clipping-check.json").unlink()
    monkeypatch.setattr("hanse_client.clipping.exactness.check_exactness", _inexact)
    assert federation.tell(STORE).error.reason == UNABLE


@pytest.mark.parametrize("seconds", [0.001, 1.0, 9.99, 10.0])
def test_the_reported_time_is_a_whole_step_of_a_coarse_grid(seconds):
    assert reported_seconds(seconds) == REPORTED_GRID
    assert reported_seconds(seconds + REPORTED_GRID) in (2 * REPORTED_GRID, REPORTED_GRID)


# A model that is crafted to fail for some customers and not for others


def failing_once(monkeypatch, place: str) -> None:
    """Let a computation on the data fail, as for one customer's history; what follows is real."""
    module, _, name = place.rpartition(".")
    real = getattr(importlib.import_module(module), name)
    failures = iter([OverflowError("of one customer")])

    def fail(*args, **kwargs):
        for failure in failures:
            raise failure
        return real(*args, **kwargs)

    monkeypatch.setattr(place, fail)


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("train", "hanse_client.training.train._clipped_sum"),
        ("train", "hanse_client.rounds.local_update.training_vector"),
        ("evaluate", "hanse_client.training.evaluate.evaluate_round"),
        ("evaluate", "hanse_client.rounds.local_update.evaluation_vector"),
    ],
)
def test_a_failed_computation_is_answered_with_noise_and_charged(
    kind, place, mode, found_federation, monkeypatch
):
    federation = found_federation(
        {
            "privacy.mode": mode,
            "privacy.evaluation_noise_multiplier": 30.0,
            "privacy.target_epsilon": 60.0,
            "training.local_steps": 1,
        }
    )
    extra = {} if kind == "train" else {"split": "validate", "server-round": 2}
    failing_once(monkeypatch, place)
    assert isinstance(said(federation.tell(STORE, kind, **extra)), Hello)
    waiting = federation.waiting(STORE)
    sizes = federation.manifest().terms(kind).layout.slices()
    for name in ("statistics", "evaluation"):
        if name in sizes:  # counts have noise of many customers, and nobody's count
            assert np.any(waiting.vector[sizes[name]])
    assert "OverflowError" in (federation.node(STORE).folder / "log.jsonl").read_text()


def test_a_question_that_fails_is_an_attempt_like_any_other(federation, monkeypatch):
    """Otherwise one could ask without end, with another model each time."""
    (federation.node(STORE).folder / "clipping-check.json").unlink()
    monkeypatch.setattr("hanse_client.clipping.exactness.check_exactness", _inexact)
    assert federation.tell(STORE).error.reason == UNABLE
    assert federation.tell(STORE).error.reason.startswith("[attempt-refused] ")


def _inexact(*_: object, **__: object) -> float:
    raise PrivacyError("layer 'x': off by 0.3", code="inexact-clipping")


def test_a_crafted_model_moves_a_sum_by_no_more_than_one_customer():
    """Scores that overflow for one customer count as one number in [0, 1], for all tasks."""
    for score in (np.nan, np.inf, -np.inf, 1e30):
        values = np.array([0.5, score, 1.0])
        sums = customers_and_means(np.arange(3), {"brier": values})
        assert 1.5 <= sums["brier"] <= 2.5
