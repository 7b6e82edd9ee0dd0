"""Secure aggregation under any Flower strategy: one call, five stages, one reply.

A strategy sends its messages and gets replies as always. `SecureGrid` runs the protocol of
docs/protocol.md in between and returns one reply with the mean of the stores' updates. The
coordinator's process never holds more of a single store than its masked vector.

    grid = SecureGrid(StoreGrid(flower_grid), manifest, authority)
    replies = grid.send_and_receive(strategy.configure_train(...))     # one reply
    result = grid.exchange(strategy.configure_train(...))              # with its details

A failed attempt is repeated once, without the stores that are proven or suspected to be
guilty. `blame.py` keeps on disk which stores are to blame for lost rounds, and the state of the
search (`search.py`) for a store whose vector breaks a sum.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

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
    ROUND,
    RUN,
    Instructions,
    Kind,
    NDArray,
    model_digest,
)
from hanse_common.manifest import Manifest
from hanse_common.monitoring.codes import AWAY
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.secagg import Attempt, Coordinator
from hanse_common.secagg.terms import MAX_ATTEMPTS, Terms
from hanse_server.blame import Blame, Plan
from hanse_server.exchange import AttemptResult, StageRunner
from hanse_server.exchange_state import ExchangeState
from hanse_server.roundlog import AttemptLog, RoundLog, Witnesses
from hanse_server.stage_log import ExchangeResult, Progress, code_of
from hanse_server.store_grid import ForwardingGrid, LateAnswers, StoreGrid, describe_refusals
from hanse_server.sums import SumReader, kind_of

STAGE_SECONDS = 120.0

_log = logging.getLogger(__name__)


class SecureGrid(ForwardingGrid):
    """Turns a strategy's training round, or evaluation, into one secure aggregation.

    Args:
        grid: The grid that reaches the stores.
        manifest: The federation's terms; their signature has been checked.
        authority: The enrolment authority's public key, as the coordinator pins it.
        log: The round log, whose key the manifest must name. None records nothing.
        stage_seconds: Deadline of each stage after the first, in seconds. The first stage, in
            which the stores train, has the caller's `timeout`.
        clock: Returns Unix seconds, against which certificates are checked.
        gate: Raises for a certificate that the coordinator refuses although the authority
            signed it.
        progress: Records each stage as it begins.
        blame: What is held against stores; kept in memory only if unset.
        measures_at_home: Whether stores evaluate the model although no sum of it leaves them.
            Only simulated stores do: who runs a simulation holds the data anyway.

    Guarantees:
        Messages of other kinds pass through. The reply of a round is the mean of at least
        `manifest.terms().survivors(...)` stores, and moves the model by no more than
        `sum_norm(manifest)` allows. With a log, no store is asked for an exchange that is not
        announced in it, and the outcome is in it before the next exchange.
    """

    patience = 3
    """Consecutive rounds that may be lost because too few stores answer, before a run ends."""

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
        self._away: set[str] = set()
        """Stores that were waited for in vain, until they are connected again."""
        self._absent: set[str] = set()
        """Stores that were not connected when the round began."""
        self._sums = SumReader(manifest)
        # Every process draws its own: a coordinator that starts again begins a new run, since a
        # store's journal admits no round of a run twice. 62 bits fit Flower's signed integers.
        self._run_number = secrets.randbits(62)

    @staticmethod
    def from_federation(folder: Path | str, grid: Grid, *, patience: float = 120.0) -> SecureGrid:
        """Make the grid of somebody else's ServerApp, for Flower's own `Strategy.start`.

        Args:
            folder: Holds the signed terms (`manifest.json`), the authority's public key, the
                settings, and the key of the round log, which is written there.
            grid: The grid that Flower gave to the ServerApp.
            patience: Seconds to wait for the stores to connect.

        Raises:
            ConfigError, BadManifest, KeyFileError, RoundLogError: A file is missing or wrong.
        """
        from hanse_server.federation_grid import federation_grid

        return federation_grid(folder, grid, patience=patience)

    @property
    def stores(self) -> Mapping[int, str]:
        """Store names by node id; see `StoreGrid`."""
        return self._stores.stores

    @property
    def absent(self) -> dict[str, str]:
        """Nodes that could not say their name; see `StoreGrid`."""
        return self._stores.absent

    def gather(self, number: int, kind: str, *, everyone: bool = False) -> None:
        """Wait until as many stores are connected as the terms ask for.

        Args:
            number: The training round that is about to begin.
            kind: `train` or `evaluate`.
            everyone: Wait for all stores, and go on without those that do not come in time.

        Raises:
            RoundFailed: There are too few. Nothing was asked of anybody.
        """
        if not self._stores.can_lose_stores:
            return
        listed = set(self._manifest.stores) - self._blame.record.left_out.keys()
        least = self._manifest.minimum_cohort
        if len(listed) < least:
            return  # waiting would not help: the exchange itself says whom to take back

        def enough(here: Collection[str]) -> bool:
            self._away.difference_update(here)
            wanted = min(self._stores.expected, len(listed - self._away)) if everyone else least
            return len(listed.intersection(here)) >= max(wanted, least)

        here = self._await(number, kind, listed, enough)
        self._absent = listed - here
        self._away |= self._absent
        if len(here) < least:
            absent = ", ".join(sorted(listed - here))
            raise RoundFailed(
                f"{len(here)} of {len(self._manifest.stores)} stores are connected, {least} must "
                f"be there when a round begins; away: {absent}",
                hint="the model is unchanged; start their nodes, or sign terms without them "
                "(`hanse server manifest sign --without STORE`)",
            )

    def _await(
        self,
        number: int,
        kind: str,
        wanted: Collection[str],
        enough: Callable[[Collection[str]], bool],
    ) -> set[str]:
        """Wait for stores, record which are missing, and return those of `wanted` that came."""

        def waiting(here: Collection[str]) -> None:
            missing = sorted(set(wanted).difference(here))
            _log.info("round %d: waiting for %s", number, ", ".join(missing))
            if self._progress is not None:
                self._progress.absent(number, kind, missing)

        return set(wanted).intersection(self._stores.await_stores(enough, waiting=waiting))

    def publish(self, number: int, arrays: Mapping[str, NDArray]) -> None:
        """Append the digest of the model after a round to the log.

        Raises:
            RoundLogError: The log cannot be written.
        """
        if self._log is not None:
            self._log.publish(run=self._run_number, number=number, digest=model_digest(arrays))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run one exchange for a strategy that needs only the replies; see `Grid`.

        Returns:
            One reply with the stores' mean, instead of one from each.

        Raises:
            HanseError: The exchange was lost, or the run must end; see `exchange`.
        """
        sent = list(messages)
        if self._summed_kind(sent) is None:
            return self._stores.send_and_receive(sent, timeout=timeout)
        return self.exchange(sent, timeout=timeout).replies_or_raise()

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> ExchangeResult:
        """Run one exchange, in up to two attempts.

        Args:
            messages: The strategy's messages, one to each store.
            timeout: Seconds for the stores to train or evaluate; without limit if unset.

        Returns:
            One reply with the stores' mean, or the error that the exchange was lost to:
            RoundFailed (two attempts failed), BudgetSpent (they failed, and too few stores
            can still pay) or BadSum.

        Raises:
            PrivacyError [noise-missing]: The sums so far lack noise, or noise is missing and no
                search can find out whose.
            FederationError: The strategy sent different messages to different stores.
            RoundLogError: The log cannot be written.
        """
        sent = list(messages)
        kind = self._summed_kind(sent)
        if kind is None:
            return self._stores.exchange(sent, timeout=timeout)
        terms = self._manifest.terms(self._exchanged(sent, kind))
        so_far = ExchangeState(
            kind=kind,
            round=_round(sent),
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
            # A bad sum is not repeated: its shares are released, and each upload is paid for.
            if not isinstance(result.error, RoundFailed):
                return result
            lost = result.error
            if number < MAX_ATTEMPTS:
                _log.warning("%s; trying once more", lost)
                # Those that fell silent may be starting again. Who refused is there, and who
                # does not come back in time is missed by the second attempt's own count.
                missed = so_far.gone
                self._await(so_far.round, kind, missed, missed.issubset)
        return self._lost_to(self._failed(lost, so_far), so_far)

    def _attempt(
        self, sent: Sequence[Message], so_far: ExchangeState, plan: Plan, timeout: float | None
    ) -> ExchangeResult:
        """Announce an attempt, run its five stages, record the outcome, and read the sum."""
        instructions, opening, arrays, announced = self._announce(sent, so_far, plan)
        attempt = Attempt(
            header=instructions.header(self._manifest.digest()),
            terms=self._manifest.terms(self._kind_of(instructions)),
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
            number=instructions.round,
            not_shared=plan.not_shared,
            not_waited_for=plan.not_waited_for,
        )
        seconds = self._stage_seconds
        result = stages.run(opening, so_far.kind, timeout=timeout, stage_seconds=seconds)
        try:
            if isinstance(result.error, HanseError):
                self._judge_failure(result, instructions, result.error, so_far)
        finally:
            self._remember(result, instructions.round, so_far)
            # However the attempt ended: the log holds the receipts of what stores were charged.
            if self._log is not None and result.record is not None:
                self._log.append(result.record)
        if isinstance(result.error, RoundFailed | BadSum):
            return self._lost_to(result.error, so_far)
        if result.error is not None or result.aggregate is None:
            raise result.error or AssertionError("an attempt has a sum or an error")
        self._blame.exclude(dict.fromkeys(result.liars, "wrong-share"), number=instructions.round)
        try:
            reading = self._sums.read(sent[0], instructions, result.aggregate, arrays)
        except BadSum as error:
            self._judge_failure(result, instructions, error, so_far)
            if error.code == "forged-vector":
                # A plan with too few customers is the other cause, which no search can find.
                so_far.note = f"{error.message} ({error.hint}); {so_far.note}"
            return self._lost_to(error, so_far)
        self._judge(result, instructions, so_far, wrong=None)
        return replace(
            self._so_far(so_far),
            replies=(reading.reply,),
            survivors=result.summed,
            noise_share=reading.noise_share,
            cut=reading.cut,
            aggregate=result.aggregate,
        )

    def _announce(
        self, sent: Sequence[Message], so_far: ExchangeState, plan: Plan
    ) -> tuple[Instructions, dict[int, RecordDict], dict[str, NDArray], Checkpoint | None]:
        """Prepare the first message of an attempt, after announcing it in the log.

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
        # Computed by the same function as at the stores: any difference is another header.
        instructions = Instructions.read(config, arrays, kind=so_far.kind)
        checkpoint = None
        if self._log is not None and self._witnesses is not None:
            # On the disk before any store is asked; stores check that it is the last record.
            checkpoint = self._log.announce(instructions)
            earlier = self._witnesses.shown({n: stores[n] for n in nodes}, self._stores.log_sizes)
            encoded, proofs = checkpoint.encode(), self._log.proofs(earlier).encode()
            config |= {LOG: encoded, PROOFS: proofs}
            # Not `Instructions.read` once more: it would hash the model a second time.
            instructions = replace(instructions, checkpoint=encoded, proofs=proofs)
        opening = RecordDict({**content, "config": ConfigRecord(config)})
        # One record for all nodes: it is encoded once, and every store gets the same bytes.
        return instructions, dict.fromkeys(nodes, opening), arrays, checkpoint

    def _judge_failure(
        self,
        result: AttemptResult,
        instructions: Instructions,
        error: HanseError,
        so_far: ExchangeState,
    ) -> None:
        """Exclude the stores that an error names; search for those that it does not.

        Raises:
            PrivacyError [noise-missing]: Noise is missing, and no search can find out whose.
        """
        if error.code == "wrong-share":
            so_far.lost |= dict.fromkeys(result.culprits, f"[{error.code}] {error}")
            culprits = dict.fromkeys(result.culprits, error.code)
            self._blame.exclude(culprits, number=instructions.round)
        elif isinstance(error, BadSum):
            self._judge(result, instructions, so_far, wrong=error.code)
        if error.code == "round-noise-missing":
            record = self._blame.record
            search = record.search(instructions.kind, error.code)
            most = record.most_absent(
                so_far.picked, self._manifest.terms(self._kind_of(instructions))
            )
            if search is not None and search.is_hopeless(most):
                # A lost round is still unmasked: every further sum without its noise would show
                # the coordinator more than was promised.
                raise PrivacyError(
                    f"{error.message}; {so_far.note}", code="noise-missing", hint=error.hint
                ) from None

    def _judge(
        self,
        result: AttemptResult,
        instructions: Instructions,
        so_far: ExchangeState,
        *,
        wrong: str | None,
    ) -> None:
        """Pass on to the searches whether a sum was good."""
        so_far.note = self._blame.summed(
            instructions.kind,
            result.summed,
            wrong=wrong,
            number=instructions.round,
            picked=so_far.picked,
            terms=self._manifest.terms(self._kind_of(instructions)),
        )
        so_far.note = so_far.note or self._sums.warning
        if so_far.note:
            _log.warning("round %d: %s", instructions.round, so_far.note)

    def _remember(self, result: AttemptResult, number: int, so_far: ExchangeState) -> None:
        """Record the lost stores, and on disk the silent, the late and the accused ones."""
        so_far.take(result)
        # Before this attempt's messages are added, whose answers are not late yet.
        late = self._late.names()
        self._late.expect(result.unanswered)
        self._blame.heard(silent=result.silent, complete=result.complete, late=late)
        self._blame.complained(result.accused)
        self._blame.exclude(result.guilty, number=number)

    def _failed(self, error: RoundFailed, so_far: ExchangeState) -> RoundFailed | BudgetSpent:
        """The error of a round whose attempts all failed, with the missing and excluded stores."""
        message = f"{error.message}; {describe_refusals(so_far.lost)}"
        spent = [name for name, why in so_far.lost.items() if code_of(why) == BudgetSpent.code]
        # Of all stores in the manifest, not of those picked: others might still pay.
        can_pay = len(self._manifest.stores) - len(spent)
        if so_far.kind == "train" and can_pay < self._manifest.minimum_cohort:
            return BudgetSpent(message, hint="sign new terms")
        hint = error.hint
        if not self._blame.record.left_out.keys().isdisjoint(so_far.lost):
            hint += "; `hanse server blame --readmit STORE` readmits a store that was left out"
        return RoundFailed(message, hint=hint, culprits=error.culprits)

    def _so_far(self, so_far: ExchangeState) -> ExchangeResult:
        away = dict.fromkeys(self._absent.difference(so_far.picked), AWAY)
        return ExchangeResult(
            refusals={**self.absent, **dict(sorted({**away, **so_far.lost}.items()))},
            roster=so_far.roster,
            attempts=so_far.attempts,
            stages=tuple(so_far.stages),
            releases=dict(sorted(so_far.releases.items())),
            note=so_far.note,
        )

    def _lost_to(self, error: HanseError, so_far: ExchangeState) -> ExchangeResult:
        # Its traceback would keep the attempt's vectors in memory for as long as the result.
        return self._so_far(so_far).lost_to(error.with_traceback(None))

    def _kind_of(self, instructions: Instructions) -> str:
        """The kind of an exchange: `train`, `evaluate` or the name of a phase of statistics."""
        return self._manifest.schedule.kind(instructions.kind, instructions.round)

    def _exchanged(self, sent: Sequence[Message], kind: Kind) -> str:
        return self._manifest.schedule.kind(kind, _round(sent))

    def _summed_kind(self, sent: Sequence[Message]) -> Kind | None:
        """The kind of the exchange that messages begin, if its result is a sum; None otherwise."""
        kind = kind_of(sent)
        return kind if kind == "train" or self._manifest.evaluation else None


def _round(sent: Sequence[Message]) -> int:
    """The training round that a strategy's messages belong to."""
    return int(cast(int, cast(ConfigRecord, sent[0].content["config"])[ROUND]))


def _too_few(count: int, terms: Terms) -> RoundFailed:
    return RoundFailed(
        f"{count} stores can be asked, needed are {terms.minimum_cohort}",
        hint="the model is unchanged; check the stores that are missing, then go on",
    )
