"""Exchanges begun over and over, under new runs and attempts: each has a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.errors import ProtocolError
from hanse_common.secagg import Journal, Layout, Section, Stage, Terms
from kits.errors import raises
from kits.federation import Federation, header

NAME = "store-000"


def begin(journal, headers, **options):
    for each in headers:
        journal = journal.admit(each, **options)
    return journal


def test_new_run_numbers_begin_an_exchange_no_more_often_than_the_terms_allow():
    """Before, every new run number had a store train once more, free and unlimited."""
    federation = Federation(5, max_openings=3)
    for run in range(3):
        federation.start(NAME, replace(federation.attempt, header=header(run=100 + run)))
    with raises("attempt-refused", match="round 1 .* max_openings is 3"):
        federation.start(NAME, replace(federation.attempt, header=header(run=103)))
    federation.start(NAME, replace(federation.attempt, header=header(run=103, round=4)))


def test_attempts_count_like_runs():
    journal = begin(Journal(), [header(attempt=1), header(attempt=2)], max_openings=3)
    journal = journal.admit(header(run=8), max_openings=3)
    with raises("attempt-refused", match="3 times"):
        journal.admit(header(run=9), max_openings=3)


def test_each_manifest_and_each_exchange_has_its_own_count():
    journal = begin(Journal(), [header(run=run) for run in range(16)])
    with raises("attempt-refused"):
        journal.admit(header(run=16))
    journal.admit(header(run=16, manifest_digest=b"N" * 32))
    journal.admit(header(run=16, round=4))
    # Another model, other instructions: the same exchange.
    with raises("attempt-refused"):
        journal.admit(header(run=16, model_digest=b"X" * 32))


def test_a_refusal_leaves_the_count_as_it_is():
    journal = begin(Journal(), [header(run=run) for run in range(16)])
    for run in range(16, 20):
        with raises("attempt-refused"):
            journal.admit(header(run=run))
    assert journal.begun == 16
    with raises("attempt-refused", match="forward"):
        journal.admit(header(run=3))


def test_the_journal_is_no_longer_than_the_openings():
    """As many runs as a coordinator likes: what is kept is bounded by exchanges and limit."""
    journal = Journal()
    for run in range(200):
        for exchange in (1, 2, 3):
            try:
                journal = journal.admit(header(run=run, round=exchange), max_openings=4)
            except ProtocolError as error:
                assert error.code == "attempt-refused"
                continue
    assert journal.begun == 12 and len(journal.runs) <= 12
    assert {count for counts in journal.openings.values() for count in counts.values()} == {4}


def test_counts_survive_the_disk():
    journal = begin(Journal(), [header(run=run) for run in range(16)])
    journal = journal.reach(header(run=15), Stage.SHARED)
    again = Journal.decode(journal.encode())
    assert again == journal
    with raises("attempt-refused", match="16 times"):
        again.admit(header(run=16))


def test_a_journal_of_the_older_format_is_refused():
    with raises("malformed-message", match="version 1"):
        Journal.decode(b"\x00\x01" + bytes(4))


def test_numbers_of_attempts_are_unique_and_end_with_the_newest():
    journal = begin(Journal(), [header(run=run) for run in range(3)])
    twice = replace(journal, runs={**journal.runs, 1: journal.runs[2]})
    for wrong in (twice, replace(journal, begun=4), replace(journal, begun=2)):
        with raises("malformed-message"):
            Journal.decode(wrong.encode())


@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_limits_that_are_none(value):
    layout = Layout((Section("update", 1, clip=1.0),))
    with raises("unsafe-terms", match="max_openings"):
        Terms(layout=layout, maximum_cohort=5, max_openings=value)
