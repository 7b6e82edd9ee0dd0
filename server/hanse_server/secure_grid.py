"""Secure aggregation under any Flower strategy: one call, five stages, one reply.

A strategy sends its messages and gets replies, as always. `SecureGrid` runs the protocol in
between and hands it one reply that carries the mean of the stores' updates; the coordinator's
process never holds more about one store than a masked vector.

    grid = SecureGrid(StoreGrid(flower_grid), manifest, authority)
    replies = grid.send_and_receive(strategy.configure_train(...))     # one reply

An attempt that fails is made once more, without the stores that the others complain about.
Who is to blame for lost rounds is kept on disk (`blame.py`), and so is the search for a store
whose vector breaks a sum (`search.py`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from hanse_common.errors import (
    BadManifest,
    BadShares,
    BudgetSpent,
    ForgedVector,
    HanseError,
    Interrupted,
    NoiseMissing,
    RoundFailed,
    RoundNoiseMissing,
    WrongShare,
)
from hanse_common.identity import Certificate
from hanse_common.instructions import (
    ATTEMPT,
    CONFIRM,
    LOG,
    MASK,
    PROOFS,
    RUN,
    SHARE,
    UNMASK,
    Instructions,
    Kind,
    NDArray,
    model_digest,
)
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import sum_norm
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.records import SUMMED
from hanse_common.secagg import Aggregate, Attempt, Coordinator
from hanse_common.secagg.terms import MAX_ATTEMPTS, Terms
from hanse_common.vector import NOISE_ONLY
from hanse_server.blame import Blame, Plan
from hanse_server.exchange import LEFT_OUT, Exchange, pull_one
from hanse_server.noise_monitor import NoiseMonitor
from hanse_server.progress import Progress
from hanse_server.reply import kind_of, reply_with
from hanse_server.roundlog import AttemptLog, RoundLog, Witnesses
from hanse_server.stage_log import code_of
from hanse_server.store_grid import ForwardingGrid, StoreGrid, describe_refusals

STAGE_SECONDS = 120.0
_MOST_UNANSWERED = 256
"""Messages whose late answers are still looked for."""

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
        blame: What is remembered of stores; forgotten with this object if unset.
        measures_at_home: Whether stores measure the model though no sum of it leaves them. Only
            a simulation's do, because whoever simulates holds the data anyway.

    Guarantees:
        Messages of other kinds pass through. What comes back from a round holds the mean
        of at least `manifest.terms().survivors(...)` stores, or nothing does, and moves the
        model by no more than `sum_norm(manifest)` allows. With a log, no store is asked for
        what is not announced in it, and whatever came of it is in it before the next exchange.
    """

    patience = 3
    """Rounds in a row that may be lost because too few stores answer, before a run ends."""

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
        blame: Blame | None = None,
        measures_at_home: bool = False,
    ) -> None:
        super().__init__(grid)
        self._blame = blame or Blame(None)
        self._sum_norm = sum_norm(manifest)
        self.evaluates = measures_at_home or bool(manifest.evaluation)
        """Whether stores may be asked to evaluate."""
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
        self._participants = 0
        self._picked: tuple[str, ...] = ()
        self._gone: frozenset[str] = frozenset()
        self._unanswered: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        """Stores that the last exchange went on without, at which stage, and why."""
        self.cut: float | None = None
        """What the last exchange's sum was multiplied by, to be no longer than honest ones."""
        self.deadlines = 0
        """Stages of the last exchange that lasted until their deadline."""
        self.note = ""
        """What the search for a store that breaks sums has come to, if one goes on."""
        noise = {part.name: part.noise_variance for part in manifest.sections}
        terms = manifest.terms()
        self._monitor = (
            NoiseMonitor(noise[NOISE_ONLY], needed=terms.survivors(terms.minimum_cohort))
            if NOISE_ONLY in noise
            else None
        )
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
        return dict(sorted(self.lost.items()))

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
            BudgetSpent: They have, and will again: too few stores can still pay.
            ForgedVector: Honest stores cannot have made the sum.
            RoundNoiseMissing: The sum has less noise than the manifest promises.
            NoiseMissing: All sums so far have, or it cannot be found out whose is missing.
            WrongShare: A secret does not match its commitment; names the culprit.
            FederationError: The strategy sent different messages to different stores.
            RoundLogError: The log cannot be written.
        """
        sent = list(messages)
        kind = kind_of(sent)
        self.last, self.lost, self.attempts = None, {}, 1
        self.cut, self.deadlines, self.note = None, 0, ""
        self._gone = frozenset()
        if kind is None or not (kind == "train" or self._manifest.evaluation):
            return self._stores.send_and_receive(sent, timeout=timeout)
        names = [self._stores.stores[message.metadata.dst_node_id] for message in sent]
        self._picked = tuple(names)
        for number in range(1, MAX_ATTEMPTS + 1):
            self.attempts = number
            terms = self._manifest.terms(kind)
            plan = self._blame.plan(kind, names, terms, gone=self._gone)
            self.lost = {name: f"{LEFT_OUT}: {why}" for name, why in plan.not_asked.items()}
            if len(names) - len(plan.not_asked) < terms.minimum_cohort:
                raise self._failed(_too_few(len(names) - len(plan.not_asked), terms), kind)
            try:
                return [self._attempt(sent, kind, number, timeout, plan)]
            except RoundFailed as error:
                if number == MAX_ATTEMPTS:
                    raise self._failed(error, kind) from None
                _log.warning("%s; trying once more", error)
        raise AssertionError("unreachable")

    def _attempt(
        self,
        sent: Sequence[Message],
        kind: Kind,
        number: int,
        timeout: float | None,
        plan: Plan,
    ) -> Message:
        """Run the five stages once."""
        content = sent[0].content
        config = {**cast(ConfigRecord, content["config"]), RUN: self._run_number, ATTEMPT: number}
        arrays = {
            name: array.numpy() for name, array in cast(ArrayRecord, content["arrays"]).items()
        }
        stores = self._stores.stores
        nodes = [
            node
            for node in (message.metadata.dst_node_id for message in sent)
            if stores[node] not in plan.not_asked
        ]
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
        coordinator = Coordinator(attempt, excluded=frozenset(plan.not_asked))
        exchange = Exchange(
            self._stores,
            coordinator,
            self._record(attempt, announcing and announcing[0]),
            self._gate,
            not_shared=plan.not_shared,
            not_waited_for=plan.not_waited_for,
        )
        if self._progress is not None:
            exchange.report_to(self._progress, told.round, kind, number)
        opening = RecordDict({**content, "config": ConfigRecord(config)})
        outcome = Interrupted.code
        try:
            # 0. Everybody is told the same, does it at home, and says hello.
            exchange.ask(
                dict.fromkeys(nodes, opening), kind, timeout, needed=attempt.terms.minimum_cohort
            )
            # 1. Shares of every secret go to every peer, by way of the coordinator.
            exchange.relay(SHARE, self._stage_seconds)
            # 2. Masked vectors come in; each store has charged its ledger.
            exchange.relay(MASK, self._stage_seconds)
            # 3. The stores sign one list of survivors, 4. and give the shares that unmask it.
            exchange.relay(CONFIRM, self._stage_seconds)
            exchange.relay(UNMASK, self._stage_seconds)
            aggregate = _finish(coordinator)
            outcome = SUMMED
        except HanseError as error:
            outcome = error.code
            self._judge_failure(exchange, told, error)
            raise
        finally:
            self._remember(exchange, coordinator, told.round)
            # What stores have charged for is on record, however the attempt ended.
            if self._log is not None and exchange.record is not None:
                self._log.append(exchange.record.closed(outcome))
        liars = exchange.liars(aggregate)
        self.lost |= liars
        self._blame.exclude(dict.fromkeys(liars, WrongShare.code), number=told.round)
        self.last, self._participants = aggregate, len(aggregate.survivors)
        if kind == "train" and self._monitor is not None:
            only = attempt.terms.layout.split(aggregate.total)[NOISE_ONLY]
            try:
                self._monitor.take(only, stores=self._participants)
            except RoundNoiseMissing as error:
                self._judge_failure(exchange, told, error)
                raise
        self._judge(exchange, told, wrong=None)
        reply = reply_with(
            sent[0], told, self._manifest, aggregate, arrays, sum_norm=self._sum_norm
        )
        self.cut = reply.cut
        return reply.message

    def _judge_failure(self, exchange: Exchange, told: Instructions, error: HanseError) -> None:
        """Keep on disk whom an error names; look for whom it does not.

        Raises:
            NoiseMissing: Noise is missing, and it cannot be found out whose.
        """
        if isinstance(error, WrongShare):
            names = exchange.names(error.culprits)
            self.lost |= dict.fromkeys(names, f"[{error.code}] {error}")
            self._blame.exclude(dict.fromkeys(names, error.code), number=told.round)
        elif isinstance(error, ForgedVector | RoundNoiseMissing):
            self._judge(exchange, told, wrong=error.code)
        if isinstance(error, RoundNoiseMissing):
            record = self._blame.record
            search = record.search(told.kind, error.code)
            most = record.most_absent(self._picked, self._manifest.terms(told.kind))
            if search is not None and search.is_hopeless(most):
                # Every further sum would show the coordinator more than was promised.
                raise NoiseMissing(f"{error.message}; {self.note}", hint=error.hint) from None

    def _judge(self, exchange: Exchange, told: Instructions, *, wrong: str | None) -> None:
        """Tell the search whether a sum was good."""
        self.note = self._blame.summed(
            told.kind,
            exchange.masked,
            wrong=wrong,
            number=told.round,
            picked=self._picked,
            terms=self._manifest.terms(told.kind),
        )
        if not self.note and self._monitor is not None:
            self.note = self._monitor.warning
        if self.note:
            _log.warning("round %d: %s", told.round, self.note)

    def _remember(self, exchange: Exchange, coordinator: Coordinator, number: int) -> None:
        """Keep who was lost; on disk, who was silent, who came back and who was accused."""
        lost = exchange.lost()
        self._gone = frozenset(name for name, why in lost.items() if LEFT_OUT not in why)
        self.lost |= lost
        self.deadlines += exchange.deadlines
        late = set()
        for identifier in list(self._unanswered):
            reply = pull_one(self._stores, identifier)
            if reply is None:
                continue
            name = self._unanswered.pop(identifier)
            if not isinstance(reply, str) and not reply.has_error():
                late.add(name)
        self._unanswered |= exchange.unanswered
        for identifier in list(self._unanswered)[:-_MOST_UNANSWERED]:
            del self._unanswered[identifier]
        self._blame.heard(silent=exchange.silent, complete=exchange.complete, late=late)
        self._blame.complained([name for names in exchange.accused.values() for name in names])
        # More complain than may lie together, or one has shown what anybody can check.
        guilty = dict.fromkeys(coordinator.suspects, BadShares.code) | dict(coordinator.proven)
        by_name = {exchange.names([store_id])[0]: code for store_id, code in guilty.items()}
        self._blame.exclude(dict(sorted(by_name.items())), number=number)

    def _failed(self, error: RoundFailed, kind: Kind) -> RoundFailed | BudgetSpent:
        """What to say when a round failed for good: who was missing, and who was left out."""
        message = f"{error.message}; {describe_refusals(self.lost)}"
        spent = [name for name, why in self.lost.items() if code_of(why) == BudgetSpent.code]
        if (
            kind == "train"
            and len(self._manifest.stores) - len(spent) < self._manifest.minimum_cohort
        ):
            return BudgetSpent(message, hint="sign new terms")
        hint = error.hint
        if not self._blame.record.left_out.keys().isdisjoint(self.lost):
            hint += "; `hanse server blame --readmit STORE` takes one in again that was left out"
        return RoundFailed(message, hint=hint, culprits=error.culprits)

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


def _finish(coordinator: Coordinator) -> Aggregate:
    """Unmask the sum.

    Raises:
        ForgedVector: Honest stores cannot have made it.
    """
    aggregate = coordinator.finish()
    if aggregate.excesses:
        first = aggregate.excesses[0]
        raise ForgedVector(
            f"honest stores cannot have made the sum: section {first.section!r} of "
            f"{len(aggregate.survivors)} stores has norm {first.norm:.6g} and a coordinate of "
            f"{first.largest}, bounds are {first.norm_bound:.6g} and {first.largest_bound:.6g}",
            hint="the model is unchanged",
        )
    return aggregate


def _too_few(count: int, terms: Terms) -> RoundFailed:
    return RoundFailed(
        f"{count} stores can be asked, needed are {terms.minimum_cohort}",
        hint="the model is unchanged; check the stores that are missing, then go on",
    )
