"""Secure aggregation under any Flower strategy: one call, five stages, one reply.

A strategy sends its messages and gets replies, as always. `SecureGrid` runs the protocol in
between and hands it one reply that carries the mean of the stores' updates; the coordinator's
process never holds more about one store than a masked vector.

    grid = SecureGrid(StoreGrid(flower_grid), manifest, authority)
    replies = grid.send_and_receive(strategy.configure_train(...))     # one reply
    result = grid.exchange(strategy.configure_train(...))              # and all about it

An attempt that fails is made once more, without the stores that the others complain about.
Who is to blame for lost rounds is kept on disk (`blame.py`), and so is the search for a store
whose vector breaks a sum (`search.py`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from hanse_common.errors import (
    BadManifest,
    BadSum,
    BudgetSpent,
    HanseError,
    PrivacyError,
    RoundFailed,
)
from hanse_common.identity import Certificate
from hanse_common.instructions import (
    ATTEMPT,
    LOG,
    PROOFS,
    RUN,
    Instructions,
    Kind,
    NDArray,
    model_digest,
)
from hanse_common.manifest import Manifest
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.secagg import Attempt, Coordinator
from hanse_common.secagg.terms import MAX_ATTEMPTS, Terms
from hanse_server.blame import Blame, Plan
from hanse_server.exchange import LEFT_OUT, AttemptResult, StageRunner
from hanse_server.roundlog import AttemptLog, RoundLog, Witnesses
from hanse_server.stage_log import ExchangeResult, Progress, StageOutcome, code_of
from hanse_server.store_grid import ForwardingGrid, LateAnswers, StoreGrid, describe_refusals
from hanse_server.sums import SumReader, kind_of

STAGE_SECONDS = 120.0

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
        if log is not None and manifest.log_key != log.checkpoint.log_key.hex():
            raise BadManifest(
                "the manifest names another key than that of the coordinator's round log",
                hint="ask the authority to sign a manifest with this coordinator's key",
            )
        self.evaluates = measures_at_home or bool(manifest.evaluation)
        """Whether stores may be asked to evaluate."""
        self._stores = grid
        self._manifest = manifest
        self._authority = authority
        self._log = log
        self._witnesses = None if log is None else Witnesses(log)
        self._stage_seconds = stage_seconds
        self._clock = clock
        self._gate = gate
        self._progress = progress
        self._blame = blame or Blame(None)
        self._late = LateAnswers(grid)
        self._sums = SumReader(manifest)
        # Every process draws its own: a coordinator that starts again begins a new run.
        self._run_number = secrets.randbits(62)

    @property
    def stores(self) -> Mapping[int, str]:
        """Store names by node id; see `StoreGrid`."""
        return self._stores.stores

    @property
    def absent(self) -> dict[str, str]:
        """Nodes that could not say their name; see `StoreGrid`."""
        return self._stores.absent

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
        """Run one exchange for a strategy that wants the replies alone; see `Grid`.

        Returns:
            One reply with the stores' mean, in place of one from each.

        Raises:
            HanseError: What the exchange was lost to, or what ends a run; see `exchange`.
        """
        sent = list(messages)
        if self._summed_kind(sent) is None:
            return self._stores.send_and_receive(sent, timeout=timeout)
        return self.exchange(sent, timeout=timeout).replies_or_raise()

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> ExchangeResult:
        """Run one exchange, in as many attempts as it may take, and say all that came of it.

        The `timeout` is for the stores to train or evaluate in.

        Returns:
            One reply with the stores' mean, or the error that the exchange was lost to:
            RoundFailed (two attempts have failed), BudgetSpent (and too few stores can still
            pay) or BadSum.

        Raises:
            PrivacyError [noise-missing]: All sums so far lack noise, or it cannot be found out
                whose is missing.
            FederationError: The strategy sent different messages to different stores.
            RoundLogError: The log cannot be written.
        """
        sent = list(messages)
        kind = self._summed_kind(sent)
        if kind is None:
            return self._stores.exchange(sent, timeout=timeout)
        terms = self._manifest.terms(kind)
        so_far = _SoFar(
            kind=kind,
            picked=tuple(self._stores.stores[message.metadata.dst_node_id] for message in sent),
        )
        for number in range(1, MAX_ATTEMPTS + 1):
            plan = self._blame.plan(kind, so_far.picked, terms, gone=so_far.gone)
            so_far.begin(number, plan)
            present = len(so_far.picked) - len(plan.not_asked)
            if present < terms.minimum_cohort:
                lost = _too_few(present, terms)
                break
            result = self._attempt(sent, so_far, plan, timeout)
            if not isinstance(result.error, RoundFailed):
                return result
            lost = result.error
            if number < MAX_ATTEMPTS:
                _log.warning("%s; trying once more", lost)
        return self._lost_to(self._failed(lost, so_far), so_far)

    def _attempt(
        self, sent: Sequence[Message], so_far: _SoFar, plan: Plan, timeout: float | None
    ) -> ExchangeResult:
        """Announce an attempt, run its five stages, judge what came of it, and read the sum."""
        told, opening, arrays, announced = self._announce(sent, so_far, plan)
        attempt = Attempt(
            header=told.header(self._manifest.digest()),
            terms=self._manifest.terms(so_far.kind),
            authority=self._authority,
            now=int(self._clock()),
        )
        private, record = self._manifest.privacy.mode != "none", None
        if announced is not None and self._witnesses is not None:
            record = AttemptLog(attempt.header, announced, self._witnesses, private=private)
        stages = StageRunner(
            self._stores,
            Coordinator(attempt, excluded=frozenset(plan.not_asked)),
            record,
            self._gate,
            progress=self._progress,
            number=told.round,
            not_shared=plan.not_shared,
            not_waited_for=plan.not_waited_for,
        )
        seconds = self._stage_seconds
        result = stages.run(opening, so_far.kind, timeout=timeout, stage_seconds=seconds)
        try:
            if isinstance(result.error, HanseError):
                self._judge_failure(result, told, result.error, so_far)
        finally:
            self._remember(result, told.round, so_far)
            # What stores have charged for is on record, however the attempt ended.
            if self._log is not None and result.record is not None:
                self._log.append(result.record)
        if isinstance(result.error, RoundFailed | BadSum):
            return self._lost_to(result.error, so_far)
        if result.error is not None or result.aggregate is None:
            raise result.error or AssertionError("an attempt has a sum or an error")
        self._blame.exclude(dict.fromkeys(result.liars, "wrong-share"), number=told.round)
        try:
            reading = self._sums.read(sent[0], told, result.aggregate, arrays)
        except BadSum as error:
            self._judge_failure(result, told, error, so_far)
            return self._lost_to(error, so_far)
        self._judge(result, told, so_far, wrong=None)
        return replace(
            self._so_far(so_far),
            replies=(reading.reply,),
            survivors=result.summed,
            noise_share=reading.noise_share,
            cut=reading.cut,
            aggregate=result.aggregate,
        )

    def _announce(
        self, sent: Sequence[Message], so_far: _SoFar, plan: Plan
    ) -> tuple[Instructions, dict[int, RecordDict], dict[str, NDArray], Checkpoint | None]:
        """Say what stores will be asked, in the log first.

        Returns:
            The instructions; the message of each node; the model that is sent; the log's
            checkpoint, None if there is no log.
        """
        content = sent[0].content
        config = {**cast(ConfigRecord, content["config"]), RUN: self._run_number}
        config[ATTEMPT] = so_far.attempts
        arrays = {
            name: array.numpy() for name, array in cast(ArrayRecord, content["arrays"]).items()
        }
        stores = self._stores.stores
        nodes = [
            node
            for node in (message.metadata.dst_node_id for message in sent)
            if stores[node] not in plan.not_asked
        ]
        told = Instructions.read(config, arrays, kind=so_far.kind)
        checkpoint = None
        if self._log is not None and self._witnesses is not None:
            checkpoint = self._log.announce(told)
            earlier = self._witnesses.shown({n: stores[n] for n in nodes}, self._stores.log_sizes)
            encoded, proofs = checkpoint.encode(), self._log.proofs(earlier).encode()
            config |= {LOG: encoded, PROOFS: proofs}
            # The message is not read a second time: that would hash the whole model again.
            told = replace(told, checkpoint=encoded, proofs=proofs)
        opening = RecordDict({**content, "config": ConfigRecord(config)})
        return told, dict.fromkeys(nodes, opening), arrays, checkpoint

    def _judge_failure(
        self, result: AttemptResult, told: Instructions, error: HanseError, so_far: _SoFar
    ) -> None:
        """Keep on disk whom an error names; look for whom it does not.

        Raises:
            PrivacyError [noise-missing]: Noise is missing, and it cannot be found out whose.
        """
        if error.code == "wrong-share":
            so_far.lost |= dict.fromkeys(result.culprits, f"[{error.code}] {error}")
            self._blame.exclude(dict.fromkeys(result.culprits, error.code), number=told.round)
        elif isinstance(error, BadSum):
            self._judge(result, told, so_far, wrong=error.code)
        if error.code == "round-noise-missing":
            record = self._blame.record
            search = record.search(told.kind, error.code)
            most = record.most_absent(so_far.picked, self._manifest.terms(told.kind))
            if search is not None and search.is_hopeless(most):
                # Every further sum would show the coordinator more than was promised.
                raise PrivacyError(
                    f"{error.message}; {so_far.note}", code="noise-missing", hint=error.hint
                ) from None

    def _judge(
        self, result: AttemptResult, told: Instructions, so_far: _SoFar, *, wrong: str | None
    ) -> None:
        """Tell the search whether a sum was good."""
        so_far.note = self._blame.summed(
            told.kind,
            result.summed,
            wrong=wrong,
            number=told.round,
            picked=so_far.picked,
            terms=self._manifest.terms(told.kind),
        )
        so_far.note = so_far.note or self._sums.warning
        if so_far.note:
            _log.warning("round %d: %s", told.round, so_far.note)

    def _remember(self, result: AttemptResult, number: int, so_far: _SoFar) -> None:
        """Keep who was lost; on disk, who was silent, who came back and who was accused."""
        so_far.take(result)
        late = self._late.names()
        self._late.expect(result.unanswered)
        self._blame.heard(silent=result.silent, complete=result.complete, late=late)
        self._blame.complained(result.accused)
        self._blame.exclude(result.guilty, number=number)

    def _failed(self, error: RoundFailed, so_far: _SoFar) -> RoundFailed | BudgetSpent:
        """What to say when a round failed for good: who was missing, and who was left out."""
        message = f"{error.message}; {describe_refusals(so_far.lost)}"
        spent = [name for name, why in so_far.lost.items() if code_of(why) == BudgetSpent.code]
        can_pay = len(self._manifest.stores) - len(spent)
        if so_far.kind == "train" and can_pay < self._manifest.minimum_cohort:
            return BudgetSpent(message, hint="sign new terms")
        hint = error.hint
        if not self._blame.record.left_out.keys().isdisjoint(so_far.lost):
            hint += "; `hanse server blame --readmit STORE` takes one in again that was left out"
        return RoundFailed(message, hint=hint, culprits=error.culprits)

    def _so_far(self, so_far: _SoFar) -> ExchangeResult:
        return ExchangeResult(
            refusals={**self.absent, **dict(sorted(so_far.lost.items()))},
            roster=so_far.roster,
            attempts=so_far.attempts,
            stages=tuple(so_far.stages),
            note=so_far.note,
        )

    def _lost_to(self, error: HanseError, so_far: _SoFar) -> ExchangeResult:
        # Its traceback would keep the attempt's vectors in memory for as long as the result.
        return self._so_far(so_far).lost_to(error.with_traceback(None))

    def _summed_kind(self, sent: Sequence[Message]) -> Kind | None:
        """What the messages begin, if what comes of it leaves the stores in a sum."""
        kind = kind_of(sent)
        return kind if kind == "train" or self._manifest.evaluation else None


@dataclass(kw_only=True, slots=True)
class _SoFar:
    """What has come of an exchange's attempts so far; it lives as long as the exchange."""

    kind: Kind
    picked: tuple[str, ...]
    attempts: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    """Why the last attempt went on without stores, by name."""
    gone: frozenset[str] = frozenset()
    """Stores that the last attempt lost although they were not left out."""
    roster: tuple[str, ...] = ()
    stages: list[StageOutcome] = field(default_factory=list)
    note: str = ""

    def begin(self, number: int, plan: Plan) -> None:
        self.attempts = number
        self.lost = {name: f"{LEFT_OUT}: {why}" for name, why in plan.not_asked.items()}

    def take(self, result: AttemptResult) -> None:
        self.gone = frozenset(name for name, why in result.lost.items() if LEFT_OUT not in why)
        liars = "at stage 'unmask': its shares are not those that were dealt to it"
        self.lost |= {**result.lost, **dict.fromkeys(result.liars, liars)}
        self.roster = result.roster
        self.stages += result.stages


def _too_few(count: int, terms: Terms) -> RoundFailed:
    return RoundFailed(
        f"{count} stores can be asked, needed are {terms.minimum_cohort}",
        hint="the model is unchanged; check the stores that are missing, then go on",
    )
