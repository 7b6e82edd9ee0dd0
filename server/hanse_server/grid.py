"""Secure aggregation under any Flower strategy: one call, five stages, one reply.

A strategy sends its messages and gets replies, as always. `SecureGrid` runs the protocol in
between and hands it one reply that carries the mean of the stores' updates; the coordinator's
process never holds more about one store than a masked vector.

    grid = SecureGrid(StoreGrid(flower_grid), manifest, authority)
    replies = grid.send_and_receive(strategy.configure_train(...))     # one reply

Each stage has a deadline; who misses it is lost to the attempt. An attempt that fails is
made once more, without the stores that the others complain about.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hanse_common.config import RunSettings
from hanse_common.errors import (
    BadManifest,
    FederationError,
    HanseError,
    Interrupted,
    ProtocolError,
    RoundFailed,
)
from hanse_common.identity import Certificate
from hanse_common.instructions import (
    ATTEMPT,
    CONFIRM,
    EVALUATION,
    LOG,
    MASK,
    MESSAGE,
    NOISE_ONLY,
    PROOFS,
    RUN,
    SHARE,
    STATISTICS,
    STATISTICS_NAMES,
    UNMASK,
    UPDATE,
    Instructions,
    Kind,
    NDArray,
    evaluation_names,
    model_digest,
    unflatten,
)
from hanse_common.manifest import Manifest
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.records import SUMMED
from hanse_common.secagg import Aggregate, Attempt, Coordinator, dequantize
from hanse_common.secagg.messages import Hello, decode
from hanse_common.secagg.terms import MAX_ATTEMPTS
from hanse_common.secagg.wire import Message as ProtocolMessage
from hanse_common.secagg.wire import StoreMessage
from hanse_server.noise import NoiseMonitor
from hanse_server.progress import Progress
from hanse_server.roundlog import AttemptLog, RoundLog, Witnesses
from hanse_server.stores import ForwardingGrid, StoreGrid, describe_refusals, refusal_reason
from hanse_server.strategies import to_record

STAGE_SECONDS = 120.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.001, 0.25
_PATIENCE = 400
"""A look for replies every four-hundredth of the time waited: quick stages stay quick."""

_log = logging.getLogger(__name__)


class SecureGrid(ForwardingGrid):
    """Turns a strategy's training round, or evaluation, into one secure aggregation.

    Args:
        grid: Reaches the stores.
        manifest: The federation's terms, checked.
        authority: The enrolment authority's public key, as the coordinator pins it.
        log: Where exchanges are announced and recorded; the manifest must name its key.
        stage_seconds: Deadline of each stage after the first, whose limit is the caller's
            `timeout`: there the stores train.
        clock: Unix seconds, for certificates.
        gate: Raises for a certificate that the coordinator does not go on with, whatever
            the authority once said.
        progress: Where each stage is written down.

    Guarantees:
        Messages of other kinds pass through. What comes back from a round holds the mean
        of at least `manifest.terms().survivors(...)` stores, or nothing does. With a log, no
        store is asked for what is not announced in it, and whatever came of it is in it
        before the next exchange.
    """

    def __init__(
        self,
        grid: StoreGrid,
        manifest: Manifest,
        authority: bytes,
        *,
        log: RoundLog | None = None,
        stage_seconds: float = STAGE_SECONDS,
        clock: Callable[[], float] = time.time,
        gate: Callable[[Certificate], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(grid)
        self._gate = gate
        self._progress = progress
        self._stores = grid
        self._manifest = manifest
        self._authority = authority
        self._log = log
        self._witnesses = None if log is None else Witnesses(log)
        self._stage_seconds = stage_seconds
        self._clock = clock
        # Drawn anew by every process: a coordinator that starts again begins a new run.
        self._run_number = secrets.randbits(62)
        self._excluded: frozenset[str] = frozenset()
        self._participants = 0
        self._lost: dict[str, str] = {}
        noise = {part.name: part.noise_variance for part in manifest.sections}
        self._monitor = NoiseMonitor(noise[NOISE_ONLY]) if NOISE_ONLY in noise else None
        self.last: Aggregate | None = None
        """What the last exchange gave."""
        self.attempts = 1
        """How often the last exchange was made."""
        if log is not None and manifest.log_key != log.checkpoint.log_key.hex():
            raise BadManifest(
                "the manifest names another key than that of the coordinator's round log",
                hint="ask the authority to sign a manifest with this coordinator's key",
            )

    @property
    def stores(self) -> Mapping[int, str]:
        """Store names by node id; see `StoreGrid`."""
        return self._stores.stores

    @property
    def absent(self) -> dict[str, str]:
        """Nodes that could not say their name; see `StoreGrid`."""
        return self._stores.absent

    @property
    def noise_share(self) -> float | None:
        """Noise measured over noise promised, all rounds of this process; see `NoiseMonitor`."""
        return None if self._monitor is None else self._monitor.share

    def participants(self, replies: Sequence[Message]) -> int:
        """How many stores are in the sum that the replies carry."""
        return len(replies) if self.last is None else self._participants

    def refusals(self, messages: Sequence[Message], replies: Sequence[Message]) -> dict[str, str]:
        """Say which stores failed in the last exchange: at which stage, and why.

        Who was lost after stage 2, or gave wrong shares, is in the sum all the same.
        """
        if self.last is None:
            return self._stores.refusals(messages, replies)
        return dict(sorted(self._lost.items()))

    def publish(self, number: int, arrays: Mapping[str, NDArray]) -> None:
        """Write the model after a round into the log.

        Raises:
            RoundLogError: It cannot be written.
        """
        if self._log is not None:
            self._log.publish(run=self._run_number, number=number, digest=model_digest(arrays))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run one exchange; see `Grid`.

        Returns:
            One reply with the stores' mean, in place of one from each.

        Raises:
            RoundFailed: Two attempts have failed; lists who was missing at which stage.
            NoiseMissing: The sum has less noise than the manifest promises.
            ProtocolError: The sum cannot be trusted; `culprits` names who is to blame, if
                that is known, and they are left out from now on.
            FederationError: The strategy sent different messages to different stores.
            RoundLogError: The log cannot be written.
        """
        sent = list(messages)
        kind = _kind(sent)
        self.last, self._lost, self.attempts = None, {}, 1
        if kind is None or not (kind == "train" or self._manifest.evaluation):
            return self._stores.send_and_receive(sent, timeout=timeout)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.attempts = attempt
            try:
                return [self._attempt(sent, kind, attempt, timeout)]
            except RoundFailed as error:
                self._excluded |= frozenset(error.culprits)
                if attempt == MAX_ATTEMPTS:
                    raise RoundFailed(
                        f"{error.message}; {describe_refusals(self._lost)}",
                        hint=error.hint,
                        culprits=error.culprits,
                    ) from None
                _log.warning("%s; trying once more", error)
            except ProtocolError as error:
                self._excluded |= frozenset(error.culprits)
                raise
        raise AssertionError("unreachable")

    def _attempt(
        self, sent: Sequence[Message], kind: Kind, number: int, timeout: float | None
    ) -> Message:
        """Run the five stages once."""
        content = sent[0].content
        config = {**cast(ConfigRecord, content["config"]), RUN: self._run_number, ATTEMPT: number}
        arrays = {
            name: array.numpy() for name, array in cast(ArrayRecord, content["arrays"]).items()
        }
        nodes = [message.metadata.dst_node_id for message in sent]
        told = Instructions.read(config, arrays, kind=kind)
        announcing = self._announce(told, nodes)
        if announcing is not None:
            # Not read anew: that would hash the whole model a second time.
            checkpoint, proofs = announcing
            config |= {LOG: checkpoint.encode(), PROOFS: proofs}
            told = replace(told, checkpoint=checkpoint.encode(), proofs=proofs)
        attempt = Attempt(
            header=told.header(self._manifest.digest()),
            terms=self._manifest.terms(kind),
            authority=self._authority,
            now=int(self._clock()),
        )
        coordinator = Coordinator(attempt, excluded=self._excluded)
        exchange = _Exchange(
            self._stores,
            coordinator,
            self._record(attempt, announcing and announcing[0]),
            self._gate,
        )
        if self._progress is not None:
            exchange.report_to(self._progress, told.round, kind, number)
        opening = RecordDict({**content, "config": ConfigRecord(config)})
        outcome = Interrupted.code
        try:
            # 0. Everybody is told the same, does it at home, and says hello.
            exchange.ask(dict.fromkeys(nodes, opening), kind, timeout)
            # 1. Shares of every secret go to every peer, by way of the coordinator.
            exchange.relay(SHARE, self._stage_seconds)
            # 2. Masked vectors come in; each store has charged its ledger.
            exchange.relay(MASK, self._stage_seconds)
            # 3. The stores sign one list of survivors, 4. and give the shares that unmask it.
            exchange.relay(CONFIRM, self._stage_seconds)
            exchange.relay(UNMASK, self._stage_seconds)
            aggregate = coordinator.finish()
            outcome = SUMMED
        except HanseError as error:
            outcome = error.code
            raise
        finally:
            self._lost = exchange.lost()
            # What stores have charged for is on record, however the attempt ended.
            if self._log is not None and exchange.record is not None:
                self._log.append(exchange.record.closed(outcome))
        self._lost |= exchange.liars(aggregate)
        self.last, self._participants = aggregate, len(aggregate.survivors)
        if kind == "train" and self._monitor is not None:
            only = attempt.terms.layout.split(aggregate.total)[NOISE_ONLY]
            self._monitor.take(only, stores=self._participants)
        return _reply(sent[0], told, attempt, aggregate, arrays)

    def _announce(self, told: Instructions, nodes: Sequence[int]) -> tuple[Checkpoint, str] | None:
        """Announce an attempt in the log; return its checkpoint, and what proves it."""
        if self._log is None or self._witnesses is None:
            return None
        checkpoint = self._log.announce(told)
        names = {node: self._stores.stores[node] for node in nodes}
        earlier = self._witnesses.shown(names, self._stores.log_sizes)
        return checkpoint, self._log.proofs(earlier).encode()

    def _record(self, attempt: Attempt, announcing: Checkpoint | None) -> AttemptLog | None:
        if announcing is None or self._witnesses is None:
            return None
        private = self._manifest.privacy.mode != "none"
        return AttemptLog(attempt.header, announcing, self._witnesses, private=private)


class _Exchange:
    """Carries one attempt's messages between the coordinator's state machine and Flower."""

    def __init__(
        self,
        grid: StoreGrid,
        coordinator: Coordinator,
        record: AttemptLog | None,
        gate: Callable[[Certificate], None] | None,
    ) -> None:
        self.record = record
        self._grid = grid
        self._coordinator = coordinator
        self._gate = gate
        self._report: Callable[[str, Collection[str]], None] | None = None
        self._answered: Callable[[str, str | None], None] | None = None
        self._nodes: dict[str, int] = {}
        self._reasons: dict[int, str] = {}
        self._asked: list[int] = []

    def report_to(self, progress: Progress, number: int, kind: Kind, attempt: int) -> None:
        """Write every stage of this attempt down."""
        self._report = partial(progress.stage, number, kind, attempt)
        self._answered = progress.answered

    def ask(
        self, contents: Mapping[int, RecordDict], message_type: str, timeout: float | None
    ) -> None:
        """Send one message to each node; hand the coordinator what comes back in time."""
        self._asked = self._asked or list(contents)
        if self._report is not None:
            names = [self._grid.stores[node] for node in contents]
            self._report(message_type, names)
        messages = [Message(content, node, message_type) for node, content in contents.items()]
        waiting: dict[str, int] = {}
        for identifier, node in zip(self._grid.push_messages(messages), contents, strict=True):
            if identifier:
                waiting[identifier] = node
            else:  # a SuperLink takes no message for a node that was unregistered
                self._note(node, "[federation] the store's node is not registered any more")
        started = time.monotonic()
        while waiting:
            for reply in list(self._grid.pull_messages(waiting)):
                # By what it answers: a SuperLink that gave a node up replies in its own name.
                node = waiting.pop(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
                self._take(node, reply)
            waited = time.monotonic() - started
            if timeout is not None and waited > timeout:
                break
            if waiting:
                time.sleep(min(max(waited / _PATIENCE, _SHORTEST_WAIT), _LONGEST_WAIT))

    def relay(self, message_type: str, timeout: float) -> None:
        """Close the stage before, and send out what it leads to.

        Raises:
            RoundFailed: Too few stores are left.
        """
        encoded: dict[int, RecordDict] = {}
        contents = {}
        for store_id, message in self._coordinator.advance().items():
            if id(message) not in encoded:  # most stages tell everybody the same
                encoded[id(message)] = _content(message)
                if self.record is not None:
                    self.record.sends(message)
            contents[self._nodes[store_id]] = encoded[id(message)]
        self.ask(contents, message_type, timeout)

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
            code = self._coordinator.reasons.get(store_id or "")
            reason = self._reasons.get(node) or (f"[{code}]" if code else "no reply in time")
            found[names[node]] = f"at stage {stage!r}: {reason}" if stage else reason
        return found

    def liars(self, aggregate: Aggregate) -> dict[str, str]:
        """Say who gave shares that are not those it was dealt; others' shares were used."""
        reason = "at stage 'unmask': its shares are not those that were dealt to it"
        return {self._grid.stores[self._nodes[store_id]]: reason for store_id in aggregate.liars}

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
        else:
            if self._answered is not None:
                self._answered(self._grid.stores[node], None)

    def _note(self, node: int, reason: str) -> None:
        self._reasons[node] = reason
        if self._answered is not None:
            self._answered(self._grid.stores[node], reason)


def _kind(messages: Sequence[Message]) -> Kind | None:
    """What an exchange is about, if the messages begin one.

    Raises:
        FederationError: They do not all say the same.
    """
    kinds = {message.metadata.message_type for message in messages}
    if len(kinds) != 1 or not kinds <= {"train", "evaluate"}:
        return None
    first = messages[0].content
    if any(m.content is not first and m.content != first for m in messages):
        raise FederationError(
            "the strategy sends different stores different messages, which would show the "
            "coordinator their updates",
            hint="use another strategy, or turn masking off with --no-secure-aggregation",
        )
    return cast(Kind, kinds.pop())


@lru_cache(maxsize=4)
def _settings(text: str) -> RunSettings:
    return RunSettings.model_validate_json(text)


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


def _reply(
    first: Message,
    told: Instructions,
    attempt: Attempt,
    aggregate: Aggregate,
    arrays: Mapping[str, NDArray],
) -> Message:
    """Turn a sum into the one reply that the strategy sees."""
    layout = attempt.terms.layout
    parts = layout.split(aggregate.total)
    sums = {s.name: dequantize(parts[s.name], s) for s in layout.sections}
    records: dict[str, Any] = {}
    settings = _settings(told.settings)
    if told.kind == "train":
        factor = settings.update_factor(told.round)
        mean = unflatten(sums[UPDATE] * (factor / len(aggregate.survivors)), arrays)
        moved = {n: (a + mean[n]).astype(np.float32) for n, a in arrays.items()}
        records["arrays"] = to_record(moved)
    names = STATISTICS_NAMES if told.kind == "train" else evaluation_names(settings.task)
    values = sums[STATISTICS if told.kind == "train" else EVALUATION]
    figures = dict(zip(names, map(float, values), strict=True))
    records["metrics"] = MetricRecord({"num-examples": 1, **figures})
    return Message(RecordDict(records), reply_to=first)
