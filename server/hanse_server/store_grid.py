"""A Flower Grid that knows the stores by name, and a base for Grids that wrap another.

`StoreGrid` wraps any Grid: the in-process one, Ray's, or a SuperLink's. It asks every node
once for its store's name and from then on lists nodes, and sorts their replies, in the order
of the names. Node ids are drawn anew on every start, so without it a strategy would sample
other stores and add floating-point numbers in another order each time.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from hanse_common.errors import FederationError, HanseError, MalformedMessage
from hanse_common.instructions import NDArray
from hanse_common.roundlog.evidence import LOG_SIZE
from hanse_common.wording import printable
from hanse_server.stage_log import ExchangeResult

if TYPE_CHECKING:
    from flwr.superlink.grid import HttpGrid

_log = logging.getLogger(__name__)

DESCRIBE = f"{MessageType.QUERY}.describe"
CONNECT_SECONDS = 120.0
UNREADABLE = f"[{MalformedMessage.code}] the store's reply cannot be read"
_LOOK_SECONDS = 0.1
_LONGEST_REASON = 300
_MOST_UNANSWERED = 256
"""Messages whose late answers are still looked for."""
_FIRST_PULL, _LONGEST_PULL = 0.05, 0.5
"""Seconds before an object that a store is still uploading is asked for again, and at most."""
_PULLS = 20_000
"""How often it is asked for: some hours, which Flower's own limit of time ends first."""
_NAMED_REASON = re.compile(r"\[[a-z-]+\] [^\n]+")


class ForwardingGrid(Grid):
    """Passes everything on to the Grid it wraps; the base of Grids that change one thing."""

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
        """Fetch the replies that have come; see `Grid`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies; see `Grid`."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class StoreGrid(ForwardingGrid):
    """Lists and sorts by store name; everything else is the wrapped Grid's.

    Nodes that connect after the first question are not part of the run.

    Args:
        grid: The Grid to wrap.
        expected_stores: Wait until so many nodes are connected before asking.
        patience: Seconds to wait for them, and for each answer.
    """

    patience = 1
    """Rounds in a row that may be lost because too few stores answer, before a run ends."""
    evaluates = True
    """Whether stores may be asked to evaluate."""

    def __init__(
        self, grid: Grid, *, expected_stores: int = 1, patience: float = CONNECT_SECONDS
    ) -> None:
        super().__init__(grid)
        self._expected = expected_stores
        self._patience = patience
        self._names: dict[int, str] | None = None
        self.absent: dict[str, str] = {}
        """Nodes that could not say their name, by node id, with the reason."""
        self.log_sizes: dict[int, int] = {}
        """How much of the round log each node said that it has seen."""

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
        while len(nodes := list(self._grid.get_node_ids())) < self._expected:
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{len(nodes)} of {self._expected} stores connected "
                    f"within {self._patience:g} s",
                    hint="start the missing stores' nodes",
                )
            time.sleep(0.05)
        questions = [Message(RecordDict(), node, DESCRIBE) for node in nodes]
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
        twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
        if twice:
            raise FederationError(f"two nodes call themselves {twice[0]!r}")
        if not names:
            raise FederationError(f"no store answered: {describe_refusals(self.absent)}")
        return dict(sorted(names.items(), key=lambda item: item[1]))

    def publish(self, number: int, arrays: Mapping[str, NDArray]) -> None:
        """Do nothing: open rounds have no log; see `SecureGrid.publish`."""

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> ExchangeResult:
        """Send messages, wait for the replies, and say everything that came of it.

        Args:
            messages: One to each store that is to answer.
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
        """Fetch the reply to one message, if it has come.

        One at a time, and known by the message that it answers: what a store says of itself
        inside its reply is not believed, and bytes that cannot be read cost nobody else their
        reply.

        Returns:
            The reply; what is wrong with it, if it cannot be read; None if it has not come.

        Raises:
            OSError: The connection to the SuperLink is gone.
            HanseError: As the grid does.
        """
        try:
            replies = list(self.pull_messages([identifier]))
            if replies and (replies[0].has_error() or replies[0].has_content()):
                return replies[0]
            return UNREADABLE if replies else None
        except (OSError, HanseError):
            raise
        except Exception:
            _log.debug("unreadable reply", exc_info=True)
            return UNREADABLE

    def name_of(self, reply: Message) -> str:
        """The store that a reply came from; its node, where that has no name."""
        node = _sender(reply)
        return self.stores.get(node, f"node {node}")

    def _refusals(self, messages: Sequence[Message], replies: Sequence[Message]) -> dict[str, str]:
        """Which stores failed, and why: in the store's own words, or that no reply came in time."""
        answered = {_sender(reply) for reply in replies}
        reasons = {
            self.stores[message.metadata.dst_node_id]: "no reply in time"
            for message in messages
            if message.metadata.dst_node_id not in answered
        }
        asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
        for reply in replies:
            if reply.has_error():
                node = _sender(reply)
                if node not in self.stores:  # a SuperLink that gave a node up replies itself
                    node = asked.get(reply.metadata.reply_to_message_id, node)
                reasons[self.stores.get(node, f"node {node}")] = refusal_reason(reply.error)
        return dict(sorted(reasons.items()))

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes in the order of their stores' names."""
        return list(self.stores)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch the replies that have come, sorted by store name; see `Grid`."""
        return self._sorted(super().pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies, sorted by store name; see `Grid`."""
        return self._sorted(super().send_and_receive(messages, timeout=timeout))

    def _sorted(self, replies: Iterable[Message]) -> list[Message]:
        return sorted(replies, key=lambda reply: self.stores.get(_sender(reply), ""))


class LateAnswers:
    """Messages that were not answered in time, and whose answers may still come.

    Args:
        grid: Reaches the stores.
    """

    def __init__(self, grid: StoreGrid) -> None:
        self._grid = grid
        self._unanswered: dict[str, str] = {}

    def names(self) -> set[str]:
        """Stores whose answer has come since the last look."""
        come = set()
        for identifier in list(self._unanswered):
            reply = self._grid.pull_one(identifier)
            if reply is None:
                continue
            name = self._unanswered.pop(identifier)
            if not isinstance(reply, str) and not reply.has_error():
                come.add(name)
        return come

    def expect(self, unanswered: Mapping[str, str]) -> None:
        """Look for these, too: stores by message. The oldest are given up for the newest."""
        self._unanswered |= unanswered
        for identifier in list(self._unanswered)[:-_MOST_UNANSWERED]:
            del self._unanswered[identifier]


class AdmittedGrid(StoreGrid):
    """The stores of a deployment: named by who admitted them, not by themselves.

    The coordinator registers every node's key under its store's id. A store that connects
    later, or again, is asked from the next round on.

    Args:
        grid: Flower's Grid at a SuperLink.
        expected_stores: Wait until so many are connected before the first round.
        patience: Seconds to wait for them.
    """

    def __init__(
        self, grid: HttpGrid, *, expected_stores: int = 1, patience: float = CONNECT_SECONDS
    ) -> None:
        super().__init__(grid, expected_stores=expected_stores, patience=patience)
        self._superlink = grid

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes that are connected now, in the order of their stores' names."""
        known, connected = self.stores, self._connected()
        self._names = dict(sorted({**known, **connected}.items(), key=lambda item: item[1]))
        return [node for node in self._names if node in connected]

    def _ask_names(self) -> dict[int, str]:
        deadline = time.monotonic() + self._patience
        while len(names := self._connected()) < self._expected:
            if time.monotonic() > deadline:
                here = ", ".join(sorted(names.values())) or "none"
                raise FederationError(
                    f"{len(names)} of {self._expected} stores connected within "
                    f"{self._patience:g} s: {here}",
                    hint="start the missing stores' nodes, or wait for fewer with --stores",
                )
            time.sleep(_LOOK_SECONDS)
        return dict(sorted(names.items(), key=lambda item: item[1]))

    def _connected(self) -> dict[int, str]:
        return {node.node_id: node.name for node in self._superlink.get_nodes() if node.name}


def look_again_sooner() -> None:
    """Let this process's grid look again sooner for what a store is still uploading.

    A SuperLink hands out a reply as soon as it is announced, and Flower 1.41 then sleeps a whole
    second when one of its objects is not there yet, for every reply in turn. Where replies are
    looked for several times a second, that happens to most of them. What the grid does, and in
    which order, stays as it was.
    """
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.superlink.grid import http_grid

    http_grid.pull_objects = partial(  # type: ignore[attr-defined]
        pull_objects,
        initial_backoff=_FIRST_PULL,
        backoff_cap=_LONGEST_PULL,
        max_tries_per_object=_PULLS,
    )


def refusal_reason(error: Error) -> str:
    r"""Put an error reply's reason on one line.

    A store refuses in the form `[code] message (hint)`; Flower's engines wrap that, and
    any other exception, in class names and tracebacks, of which the last line says most. From
    here the words go to logs, files and terminals: what cannot be seen becomes an escape.

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
