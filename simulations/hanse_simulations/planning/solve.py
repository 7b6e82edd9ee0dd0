"""Given all terms of a federation but one, find that one.

The terms hang together by the noise. Signal-to-noise at a threshold says how much noise a
variant bears; the accountant says what that noise costs. So there is a largest number of
rounds, a least epsilon, a least sample rate and a least number of customers a store. Where
`privacy.noise_multiplier` is given, the accountant alone decides on rounds, epsilon and the
largest sample rate.

>>> from hanse_common.config import DataSettings, FederationSettings
>>> settings = RunSettings(recipe="planned", data=DataSettings(source="synthetic"),
...                        federation=FederationSettings(rounds=20))
>>> found = solve(Unknown.EPSILON, settings, Population((300,) * 8), Variant("400", 400))
>>> found.settings.privacy.target_epsilon
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
"""What is found has a little less noise than the threshold allows, so that a plan whose noise
is solved again (to 0.2 %) and drawn on a grid (0.1 %) is still above it."""
_TRIAL_NOISE = 1.0
_ANY_EPSILON = 1e9
_FINEST = 12
"""Sample rates are searched from 2^-12 on."""
_DIGITS = 100
"""An epsilon that is found is rounded up to two decimals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """The terms with the unknown one filled in.

    Args:
        unknown: Which it was.
        value: What was found; customers are those of each store.
        settings: All terms; noise is left to be solved for, unless it was given.
        population: All stores.
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
    """Find the one term that is left.

    Args:
        unknown: Which; its value in `settings` or `population` is not looked at.
        settings: All other terms.
        population: Its number of stores always counts.
        variant: What is trained.
        threshold: Least signal-to-noise of a round.
        own_delta: Delta follows the number of customers (`Population.delta`).

    Raises:
        PrivacyError: No value will do; the hint says what is possible.

    Guarantees:
        `forecast` of what is found is at or above the threshold and within the target, and
        what is found is within 1 % of the best such value, or the next whole number.
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
        found = most_rounds(self.given, noise)
        if not found:
            raise self.impossible(
                "not even one round", self.given.with_changes({"federation.rounds": 1})
            )
        return self.solved(Unknown.ROUNDS, found, "federation.rounds", found)

    def epsilon(self) -> Solved:
        exact = price(self.given, self.bearable(self.given))
        if not math.isfinite(exact):
            raise self.impossible("no epsilon", None)
        found = math.ceil(exact * _DIGITS) / _DIGITS
        return self.solved(Unknown.EPSILON, found, "privacy.target_epsilon", found)

    def sample_rate(self) -> Solved:
        if self.given.privacy.noise_multiplier is not None:
            found = _largest_rate(self.affordable)
        else:
            found = _least_rate(self.affordable)
        if found is None:
            raise self.impossible("no sample rate", None)
        return self.solved(Unknown.Q, found, "training.sample_rate", found)

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
        found = largest(too_few, most=most) + 1
        if found > most:
            raise self.impossible(f"not even {counted(most, 'customer')} a store", self.given)
        settings, people = terms(found)
        return Solved(unknown=Unknown.CUSTOMERS, value=found, settings=settings, population=people)

    def affordable(self, rate: float) -> bool:
        """Whether a sample rate keeps the target with as much noise as its signal bears."""
        settings = self.given.with_changes({"training.sample_rate": rate})
        return price(settings, self.bearable(settings)) <= settings.privacy.target_epsilon

    def bearable(self, settings: RunSettings, people: Population | None = None) -> float:
        """The noise multiplier that was given, or else the largest above the threshold."""
        if settings.privacy.noise_multiplier is not None:
            return settings.privacy.noise_multiplier
        people = people or self.population
        trial = settings.with_changes(
            {
                "privacy.noise_multiplier": _TRIAL_NOISE,
                "privacy.target_epsilon": _ANY_EPSILON,
                "federation.rounds": 1,
            }
        )
        plan = PrivacyPlan.from_settings(trial)
        if plan is None:
            return solved_plan(settings).noise_multiplier  # says that there is nothing to plan
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
    """The least rate that fits: signal grows with it faster than the noise it needs."""
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
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if below(middle) else (low, middle)
    return low, high
