"""A store loses its keys, may have leaked them, and loses the head of its ledger."""

from __future__ import annotations

from hanse_common.paths import LEDGER_HEAD_FILE
from kits.deployment import Done
from kits.operators.steps import LOST, ROUNDS, admitted, by_hand, is_out, rejoins, runs
from kits.operators.walk import COORDINATOR, STORE, Walk


def lose_both_keys(walk: Walk) -> None:
    walk.joined[STORE].stop()
    for key in (walk.stores[STORE].store_key, walk.stores[STORE].node_key):
        key.unlink()


def a_request_is_sent(walk: Walk, done: Done) -> None:
    walk.send(walk.home(STORE) / f"{STORE}.request", COORDINATOR)


def lose_the_head(walk: Walk) -> None:
    walk.joined[STORE].stop()
    (walk.home(STORE) / LEDGER_HEAD_FILE).unlink()


def the_ledger_goes_on(walk: Walk, done: Done) -> None:
    assert len(walk.charges(STORE)) == ROUNDS
    rejoins(walk)


SOMETHING_IS_LOST = [
    by_hand(LOST, "`enrolment/store.key`, `node.key` or both", lose_both_keys),
    runs(
        LOST,
        "hanse store keys rotate --folder /var/lib/hanse --node-key",
        a_request_is_sent,
    ),
    runs(
        LOST,
        "hanse server admit luebeck.request --folder /var/lib/hanse --replace "
        "--authority-key authority.key",
        admitted(STORE),
        confirm=True,
    ),
    runs(LOST, "hanse store enrol --folder /var/lib/hanse --certificate luebeck"),
    by_hand(LOST, "Then join", rejoins),
    runs(LOST, "hanse server revoke luebeck --folder /var/lib/hanse", is_out(STORE)),
    runs(
        LOST,
        "hanse store keys rotate --folder /var/lib/hanse --node-key",
        a_request_is_sent,
    ),
    runs(
        LOST,
        "hanse server admit luebeck.request --folder /var/lib/hanse --authority-key authority.key",
        admitted(STORE),
        confirm=True,
    ),
    runs(LOST, "hanse store enrol --folder /var/lib/hanse --certificate luebeck"),
    by_hand(LOST, "Then the same, without `--replace`", rejoins),
    by_hand(LOST, "If it cannot be restored", lose_the_head),
    runs(
        LOST,
        "hanse store ledger accept-head PATH",
        the_ledger_goes_on,
        names={"PATH": "."},
        confirm=True,
    ),
]
