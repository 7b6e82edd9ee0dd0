"""Solve for one term of a federation from all others.

Noise links the terms. The threshold of signal-to-noise bounds the noise that a variant
tolerates; the accountant computes what that noise costs. So there is a largest number of
rounds, a least epsilon, a least sample rate and a least number of customers per store. Where
`privacy.noise_multiplier` is given, the accountant alone decides on rounds, epsilon and the
largest sample rate.

>>> from hanse_common.config import DataSettings, FederationSettings
>>> settings = RunSettings(recipe="planned", data=DataSettings(source="synthetic"),
...                        federation=FederationSettings(rounds=20))
>>> solved = solve(Unknown.EPSILON, settings, Population((300,) * 8), Variant("400", 400))
>>> solved.settings.privacy.target_epsilon
0.67
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hanse_common.config import RunSettings
from hanse_common.errors import PrivacyError
from hanse_common.privacy.accounting import largest
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.wording import counted
from hanse_simulations.planning.advice import SIGNAL_TO_NOISE
from hanse_simulations.planning.feasible import most_rounds, price, solved_plan
from hanse_simulations.planning.forecast import Population, noise_deviation, signal_bound
from hanse_simulations.planning.unknown import Unknown
from hanse_simulations.planning.variants import Variant

_MARGIN = 1.004
"""Noise is taken this factor below what the threshold allows, so that a plan whose noise is
solved again (to 0.2 %) and drawn on a grid (0.1 %) is still above the threshold."""
_TRIAL_NOISE = 1.0
_ANY_EPSILON = 1e9
_FINEST = 12
"""Sample rates are searched from 2^-12 on."""
_DIGITS = 100
"""A solved epsilon is rounded up to two decimals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """The terms with the unknown one filled in.

    Args:
        unknown: The term that was solved for.
        value: Its value; customers are counted per store.
        settings: All terms; the noise is still to be solved for, unless it was given.
        population: Customers of all stores.
    """

    unknown: Unknown
    value: float
    settings: RunSettings
    population: Population


def solve(
    unknown: Unknown,
    settings: RunSettings,
    population: Population,
    variant: Variant,
    *,
    threshold: float = SIGNAL_TO_NOISE,
    own_delta: bool = False,
) -> Solved:
    """Solve for the one term that is not given.

    Args:
        unknown: The term; its value in `settings` or `population` is ignored.
        settings: All other terms.
        population: Its number of stores always counts.
        variant: What is trained.
        threshold: Least signal-to-noise of a round.
        own_delta: Delta follows the number of customers (`Population.delta`).

    Raises:
        PrivacyError: No value fits; the hint says what is possible.

    Guarantees:
        `forecast` of the result is at or above the threshold and within the target, and the
        result is within 1 % of the best such value, or the next whole number.
    """
    task = _Task(settings, population, variant, threshold)
    if unknown is Unknown.ROUNDS:
        return task.rounds()
    if unknown is Unknown.EPSILON:
        return task.epsilon()
    if unknown is Unknown.Q:
        return task.sample_rate()
    return task.customers(own_delta=own_delta)


@dataclass(frozen=True, slots=True)
class _Task:
    given: RunSettings
    population: Population
    variant: Variant
    threshold: float

    def rounds(self) -> Solved:
        noise = self.bearable(self.given)
        rounds = most_rounds(self.given, noise)
        if not rounds:
            raise self.impossible(
                "not even one round",
                self.given.with_changes({"federation.rounds": 1, "phases": ()}),
            )
        rounds += self.given.schedule.statistics_rounds
        return self.solved(Unknown.ROUNDS, rounds, "federation.rounds", rounds)

    def epsilon(self) -> Solved:
        exact = price(self.given, self.bearable(self.given))
        if not math.isfinite(exact):
            raise self.impossible("no epsilon", None)
        # Rounded up: a target below the exact epsilon would have no plan.
        target = math.ceil(exact * _DIGITS) / _DIGITS
        return self.solved(Unknown.EPSILON, target, "privacy.target_epsilon", target)

    def sample_rate(self) -> Solved:
        if self.given.privacy.noise_multiplier is not None:
            rate = _largest_rate(self.affordable)
        else:
            rate = _least_rate(self.affordable)
        if rate is None:
            raise self.impossible("no sample rate", None)
        return self.solved(Unknown.Q, rate, "training.sample_rate", rate)

    def customers(self, *, own_delta: bool) -> Solved:
        stores = len(self.population.customers)

        def terms(each: int) -> tuple[RunSettings, Population]:
            people = Population((each,) * stores)
            changes = {"privacy.target_delta": people.delta} if own_delta else {}
            return self.given.with_changes(changes), people

        def too_few(each: int) -> bool:
            settings, people = terms(each)
            return solved_plan(settings).noise_multiplier > self.bearable(
                settings.with_changes({"privacy.noise_multiplier": None}), people
            )

        most = self.given.federation.max_customers
        least = largest(too_few, most=most) + 1
        if least > most:
            raise self.impossible(f"not even {counted(most, 'customer')} a store", self.given)
        settings, people = terms(least)
        return Solved(unknown=Unknown.CUSTOMERS, value=least, settings=settings, population=people)

    def affordable(self, rate: float) -> bool:
        """Whether a sample rate keeps the target with as much noise as its signal bears."""
        settings = self.given.with_changes({"training.sample_rate": rate})
        return price(settings, self.bearable(settings)) <= settings.privacy.target_epsilon

    def bearable(self, settings: RunSettings, people: Population | None = None) -> float:
        """The noise multiplier that was given, or else the largest above the threshold."""
        if settings.privacy.noise_multiplier is not None:
            return settings.privacy.noise_multiplier
        people = people or self.population
        # Noise is proportional to sigma, so one plan at sigma = 1 gives the ratio for all. With
        # one round and no real target, such a plan always exists.
        trial = settings.with_changes(
            {
                "privacy.noise_multiplier": _TRIAL_NOISE,
                "privacy.target_epsilon": _ANY_EPSILON,
                "federation.rounds": 1,
                "phases": (),
            }
        )
        plan = PrivacyPlan.from_settings(trial)
        if plan is None:
            return solved_plan(settings).noise_multiplier  # raises: there is nothing to plan
        noise = noise_deviation(trial, plan, self.variant.parameters, len(people.customers))
        signal = signal_bound(trial, plan, people)
        bearable = signal / (self.threshold * noise * math.sqrt(self.variant.parameters))
        return _TRIAL_NOISE * bearable / _MARGIN

    def solved(self, unknown: Unknown, value: float, key: str, setting: object) -> Solved:
        return Solved(
            unknown=unknown,
            value=value,
            settings=self.given.with_changes({key: setting}),
            population=self.population,
        )

    def impossible(self, what: str, possible: RunSettings | None) -> PrivacyError:
        """The error that says what would be possible instead."""
        noise = self.given.privacy.noise_multiplier
        aim = (
            f"a signal-to-noise of {self.threshold:g} with {self.variant.parameters:,} parameters"
            if noise is None
            else f"epsilon={self.given.privacy.target_epsilon:g} at noise_multiplier={noise:g}"
        )
        hint = "take fewer parameters, more customers or a larger epsilon"
        if possible is not None and noise is None:
            plan = solved_plan(possible)
            # The noise norm grows with the square root of the parameters.
            at_most = (
                self.variant.parameters * (self.bearable(possible) / plan.noise_multiplier) ** 2
            )
            if at_most >= 1:
                hint = (
                    f"possible: {math.floor(at_most):,} parameters in "
                    f"{counted(plan.rounds, 'round')} at epsilon={plan.target_epsilon:g}, or take "
                    "more customers"
                )
        return PrivacyError(f"{what} reaches {aim}", hint=hint)


def _least_rate(fits: Callable[[float], bool]) -> float | None:
    """The least rate that fits: signal grows faster with the rate than the noise it needs."""
    rates = [2.0**-power for power in range(_FINEST, -1, -1)]
    high = next((rate for rate in rates if fits(rate)), None)
    if high is None or high == rates[0]:
        return high
    return _narrowed(high / 2, high, lambda rate: not fits(rate))[1]


def _largest_rate(fits: Callable[[float], bool]) -> float | None:
    rates = [2.0**-power for power in range(_FINEST + 1)]
    low = next((rate for rate in rates if fits(rate)), None)
    if low is None or low == rates[0]:
        return low
    return _narrowed(low, 2 * low, fits)[0]


def _narrowed(low: float, high: float, below: Callable[[float], bool]) -> tuple[float, float]:
    """Two rates 0.1 % apart on either side of where `below` ends."""
    # Geometric bisection: rates span 2^-12 to 1, and the guarantee is relative (1 %).
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if below(middle) else (low, middle)
    return low, high
