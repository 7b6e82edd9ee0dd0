"""A Flower Grid that knows the stores by name, and a base for Grids that wrap another.

`StoreGrid` wraps any Grid: the in-process one, Ray's, or a SuperLink's. It asks every node
once for its store's name, and from then on lists nodes and sorts replies in the order of the
names. Flower draws new node ids on every start; without the names a strategy would sample
other stores and add floating-point numbers in another order each time.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from hanse_common.errors import FederationError, HanseError, MalformedMessage
from hanse_common.instructions import NDArray
from hanse_common.monitoring.codes import NO_REPLY
from hanse_common.roundlog.evidence import LOG_SIZE
from hanse_common.wording import printable
from hanse_server.flower_internals import Run
from hanse_server.stage_log import ExchangeResult

if TYPE_CHECKING:
    from hanse_server.flower_internals import HttpGrid

_log = logging.getLogger(__name__)

_DESCRIBE = f"{MessageType.QUERY}.describe"
CONNECT_SECONDS = 120.0
ABSENT_SECONDS = 300.0
"""Seconds for which a round waits for stores that are away; a machine restarts within them."""
UNREADABLE = f"[{MalformedMessage.code}] the store's reply cannot be read"
_LOOK_SECONDS, _LONGEST_LOOK, _LOOKS = 0.1, 2.0, 50
"""Seconds between two looks for connected stores: first, longest, and as a part of the wait."""
_LONGEST_REASON = 300
_MOST_UNANSWERED = 256
"""The number of messages whose late answers are still looked for."""
_FIRST_PULL, _LONGEST_PULL = 0.05, 0.5
"""Seconds until an object that a store is still uploading is requested again: first, longest."""
_PULLS = 20_000
"""How often it is requested. At half a second each that is hours; Flower's own limit is lower."""
_NAMED_REASON = re.compile(r"\[[a-z-]+\] [^\n]+")


class ForwardingGrid(Grid):
    """Forwards everything to the Grid it wraps: the base class of Grids that change one thing."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Set the run; see `Grid`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run; see `Grid`."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; see `Grid`."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes; see `Grid`."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; see `Grid`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch the replies that have arrived; see `Grid`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies; see `Grid`."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class StoreGrid(ForwardingGrid):
    """Lists nodes and sorts replies by store name; the wrapped Grid does everything else.

    Nodes that connect after the first question are not part of the run.

    Args:
        grid: The Grid to wrap.
        expected_stores: How many nodes to wait for before asking for names.
        patience: Seconds to wait for them to connect, and for their answers.
    """

    patience = 1
    """Consecutive rounds that may be lost because too few stores answer, before a run ends."""
    evaluates = True
    """Whether stores may be asked to evaluate."""
    can_lose_stores = False
    """Whether stores come and go, so that there is something to wait for."""

    def __init__(
        self, grid: Grid, *, expected_stores: int = 1, patience: float = CONNECT_SECONDS
    ) -> None:
        super().__init__(grid)
        self.expected = expected_stores
        """The number of stores that a run waits for at its beginning."""
        self._patience = patience
        self._names: dict[int, str] | None = None
        self.absent: dict[str, str] = {}
        """The reason for each node that did not give a name, by `node <id>`."""
        self.log_sizes: dict[int, int] = {}
        """The size of the round log that each node reports to have seen, by node id."""

    @property
    def stores(self) -> Mapping[int, str]:
        """Store names by node id, in the order of the names.

        Raises:
            FederationError: Too few stores connected, none answered, or two have one name.
        """
        if self._names is None:
            self._names = self._ask_names()
        return self._names

    def _ask_names(self) -> dict[int, str]:
        deadline = time.monotonic() + self._patience
        while len(nodes := list(self._grid.get_node_ids())) < self.expected:
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{len(nodes)} of {self.expected} stores connected within {self._patience:g} s",
                    hint="start the missing stores' nodes",
                )
            time.sleep(0.05)
        questions = [Message(RecordDict(), node, _DESCRIBE) for node in nodes]
        replies = list(self._grid.send_and_receive(questions, timeout=self._patience))
        names: dict[int, str] = {}
        self.absent = {
            f"node {node}": "no answer" for node in nodes if node not in map(_sender, replies)
        }
        for reply in replies:
            if reply.has_error():
                self.absent[f"node {_sender(reply)}"] = refusal_reason(reply.error)
            else:
                config = cast(ConfigRecord, reply.content["config"])
                names[_sender(reply)] = str(config["store"])
                self.log_sizes[_sender(reply)] = _log_size(reply)
        # Two nodes with one name could not be distinguished in logs, blame and sampling.
        twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
        if twice:
            raise FederationError(f"two nodes call themselves {twice[0]!r}")
        if not names:
            raise FederationError(f"no store answered: {describe_refusals(self.absent)}")
        return dict(sorted(names.items(), key=lambda item: item[1]))

    def gather(self, number: int, kind: str, *, everyone: bool = False) -> None:
        """Do nothing: rounds without masks have no terms to meet; see `SecureGrid.gather`."""

    def await_stores(
        self,
        enough: Callable[[Collection[str]], bool],
        *,
        waiting: Callable[[Collection[str]], None] = lambda _: None,
    ) -> Collection[str]:
        """Wait until enough stores are connected, at most as long as the grid allows.

        Simulated stores are always there, and nothing is waited for.

        Args:
            enough: Says whether the stores of these names are enough.
            waiting: Called with the stores that are connected, whenever others are.

        Returns:
            The names of the stores that are connected.
        """
        return set(self.stores.values())

    def publish(self, number: int, arrays: Mapping[str, NDArray]) -> None:
        """Do nothing: rounds without masks have no log; see `SecureGrid.publish`."""

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> ExchangeResult:
        """Send messages, wait for the replies, and return them with all refusals.

        Args:
            messages: One message for each store that is to answer.
            timeout: Seconds to wait; without limit if unset.
        """
        sent = list(messages)
        replies = list(self.send_and_receive(sent, timeout=timeout))
        sound = tuple(reply for reply in replies if not reply.has_error())
        return ExchangeResult(
            replies=sound,
            refusals={**self.absent, **self._refusals(sent, replies)},
            roster=tuple(self.stores[message.metadata.dst_node_id] for message in sent),
            survivors=tuple(self.name_of(reply) for reply in sound),
        )

    def pull_one(self, identifier: str) -> Message | str | None:
        """Fetch the reply to one message, if it has arrived.

        Replies are fetched one at a time and identified by the message that they answer. So the
        sender that a reply names is not trusted, and a reply that cannot be read does not
        prevent another one from being read.

        Returns:
            The reply; a reason, if it cannot be read; None if it has not arrived.

        Raises:
            OSError: The connection to the SuperLink is lost.
            HanseError: As the wrapped grid raises it.
        """
        try:
            replies = list(self.pull_messages([identifier]))
            if replies and (replies[0].has_error() or replies[0].has_content()):
                return replies[0]
            return UNREADABLE if replies else None
        except (OSError, HanseError):
            raise  # the connection's fault, not the reply's: the store must not be blamed
        except Exception:
            _log.debug("unreadable reply", exc_info=True)
            return UNREADABLE

    def name_of(self, reply: Message) -> str:
        """The name of the store that sent a reply, or `node <id>` if it has none."""
        node = _sender(reply)
        return self.stores.get(node, f"node {node}")

    def _refusals(self, messages: Sequence[Message], replies: Sequence[Message]) -> dict[str, str]:
        """The reason of each store that failed: its own words, or that no reply came in time."""
        answered = {_sender(reply) for reply in replies}
        reasons = {
            self.stores[message.metadata.dst_node_id]: NO_REPLY
            for message in messages
            if message.metadata.dst_node_id not in answered
        }
        recipients = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
        for reply in replies:
            if reply.has_error():
                node = _sender(reply)
                if node not in self.stores:  # a SuperLink replies itself for a node that it gave up
                    node = recipients.get(reply.metadata.reply_to_message_id, node)
                reasons[self.stores.get(node, f"node {node}")] = refusal_reason(reply.error)
        return dict(sorted(reasons.items()))

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes in the order of their stores' names."""
        return list(self.stores)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch the replies that have arrived, sorted by store name; see `Grid`."""
        return self._sorted(super().pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies, sorted by store name; see `Grid`."""
        return self._sorted(super().send_and_receive(messages, timeout=timeout))

    def _sorted(self, replies: Iterable[Message]) -> list[Message]:
        return sorted(replies, key=lambda reply: self.stores.get(_sender(reply), ""))


class LateAnswers:
    """Messages that were not answered in time, whose answers may still arrive.

    Args:
        grid: The grid that reaches the stores.
    """

    def __init__(self, grid: StoreGrid) -> None:
        self._grid = grid
        self._unanswered: dict[str, str] = {}

    def names(self) -> set[str]:
        """Stores whose answer has arrived since the last call."""
        answered = set()
        for identifier in list(self._unanswered):
            reply = self._grid.pull_one(identifier)
            if reply is None:
                continue
            name = self._unanswered.pop(identifier)
            # An error may be the SuperLink's own, and shows no living store.
            if not isinstance(reply, str) and not reply.has_error():
                answered.add(name)
        return answered

    def expect(self, unanswered: Mapping[str, str]) -> None:
        """Look for more late answers, given as store names by message id."""
        self._unanswered |= unanswered
        # Bounded: each costs a request per exchange. The oldest are dropped.
        for identifier in list(self._unanswered)[:-_MOST_UNANSWERED]:
            del self._unanswered[identifier]


class AdmittedGrid(StoreGrid):
    """The stores of a deployment, under the names with which they were admitted.

    The coordinator registers every node's key under its store's id. A store that connects
    later, or again, is asked from the next round on.

    Args:
        grid: Flower's Grid at a SuperLink.
        expected_stores: How many stores to wait for before the first round.
        patience: Seconds to wait for them.
        absence: Seconds to wait for stores that are away later.
    """

    def __init__(
        self,
        grid: HttpGrid,
        *,
        expected_stores: int = 1,
        patience: float = CONNECT_SECONDS,
        absence: float = ABSENT_SECONDS,
    ) -> None:
        super().__init__(grid, expected_stores=expected_stores, patience=patience)
        self._superlink = grid
        self.can_lose_stores = True
        self._absence = absence

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes that are connected now, in the order of their stores' names."""
        # Names of stores that left stay known: their late replies still have to be attributed.
        known, connected = self.stores, self._connected()
        self._names = dict(sorted({**known, **connected}.items(), key=lambda item: item[1]))
        return [node for node in self._names if node in connected]

    def await_stores(
        self,
        enough: Callable[[Collection[str]], bool],
        *,
        waiting: Callable[[Collection[str]], None] = lambda _: None,
    ) -> Collection[str]:
        """Wait for `patience` seconds the first time, for `absence` later; see `StoreGrid`."""
        seconds, self._patience = self._patience, self._absence
        begun, said = time.monotonic(), None
        while True:
            here = set(self._connected().values())
            waited = time.monotonic() - begun
            if enough(here) or waited > seconds:
                return here
            if here != said:
                waiting(here)
                said = here
            time.sleep(min(max(_LOOK_SECONDS, waited / _LOOKS), _LONGEST_LOOK))

    def _ask_names(self) -> dict[int, str]:
        # Whoever is there: the terms say how many are enough, and `SecureGrid.gather` waits.
        return dict(sorted(self._connected().items(), key=lambda item: item[1]))

    def _connected(self) -> dict[int, str]:
        return {node.node_id: node.name for node in self._superlink.get_nodes() if node.name}


def look_again_sooner() -> None:
    """Shorten the wait of this process's grid for objects that a store is still uploading.

    A SuperLink hands out a reply as soon as it is announced. If one of its objects is missing
    then, Flower 1.41 sleeps a full second, for each reply in turn. This happens to most
    replies, because they are polled several times a second. Only the waiting times change.
    """
    # Flower's grid has no setting for it, so the function that it calls is replaced.
    from hanse_server.flower_internals import http_grid, pull_objects

    http_grid.pull_objects = partial(  # type: ignore[attr-defined]
        pull_objects,
        initial_backoff=_FIRST_PULL,
        backoff_cap=_LONGEST_PULL,
        max_tries_per_object=_PULLS,
    )


def refusal_reason(error: Error) -> str:
    r"""Put an error reply's reason on one line.

    A store refuses in the form `[code] message (hint)`. Flower's engines wrap this, and any
    other exception, in class names and tracebacks, whose last line is the most informative.
    The result goes to logs, files and terminals, so unprintable characters are escaped.

    >>> refusal_reason(Error(2, "<class 'X'>:<'[data] no rows (add some)'>"))
    '[data] no rows (add some)'
    >>> refusal_reason(Error(2, "Traceback\n  File ...\nValueError: boom"))
    'ValueError: boom'
    >>> refusal_reason(Error(2, "[data] no \x1b[2Jrows"))
    '[data] no \\x1b[2Jrows'
    """
    text = (error.reason or "").strip()
    named = _NAMED_REASON.search(text)
    if named:
        line = named.group()
    else:
        line = text.splitlines()[-1].strip() if text else f"failed with code {error.code}"
    line = printable(line.removesuffix("'>"))
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


def describe_refusals(refusals: Mapping[str, str]) -> str:
    """List refusals on one line, for an error's message.

    >>> describe_refusals({"north": "no reply in time", "south": "[data] no rows"})
    'north: no reply in time; south: [data] no rows'
    """
    return "; ".join(f"{store}: {reason}" for store, reason in refusals.items())


def _log_size(reply: Message) -> int:
    config = reply.content.get("config")
    size = config.get(LOG_SIZE) if isinstance(config, ConfigRecord) else None
    return size if isinstance(size, int) else 0


def _sender(reply: Message) -> int:
    return reply.metadata.src_node_id
