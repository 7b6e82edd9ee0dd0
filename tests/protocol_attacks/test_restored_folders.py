"""A store's folder brought back from a backup, in the middle of an attempt or after it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from hanse_common.secagg import Journal, Mark, Stage, Store
from kits.errors import raises
from kits.federation import STAGES, Federation, header

NAME = "store-000"


class Folder:
    """What an adapter keeps of one store: state and journal here, the mark elsewhere."""

    def __init__(self, federation):
        self.federation = federation
        self.backups = []
        self.mark = b""

    def keep(self, store):
        """State and journal first, then the mark, and only then the reply."""
        self.backups.append((store.encode(), store.journal.encode()))
        self.mark = store.journal.mark.encode()

    def journal(self, data):
        return Journal.decode(data).caught_up(Mark.decode(self.mark) if self.mark else None)

    def resume(self, backup, **options):
        state, journal = backup
        return Store.resume(
            self.federation.attempt,
            state,
            key=self.federation.keys[NAME],
            journal=self.journal(journal),
            **options,
        )


def whole_round():
    """An honest round, with the folder of NAME after every stage."""
    federation = Federation(5)
    folder = Folder(federation)
    outgoing = {}
    for stage in STAGES:
        for name in federation.names:
            if stage == "hello":
                answer = federation.start(name).hello
            else:
                answer = federation.reply(name, outgoing[name])
            if name == NAME:
                folder.keep(federation.stores[name])
            federation.receive(answer)
        if stage != "unmask":
            outgoing = federation.coordinator.advance()
    federation.assert_exact(federation.coordinator.finish())
    return folder


@pytest.mark.parametrize("stage", range(len(STAGES) - 1), ids=STAGES[:-1])
def test_a_folder_brought_back_takes_no_step_twice(stage):
    """Before, the state from stage 2 signed a second list of survivors."""
    folder = whole_round()
    with raises("attempt-refused"):
        folder.resume(folder.backups[stage])


def test_without_the_mark_elsewhere_nothing_shows_that_a_folder_is_old():
    """What the mark is for; docs/protocol.md says that it must lie apart from the folder."""
    folder = whole_round()
    folder.mark = b""
    assert folder.resume(folder.backups[2]).stage is Stage.MASKED


def test_a_state_brought_back_without_its_journal_is_refused():
    folder = whole_round()
    for (state, _), (_, journal) in pairwise(folder.backups):
        with raises("attempt-refused"):
            Store.resume(
                folder.federation.attempt,
                state,
                key=folder.federation.keys[NAME],
                journal=Journal.decode(journal),
            )


def test_the_newest_state_goes_on_with_and_without_a_mark():
    federation = Federation(5)
    folder = Folder(federation)
    outgoing = federation.up_to("confirm")
    folder.keep(federation.stores[NAME])
    store = folder.resume(folder.backups[-1])
    store.confirm(outgoing[NAME])
    # A crash between folder and mark leaves the folder ahead: the reply has not left.
    ahead = (store.encode(), store.journal.encode())
    assert folder.resume(ahead).stage is Stage.CONFIRMED


def test_two_lists_of_survivors_are_never_signed():
    federation = Federation(9)
    folder = Folder(federation)
    outgoing = federation.up_to("confirm")
    folder.keep(federation.stores[NAME])
    store = folder.resume(folder.backups[0])
    store.confirm(outgoing[NAME])
    folder.keep(store)
    with raises("attempt-refused", match="confirmed"):
        folder.resume(folder.backups[0])


@pytest.mark.parametrize("stage", ["share", "mask", "confirm"])
def test_what_the_ledger_charged_is_not_masked_again(stage):
    """Folder and mark restored together; the ledger is not."""
    federation = Federation(5)
    federation.up_to(stage)
    store = federation.stores[NAME]
    arguments = (federation.attempt, store.encode())
    known = {"key": federation.keys[NAME], "journal": store.journal}
    assert Store.resume(*arguments, **known, charged=False).stage is store.stage
    if stage == "confirm":  # it has masked: the charge is what belongs to it
        assert Store.resume(*arguments, **known, charged=True).stage is Stage.MASKED
        return
    with raises("attempt-refused", match="charged"):
        Store.resume(*arguments, **known, charged=True)


def test_a_vector_is_masked_once_in_one_process_too():
    federation = Federation(5)
    delivery = federation.up_to("mask")[NAME]
    store = federation.stores[NAME]
    store.accept(delivery)
    twin = Store.resume(
        federation.attempt, store.encode(), key=federation.keys[NAME], journal=store.journal
    )
    store.mask(federation.vectors[NAME])
    with raises("attempt-refused"):
        Store.resume(
            federation.attempt, twin.encode(), key=federation.keys[NAME], journal=store.journal
        )


def test_an_old_journal_begins_no_attempt_that_the_mark_knows():
    folder = whole_round()
    _, journal = folder.backups[0]
    caught_up = folder.journal(journal)
    assert caught_up.was_masked(folder.federation.attempt.header)
    for lost in (header(), header(attempt=2), header(round=2)):
        with raises("attempt-refused"):
            caught_up.admit(lost)
    following = caught_up.admit(header(round=4))
    assert following.begun == caught_up.begun + 1
    # Numbers only grow, so that the mark of before is never ahead of what comes after it.
    assert following.caught_up(Mark.decode(folder.mark)) == following


def test_an_empty_folder_catches_up_as_well():
    folder = whole_round()
    fresh = Journal().caught_up(Mark.decode(folder.mark))
    assert fresh.begun == 1
    with raises("attempt-refused", match="closed"):
        fresh.admit(header(attempt=2))


def test_a_store_makes_one_attempt_at_a_time():
    """Beginning one of another run ends the first: its state releases nothing any more."""
    federation = Federation(5)
    federation.up_to("unmask")
    state = federation.stores[NAME].encode()
    other = replace(federation.attempt, header=header(run=8, round=1))
    federation.start(NAME, other)
    with raises("attempt-refused", match="newest"):
        Store.resume(
            federation.attempt, state, key=federation.keys[NAME], journal=federation.journals[NAME]
        )


def test_the_journal_says_whether_a_vector_was_masked():
    federation = Federation(5)
    second = replace(federation.attempt.header, attempt=2)
    for stage in STAGES[1:]:
        federation = Federation(5)
        federation.up_to(stage)
        journal = federation.journals[NAME]
        masked = STAGES.index(stage) > STAGES.index("mask")
        assert journal.was_masked(federation.attempt.header) is masked
        assert journal.was_masked(second) is masked
        assert not journal.was_masked(replace(second, round=4))
        assert not journal.was_masked(replace(second, run=8))


def test_a_stage_is_reached_once_and_only_forward():
    journal = Journal().admit(header())
    journal = journal.reach(header(), Stage.MASKED)
    for stage in (Stage.GREETED, Stage.SHARED, Stage.MASKED):
        with raises("attempt-refused", match="masked"):
            journal.reach(header(), stage)
    with raises("attempt-refused", match="newest"):
        journal.reach(header(round=9), Stage.CONFIRMED)


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x01", b"\x00\x02" + bytes(22), b"\x00\x01" + bytes(22)]
)
def test_bytes_that_are_no_mark(data):
    with raises("malformed-message"):
        Mark.decode(data)
