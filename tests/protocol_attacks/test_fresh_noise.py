"""Every sum has noise of its own: a second attempt never shows the first one's again."""

from __future__ import annotations

import numpy as np
import pytest

from hanse_client.node import Node
from kits.apps.secure_federation import ByHand, forbid_work

STORE = "synthetic-03"


@pytest.fixture(params=["local", "distributed"])
def federation(request, found_federation):
    return found_federation(
        {
            "privacy.mode": request.param,
            "training.local_steps": 1,
            "privacy.target_epsilon": 30.0,
            "privacy.noise_multiplier": 4.0,
        }
    )


def vectors(federation) -> dict[str, np.ndarray]:
    return {name: federation.waiting(name).vector for name in federation.names}


def test_a_vector_that_was_masked_is_drawn_again_and_charged_again(federation):
    """Charged as independent, two sums of one noise would cost more than the ledger says."""
    ByHand(federation).upto("mask")
    first = vectors(federation)
    steps = federation.charged(STORE)
    ByHand(federation, attempt=2).upto("mask")
    for name, vector in vectors(federation).items():
        differs = np.mean(vector != first[name])
        assert differs > 0.9, name
    assert federation.charged(STORE) == 2 * steps
    assert [entry.release.attempt for entry in federation.node(STORE).ledger] == [1, 2]


def test_the_noise_of_two_attempts_is_not_correlated(federation):
    """On coordinates that hold nothing but noise, where there are some."""
    ByHand(federation).upto("mask")
    first = vectors(federation)[STORE]
    ByHand(federation, attempt=2).upto("mask")
    second = vectors(federation)[STORE]
    layout = federation.manifest().terms().layout
    for name, part in layout.split(first).items():
        if name == "noise_only":
            found = np.corrcoef(part, layout.split(second)[name])[0, 1]
            assert abs(found) < 6 / np.sqrt(len(part))


def test_a_vector_that_never_left_is_offered_again_without_new_work(federation, monkeypatch):
    ByHand(federation).upto("share")
    first = vectors(federation)
    forbid_work(monkeypatch)
    ByHand(federation, attempt=2).upto("share")
    for name, vector in vectors(federation).items():
        assert np.array_equal(vector, first[name])
    assert federation.charged(STORE) == 0


def test_a_crash_between_the_charge_and_the_masked_vector_shows_nothing_twice(
    federation, monkeypatch
):
    """The vector has not left; the attempt is over for this store, and the next is charged."""
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]

    def crash(*_: object, **__: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr("hanse_common.secagg.store.Store.mask", crash)
        assert federation.relay(STORE, "mask", message.encode()).has_error()
    steps = federation.charged(STORE)
    assert federation.relay(STORE, "mask", message.encode()).has_error()
    assert federation.charged(STORE) == steps > 0
    ByHand(federation, attempt=2).upto("mask")
    assert federation.charged(STORE) == 2 * steps


def test_under_another_run_number_everything_is_drawn_again(federation):
    ByHand(federation).upto("mask")
    node = federation.node(STORE)
    assert node.settings.seed is not None  # a simulation's lots and noise can be repeated
    table = node.settings.model_copy(update={"seed": None}).model_dump_json()
    (node.folder / "node.json").write_text(table)
    assert Node(node.folder).settings.seed is None
    first = federation.waiting(STORE).vector
    ByHand(federation, run=2).upto("mask")
    assert np.mean(federation.waiting(STORE).vector != first) > 0.9
