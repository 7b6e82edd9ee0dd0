"""Forecast noise, signal-to-noise, epsilon and bytes from a federation's settings.

A round's sum of n stores is at most q·N·C long on average: N customers, each drawn with
chance q and clipped at C (C/m where a person may shop at m stores of one sum). That is an
**upper bound** of the signal: it is reached only if all customers push the same way with
all they may. Noise on each of d coordinates has a standard deviation of σ·C·√(n/h) in mode
`distributed`, where h honest stores of the smallest admissible sum bring what is needed and
all n add theirs, and of σ·C·√n in mode `local`; its length is √d times that. Both are divided
by n in the mean, and the signal-to-noise of a round is their ratio.

>>> from hanse_common.config import DataSettings
>>> settings = RunSettings(recipe="planned", data=DataSettings(source="synthetic"))
>>> rows = forecast(settings, Population((300,) * 8), [Variant("100", 100), Variant("400", 400)])
>>> [round(row.signal_to_noise / rows.rows[1].signal_to_noise, 2) for row in rows.rows]
[2.0, 1.0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hanse_common.audit.shared_customers import at_stores
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.manifest_noise import honest_survivors, rate_share, statistics_norm
from hanse_common.manifest_terms import planned_manifest
from hanse_common.privacy.accounting import ACCOUNTANT, NEIGHBOURS, epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.privacy.plan import solved as with_solved_noise
from hanse_common.vector import UPDATE
from hanse_simulations.planning.advice import SIGNAL_TO_NOISE, Recommendation, advise
from hanse_simulations.planning.feasible import solved_plan
from hanse_simulations.planning.phases import PhaseForecast, phase_forecasts, phase_warnings
from hanse_simulations.planning.variants import Variant

_WORD = 4
"""Bytes of a masked coordinate: masks and sums are unsigned 32-bit integers."""
_SHORT = 0.5
"""Share of the learning rate below which a warning is due."""
_MOST_FOR_COUNTS = 0.1
"""Part of a gradient's budget that counts and losses may take before a plan warns of it."""


@dataclass(frozen=True, slots=True)
class Population:
    """How many customers each store has."""

    customers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.customers or min(self.customers) < 1:
            raise ConfigError(f"customers={list(self.customers)}: every store has at least one")

    @property
    def total(self) -> int:
        """Customers of all stores."""
        return sum(self.customers)

    @property
    def delta(self) -> float:
        """The largest delta with one digit that is at most 1/N^1.1.

        >>> Population((192,) * 12).delta
        0.0002
        """
        most = self.total**-1.1
        digit = 10.0 ** math.floor(math.log10(most))
        # Through text, so that the value is exactly the number that is printed.
        return min(float(f"{math.floor(most / digit) * digit:.0e}"), 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastRow:
    """The forecast for one variant, in a round in which every store takes part.

    Args:
        variant: The variant's name.
        parameters: Number of trained parameters.
        signal: Largest expected length of the mean update, in units of gradient.
        noise: Standard deviation of each coordinate of the mean update.
        noise_norm: L2 norm of the noise in the mean update.
        signal_to_noise: `signal / noise_norm`.
        upload_bytes: Bytes of one store's masked vector in a round; keys, shares and
            signatures come on top.
    """

    variant: str
    parameters: int
    signal: float
    noise: float
    noise_norm: float
    signal_to_noise: float
    upload_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Terms of a federation, what they cost and allow, and a recommendation.

    Args:
        mode: Who adds the noise.
        stores: Number of stores.
        customers: Customers of all stores together.
        sample_rate: Chance of a customer to be in a step.
        rounds: Rounds of the run.
        target_epsilon: Budget for all rounds.
        target_delta: Delta at which epsilon is read.
        max_grad_norm: Clip of one person's gradient.
        max_stores_per_customer: Number of stores of one person that epsilon covers.
        colluders: Stores whose noise does not count.
        honest_survivors: Stores whose noise the smallest admissible sum is sure to have;
            None in mode local, where every store adds all of it.
        noise_multiplier: The plan's sigma.
        epsilon: What the rounds cost at that noise.
        spare: Exchanges that may be repeated or lost, of each kind.
        granted_epsilon: Epsilon with every spare exchange used.
        at_stores: Upper bound of a person's epsilon by the number of their stores.
        phases: One row per phase; none if all rounds release gradients.
        rows: One row per variant.
        threshold: Signal-to-noise below which a variant is not recommended.
        recommendation: Which variant to train, and why.
        warnings: Terms that an operator should look at again.
        accountant: The accountant that computed epsilon.
        neighbours: The neighbouring relation that epsilon holds for.
    """

    mode: str
    stores: int
    customers: int
    sample_rate: float
    rounds: int
    target_epsilon: float
    target_delta: float
    max_grad_norm: float
    max_stores_per_customer: int
    colluders: int
    honest_survivors: int | None
    noise_multiplier: float
    epsilon: float
    spare: int
    granted_epsilon: float
    at_stores: dict[int, float]
    phases: tuple[PhaseForecast, ...]
    rows: tuple[ForecastRow, ...]
    threshold: float
    recommendation: Recommendation
    warnings: tuple[str, ...]
    accountant: str = ACCOUNTANT
    neighbours: str = NEIGHBOURS


def forecast(
    settings: RunSettings,
    population: Population,
    variants: Sequence[Variant],
    *,
    threshold: float = SIGNAL_TO_NOISE,
    stores: Sequence[int] = (1, 2, 4),
) -> Forecast:
    """Work out what a federation can afford.

    Args:
        settings: The run's settings.
        population: Customers of its stores.
        variants: What may be trained; at least one.
        threshold: Least signal-to-noise of a variant that is recommended.
        stores: Numbers of stores for which a person's epsilon is reported.

    Raises:
        ConfigError: There is no privacy to plan, or too few stores to hide one among them.
        PrivacyError: No noise keeps the promise; the hint says what is possible.
        ProtocolError [unsafe-terms]: There is no room for so much noise, or no safe sum of so few
            stores.

    Guarantees:
        Noise is that of the manifest that these settings would get, and sigma that of
        `PrivacyPlan.from_settings`.
    """
    if not variants:
        raise ConfigError("there is no variant to forecast", hint="give at least one variant")
    plan = solved_plan(settings)
    # Sigma is fixed here, or the manifest of every variant would solve for it again.
    solved = with_solved_noise(settings)
    rows = tuple(_row(solved, plan, population, variant) for variant in variants)
    # Noise is sigma * C * sqrt(d): inverted for the d at which the ratio meets the threshold.
    least = min(rows, key=lambda row: row.parameters)
    room = math.floor((least.signal / (threshold * least.noise)) ** 2)
    spent = plan.spent_after(plan.rounds)
    covers = plan.max_stores_per_customer
    return Forecast(
        mode=plan.mode,
        stores=len(population.customers),
        customers=population.total,
        sample_rate=plan.sample_rate,
        rounds=plan.rounds,
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        max_grad_norm=plan.max_grad_norm,
        max_stores_per_customer=covers,
        colluders=settings.federation.colluders,
        honest_survivors=_honest(solved, plan, population),
        noise_multiplier=plan.noise_multiplier,
        epsilon=plan.epsilon_after(rounds=plan.rounds),
        spare=plan.spare,
        granted_epsilon=plan.granted_epsilon,
        at_stores={
            count: epsilon(
                [at_stores(steps, plan.mode, count, covers) for steps in spent],
                target_delta=plan.target_delta,
            )
            for count in stores
        },
        phases=phase_forecasts(solved, plan, population),
        rows=rows,
        threshold=threshold,
        recommendation=advise(
            [(row.variant, row.parameters, row.signal_to_noise) for row in rows],
            threshold=threshold,
            parameters=room,
        ),
        warnings=(
            *_warnings(settings, plan, population),
            *_shorter_steps(solved, population),
            *phase_warnings(solved, plan, population),
        ),
    )


def signal_bound(settings: RunSettings, plan: PrivacyPlan, population: Population) -> float:
    """Largest expected L2 norm of the sum of all stores' clipped gradients in a round.

    In mode distributed a store's own sum is cut to `federation.max_drawn` clips.

    Args:
        settings: The run's settings.
        plan: Their privacy plan.
        population: Customers of each store.
    """
    most = settings.max_drawn if plan.mode == "distributed" else math.inf
    drawn = sum(min(plan.sample_rate * count, most) for count in population.customers)
    return plan.steps_per_round * drawn * plan.store_clip


def noise_deviation(
    settings: RunSettings, plan: PrivacyPlan, parameters: int, stores: int
) -> float:
    """Standard deviation of the noise on a coordinate of the sum of all stores.

    Args:
        settings: The run's settings, with the noise multiplier set.
        plan: Their privacy plan.
        parameters: Number of trained parameters.
        stores: Number of stores, all of which take part.
    """
    if plan.mode == "local":
        # Every store adds all of the noise in every local step; variances add up.
        steps = plan.steps_per_round * stores
        return plan.noise_multiplier * plan.max_grad_norm * math.sqrt(steps)
    # Read off the manifest, whose variance is that of integers on its grid, a little above sigma.
    manifest = planned_manifest(settings, parameters, stores)
    update = next(section for section in manifest.sections if section.name == UPDATE)
    return math.sqrt(stores * update.noise_variance) / update.scale


def _row(
    settings: RunSettings, plan: PrivacyPlan, people: Population, variant: Variant
) -> ForecastRow:
    stores = len(people.customers)
    manifest = planned_manifest(settings, variant.parameters, stores)
    signal = signal_bound(settings, plan, people) / stores
    noise = noise_deviation(settings, plan, variant.parameters, stores) / stores
    norm = noise * math.sqrt(variant.parameters)
    return ForecastRow(
        variant=variant.name,
        parameters=variant.parameters,
        signal=signal,
        noise=noise,
        noise_norm=norm,
        signal_to_noise=signal / norm,
        upload_bytes=_WORD * manifest.terms().layout.length,
    )


def _honest(settings: RunSettings, plan: PrivacyPlan, people: Population) -> int | None:
    if plan.mode != "distributed":
        return None
    return honest_survivors(planned_manifest(settings, 1, len(people.customers)).terms())


def _warnings(settings: RunSettings, plan: PrivacyPlan, people: Population) -> list[str]:
    warnings = []
    if plan.target_delta > people.total**-1.1:
        warnings.append(
            f"delta={plan.target_delta:g} is larger than 1/N^1.1 for {people.total:,} customers; "
            f"take {people.delta:g} or less"
        )
    counts = plan.statistics_noise_multiplier
    if counts is not None and plan.schedule.gradient is not None:
        # Squared multipliers add up: see `combined_noise_multiplier`.
        part = counts**-2 / (counts**-2 + plan.noise_multiplier**-2)
        if part > _MOST_FOR_COUNTS:
            warnings.append(
                f"counts and losses take {part:.0%} of the gradient's budget; raise "
                f"privacy.statistics_noise_multiplier from {counts:g} to some "
                f"{10 * plan.noise_multiplier:.0f}"
            )
    most = settings.max_drawn
    largest = plan.sample_rate * max(people.customers)
    if plan.mode == "distributed" and largest > most:
        warnings.append(
            f"the largest store draws {largest:.0f} customers on average and its sum is cut to "
            f"{most} clips; raise federation.max_drawn"
        )
    return warnings + _too_many_customers(settings, people)


def _shorter_steps(solved: RunSettings, people: Population) -> list[str]:
    """A warning where steps are a small part of the learning rate, because of their noise."""
    if solved.training.reference_noise is None or solved.schedule.gradient is None:
        return []
    share = rate_share(planned_manifest(solved, 1, len(people.customers)), solved)
    return [
        f"the noise of a step is {share**-0.25:.1f} times that up to which steps take the whole "
        f"training.learning_rate, so that they take {share:.2g} of it; the more customers, the "
        "longer the steps (training.expected_batch_size is about a store's customers)"
        for _ in range(share < _SHORT)
    ]


def _too_many_customers(settings: RunSettings, people: Population) -> list[str]:
    """A warning for each phase of statistics whose honest sum may be taken for forged."""
    if not settings.schedule.statistics:
        return []
    manifest = planned_manifest(settings, 1, len(people.customers))
    bounds = {
        phase.name: statistics_norm(manifest, settings, phase.name)
        for phase in settings.schedule.statistics
    }
    return [
        f"{people.total:,.0f} customers can make a sum of {name!r} longer than the {bound:,.0f} "
        "that the coordinator uses; raise training.expected_batch_size, or max_norm of the phase"
        for name, bound in bounds.items()
        if people.total > bound
    ]
