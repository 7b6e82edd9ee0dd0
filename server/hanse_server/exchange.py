"""Runs the five stages of one attempt: it connects the coordinator's state machine to Flower.

Each stage has a deadline, and a store that misses it is lost to the attempt. A store that was
silent before is asked but not waited for: once all others have answered, the stage is over.
The stages are those of docs/protocol.md, "An attempt".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from hanse_common.errors import (
    BadShares,
    BadSum,
    FederationError,
    HanseError,
    Interrupted,
)
from hanse_common.identity import Certificate
from hanse_common.instructions import CONFIRM, MASK, MESSAGE, SHARE, UNMASK, Kind
from hanse_common.monitoring.codes import NO_REPLY
from hanse_common.roundlog.records import SUMMED, Closed
from hanse_common.secagg import Aggregate, Coordinator
from hanse_common.secagg.messages import Hello, decode
from hanse_common.secagg.refusal import Refusal
from hanse_common.secagg.wire import Message as ProtocolMessage
from hanse_common.secagg.wire import StoreMessage
from hanse_common.versions import EARLIER, VERSION_FIELD, Version, other_protocol, own_version
from hanse_server.roundlog import AttemptLog
from hanse_server.stage_log import Progress, StageOutcome
from hanse_server.store_grid import UNREADABLE, StoreGrid, refusal_reason

_log = logging.getLogger(__name__)
_SHORTEST_WAIT, _LONGEST_WAIT = 0.001, 0.25
_PATIENCE = 400
"""Replies are polled after each four-hundredth of the time waited, so quick stages stay quick."""
_MOST_ACCUSED = 3
"""Accused stores that a reason names; there may be thousands."""

LEFT_OUT = "[store-excluded] left out"
"""The beginning of the reason for a store that an attempt leaves out on suspicion."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttemptResult:
    """The outcome of one attempt for the sum and for every store, under the grid's names.

    Args:
        aggregate: The sum; None if the attempt failed.
        error: The exception that ended the attempt before there was a sum, of any class.
        roster: Stores whose Hello was accepted.
        summed: Stores whose vectors are in the sum, once that is known.
        lost: The stage and reason of each store that was lost.
        liars: Stores that reported shares other than those dealt to them; the sum was unmasked
            with the shares of others.
        culprits: Stores whose wrong share ended the attempt.
        guilty: Error codes of stores that are proven guilty, or that more than C others
            complained about, by store.
        accused: Stores that others complained about when they left, once for each complaint.
        silent: Stores that a stage waited for until its deadline.
        complete: Stores that answered every message.
        unanswered: The store of each message without an answer, by message id.
        stages: The stages in order, with the stores that each one asked.
        releases: The release of each store whose Hello was accepted.
        record: The attempt's record for the round log; None if there is no log.
    """

    aggregate: Aggregate | None
    error: BaseException | None
    roster: tuple[str, ...]
    summed: tuple[str, ...]
    lost: Mapping[str, str]
    liars: tuple[str, ...]
    culprits: tuple[str, ...]
    guilty: Mapping[str, str]
    accused: tuple[str, ...]
    silent: frozenset[str]
    complete: frozenset[str]
    unanswered: Mapping[str, str]
    stages: tuple[StageOutcome, ...]
    releases: Mapping[str, str]
    record: Closed | None


class StageRunner:
    """Runs the stages of one attempt, and keeps track of every store.

    Args:
        grid: The grid that reaches the stores.
        coordinator: The attempt's state machine.
        record: Collects the attempt's record for the round log, if there is one.
        gate: Raises for a certificate that the coordinator refuses.
        progress: Records each stage as it begins.
        number: The training round.
        not_shared: Stores that join the roster and are kept out of the sum.
        not_waited_for: Stores whose silence does not prolong a stage.
    """

    def __init__(
        self,
        grid: StoreGrid,
        coordinator: Coordinator,
        record: AttemptLog | None,
        gate: Callable[[Certificate], None] | None,
        *,
        progress: Progress | None = None,
        number: int,
        not_shared: Collection[str] = (),
        not_waited_for: Collection[str] = (),
    ) -> None:
        self._grid = grid
        self._coordinator = coordinator
        self._record = record
        self._gate = gate
        self._progress = progress
        self._number = number
        self._not_shared = not_shared
        self._not_waited_for = not_waited_for
        self._kind: Kind = "train"
        self._nodes: dict[str, int] = {}
        self._reasons: dict[int, str] = {}
        self._asked: list[int] = []
        self._stages: list[StageOutcome] = []
        self._silent: set[str] = set()
        self._unanswered: dict[str, str] = {}
        self._summed: tuple[str, ...] = ()
        self._accused: dict[str, tuple[str, ...]] = {}
        self._releases: dict[str, str] = {}

    def run(
        self,
        opening: Mapping[int, RecordDict],
        kind: Kind,
        *,
        timeout: float | None,
        stage_seconds: float,
    ) -> AttemptResult:
        """Run the five stages once; see `docs/protocol.md`.

        Args:
            opening: The first message, by node.
            kind: The exchange's kind, which is also the type of the first message.
            timeout: Seconds to wait in stage 0, where the stores train or evaluate; without
                limit if unset.
            stage_seconds: Seconds to wait in each later stage.

        Returns:
            The outcome. An exception that ended the attempt is part of it and is not raised,
            so that the caller can first record what stores were charged for.
        """
        self._kind = kind
        aggregate: Aggregate | None = None
        ended: BaseException | None = None
        try:
            # 0. Every store gets the same instructions, follows them locally, and says hello.
            needed = self._coordinator.attempt.terms.minimum_cohort
            self.ask(opening, kind, timeout, needed=needed)
            # 1. Shares of every secret go to every peer, through the coordinator.
            self._relay(SHARE, stage_seconds)
            # 2. Masked vectors come in; each store has charged its ledger.
            self._relay(MASK, stage_seconds)
            # 3. The stores sign one list of survivors; 4. they give the shares that unmask it.
            self._relay(CONFIRM, stage_seconds)
            self._relay(UNMASK, stage_seconds)
            aggregate = _finish(self._coordinator)
        except BaseException as error:
            # Even KeyboardInterrupt: stores may have charged their ledgers already, and the
            # round log has to say so before anything else happens.
            ended = error
        return self._result(aggregate, ended)

    def _names(self, store_ids: Collection[str]) -> tuple[str, ...]:
        """The grid's names for store ids of the attempt; the id itself where it has none."""
        stores, nodes = self._grid.stores, self._nodes
        return tuple(stores[nodes[i]] if i in nodes else i for i in store_ids)

    def ask(
        self,
        contents: Mapping[int, RecordDict],
        message_type: str,
        timeout: float | None,
        *,
        needed: int,
    ) -> None:
        """Send one message to each node, and pass the replies that are in time on.

        Args:
            contents: The message's content, by node.
            message_type: The stage's message type.
            timeout: Seconds to wait for the stores that are waited for; without limit if unset.
            needed: How many stores the stage needs. If fewer are waited for, all are.
        """
        self._asked = self._asked or list(contents)
        names = {node: self._grid.stores[node] for node in contents}
        if self._progress is not None:
            attempt = self._coordinator.attempt.header.attempt
            self._progress.stage(
                self._number, self._kind, attempt, message_type, list(names.values())
            )
        messages = [Message(content, node, message_type) for node, content in contents.items()]
        waiting: dict[str, int] = {}
        for identifier, node in zip(self._grid.push_messages(messages), contents, strict=True):
            if identifier:
                waiting[identifier] = node
            else:  # a SuperLink takes no message for a node that is unregistered
                self._note(node, "[federation] the store's node is not registered any more")
        patient = {node for node, name in names.items() if name not in self._not_waited_for}
        if len(patient) < needed:
            patient = set(names)
        started, timed_out = time.monotonic(), False
        while waiting:
            for identifier, node in list(waiting.items()):
                # By the message's id: a reply counts for the node that was asked, whatever
                # node it names itself.
                reply = self._grid.pull_one(identifier)
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
                timed_out = True
                self._silent |= {names[node] for node in waiting.values() if node in patient}
                break
            time.sleep(min(max(waited / _PATIENCE, _SHORTEST_WAIT), _LONGEST_WAIT))
        # Kept for the next exchange: a late answer shows that the store is alive.
        self._unanswered |= {identifier: names[node] for identifier, node in waiting.items()}
        self._stages.append(
            StageOutcome(
                attempt=self._coordinator.attempt.header.attempt,
                message_type=message_type,
                asked=tuple(names.values()),
                silent=tuple(names[node] for node in waiting.values()),
                timed_out=timed_out,
                seconds=time.monotonic() - started,
            )
        )

    def _relay(self, message_type: str, timeout: float) -> None:
        """Close the previous stage, and send the messages that follow from it.

        Raises:
            RoundFailed: Too few stores are left.
        """
        encoded: dict[int, RecordDict] = {}
        contents = {}
        messages = self._coordinator.advance()
        if message_type == CONFIRM:
            # Only stores whose masked vector arrived are asked to confirm.
            self._summed = self._names(tuple(messages))
        for store_id, message in messages.items():
            node = self._nodes[store_id]
            if message_type == SHARE and self._grid.stores[node] in self._not_shared:
                self._note(node, f"{LEFT_OUT} to see whether the sum is good without it")
                continue
            if id(message) not in encoded:  # most stages send all stores one message: encode once
                encoded[id(message)] = _content(message)
                if self._record is not None:
                    self._record.sends(message)
            contents[node] = encoded[id(message)]
        terms, roster = self._coordinator.attempt.terms, len(self._nodes)
        # Until vectors are in, the sum's minimum counts; from then on, the threshold of shares.
        early = message_type in (SHARE, MASK)
        needed = terms.survivors(roster) if early else terms.threshold(roster)
        self.ask(contents, message_type, timeout, needed=needed)

    def _result(self, aggregate: Aggregate | None, ended: BaseException | None) -> AttemptResult:
        coordinator = self._coordinator
        recipients = frozenset(self._grid.stores[node] for node in self._asked)
        # What is proven wins over suspicion where a store is both.
        guilty = dict.fromkeys(coordinator.suspects, BadShares.code) | dict(coordinator.proven)
        by_name = {self._names([store_id])[0]: code for store_id, code in guilty.items()}
        outcome = SUMMED
        if ended is not None:
            outcome = ended.code if isinstance(ended, HanseError) else Interrupted.code
        return AttemptResult(
            aggregate=aggregate,
            error=ended,
            roster=self._names(sorted(self._nodes)),
            summed=self._summed,
            lost=self._lost(),
            liars=() if aggregate is None else self._names(aggregate.liars),
            culprits=self._names(ended.culprits) if isinstance(ended, BadSum) else (),
            guilty=dict(sorted(by_name.items())),
            accused=tuple(name for names in self._accused.values() for name in names),
            silent=frozenset(self._silent),
            complete=recipients - frozenset(self._unanswered.values()),
            unanswered=self._unanswered,
            stages=tuple(self._stages),
            releases=self._releases,
            record=None if self._record is None else self._record.closed(outcome),
        )

    def _lost(self) -> dict[str, str]:
        """The stage and reason of each store that was lost, by name."""
        names, lost = self._grid.stores, dict[str, str]()
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
            reason = self._reasons.get(node) or NO_REPLY
            lost[names[node]] = f"at stage {stage!r}: {reason}" if stage else reason
        return lost

    def _take(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self._note(node, refusal_reason(reply.error))
            return
        try:
            message, config = _protocol_message(reply)
            # Everything is checked before the state machine takes the message, which it does
            # once: a store without its receipt must not get into the sum.
            if self._gate is not None and isinstance(message, Hello):
                self._gate(message.certificate)
            if self._record is not None:
                self._record.check(message, config)
            self._coordinator.receive(message)
            if isinstance(message, Hello):
                release = Version.decode(config.get(VERSION_FIELD)).release
                self._releases[self._grid.stores[node]] = release or EARLIER
            # The first node that uses an id keeps it; its certificate was checked just now.
            self._nodes.setdefault(message.store_id, node)
            if self._record is not None:
                self._record.keep(message, config, node)
        except HanseError as error:
            self._note(node, f"[{error.code}] {error}")
            return
        except Exception:
            # A store's bytes must not end the run, whatever exception they cause in a decoder.
            _log.debug("unreadable reply", exc_info=True)
            self._note(node, UNREADABLE)
            return
        if isinstance(message, Refusal):
            self._refused(node, message)
        elif self._progress is not None:
            self._progress.answered(self._grid.stores[node])

    def _refused(self, node: int, refusal: Refusal) -> None:
        """Note a signed refusal: its code, and the stores of this attempt that it accuses."""
        # The names come from the store: those that are not in the roster, or itself, are dropped.
        others = [c for c in refusal.culprits if c in self._nodes and c != refusal.store_id]
        accused, reason = self._names(others), f"[{refusal.code}]"
        if accused:
            self._accused[self._grid.stores[node]] = accused
            more = len(accused) - _MOST_ACCUSED
            named = ", ".join(accused[:_MOST_ACCUSED]) + (f" and {more} more" if more > 0 else "")
            reason += f", it accuses {named}"
        self._note(node, reason)

    def _note(self, node: int, reason: str) -> None:
        self._reasons[node] = reason
        if self._progress is not None:
            self._progress.answered(self._grid.stores[node], reason)


def _finish(coordinator: Coordinator) -> Aggregate:
    """Unmask the sum.

    Raises:
        BadSum [forged-vector]: Honest stores cannot have made the sum.
    """
    aggregate = coordinator.finish()
    if aggregate.excesses:
        first = aggregate.excesses[0]
        raise BadSum(
            f"honest stores cannot have made the sum: section {first.section!r} of "
            f"{len(aggregate.survivors)} stores has norm {first.norm:.6g} and a coordinate of "
            f"{first.largest}, bounds are {first.norm_bound:.6g} and {first.largest_bound:.6g}",
            code="forged-vector",
            hint="the model is unchanged",
        )
    return aggregate


def _content(message: ProtocolMessage) -> RecordDict:
    return RecordDict({"config": ConfigRecord({MESSAGE: message.encode()})})


def _protocol_message(reply: Message) -> tuple[StoreMessage, Mapping[str, object]]:
    """The store's protocol message, and the config record that it came in."""
    # Other records of the reply, such as an open update, are never read.
    record = reply.content.get("config")
    config: Mapping[str, object] = record if isinstance(record, ConfigRecord) else {}
    data = config.get(MESSAGE)
    if not isinstance(data, bytes):
        raise FederationError(
            "the store sent no protocol message; its reply was dropped unread",
            hint="it may not be enrolled, and would have sent its update without a mask",
        )
    theirs = Version.decode(config.get(VERSION_FIELD))
    # Before its bytes, whose error could not name the release to upgrade to.
    if VERSION_FIELD in config and theirs.protocol != own_version().protocol:
        raise other_protocol(theirs, they="the store", we="this coordinator")
    message = decode(data)
    if not isinstance(message, StoreMessage):
        raise FederationError(f"the store sent a {type(message).__name__}")
    return message, config
