"""One store that breaks what it can: it costs rounds, never the run, and is named.

The stores are the production ClientApp; what one of them sends is forged at the last moment.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from hanse_common.manifest_noise import sum_norm
from hanse_common.paths import GLOBAL_FILE
from hanse_common.vector import flatten
from hanse_server.blame import Blame
from hanse_server.checkpoint import latest_checkpoint, read_arrays
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.errors import raises
from kits.forgery import blamed, forge, lost, silence, trained

CULPRIT, OTHER = "synthetic-03", "synthetic-05"
THIRD = {
    "federation.minimum_cohort": 3,
    "federation.minimum_survivors": 3,
    "privacy.noise_multiplier": 20.0,
}
"""Two of the five may be absent from a sum."""
DISTRIBUTED = {
    "privacy.mode": "distributed",
    "training.local_steps": 1,
    "privacy.noise_multiplier": 20.0,
}
"""The terms that a recipe has unless it says otherwise: nine tenths of the stores, so four."""


def run(federation, **options):
    grid = federation.grid(stage_seconds=0.02)
    return run_rounds(grid, federation.folder.path, federation.settings, timeout=0.02, **options)


# A forged vector


@pytest.mark.parametrize("culprit", ["synthetic-01", CULPRIT, OTHER])
def test_forty_rounds_with_one_hostile_store_lose_three_at_most(culprit, found_federation):
    federation = found_federation({**THIRD, "federation.rounds": 40})
    forge(federation, {culprit})
    run(federation)
    assert len(lost(federation)) <= 3
    assert blamed(federation)[culprit] in ("singled out", "excluded")
    assert set(blamed(federation)) == {culprit}
    assert trained(federation)[-1]["replies"] == 4
    # Each exchange was charged once by whoever masked a vector in it, the lost ones too.
    masked = len([line for line in trained(federation) if culprit not in line["refusals"]])
    assert federation.charged(culprit) == masked * 2


def test_under_the_default_terms_of_five_stores_a_hostile_one_costs_five_rounds_at_most(
    found_federation,
):
    federation = found_federation({**DISTRIBUTED, "federation.rounds": 8})
    forge(federation, {CULPRIT})
    run(federation)
    assert len(lost(federation)) == 4 <= 5
    assert set(blamed(federation)) == {CULPRIT}
    for line in trained(federation):
        assert line["outcome"] != "summed" or line["replies"] >= 4


def test_a_broken_sum_is_a_lost_round_and_leaves_the_model_as_it_was(found_federation):
    federation = found_federation({"federation.rounds": 1})
    forge(federation, {CULPRIT})
    arrays = run(federation)
    assert np.array_equal(flatten(arrays), flatten(federation.arrays))
    (line,) = trained(federation)
    assert (line["outcome"], line["replies"], line["attempts"]) == ("forged-vector", 0, 1)
    assert read_stages(federation.folder.path)[-1]["stage"] == "done"


def test_no_sum_is_smaller_than_the_smallest_admissible_one_for_the_sake_of_a_search(
    found_federation,
):
    """Three of five must be in the sum, and four at least in the roster."""
    federation = found_federation(
        {"federation.minimum_cohort": 4, "federation.rounds": 8, "privacy.noise_multiplier": 20.0}
    )
    forge(federation, {OTHER})
    run(federation)
    terms = federation.manifest().terms()
    least = terms.survivors(terms.minimum_cohort)
    assert min(line["replies"] for line in trained(federation) if line["replies"]) >= least
    assert set(blamed(federation)) == {OTHER}


def test_where_no_store_may_be_absent_the_log_says_why_nobody_is_left_out(found_federation):
    federation = found_federation(
        {
            "federation.minimum_cohort": 5,
            "federation.minimum_survivors": 5,
            "federation.rounds": 3,
        }
    )
    forge(federation, {CULPRIT})
    run(federation)
    assert lost(federation) == [1, 2, 3]
    note = "no store can be left out: the terms allow no absence; 3 rounds lost"
    assert trained(federation)[-1]["note"] == note
    assert Blame(federation.folder.path).record.notes == {"train forged-vector": note}
    assert blamed(federation) == {}


def test_the_search_goes_on_where_it_was_when_a_run_is_resumed(found_federation):
    federation = found_federation({**THIRD, "federation.rounds": 6})
    forge(federation, {OTHER})
    asked = []

    def stop_in_round_three(store, message):
        asked.append(message.metadata.message_type)
        if asked.count("train.mask") > 8:
            raise KeyboardInterrupt
        return message

    federation.faults.to_store = stop_in_round_three
    with pytest.raises(KeyboardInterrupt):
        run(federation)
    before = Blame(federation.folder.path).record.search("train", "forged-vector")
    assert before is not None and before.lost == 2
    federation.faults.to_store = lambda _, message: message
    run(federation, resume=True)
    assert len(lost(federation)) <= 3
    assert blamed(federation)[OTHER]


def test_who_was_left_out_is_taken_back_in_by_name(found_federation):
    federation = found_federation({**THIRD, "federation.rounds": 6})
    forge(federation, {CULPRIT})
    run(federation)
    kept = Blame(federation.folder.path)
    assert kept.readmit(CULPRIT) and not kept.readmit(CULPRIT)
    assert CULPRIT not in blamed(federation)


# Missing noise


def without_noise(vector):
    return np.zeros_like(vector)


def test_a_store_that_adds_no_noise_costs_no_round_while_the_others_is_enough(found_federation):
    """Four of five stores must add theirs; that one does not is said, and breaks no promise."""
    federation = found_federation({**DISTRIBUTED, "federation.rounds": 8})
    forge(federation, {CULPRIT}, without_noise)
    run(federation)
    assert lost(federation) == []
    last = trained(federation)[-1]
    assert last["noise_share"] == pytest.approx(0.8, abs=0.05)
    assert "the promise needs less, and holds" in last["note"]


def test_a_run_ends_when_more_than_one_store_adds_no_noise(found_federation):
    """Every further sum would show more than was promised; the run can be resumed."""
    federation = found_federation({**DISTRIBUTED, "federation.rounds": 20})
    forge(federation, {CULPRIT, OTHER}, without_noise)
    with raises("noise-missing", match="several stores"):
        run(federation)
    assert latest_checkpoint(federation.folder.path).round < 20
    federation.faults.heal()
    run(federation, resume=True)
    assert read_stages(federation.folder.path)[-1]["stage"] == "done"


def test_a_run_ends_when_noise_is_missing_and_nobody_may_be_absent(found_federation):
    federation = found_federation(
        {**DISTRIBUTED, "federation.rounds": 20, "federation.minimum_survivors": 5}
    )
    forge(federation, {CULPRIT}, without_noise)
    with raises("noise-missing", match="no store can be left out"):
        run(federation)
    assert lost(federation) == [1, 2]  # the third is made again


# Too few stores, or too little budget


def test_too_few_stores_cost_rounds_and_end_the_run_after_three_in_a_row(found_federation):
    federation = found_federation({"federation.rounds": 9})
    faults = federation.faults
    faults.to_store = lambda store, message: (
        None
        if store in (CULPRIT, OTHER)
        and message.metadata.message_type == "train"
        and message.content["config"]["server-round"] in (2, 3, 5, 6, 7)
        else message
    )
    with raises("round-failed", match="needed are 4"):
        run(federation)
    assert lost(federation) == [2, 3, 5, 6, 7]
    # What was lost last is made again, from the model of round 4.
    assert latest_checkpoint(federation.folder.path).round == 4
    assert federation.charged("synthetic-01") == 2 * 2
    faults.heal()
    run(federation, resume=True)
    assert lost(federation) == [2, 3]
    assert read_stages(federation.folder.path)[-1]["stage"] == "done"


def test_lost_rounds_at_the_end_are_no_end(found_federation):
    federation = found_federation({"federation.rounds": 2})
    silent = {CULPRIT, OTHER}
    federation.faults.to_store = lambda store, message: None if store in silent else message
    federation.grid()  # names are asked before
    grid = federation.grid(stage_seconds=0.02)
    federation.faults.to_store = lambda _, message: message
    assert len(grid.stores) == 5
    federation.faults.to_store = lambda store, message: None if store in silent else message
    with raises("round-failed"):
        run_rounds(grid, federation.folder.path, federation.settings, timeout=0.02)
    assert not (federation.folder.path / GLOBAL_FILE).exists()


def test_a_run_whose_budget_is_spent_ends_early_in_good_order(found_federation):
    """Second attempts are charged as well, so that a manifest's exchanges can run out."""
    federation = found_federation({"federation.rounds": 6, "federation.spare_exchanges": 0})
    attempts = []

    def lose_the_first_attempts(store, message):
        kind = message.metadata.message_type
        if kind == "train":
            attempts.append(message.content["config"]["attempt"])
        lost_now = kind == "query.confirm" and attempts[-1] == 1
        return None if lost_now and store in (CULPRIT, OTHER) else message

    federation.faults.to_store = lose_the_first_attempts
    with raises("budget-spent", match="round 3"):
        run(federation)
    path = federation.folder.path
    last = read_stages(path)[-1]
    assert (last["stage"], last["round"], last["outcome"]) == ("done", 3, "budget-spent")
    kept, saved = latest_checkpoint(path), read_arrays(path / GLOBAL_FILE)
    assert kept.round == 3
    assert np.array_equal(flatten(saved), flatten(kept.arrays))
    assert not np.array_equal(flatten(saved), flatten(federation.arrays))
    assert {federation.charged(name) for name in federation.names} == {2 * 6}


# Silence


def test_one_silent_store_costs_two_deadlines_in_forty_rounds(found_federation):
    federation = found_federation({"federation.rounds": 40, "privacy.noise_multiplier": 20.0})
    silence(federation, CULPRIT, "hello")
    run(federation)
    assert sum(line["deadlines"] for line in trained(federation)) == 2
    assert [line["replies"] for line in trained(federation)] == [4] * 40
    assert blamed(federation) == {CULPRIT: "silent"}


@pytest.mark.parametrize("stage", ["share", "mask", "confirm", "unmask"])
def test_a_store_that_says_hello_and_then_nothing_is_not_waited_for_either(stage, found_federation):
    federation = found_federation({"federation.rounds": 6, "privacy.noise_multiplier": 20.0})
    silence(federation, CULPRIT, stage)
    run(federation)
    assert [line["deadlines"] for line in trained(federation)] == [1, 1, 0, 0, 0, 0]


def test_a_silent_store_takes_part_again_when_it_says_hello(found_federation):
    federation = found_federation({"federation.rounds": 8, "privacy.noise_multiplier": 20.0})
    asked = []

    def silent_for_four_rounds(store, message):
        if store == CULPRIT and message.metadata.message_type == "train":
            asked.append(message)
        return None if store == CULPRIT and len(asked) <= 4 else message

    federation.faults.to_store = silent_for_four_rounds
    grid = federation.grid(stage_seconds=0.02)
    asked.extend([None] * 9)
    assert len(grid.stores) == 5  # it has said its name
    asked.clear()
    run_rounds(grid, federation.folder.path, federation.settings, timeout=0.02)
    assert [line["replies"] for line in trained(federation)] == [4] * 4 + [5] * 4
    assert sum(line["deadlines"] for line in trained(federation)) == 2
    assert blamed(federation) == {}


def test_a_store_whose_answers_come_late_is_waited_for_ever_more_rarely(found_federation):
    """Each answer arrives a round too late: it is there, and costs four deadlines at most."""
    federation = found_federation({"federation.rounds": 6, "privacy.noise_multiplier": 20.0})
    faults, late = federation.faults, []

    def hold_back(store, reply):
        if store != CULPRIT or faults.asked[-1][1] != "train":
            return reply
        late.append(reply)
        if len(late) > 1:
            before = late[-2]
            faults._replies[before.metadata.reply_to_message_id] = before
        return None

    faults.to_server = hold_back
    run(federation)
    assert [line["deadlines"] for line in trained(federation)] == [1, 1, 0, 1, 0, 0]


def test_whom_nobody_waits_for_is_remembered_over_a_restart(found_federation):
    federation = found_federation({"federation.rounds": 3, "privacy.noise_multiplier": 20.0})
    silence(federation, CULPRIT, "hello")
    run(federation)
    grid = federation.grid(stage_seconds=0.02)
    result = grid.exchange(federation.messages(), timeout=0.02)
    assert (result.deadlines, set(result.refusals)) == (0, {CULPRIT})


# Who accuses whom


def test_a_complaint_names_the_accused_and_the_victim(found_federation, monkeypatch):
    """The victim left; who dealt it what it could not open is named beside it."""
    from hanse_common.errors import BadShares
    from hanse_common.secagg.store import Store

    victim = OTHER
    federation = found_federation({"federation.rounds": 1})
    real = Store.accept

    def accept(store, delivery):
        if store.store_id == victim:
            with store._abort_on_failure():
                raise BadShares("a share does not open", culprits=(CULPRIT,))
        return real(store, delivery)

    monkeypatch.setattr(Store, "accept", accept)
    run(federation)
    (line,) = trained(federation)
    reason = f"at stage 'mask': [bad-shares], it accuses {CULPRIT}"
    assert line["refusals"] == {victim: reason}
    assert Blame(federation.folder.path).record.accused == {CULPRIT: 1}


def test_who_falls_below_the_minimum_for_exclusions_is_told_whom_to_take_back(found_federation):
    federation = found_federation({"federation.rounds": 1})
    Blame(federation.folder.path).exclude({CULPRIT: "wrong-share", OTHER: "bad-shares"}, number=7)
    with raises("round-failed") as raised:
        run(federation)
    assert f"{CULPRIT}: [store-excluded] left out: [wrong-share] in round 7" in raised.value.message
    assert "hanse server blame --readmit STORE" in raised.value.hint
    assert not federation.faults.asked or all(
        kind == "query.describe" for _, kind in federation.faults.asked
    ), "nobody trained in vain"


# What the sum may move


def test_the_sum_is_cut_to_the_public_norm_and_how_much_is_written_down(found_federation):
    federation = found_federation({"federation.rounds": 1})
    clip = federation.manifest().sections[0].clip

    def largest(vector):
        forged = vector.copy()
        forged[:206] = 0
        forged[0] = 4 * clip * federation.manifest().sections[0].scale
        return forged

    forge(federation, {CULPRIT}, largest)
    arrays = run(federation)
    (line,) = trained(federation)
    assert line["outcome"] == "summed" and 0 < line["cut"] < 1
    moved = flatten(arrays) - flatten(federation.arrays)
    assert np.linalg.norm(moved) == pytest.approx(sum_norm(federation.manifest()) / 5, rel=1e-5)


def test_evaluations_whose_sums_do_not_leave_the_stores_are_not_asked_for(found_federation):
    federation = found_federation({"federation.rounds": 2, "federation.evaluate_every": 1})
    run(federation)
    assert {kind for _, kind in federation.faults.asked} >= {"train"}
    assert "evaluate" not in {kind for _, kind in federation.faults.asked}
    assert [line["stage"] for line in read_stages(federation.folder.path)] == [
        "train",
        "train",
        "done",
    ]


def test_a_blame_file_that_cannot_be_read_stops_a_run_by_name(found_federation):

    federation = found_federation({"federation.rounds": 1})
    (federation.folder.path / "blame.json").write_text(json.dumps({"version": 9}))
    with raises("federation", match=r"blame\.json"):
        run(federation)
