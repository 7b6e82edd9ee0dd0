"""Messages of an earlier run, round or attempt, and rounds that a store has finished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.secagg import Journal, Stage, Store
from kits.errors import raises
from kits.federation import Federation, header, is_wiped

EARLIER = {"run": {"run": 6}, "round": {"round": 2}, "attempt": {"attempt": 1}}
NOW = header(run=7, round=3, attempt=2)


def recorded_round(people, **changes):
    """All messages of a round of the same people under another header."""
    old = Federation(
        5,
        header=replace(NOW, **changes),
        authority=people.authority,
        keys=people.keys,
    )
    to_store, to_coordinator = [], []
    old.up_to(
        "end",
        to_store=lambda name, message: to_store.append((name, message)) or message,
        to_coordinator=lambda name, message: to_coordinator.append((name, message)) or message,
    )
    return to_store, to_coordinator


@pytest.mark.parametrize("field", EARLIER)
def test_the_coordinator_refuses_every_message_of_earlier(field):
    federation = Federation(5, header=NOW)
    _, old = recorded_round(federation, **EARLIER[field])
    for stage in ("hello", "share", "mask", "confirm", "unmask"):
        federation = Federation(5, header=NOW, authority=federation.authority, keys=federation.keys)
        federation.up_to(stage)
        for _, message in old:
            with raises("wrong-header") as refusal:
                federation.receive(message)
            if type(message).__name__ == "Hello":
                assert f"has {field}=" in refusal.value.message


@pytest.mark.parametrize("field", EARLIER)
def test_a_store_refuses_every_message_of_earlier_and_stays_as_it_was(field):
    federation = Federation(5, header=NOW)
    old, _ = recorded_round(federation, **EARLIER[field])
    turn = {"share": "Roster", "mask": "Delivery", "confirm": "Survivors"}
    for stage in ("share", "mask", "confirm", "unmask"):
        federation = Federation(5, header=NOW, authority=federation.authority, keys=federation.keys)
        federation.up_to(stage)
        wanted = turn.get(stage, "UnmaskRequest")
        for name, message in old:
            if type(message).__name__ != wanted:
                continue
            before = federation.stores[name].encode()
            with raises("wrong-header"):
                federation.reply(name, message)
            assert federation.stores[name].encode() == before


def test_old_ciphertexts_under_the_new_header_do_not_open():
    federation = Federation(5, header=NOW)
    old, _ = recorded_round(federation, attempt=1)
    fresh = federation.up_to("mask")["store-000"]
    stale = next(m for n, m in old if n == "store-000" and type(m).__name__ == "Delivery")
    mixed = replace(fresh, sealed=(stale.sealed[0], *fresh.sealed[1:]))
    with raises("bad-shares") as refusal:
        federation.stores["store-000"].accept(mixed)
    assert refusal.value.culprits == ("store-001",)
    assert is_wiped(federation.stores["store-000"])


def test_an_old_hello_of_the_same_header_cannot_stand_for_a_store():
    """The store's own earlier keys, replayed to it: its entry is not what it said now."""
    federation = Federation(5)
    roster = federation.up_to("share")["store-000"]
    twin = Federation(5, authority=federation.authority, keys=federation.keys)
    stale = twin.start("store-000").hello
    with raises("bad-roster", match="own hello"):
        federation.stores["store-000"].share(replace(roster, hellos=(stale, *roster.hellos[1:])))


@pytest.mark.parametrize(
    "earlier", [header(), header(round=2), header(round=2, attempt=2)], ids=str
)
def test_a_store_never_starts_an_attempt_again_or_goes_back(earlier):
    federation = Federation(5)
    federation.start("store-000")
    with raises("attempt-refused"):
        federation.start("store-000", replace(federation.attempt, header=earlier))


def test_a_store_that_released_shares_never_masks_that_update_again():
    federation = Federation(5)
    federation.run()
    with raises("attempt-refused", match="released"):
        federation.next_attempt().start("store-000")


def test_a_store_that_released_nothing_may_try_once_more():
    federation = Federation(5)
    with raises("round-failed"):
        federation.run(drop={"confirm": {"store-000", "store-001"}})
    again = federation.next_attempt()
    again.assert_exact(again.run())


def test_there_is_no_third_attempt():
    with raises("malformed-message", match="attempt=3"):
        header(attempt=3)


def test_the_second_attempt_ends_the_first():
    """State of attempt 1 that turns up after attempt 2 began releases nothing."""
    federation = Federation(5)
    federation.up_to("unmask")
    state = federation.stores["store-000"].encode()
    again = federation.next_attempt()
    again.start("store-000")
    with raises("attempt-refused"):
        Store.resume(
            federation.attempt,
            state,
            key=federation.keys["store-000"],
            journal=again.journals["store-000"],
        )


def test_state_restored_after_the_release_is_refused():
    federation = Federation(5)
    requests = federation.up_to("unmask")
    state = federation.stores["store-000"].encode()
    federation.reply("store-000", requests["store-000"])
    with raises("attempt-refused"):
        Store.resume(
            federation.attempt,
            state,
            key=federation.keys["store-000"],
            journal=federation.journals["store-000"],
        )
    finished = federation.restored("store-000")
    assert finished.stage is Stage.FINISHED and is_wiped(finished)


def test_state_of_another_attempt_is_refused():
    federation = Federation(5)
    state = federation.start("store-000").encode()
    with raises("wrong-header"):
        Store.resume(
            replace(federation.attempt, header=header(round=9)),
            state,
            key=federation.keys["store-000"],
            journal=Journal(),
        )


def test_another_run_has_a_journal_of_its_own():
    federation = Federation(5)
    federation.run()
    other = Federation(
        5,
        header=header(run=8, round=1),
        authority=federation.authority,
        keys=federation.keys,
        journals=federation.journals,
    )
    other.assert_exact(other.run())
    with raises("attempt-refused"):
        other.start("store-000", federation.attempt)
