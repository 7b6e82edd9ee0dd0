"""What a coordinator holds against its stores, on disk: who is left out, and who not waited for."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse_common.secagg import Layout, Section, Terms
from hanse_server.blame import Blame
from hanse_server.blame_record import PATIENCE, Silence, absences
from kits.errors import raises

STORES = ("bremen", "danzig", "luebeck", "riga", "visby")
TERMS = Terms(layout=Layout((Section("update", 1, clip=1.0),)), maximum_cohort=5, minimum_cohort=3)
FORGED = "forged-vector"


def summed(blame, participants, *, wrong=None, number=1):
    return blame.summed(
        "train", participants, wrong=wrong, number=number, picked=STORES, terms=TERMS
    )


@pytest.fixture
def blame(tmp_path):
    return Blame(tmp_path, run="trial", clock=lambda: 1_000.0)


def test_an_exclusion_outlives_the_process_and_says_what_for(blame, tmp_path):
    blame.exclude({"riga": "wrong-share"}, number=4)
    plan = Blame(tmp_path).plan("train", STORES, TERMS)
    assert plan.not_asked == {"riga": "[wrong-share] in round 4 of trial"}
    charge = Blame(tmp_path).record.excluded["riga"]
    assert (charge.round, charge.run, charge.time) == (4, "trial", 1_000.0)


def test_the_first_proof_stands(blame):
    blame.exclude({"riga": "wrong-share"}, number=4)
    blame.exclude({"riga": "bad-shares"}, number=5)
    assert blame.record.excluded["riga"].code == "wrong-share"


def test_nothing_is_written_when_nothing_changes(blame, tmp_path):
    blame.exclude({}, number=1)
    blame.heard(silent=(), complete=STORES, late=())
    summed(blame, STORES)
    assert not (tmp_path / "blame.json").exists()


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Blame(None)
    kept.exclude({"riga": "wrong-share"}, number=4)
    assert set(kept.record.excluded) == {"riga"} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"version": 2}', '{"version": 1, "more": 1}'])
def test_a_damaged_file_is_an_error_that_says_what_to_do(blame, tmp_path, content):
    (tmp_path / "blame.json").write_text(content)
    with raises("federation", match=r"blame\.json") as raised:
        blame.plan("train", STORES, TERMS)
    assert "every store then takes part again" in raised.value.hint


def test_changes_of_two_processes_are_both_kept(tmp_path):
    names = [f"store-{index:02}" for index in range(16)]
    threads = [
        threading.Thread(target=Blame(tmp_path).exclude, args=({name: "x"},), kwargs={"number": 1})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Blame(tmp_path).record.excluded) == names


# The search


def test_a_broken_sum_leaves_out_as_many_as_the_terms_allow_and_no_more(blame):
    note = summed(blame, STORES, wrong=FORGED)
    assert note == f"one of {', '.join(STORES)}; 1 round lost"
    assert blame.plan("train", STORES, TERMS).left_out == {"bremen", "danzig"}
    # With one store away already, one may be left out; with two, none.
    assert len(blame.plan("train", STORES[:4], TERMS).left_out) == 1
    assert not blame.plan("train", STORES[:3], TERMS).left_out
    assert not blame.plan("evaluate", STORES, TERMS).left_out, "its sums are searched by themselves"


def test_where_the_roster_may_not_be_smaller_the_sum_may(blame):
    terms = Terms(
        layout=TERMS.layout, maximum_cohort=9, minimum_cohort=9, threshold_fraction=(1, 2)
    )
    many = [f"store-{index}" for index in range(9)]
    blame.summed("train", many, wrong=FORGED, number=1, picked=many, terms=terms)
    plan = blame.plan("train", many, terms)
    assert not plan.not_asked and plan.not_shared == {"store-0", "store-1", "store-2"}


def test_a_store_that_is_singled_out_stays_out_and_comes_back_if_it_was_not_to_blame(blame):
    summed(blame, STORES, wrong=FORGED)
    summed(blame, STORES[2:], number=2)
    summed(blame, [s for s in STORES if s != "danzig"], wrong=FORGED, number=3)
    assert [(r["store"], r["standing"]) for r in blame.record.rows()] == [("bremen", "singled out")]
    assert "bremen" in blame.plan("train", STORES, TERMS).not_asked
    summed(blame, STORES[1:], wrong=FORGED, number=4)
    assert blame.record.rows() == []
    assert "bremen" not in blame.plan("train", STORES, TERMS).left_out


def test_who_is_convicted_is_excluded_for_good_and_the_search_is_over(blame):
    summed(blame, STORES, wrong=FORGED)
    summed(blame, STORES[2:], wrong=FORGED, number=2)
    note = summed(blame, ("bremen", "danzig", "visby"), wrong=FORGED, number=3)
    assert note == "sums break with visby, which is left out; 3 rounds lost"
    note = summed(blame, STORES[:4], number=4)
    assert note == "found: visby; 3 rounds lost"
    assert blame.record.excluded["visby"].code == FORGED
    assert blame.record.searches == {}


def test_whom_a_person_takes_back_in_is_cleared_everywhere(blame):
    blame.exclude({"riga": "wrong-share"}, number=1)
    summed(blame, STORES, wrong=FORGED)
    for _ in range(PATIENCE):
        blame.heard(silent=("riga",), complete=(), late=())
    assert blame.readmit("riga") and not blame.readmit("riga")
    record = blame.record
    assert not record.excluded and not record.silent
    assert "riga" not in record.searches[f"train {FORGED}"].candidates


def test_complaints_and_silence_make_a_store_the_first_to_be_left_out(blame):
    blame.complained(["visby"])
    blame.heard(silent=("riga",), complete=(), late=())
    summed(blame, STORES, wrong=FORGED)
    assert blame.record.searches[f"train {FORGED}"].candidates[:2] == ("visby", "riga")


# Silence


def test_a_store_is_waited_for_until_it_was_silent_twice_in_a_row(blame):
    blame.heard(silent=("riga",), complete=(), late=())
    blame.heard(silent=(), complete=("riga",), late=())
    blame.heard(silent=("riga",), complete=(), late=())
    assert not blame.plan("train", STORES, TERMS).not_waited_for
    blame.heard(silent=("riga",), complete=(), late=())
    assert blame.plan("train", STORES, TERMS).not_waited_for == {"riga"}
    blame.heard(silent=(), complete=("riga",), late=())
    assert not blame.plan("train", STORES, TERMS).not_waited_for


def test_a_store_that_answers_late_is_waited_for_again(blame):
    for _ in range(PATIENCE):
        blame.heard(silent=("riga",), complete=(), late=())
    blame.heard(silent=(), complete=(), late=("riga",))
    assert not blame.plan("train", STORES, TERMS).not_waited_for


@given(st.integers(1, 400))
def test_a_store_that_is_always_late_costs_ever_fewer_deadlines(exchanges):
    silence, deadlines = Silence(), 0
    for _ in range(exchanges):
        if silence.waited_for:
            deadlines += 1
            silence = silence.after_deadline()
        else:
            silence = silence.after_rest()
        silence = silence.model_copy(update={"spoke": True})
    assert 2 ** (deadlines - 4) <= exchanges


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 20))
def test_no_more_may_be_absent_than_leaves_the_smallest_sum(cohort, most, present):
    terms = Terms(layout=TERMS.layout, minimum_cohort=min(cohort, most), maximum_cohort=most)
    at_hello, later = absences(terms, present)
    least = terms.survivors(terms.minimum_cohort)
    if present >= terms.minimum_cohort:
        assert present - at_hello - later == least
    else:
        assert (at_hello, later) == (0, 0)
