"""The privacy plan: one frozen object that binds clip, sampling, noise and accounting.

These are never assembled separately: training takes its clip and noise from the plan, and the
accountant takes its event from the same plan.

>>> plan = PrivacyPlan(
...     sample_rate=0.1, max_grad_norm=1.0, noise_multiplier=2.0,
...     steps_per_round=5, rounds=40, target_epsilon=4.0, target_delta=1e-6,
... )
>>> round(plan.epsilon_after(rounds=40), 2)
3.81
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from hanse_common.app_settings import app_settings
from hanse_common.config import RunSettings
from hanse_common.errors import PrivacyError
from hanse_common.phases import EVALUATE, TRAIN, Phases
from hanse_common.privacy.accounting import (
    SampledGaussianSteps,
    combined_noise_multiplier,
    composed_event,
    epsilon,
    noise_multiplier_for,
    noise_multipliers_for,
    remaining_noise_multiplier,
    rounds_left,
    squared_mu,
)
from hanse_common.privacy.charge import Charge, Release


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyPlan:
    """A store's privacy promise to each of its customers over a run.

    The unit is the customer: one training example is one customer's complete history at the
    store. Neighbouring data sets differ by adding or removing one customer. A person who
    shops at up to `max_stores_per_customer` stores of the federation is one customer at each
    of them; the promise holds for all of them together.

    Args:
        mode: In `local` each store adds all of the noise; in `distributed` the stores of a
            masked sum add it together.
        sample_rate: Probability of a customer to be in a step.
        max_grad_norm: L2 clip of one person's gradient.
        noise_multiplier: Standard deviation of the noise on the sum of gradients, in units of
            the clip.
        steps_per_round: Steps that a store takes in a round.
        rounds: Rounds of the run.
        target_epsilon: Largest epsilon of the run.
        target_delta: The delta at which epsilon is read, in (0, 1).
        statistics_noise_multiplier: Noise on the counts and losses that leave the store
            together with the update; None if none leave.
        evaluation_noise_multiplier: Noise on the sums of an evaluation; None if none leave.
        evaluate_every: Number of rounds from one evaluation to the next.
        max_stores_per_customer: Number of stores at which one person may be a customer.
        spare: Exchanges of each kind but statistics that may be paid for beyond those of an
            undisturbed run.
        phases: What the rounds release, in order; gradients in all of them if left out.
        phase_noise: Noise multiplier of each statistics phase, by name: the noise on its sum in
            units of what one customer adds at most.

    Raises:
        PrivacyError: A value is out of range, or the promise would be broken.

    Guarantees:
        A plan exists only if `granted_epsilon`, the epsilon of all rounds and every spare
        exchange, does not exceed `target_epsilon`.
    """

    sample_rate: float
    max_grad_norm: float
    noise_multiplier: float
    steps_per_round: int
    rounds: int
    target_epsilon: float
    target_delta: float
    statistics_noise_multiplier: float | None = None
    evaluation_noise_multiplier: float | None = None
    evaluate_every: int = 1
    mode: Literal["local", "distributed"] = "local"
    max_stores_per_customer: int = 1
    spare: int = 0
    phases: Phases | None = None
    phase_noise: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schedule.rounds != self.rounds:
            raise PrivacyError(f"{self.schedule.rounds} rounds of phases, and rounds={self.rounds}")
        if {phase.name for phase in self.schedule.statistics} != self.phase_noise.keys():
            raise PrivacyError(
                f"noise is given for the statistics {sorted(self.phase_noise)}, and the phases "
                f"have {sorted(phase.name for phase in self.schedule.statistics)}"
            )
        if self.max_grad_norm <= 0:
            raise PrivacyError(f"max_grad_norm={self.max_grad_norm} must be positive")
        if not 0 < self.target_delta < 1:
            raise PrivacyError(f"target_delta={self.target_delta} must lie in (0, 1)")
        # The worst case is checked, with all spare exchanges: a coordinator may cause them.
        cost = self.granted_epsilon
        if cost > self.target_epsilon:
            raise PrivacyError(
                f"{self.rounds} rounds and {self.spare} spare exchanges at noise_multiplier="
                f"{self.noise_multiplier:.4f} cost epsilon={cost:.3f}, more than "
                f"target_epsilon={self.target_epsilon}",
                hint="leave noise_multiplier out, and it will be computed from target_epsilon",
            )

    @classmethod
    def from_settings(
        cls, settings: RunSettings, *, before: Sequence[SampledGaussianSteps] = ()
    ) -> Self | None:
        """Make the plan of a run's settings; None if their privacy mode is `none`.

        Args:
            settings: The settings of the run.
            before: Steps that the same budget has paid for already. If the noise is computed
                here, it keeps them and the run within the target.

        Raises:
            PrivacyError: The settings' noise does not reach their target epsilon.
        """
        terms, training, federation = settings.privacy, settings.training, settings.federation
        if terms.mode == "none":
            return None
        statistics = terms.statistics_noise_multiplier if settings.secure else None
        evaluation = terms.evaluation_noise_multiplier if settings.secure else None
        noise, shared = terms.noise_multiplier, terms.mode == "distributed"
        spare = settings.spare_exchanges if settings.secure else 0
        schedule = settings.schedule
        phase_noise = _phase_noise(settings)
        if noise is not None and None in phase_noise.values():
            # The gradient's noise alone is enough: the shares say what the others have.
            phase_noise = _phase_noise(with_gradient_noise(settings, noise))
        if noise is None or None in phase_noise.values():
            # In mode local each of a person's stores is a release of its own, and they compose; in
            # one sum, the stores share the person's clip.
            repeats = 1 if shared else terms.max_stores_per_customer
            count = evaluations_by(federation.rounds, federation.rounds, federation.evaluate_every)
            others = [*before]
            if evaluation:
                others.append(_releases(evaluation, (count + spare) * repeats))
            gradient = schedule.gradient
            steps = SampledGaussianSteps(
                noise_multiplier=1.0,
                sample_rate=training.sample_rate,
                count=((gradient.rounds + spare) * training.local_steps * repeats)
                if gradient
                else 0,
                stores=terms.max_stores_per_customer if shared else 1,
            )
            if phase_noise:
                shares = {phase.name: phase.share or 0.0 for phase in settings.phases}
                counts = {p.name: p.rounds * repeats for p in schedule.statistics}
                solved = noise_multipliers_for(
                    target_epsilon=terms.target_epsilon,
                    target_delta=terms.target_delta,
                    steps={
                        **({TRAIN: steps} if gradient else {}),
                        **{name: _releases(1.0, number) for name, number in counts.items()},
                    },
                    shares=shares,
                    other_steps=others,
                )
                noise = solved.pop(TRAIN, None)
                phase_noise = dict(solved)
            else:
                noise = noise_multiplier_for(
                    target_epsilon=terms.target_epsilon,
                    target_delta=terms.target_delta,
                    sample_rate=steps.sample_rate,
                    count=steps.count,
                    stores=steps.stores,
                    other_steps=others,
                )
            # Update and statistics are about one sample, so they share this multiplier.
            if noise is not None and statistics:
                noise = remaining_noise_multiplier(noise, statistics)
        return cls(
            sample_rate=training.sample_rate,
            max_grad_norm=terms.max_grad_norm,
            # Without a gradient phase nothing is divided by it; the value is never used.
            noise_multiplier=noise if noise is not None else 1.0,
            steps_per_round=training.local_steps,
            rounds=federation.rounds,
            target_epsilon=terms.target_epsilon,
            target_delta=terms.target_delta,
            statistics_noise_multiplier=statistics,
            evaluation_noise_multiplier=evaluation,
            evaluate_every=federation.evaluate_every,
            mode=terms.mode,
            max_stores_per_customer=terms.max_stores_per_customer,
            spare=spare,
            phases=schedule,
            phase_noise={name: value or 0.0 for name, value in phase_noise.items()},
        )

    @classmethod
    def solve(
        cls,
        *,
        target_epsilon: float,
        target_delta: float,
        rounds: int,
        sample_rate: float,
        max_grad_norm: float = 1.0,
        evaluation_noise_multiplier: float | None = None,
    ) -> Self:
        """Make the plan of an app of somebody else, with the least noise that keeps the promise.

        One step a round, in mode `distributed`; the arguments are those of the class.

        Raises:
            PrivacyError: No noise keeps the promise.
        """
        settings = app_settings(
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            rounds=rounds,
            sample_rate=sample_rate,
            max_grad_norm=max_grad_norm,
            evaluation_noise_multiplier=evaluation_noise_multiplier,
        )
        plan = cls.from_settings(settings)
        if plan is None:  # `app_settings` is private
            raise PrivacyError("the settings have no privacy")
        return plan

    @property
    def schedule(self) -> Phases:
        """The phases with the numbers of their rounds."""
        return self.phases or Phases.of([(TRAIN, "gradient", self.rounds)])

    @property
    def person_share(self) -> float:
        """The part of a person's clip that each of their stores has.

        In mode `distributed` the person's clip is divided among their stores.
        """
        return 1.0 / (self.max_stores_per_customer if self.mode == "distributed" else 1)

    @property
    def store_clip(self) -> float:
        """L2 clip of one customer's gradient at one store; see `person_share`."""
        return self.max_grad_norm * self.person_share

    def charge(self, kind: str) -> Charge | None:
        """Return the charge of one exchange of a kind.

        Args:
            kind: `train`, `evaluate` or the name of a statistics phase.

        Returns:
            None if nothing of the kind leaves a store under this plan.
        """
        if kind == EVALUATE:
            return self.evaluation_charge()
        if kind == TRAIN:
            return self.round_charge() if self.schedule.gradient else None
        noise = self.phase_noise.get(kind)
        # A row of statistics has norm 1: it is the clip.
        return None if noise is None else self._charge(kind, _releases(noise, self._repeats), 1.0)

    def round_charge(self) -> Charge:
        """Return the charge of one round of training."""
        return self._charge("train", self._steps(self.steps_per_round), self.max_grad_norm)

    def evaluation_charge(self) -> Charge | None:
        """Return the charge of one evaluation; None if its sums do not leave the store."""
        noise = self.evaluation_noise_multiplier
        # Nothing is clipped in an evaluation: its sums are bounded by what they count.
        return None if noise is None else self._charge("evaluate", _releases(noise, self._repeats))

    def epsilon_after(self, *, rounds: int) -> float:
        """Return epsilon of the first `rounds` rounds of this plan alone, at `target_delta`."""
        return epsilon(self.spent_after(rounds), target_delta=self.target_delta)

    @property
    def evaluations(self) -> int:
        """Number of evaluations whose sums leave the store in an undisturbed run."""
        if self.evaluation_noise_multiplier is None:
            return 0
        return evaluations_by(self.rounds, self.rounds, self.evaluate_every)

    @property
    def granted_epsilon(self) -> float:
        """Epsilon of all rounds and evaluations, with every spare exchange used."""
        spent = self._released(self.rounds, spare=self.spare)
        if self.evaluation_noise_multiplier is not None:
            count = (self.evaluations + self.spare) * self._repeats
            spent.append(_releases(self.evaluation_noise_multiplier, count))
        return epsilon(spent, target_delta=self.target_delta)

    def event(self, *, rounds: int) -> Any:
        """Return the first `rounds` rounds as one event of `dp_accounting`."""
        return composed_event(self.spent_after(rounds))

    def rounds_left(
        self,
        spent: Sequence[SampledGaussianSteps],
        *,
        limit: float,
        done: Mapping[str, int] | None = None,
    ) -> int:
        """Return how many more rounds of this plan, without evaluations, a limit allows.

        Args:
            spent: The steps that were spent before.
            limit: Epsilon that must not be exceeded, at `target_delta`.
            done: Rounds of each phase that `spent` has paid for already, by its name.

        Returns:
            0 if not even the next round fits; at most `accounting.MOST_ROUNDS` of a phase. Rounds
            are counted in the order of the phases, and beyond the plan in its last phase.
        """
        paid, total, last = list(spent), 0, self.schedule.all[-1]
        for phase in self.schedule.all:
            charge = self.charge(phase.name)
            due = phase.rounds - (done or {}).get(phase.name, 0)
            if charge is None or (due <= 0 and phase is not last):
                continue
            steps = charge.steps
            if phase is last:
                return total + rounds_left(paid, steps, target_delta=self.target_delta, limit=limit)
            fits = rounds_left(paid, steps, target_delta=self.target_delta, limit=limit, most=due)
            total += fits
            if fits < due:
                return total
            paid.append(replace(steps, count=steps.count * due))
        return total

    def spent_after(self, rounds: int) -> list[SampledGaussianSteps]:
        """Return the steps of the first `rounds` rounds and their evaluations."""
        spent = self._released(rounds)
        if self.evaluation_noise_multiplier is not None:
            count = evaluations_by(rounds, self.rounds, self.evaluate_every)
            spent.append(_releases(self.evaluation_noise_multiplier, count * self._repeats))
        return spent

    def _released(self, rounds: int, *, spare: int = 0) -> list[SampledGaussianSteps]:
        """Return the steps of the first `rounds` rounds, by phase, without evaluations."""
        spent = []
        last = self.schedule.all[-1]
        for phase in self.schedule.all:
            # A run that is continued has more rounds of its last phase.
            most = rounds if phase is last else phase.rounds
            count = min(max(rounds - phase.first + 1, 0), most)
            if phase.release == "gradient":
                spent.append(self._steps(self.steps_per_round * (count + spare)))
            else:
                spent.append(_releases(self.phase_noise[phase.name], count * self._repeats))
        return spent

    def _charge(self, kind: str, steps: SampledGaussianSteps, max_grad_norm: float = 0.0) -> Charge:
        release = Release(kind=kind, mode=self.mode, max_grad_norm=max_grad_norm)
        return Charge(steps=steps, target_delta=self.target_delta, release=release)

    def _steps(self, count: int) -> SampledGaussianSteps:
        noise, statistics = self.noise_multiplier, self.statistics_noise_multiplier
        return SampledGaussianSteps(
            noise_multiplier=noise
            if statistics is None
            else combined_noise_multiplier(noise, statistics),
            sample_rate=self.sample_rate,
            count=count * self._repeats,
            stores=self.max_stores_per_customer if self.mode == "distributed" else 1,
        )

    @property
    def _repeats(self) -> int:
        """Number of releases per exchange about one person: one sum, or one at each store."""
        return 1 if self.mode == "distributed" else self.max_stores_per_customer


def evaluations_by(number: int, rounds: int, every: int) -> int:
    """Return how many evaluations a run of `rounds` has made by the end of round `number`.

    There is one before the first round, one after every `every` rounds, one after the last
    round, and one on the test weeks.

    >>> evaluations_by(0, 40, 10), evaluations_by(10, 40, 10), evaluations_by(40, 40, 10)
    (1, 2, 6)
    """
    due = 1 + number // every
    if number < rounds:
        return due
    # The last round is evaluated once, even if it is a multiple of `every`.
    return due + (1 if rounds % every else 0) + 1


def _releases(noise_multiplier: float, count: int) -> SampledGaussianSteps:
    """Return the steps of `count` releases about every customer, without sampling."""
    return SampledGaussianSteps(noise_multiplier=noise_multiplier, sample_rate=1.0, count=count)


def solved(settings: RunSettings, *, before: Sequence[SampledGaussianSteps] = ()) -> RunSettings:
    """Return settings with the noise of every phase filled in; unchanged without privacy.

    Raises:
        PrivacyError: As `PrivacyPlan.from_settings`.
    """
    plan = PrivacyPlan.from_settings(settings, before=before)
    if plan is None:
        return settings
    changes: dict[str, Any] = {}
    if plan.schedule.gradient is not None:
        changes["privacy.noise_multiplier"] = plan.noise_multiplier
    if settings.phases:
        changes["phases"] = _phases_with(settings, plan.phase_noise)
    return settings.with_changes(changes)


def unsolved(settings: RunSettings) -> RunSettings:
    """Return settings without noise multipliers, so that they are solved from the target."""
    changes: dict[str, Any] = {"privacy.noise_multiplier": None}
    return settings.with_changes({**changes, "phases": _phases_with(settings, {})})


def with_gradient_noise(settings: RunSettings, noise_multiplier: float) -> RunSettings:
    """Return settings with a given noise of the gradient, and that of other phases by their shares.

    Args:
        settings: The run's settings, with or without phases.
        noise_multiplier: Noise on the sum of gradients, in clips.
    """
    changes: dict[str, Any] = {"privacy.noise_multiplier": noise_multiplier}
    gradient = settings.schedule.gradient
    if settings.phases and gradient is not None:
        shares = {phase.name: phase.share or 0.0 for phase in settings.phases}
        steps = SampledGaussianSteps(
            noise_multiplier=noise_multiplier,
            sample_rate=settings.training.sample_rate,
            count=gradient.rounds * settings.training.local_steps,
        )
        whole = squared_mu(steps) / shares[TRAIN]
        noise = {
            phase.name: (phase.rounds / (shares[phase.name] * whole)) ** 0.5
            for phase in settings.schedule.statistics
        }
        changes["phases"] = _phases_with(settings, noise)
    return settings.with_changes(changes)


def _phase_noise(settings: RunSettings) -> dict[str, float | None]:
    """Return the noise multiplier of each statistics phase, by name; None where none is given."""
    statistics = (phase for phase in settings.phases if phase.release == "statistics")
    return {phase.name: phase.noise_multiplier for phase in statistics}


def _phases_with(settings: RunSettings, noise: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {**phase.model_dump(), "noise_multiplier": noise.get(phase.name)}
        for phase in settings.phases
    ]
