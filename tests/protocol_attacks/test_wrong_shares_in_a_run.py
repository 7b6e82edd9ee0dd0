"""A store that deals or reports wrong shares: named, left out, and the run goes on."""

import contextlib

import numpy as np
import pytest

from hanse_common.paths import GLOBAL_FILE
from hanse_common.secagg import store as store_module
from hanse_common.secagg.state import StoreState
from hanse_common.vector import flatten
from hanse_server.checkpoint import read_arrays
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.apps.secure_federation import STAGES

CULPRIT, SILENT = "synthetic-02", "synthetic-05"


def only_that_store(faults, place, replacement, kind):
    """Run other code at the culprit, in its answers to one kind of message."""

    @contextlib.contextmanager
    def around(store, message):
        with pytest.MonkeyPatch.context() as patch:
            if store == CULPRIT and message.metadata.message_type in kind:
                patch.setattr(*place, replacement)
            yield

    faults.around = around


def deal_wrongly(federation):
    """The culprit commits to another seed than it deals shares of."""
    real = store_module.keys.seed_commitment

    def commitment(seed, *context):
        return real(bytes(len(seed)), *context)

    place = (store_module.keys, "seed_commitment")
    only_that_store(federation.faults, place, commitment, ("train", "evaluate"))


def report_wrongly(federation):
    """The culprit gives its shares of two secrets for each other's."""
    real = StoreState.released_shares

    def released(state):
        seeds, mask_keys = real(state)
        return (seeds[1], seeds[0], *seeds[2:]), mask_keys

    place = (StoreState, "released_shares")
    only_that_store(federation.faults, place, released, (STAGES["unmask"],))


def trained(federation):
    return [s for s in read_stages(federation.folder.path) if s["stage"] == "train"]


def test_a_wrong_dealer_costs_one_round_and_is_left_out_of_the_next(federation):
    deal_wrongly(federation)
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    first, second = trained(federation)
    assert (first["round"], first["replies"]) == (1, 0)
    (reason,) = first["refusals"].values()
    assert set(first["refusals"]) == {CULPRIT}
    assert "dealt shares that do not give the seed it committed to" in reason
    assert (second["round"], second["replies"]) == (2, 4)
    assert set(second["refusals"]) == {CULPRIT}
    assert second["refusals"][CULPRIT] == (
        "[store-excluded] left out: [wrong-share] in round 1 of federation"
    )


def test_a_lost_round_leaves_the_model_as_it_was(found_federation):
    federation = found_federation({"federation.rounds": 1})
    deal_wrongly(federation)
    arrays = run_rounds(federation.grid(), federation.folder.path, federation.settings)
    assert np.array_equal(flatten(arrays), flatten(federation.arrays))
    saved = read_arrays(federation.folder.path / GLOBAL_FILE)
    assert np.array_equal(flatten(saved), flatten(federation.arrays))
    # The upload has left, so it has been paid for.
    assert {federation.charged(name) for name in federation.names} == {2}


def test_a_wrong_reporter_is_named_and_the_round_completes_without_its_shares(federation):
    report_wrongly(federation)
    federation.remember_vectors()
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=0.02)
    assert result.aggregate.liars == (CULPRIT,)
    assert np.array_equal(result.aggregate.total, sum(federation.vectors.values()))
    (reason,) = result.refusals.values()
    assert set(result.refusals) == {CULPRIT}
    assert reason == "at stage 'unmask': its shares are not those that were dealt to it"


def test_a_wrong_reporter_among_too_few_costs_the_round_and_is_left_out(federation):
    report_wrongly(federation)
    federation.faults.to_store = lambda store, message: (
        None
        if store == SILENT
        and message.metadata.message_type == STAGES["unmask"]
        and not trained(federation)
        else message
    )
    grid = federation.grid(stage_seconds=0.02)
    run_rounds(grid, federation.folder.path, federation.settings)
    first, second = trained(federation)
    assert (first["replies"], set(first["refusals"])) == (0, {CULPRIT, SILENT})
    assert "are not those that were dealt to them" in first["refusals"][CULPRIT]
    assert (second["replies"], set(second["refusals"])) == (4, {CULPRIT})


def test_a_wrong_dealer_cannot_end_a_run_in_an_evaluation(found_federation):
    """Evaluations go on without it too; a run is not lost to one store's figures."""
    federation = found_federation({"privacy.evaluation_noise_multiplier": 40.0})
    deal_wrongly(federation)
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    lines = read_stages(federation.folder.path)
    assert lines[-1]["stage"] == "done"
    first, *others = [line for line in lines if line["stage"] == "evaluate"]
    assert (first["replies"], set(first["refusals"]), first["sums"]) == (0, {CULPRIT}, {})
    assert [line["replies"] for line in others] == [4] * len(others)
