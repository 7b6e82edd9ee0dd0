"""The loop of a store's node: fetch a message, answer it, send the reply.

Flower's own SuperNode polls every three seconds, installs the bundle that it is handed, and starts
a new Python process for each message. This loop polls often during a round and rarely otherwise,
and installs nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Protocol

from flwr.app import Message

from hanse_client.deployment.code_bundle import Bundle
from hanse_client.deployment.fleet_api import Fleet
from hanse_client.deployment.stopping import Stop
from hanse_client.deployment.worker import Answering, time_left
from hanse_client.guard import OPENING
from hanse_client.node import Node
from hanse_common.errors import FederationError, HanseError, NotAdmitted
from hanse_common.wording import printable

_log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.1, 3.0
"""Seconds between two polls, at least and at most."""
REPORTED_GRID = 10.0
"""Grid of reported times, in seconds: a training step takes a few, so that most answers are
reported alike."""
_PART_OF_THE_WAIT = 0.05
"""Time to the next poll, as a part of the time since the last message."""
_LONGEST_KIND = 80
"""Characters of a message's type, which the coordinator writes, in a line of the _log."""
_POLL_SECONDS = 300.0
"""Longest time of one poll: the connection's timeout is far shorter."""
_PER_STORE = 0.03
"""Seconds between two polls for each store of the federation. A poll costs the SuperLink 5 to 12 ms
(docs/lab-notes.md), so that all stores together take less than half a core."""


class Pace:
    """Time to sleep before the next poll: a twentieth of the time since the last message.

    >>> pace = Pace(stores=3, now=100.0)
    >>> pace.wait(now=100.1), pace.wait(now=110.0), pace.wait(now=900.0)
    (0.1, 0.5, 3.0)
    >>> Pace(stores=50, now=100.0).wait(now=100.1)
    1.5
    """

    def __init__(self, *, stores: int, now: float) -> None:
        self._shortest = min(_LONGEST, max(_SHORTEST, _PER_STORE * stores))
        self._last = now

    def message(self, *, now: float) -> None:
        """Record that a message arrived."""
        self._last = now

    def wait(self, *, now: float) -> float:
        """Seconds to sleep."""
        return min(_LONGEST, max(self._shortest, _PART_OF_THE_WAIT * (now - self._last)))


class Refresh(Protocol):
    """Brings the store's prepared data up to date."""

    def __call__(self, *, idle: bool) -> None:
        """Compare and prepare; `idle` says that no message waits."""
        ...


def _nothing_to_refresh(*, idle: bool) -> None:
    """Used where a store's data cannot change."""


def serve(
    fleet: Fleet,
    node: Node,
    answering: Answering,
    *,
    stop: Stop,
    report: Callable[[str], None] = lambda _: None,
    refresh: Refresh = _nothing_to_refresh,
    expect: Callable[[float], None] = lambda _: None,
) -> None:
    """Answer messages until `stop` is set.

    Args:
        fleet: The connection to the SuperLink.
        node: The store's node.
        answering: Answers a message in a process of its own.
        stop: Ends the loop after the current message, and the wait for one at once.
        report: Called with one line for each event.
        refresh: Called before a message that begins an exchange, and while none arrives.
        expect: Called with the seconds within which the loop calls it again.

    Raises:
        NotAdmitted: The server no longer knows this node.
        Interrupted: `stop` was set by a signal while no message was there.
        HanseError: See `Fleet`.
    """
    stores = len(node.enrolment.manifest.stores) if node.enrolment else 1
    pace, bundles = Pace(stores=stores, now=time.monotonic()), _Bundles(fleet)
    while not stop.is_set():
        expect(_POLL_SECONDS)
        if fleet.lost.is_set():
            raise NotAdmitted(
                "the server no longer knows this node",
                hint="ask the coordinator whether this store was revoked, or the server restarted",
            )
        try:
            with stop.interrupts():
                received = fleet.receive()
        except FederationError as error:
            report(f"{error} [{error.code}]")
            received = None  # a malformed answer is treated like none: poll again later
        if received is None:
            refresh(idle=True)
            stop.wait(pace.wait(now=time.monotonic()))
            continue
        begun = time.monotonic()
        message, tree = received
        # The coordinator writes the type: without control codes, and of bounded length.
        kind = printable(message.metadata.message_type)[:_LONGEST_KIND]
        try:
            if message.metadata.message_type in OPENING:
                refresh(idle=False)
            bundle = bundles.of(message)
            expect(time_left(message) + _POLL_SECONDS)
            reply = answering.answer(fleet.content(message, tree), fleet.node_id, bundle)
            if reply is None:
                report(f"{kind}: expired before it was answered")
                continue
            seconds = time.monotonic() - begun
            fleet.send(reply, reported_seconds(seconds))
            report(f"{kind}: {_outcome(reply)} after {seconds:.1f} s")
        except FederationError as error:
            # One message is lost; the loop goes on.
            report(f"{kind}: {error} [{error.code}]")
        except HanseError:
            raise
        except Exception as error:
            # No content of a message may end the node.
            _log.exception("a message could not be answered")
            report(f"{kind}: lost, {type(error).__name__}")
        pace.message(now=time.monotonic())


class _Bundles:
    """The app bundles of runs, each fetched once; the guard compares them with the manifest."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: dict[int, Bundle] = {}

    def of(self, message: Message) -> Bundle:
        run = message.metadata.run_id
        if run not in self._known:
            self._known[run] = Bundle.read(self._fleet.bundle(run))
        return self._known[run]


def reported_seconds(seconds: float) -> float:
    """The duration to report to the coordinator: rounded up to a multiple of `REPORTED_GRID`.

    Training takes longer with more customers or longer histories, so that the exact time would
    tell something about them.

    >>> reported_seconds(0.01), reported_seconds(12.3)
    (10.0, 20.0)
    """
    return REPORTED_GRID * max(1, math.ceil(seconds / REPORTED_GRID))


def _outcome(reply: Message) -> str:
    return printable(str(reply.error.reason)) if reply.has_error() else "answered"
