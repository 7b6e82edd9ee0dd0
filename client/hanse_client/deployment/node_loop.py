"""The loop of a store's node: take a message, have it answered, send.

Flower's own SuperNode sleeps three seconds when there is nothing to do, installs whatever
bundle it is handed and starts a Python from nothing for each message. This loop looks often
while a round is on and seldom when there is none, and installs nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from threading import Event

from flwr.app import Message

from hanse_client.deployment.code_bundle import Bundle
from hanse_client.deployment.fleet_api import Fleet
from hanse_client.deployment.worker import Answering
from hanse_client.node import Node
from hanse_common.errors import FederationError, HanseError, NotAdmitted
from hanse_common.wording import printable

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 0.1, 3.0
"""Seconds between two looks for a message."""
REPORTED_GRID = 10.0
"""Seconds: a training step takes a few, so that most answers are reported alike."""
_PART_OF_THE_WAIT = 0.05
_LONGEST_KIND = 80
"""Characters of a message's type, which the coordinator writes, in a line of the log."""
_PER_STORE = 0.03
"""A look costs a SuperLink 5 to 10 ms; all stores together take a third of a core at most."""


class Pace:
    """How long to sleep before the next look: a twentieth of the time since the last message.

    >>> pace = Pace(stores=3, now=100.0)
    >>> pace.wait(now=100.1), pace.wait(now=110.0), pace.wait(now=900.0)
    (0.1, 0.5, 3.0)
    >>> Pace(stores=50, now=100.0).wait(now=100.1)
    1.5
    """

    def __init__(self, *, stores: int, now: float) -> None:
        self._shortest = min(LONGEST, max(SHORTEST, _PER_STORE * stores))
        self._last = now

    def message(self, *, now: float) -> None:
        """A message came."""
        self._last = now

    def wait(self, *, now: float) -> float:
        """Seconds to sleep."""
        return min(LONGEST, max(self._shortest, _PART_OF_THE_WAIT * (now - self._last)))


def serve(
    fleet: Fleet,
    node: Node,
    answering: Answering,
    *,
    stop: Event,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer messages until `stop` is set.

    Args:
        fleet: The connection.
        node: The store; opened anew for every message.
        answering: Answers a message.
        stop: Ends the loop after the message at hand.
        told: Hears what happens, in a line each.

    Raises:
        NotAdmitted: The server no longer knows this node.
        HanseError: As `Fleet` does.
    """
    stores = len(node.enrolment.manifest.stores) if node.enrolment else 1
    pace, bundles = Pace(stores=stores, now=time.monotonic()), _Bundles(fleet)
    while not stop.is_set():
        if fleet.lost.is_set():
            raise NotAdmitted(
                "the server no longer knows this node",
                hint="ask the coordinator whether this store was revoked, or the server restarted",
            )
        try:
            found = fleet.receive()
        except FederationError as error:
            told(f"{error} [{error.code}]")
            found = None  # a server that hands out nonsense is asked again as one with nothing
        if found is None:
            stop.wait(pace.wait(now=time.monotonic()))
            continue
        begun = time.monotonic()
        message, tree = found
        kind = printable(message.metadata.message_type)[:_LONGEST_KIND]
        try:
            bundle = bundles.of(message)
            reply = answering.answer(fleet.content(message, tree), fleet.node_id, bundle)
            if reply is None:
                told(f"{kind}: expired before it was answered")
                continue
            seconds = time.monotonic() - begun
            fleet.send(reply, reported_seconds(seconds))
            told(f"{kind}: {_outcome(reply)} after {seconds:.1f} s")
        except FederationError as error:
            # One message is lost; the next may do better.
            told(f"{kind}: {error} [{error.code}]")
        except HanseError:
            raise
        except Exception as error:
            # Whatever a message holds, it ends no node.
            log.exception("a message could not be answered")
            told(f"{kind}: lost, {type(error).__name__}")
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
    """What the coordinator is told about how long an answer took: whole grid steps, rounded up.

    Training takes longer with more customers or longer histories.

    >>> reported_seconds(0.01), reported_seconds(12.3)
    (10.0, 20.0)
    """
    return REPORTED_GRID * max(1, math.ceil(seconds / REPORTED_GRID))


def _outcome(reply: Message) -> str:
    return printable(str(reply.error.reason)) if reply.has_error() else "answered"
