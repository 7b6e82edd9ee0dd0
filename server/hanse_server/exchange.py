"""One attempt's messages, carried between the coordinator's state machine and Flower.

Each stage has a deadline, and who misses it is lost to the attempt. A store that was silent
before is asked and not waited for: once all others have answered, the stage is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from flwr.app import ConfigRecord, Message, RecordDict

from hanse_common.errors import FederationError, HanseError, MalformedMessage
from hanse_common.identity import Certificate
from hanse_common.instructions import CONFIRM, MASK, MESSAGE, SHARE, Kind
from hanse_common.secagg import Aggregate, Coordinator
from hanse_common.secagg.messages import Hello, decode
from hanse_common.secagg.refusal import Refusal
from hanse_common.secagg.wire import Message as ProtocolMessage
from hanse_common.secagg.wire import StoreMessage
from hanse_server.progress import Progress
from hanse_server.roundlog import AttemptLog
from hanse_server.store_grid import StoreGrid, refusal_reason

_log = logging.getLogger(__name__)
_SHORTEST_WAIT, _LONGEST_WAIT = 0.001, 0.25
_PATIENCE = 400
"""A look for replies every four-hundredth of the time waited: quick stages stay quick."""
_MOST_ACCUSED = 3
"""Accused stores that a reason names; there may be thousands."""

UNREADABLE = f"[{MalformedMessage.code}] the store's reply cannot be read"
LEFT_OUT = "[store-excluded] left out"
"""How the reason of a store begins that an attempt goes on without, because it is suspected."""


class Exchange:
    """Carries one attempt's messages, and keeps what became of every store.

    Args:
        grid: Reaches the stores.
        coordinator: The attempt's state machine.
        record: What the round log will hold of it, if there is one.
        gate: Raises for a certificate that the coordinator does not go on with.
        not_shared: Stores that are asked and kept out of the sum.
        not_waited_for: Stores whose silence ends no stage late.
    """

    def __init__(
        self,
        grid: StoreGrid,
        coordinator: Coordinator,
        record: AttemptLog | None,
        gate: Callable[[Certificate], None] | None,
        *,
        not_shared: Collection[str] = (),
        not_waited_for: Collection[str] = (),
    ) -> None:
        self.record = record
        self.deadlines = 0
        """Stages that lasted until their deadline."""
        self.silent: set[str] = set()
        """Stores that were waited for until a deadline."""
        self.unanswered: dict[str, str] = {}
        """Stores by the message that they have not answered yet."""
        self.masked: tuple[str, ...] = ()
        """Stores whose vectors are in the sum, once it is known."""
        self.accused: dict[str, tuple[str, ...]] = {}
        """Stores that a store complained about when it left, by its name."""
        self._grid = grid
        self._coordinator = coordinator
        self._gate = gate
        self._not_shared = not_shared
        self._not_waited_for = not_waited_for
        self._report: Callable[[str, Collection[str]], None] | None = None
        self._answered: Callable[[str, str | None], None] | None = None
        self._nodes: dict[str, int] = {}
        self._reasons: dict[int, str] = {}
        self._asked: list[int] = []

    @property
    def complete(self) -> frozenset[str]:
        """Stores that answered all that they were asked."""
        asked = frozenset(self._grid.stores[node] for node in self._asked)
        return asked - frozenset(self.unanswered.values())

    def names(self, store_ids: Collection[str]) -> tuple[str, ...]:
        """The grid's names of stores that took part in the attempt; an id where it has none."""
        stores, nodes = self._grid.stores, self._nodes
        return tuple(stores[nodes[i]] if i in nodes else i for i in store_ids)

    def report_to(self, progress: Progress, number: int, kind: Kind, attempt: int) -> None:
        """Write every stage of this attempt down."""
        self._report = partial(progress.stage, number, kind, attempt)
        self._answered = progress.answered

    def ask(
        self,
        contents: Mapping[int, RecordDict],
        message_type: str,
        timeout: float | None,
        *,
        needed: int,
    ) -> None:
        """Send one message to each node; hand the coordinator what comes back in time.

        Args:
            contents: By node.
            message_type: The stage's.
            timeout: Seconds to wait for the stores that are waited for.
            needed: How many stores the stage must have. If fewer are waited for, all are.
        """
        self._asked = self._asked or list(contents)
        names = {node: self._grid.stores[node] for node in contents}
        if self._report is not None:
            self._report(message_type, list(names.values()))
        messages = [Message(content, node, message_type) for node, content in contents.items()]
        waiting: dict[str, int] = {}
        for identifier, node in zip(self._grid.push_messages(messages), contents, strict=True):
            if identifier:
                waiting[identifier] = node
            else:  # a SuperLink takes no message for a node that was unregistered
                self._note(node, "[federation] the store's node is not registered any more")
        patient = {node for node, name in names.items() if name not in self._not_waited_for}
        if len(patient) < needed:
            patient = set(names)
        started = time.monotonic()
        while waiting:
            for identifier, node in list(waiting.items()):
                reply = pull_one(self._grid, identifier)
                if reply is None:
                    continue
                del waiting[identifier]
                if isinstance(reply, str):
                    self._note(node, reply)
                else:
                    self._take(node, reply)
            if patient.isdisjoint(waiting.values()):
                break
            waited = time.monotonic() - started
            if timeout is not None and waited > timeout:
                self.deadlines += 1
                self.silent |= {names[node] for node in waiting.values() if node in patient}
                break
            time.sleep(min(max(waited / _PATIENCE, _SHORTEST_WAIT), _LONGEST_WAIT))
        self.unanswered |= {identifier: names[node] for identifier, node in waiting.items()}

    def relay(self, message_type: str, timeout: float) -> None:
        """Close the stage before, and send out what it leads to.

        Raises:
            RoundFailed: Too few stores are left.
        """
        encoded: dict[int, RecordDict] = {}
        contents = {}
        messages = self._coordinator.advance()
        if message_type == CONFIRM:
            self.masked = self.names(tuple(messages))
        for store_id, message in messages.items():
            node = self._nodes[store_id]
            if message_type == SHARE and self._grid.stores[node] in self._not_shared:
                self._note(node, f"{LEFT_OUT} to see whether the sum is good without it")
                continue
            if id(message) not in encoded:  # most stages tell everybody the same
                encoded[id(message)] = _content(message)
                if self.record is not None:
                    self.record.sends(message)
            contents[node] = encoded[id(message)]
        terms, roster = self._coordinator.attempt.terms, len(self._nodes)
        early = message_type in (SHARE, MASK)
        needed = terms.survivors(roster) if early else terms.threshold(roster)
        self.ask(contents, message_type, timeout, needed=needed)

    def lost(self) -> dict[str, str]:
        """Say of each store that was lost at which stage, and why."""
        names, found = self._grid.stores, {}
        by_node = {node: store_id for store_id, node in self._nodes.items()}
        stages = {
            store_id: stage
            for stage, stores in self._coordinator.missing.items()
            for store_id in stores
        }
        for node in self._asked:
            store_id = by_node.get(node)
            if store_id is not None and store_id not in stages and node not in self._reasons:
                continue
            stage = stages.get(store_id or "", "hello" if store_id is None else "")
            reason = self._reasons.get(node) or "no reply in time"
            found[names[node]] = f"at stage {stage!r}: {reason}" if stage else reason
        return found

    def liars(self, aggregate: Aggregate) -> dict[str, str]:
        """Say who gave shares that are not those it was dealt; others' shares were used."""
        reason = "at stage 'unmask': its shares are not those that were dealt to it"
        return dict.fromkeys(self.names(aggregate.liars), reason)

    def _take(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self._note(node, refusal_reason(reply.error))
            return
        try:
            message, config = _protocol_message(reply)
            if self._gate is not None and isinstance(message, Hello):
                self._gate(message.certificate)
            if self.record is not None:
                self.record.check(message, config)
            self._coordinator.receive(message)
            self._nodes.setdefault(message.store_id, node)
            if self.record is not None:
                self.record.keep(message, config, node)
        except HanseError as error:
            self._note(node, f"[{error.code}] {error}")
            return
        except Exception:
            # A store's bytes must not end the run, whatever they make a decoder do.
            _log.debug("unreadable reply", exc_info=True)
            self._note(node, UNREADABLE)
            return
        if isinstance(message, Refusal):
            self._refused(node, message)
        elif self._answered is not None:
            self._answered(self._grid.stores[node], None)

    def _refused(self, node: int, refusal: Refusal) -> None:
        """A store left, signed: keep its code and whom it accuses, of those in the attempt."""
        others = [c for c in refusal.culprits if c in self._nodes and c != refusal.store_id]
        accused, reason = self.names(others), f"[{refusal.code}]"
        if accused:
            self.accused[self._grid.stores[node]] = accused
            more = len(accused) - _MOST_ACCUSED
            named = ", ".join(accused[:_MOST_ACCUSED]) + (f" and {more} more" if more > 0 else "")
            reason += f", it accuses {named}"
        self._note(node, reason)

    def _note(self, node: int, reason: str) -> None:
        self._reasons[node] = reason
        if self._answered is not None:
            self._answered(self._grid.stores[node], reason)


def pull_one(grid: StoreGrid, identifier: str) -> Message | str | None:
    """Fetch the reply to one message, if it has come.

    One at a time, and known by the message that it answers: what a store says of itself inside
    its reply is not believed, and bytes that cannot be read cost nobody else their reply.

    Returns:
        The reply; what is wrong with it, if it cannot be read; None if it has not come.

    Raises:
        OSError: The connection to the SuperLink is gone.
        HanseError: As the grid does.
    """
    try:
        replies = list(grid.pull_messages([identifier]))
        if replies and (replies[0].has_error() or replies[0].has_content()):
            return replies[0]
        return UNREADABLE if replies else None
    except (OSError, HanseError):
        raise
    except Exception:
        _log.debug("unreadable reply", exc_info=True)
        return UNREADABLE


def _content(message: ProtocolMessage) -> RecordDict:
    return RecordDict({"config": ConfigRecord({MESSAGE: message.encode()})})


def _protocol_message(reply: Message) -> tuple[StoreMessage, Mapping[str, object]]:
    """The store's message, and what came with it."""
    record = reply.content.get("config")
    config: Mapping[str, object] = record if isinstance(record, ConfigRecord) else {}
    data = config.get(MESSAGE)
    if not isinstance(data, bytes):
        raise FederationError(
            "the store sent no message of the protocol; its reply was dropped unread",
            hint="it may not be enrolled, and would have sent its update open",
        )
    message = decode(data)
    if not isinstance(message, StoreMessage):
        raise FederationError(f"the store sent a {type(message).__name__}")
    return message, config
