"""Privacy accounting: epsilon of given noise, and the noise for a target epsilon.

The reported epsilon is computed from the privacy loss distribution (Koskela, Jälkö, Honkela
2020; `dp_accounting.pld`), for Poisson sampling and neighbouring data sets that differ by
adding or removing one customer. Rényi accounting (Mironov 2017) only brackets the search for a
noise multiplier.

>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=200)
>>> round(epsilon([steps], target_delta=1e-6), 2)
3.81
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hanse_common.errors import PrivacyError

Composed = tuple[float, float, int, int]
"""Noise multiplier, sample rate, stores, count."""

LEAST_NOISE = 0.05
"""Smallest noise multiplier that is computed: below it a single step has an epsilon of
hundreds, and its loss distribution would fill the memory."""
MOST_STEPS = 1_000_000
"""Most steps that are computed: a hostile ledger may name any number of them."""
MOST_STORES = 1000
"""Most stores per person that are computed: the mixture has a term for each."""
_MOST_DIVERGENCE = 2000.0
"""Largest Rényi divergence of order 2, of all steps together, that is computed: epsilon is then
in the hundreds."""
_MOST_NOISE, _LEAST_RATE = 1e9, 1e-15
"""The library cannot compute terms beyond these. They are replaced by these, which gives a
larger epsilon."""
MOST_ROUNDS = 4096
"""Most remaining rounds that are counted."""

ACCOUNTANT = "dp-accounting PLD"
NEIGHBOURS = "add-or-remove-one"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledGaussianSteps:
    """A number of equal steps of the Poisson-sampled Gaussian mechanism.

    Raises:
        PrivacyError: A value is out of range.
    """

    noise_multiplier: float
    """Standard deviation of the noise, in units of the most that one person can add to the sum
    at all their stores together."""
    sample_rate: float
    """Probability of a customer to be in a step, in (0, 1]."""
    count: int
    stores: int = 1
    """Number of stores at which one person may be drawn, independently, for one sum; each draw
    adds an equal part."""

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier > 0),
            ("sample_rate", self.sample_rate, 0 < self.sample_rate <= 1),
            ("count", self.count, self.count >= 0),
            ("stores", self.stores, self.stores >= 1),
        ):
            if not valid:
                raise PrivacyError(f"{name}={value} is out of range for a sampled Gaussian step")


@lru_cache(maxsize=1)
def accountant() -> str:
    """Return the accountant's name and version; only the name if it is not installed.

    >>> accountant().startswith(ACCOUNTANT)
    True
    """
    try:
        return f"{ACCOUNTANT} {version('dp-accounting')}"
    except PackageNotFoundError:
        return ACCOUNTANT


def epsilon(spent: Sequence[SampledGaussianSteps], *, target_delta: float) -> float:
    """Compute epsilon of the composition of all given steps.

    Args:
        spent: Steps in any order; composition does not depend on it.
        target_delta: The delta at which epsilon is read, in (0, 1).

    Returns:
        Epsilon; 0 if there are no steps, and infinity if it would be in the hundreds or a term
        is beyond `LEAST_NOISE`, `MOST_STEPS` or `MOST_STORES`.

    Guarantees:
        This is an upper bound for a customer's complete history: the discretisation rounds up.
        Time and memory are bounded for all terms, since they may come from a hostile ledger.
    """
    if not _can_be_computed([steps for steps in spent if steps.count]):
        return math.inf
    counts: dict[tuple[float, float, int], int] = {}
    for steps in spent:
        noise, rate = min(steps.noise_multiplier, _MOST_NOISE), max(steps.sample_rate, _LEAST_RATE)
        key = (noise, rate, steps.stores)
        counts[key] = counts.get(key, 0) + steps.count
    # Sorted and joined, so that all orders of the same steps share one entry of the cache.
    composed = tuple(sorted((*key, count) for key, count in counts.items() if count))
    return _pld_epsilon(composed, target_delta) if composed else 0.0


def _can_be_computed(spent: Sequence[SampledGaussianSteps]) -> bool:
    if any(s.noise_multiplier < LEAST_NOISE or s.stores > MOST_STORES for s in spent):
        return False
    if sum(steps.count for steps in spent) > MOST_STEPS:
        return False
    # Order 2 of the sampled Gaussian (Mironov, Talwar and Zhang 2019, section 3.3). It bounds
    # the mean privacy loss, and with it the width of the distribution that is computed.
    divergence = sum(
        s.count * math.log1p(s.sample_rate**2 * math.expm1(s.noise_multiplier**-2)) for s in spent
    )
    return divergence <= _MOST_DIVERGENCE


@lru_cache(maxsize=4096)
def _pld_epsilon(composed: tuple[Composed, ...], target_delta: float) -> float:
    # Imported late: it loads scipy, and what does not account must start fast.
    from dp_accounting import pld

    return _compose(pld.PLDAccountant(value_discretization_interval=1e-3), composed, target_delta)


def _compose(accountant: Any, composed: tuple[Composed, ...], target_delta: float) -> float:
    for noise_multiplier, sample_rate, stores, count in composed:
        accountant.compose(_event(noise_multiplier, sample_rate, stores), count)
    return float(accountant.get_epsilon(target_delta))


def _event(noise_multiplier: float, sample_rate: float, stores: int) -> Any:
    """Return the event of one step, for one store or for several that share the sum.

    For several stores it is a mixture of Gaussians over the number of stores that draw the same
    person. The mixture dominates everything that the person's stores can add within their
    clips (Choquette-Choo et al. 2024, "Privacy amplification for matrix mechanisms").
    """
    from dp_accounting import dp_event

    if stores == 1:
        gaussian = dp_event.GaussianDpEvent(noise_multiplier)
        return dp_event.PoissonSampledDpEvent(sample_rate, gaussian)
    drawn = range(stores + 1)
    return dp_event.MixtureOfGaussiansDpEvent(
        noise_multiplier,
        [k / stores for k in drawn],
        [math.comb(stores, k) * sample_rate**k * (1 - sample_rate) ** (stores - k) for k in drawn],
    )


def rounds_left(
    spent: Sequence[SampledGaussianSteps],
    one_round: SampledGaussianSteps,
    *,
    target_delta: float,
    limit: float,
    most: int | None = None,
) -> int:
    """Return the number of further rounds that stay within a limit.

    Args:
        spent: The steps that were spent before.
        one_round: The steps of one round.
        target_delta: The delta at which epsilon is read.
        limit: Epsilon that must not be exceeded.
        most: The largest number of interest; `MOST_ROUNDS` if unset.

    Returns:
        0 if not even one round fits; at most `most`.
    """

    def fits(rounds: int) -> bool:
        more = replace(one_round, count=one_round.count * rounds)
        return epsilon([*spent, more], target_delta=target_delta) <= limit

    return largest(fits, most=MOST_ROUNDS if most is None else most)


def largest(fits: Callable[[int], bool], *, most: int) -> int:
    """Return the largest integer up to `most` that fits, if `fits` is monotone.

    Returns:
        0 if not even 1 fits.

    >>> largest(lambda number: number**2 <= 50, most=100), largest(lambda _: True, most=100)
    (7, 100)
    """
    # Doubling first: each call composes loss distributions, and most answers are far below most.
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def composed_event(spent: Sequence[SampledGaussianSteps]) -> Any:
    """Return all steps as one event of `dp_accounting`, for any accountant of that library."""
    from dp_accounting import dp_event

    return dp_event.ComposedDpEvent(
        [
            dp_event.SelfComposedDpEvent(
                _event(steps.noise_multiplier, steps.sample_rate, steps.stores), steps.count
            )
            for steps in spent
        ]
    )


def skellam_variance(noise_multiplier: float, l2: float, l1: float) -> float:
    """Return the least variance of Skellam noise that protects as well as Gaussian noise.

    The Rényi divergence of integers plus Skellam noise of variance mu is at most
    a L2²/(2 mu) + ((2a - 1) L2² + 6 L1)/(4 mu²) at order a (Agarwal, Kairouz and Liu 2021,
    theorem 3.5); that of reals plus Gaussian noise is a/(2 sigma²), with sigma in units of
    the sensitivity.

    Args:
        noise_multiplier: Sigma of the Gaussian mechanism to match.
        l2: Largest L2 norm of one customer's contribution, in integer steps.
        l1: Largest L1 norm of it, in integer steps.

    Guarantees:
        At every order a >= 1 the first divergence is no larger than the second.

    >>> skellam_variance(1.0, l2=2.0**19, l1=2.0**24) / 2.0**38 - 1 < 1e-6
    True
    """
    square, precision = l2**2, noise_multiplier**-2
    # As 2a - 1 <= 2a and 6 L1 <= 6a L1 for a >= 1, dividing both sides by a/2 leaves a condition
    # without a. The root is the least mu with square/mu + (square + 3 l1)/mu² <= precision.
    root = math.sqrt(square**2 + 4 * precision * (square + 3 * l1))
    return (square + root) / (2 * precision)


def combined_noise_multiplier(*noise_multipliers: float) -> float:
    """Return the noise multiplier of several Gaussian releases about the same sample.

    Each multiplier is in units of what one customer adds to its release. Scaled to unit
    sensitivity, the releases are one Gaussian vector, whose squared sensitivity is the sum.

    >>> round(combined_noise_multiplier(1.0, 10.0), 3)
    0.995
    """
    return float(sum(m**-2 for m in noise_multipliers) ** -0.5)


def remaining_noise_multiplier(combined: float, part: float) -> float:
    """Return the noise multiplier that gives `combined` in combination with `part`.

    Raises:
        PrivacyError: `part` alone has no more noise than both releases need together.

    >>> round(remaining_noise_multiplier(0.995, 10.0), 3)
    1.0
    """
    if part <= combined:
        raise PrivacyError(
            f"a noise multiplier of {part:g} on statistics leaves nothing for training, which "
            f"needs {combined:.4g} in all",
            hint="raise privacy.statistics_noise_multiplier",
        )
    return float((combined**-2 - part**-2) ** -0.5)


def noise_multiplier_for(
    *,
    target_epsilon: float,
    target_delta: float,
    sample_rate: float,
    count: int,
    stores: int = 1,
    other_steps: Sequence[SampledGaussianSteps] = (),
) -> float:
    """Return the least noise multiplier that keeps `count` steps within the target.

    Args:
        target_epsilon: Epsilon of these and the other steps together.
        target_delta: The delta at which epsilon is read, in (0, 1).
        sample_rate: Sample rate of the steps.
        count: Number of steps.
        stores: Number of stores at which one person may be drawn for one sum.
        other_steps: Steps of other releases that are paid from the same budget.

    Raises:
        PrivacyError: No noise multiplier below 1000 reaches the target.

    Guarantees:
        `epsilon` at the returned value is at most `target_epsilon`, and the value is at
        most 0.2 % above the least one.
    """
    from dp_accounting import rdp

    other = [(s.noise_multiplier, s.sample_rate, s.stores, s.count) for s in other_steps]
    # The library's Rényi accountant has no mixtures of Gaussians, so the bracket is for one
    # store; the second loop below raises it where that is too low.
    one_store = [(*terms[:2], 1, terms[3]) for terms in other]

    def by_pld(sigma: float) -> float:
        return _pld_epsilon(((sigma, sample_rate, stores, count), *other), target_delta)

    def by_rdp(sigma: float) -> float:
        accountant = rdp.RdpAccountant(orders=range(2, 129))
        return _compose(accountant, ((sigma, sample_rate, 1, count), *one_store), target_delta)

    # Rényi first: a loss distribution at too little noise fills the memory (see `LEAST_NOISE`).
    high = 0.5
    while by_rdp(high) > target_epsilon:
        high *= 1.5
        if high > 1000:
            raise PrivacyError(
                f"no noise keeps {count} steps at sample_rate={sample_rate} "
                f"within epsilon={target_epsilon}",
                hint="take fewer rounds or a lower sample rate",
            )
    while by_pld(high) > target_epsilon:
        high *= 1.5
    # From here on `high` always meets the target, and `low` never does.
    low = high / 2
    while by_pld(low) <= target_epsilon:
        high, low = low, low / 2
    while high / low > 1.002:
        middle = (high * low) ** 0.5
        if by_pld(middle) <= target_epsilon:
            high = middle
        else:
            low = middle
    return high


def noise_multipliers_for(
    *,
    target_epsilon: float,
    target_delta: float,
    steps: Mapping[str, SampledGaussianSteps],
    shares: Mapping[str, float],
    other_steps: Sequence[SampledGaussianSteps] = (),
) -> dict[str, float]:
    """Return the noise multipliers of several releases that share one target by given shares.

    A release's share is its part of the squared parameter mu of Gaussian differential privacy
    (Dong, Roth and Su 2022): count/noise² without sampling, and rate² count (e^(1/noise²) - 1)
    with it, by their central limit theorem. The theorem only divides the budget; the target is
    checked by `epsilon`.

    Args:
        target_epsilon: Epsilon of all releases and the other steps together.
        target_delta: The delta at which epsilon is read, in (0, 1).
        steps: The releases by name; their noise multipliers are not read.
        shares: Each release's share, by the same names.
        other_steps: Steps of other releases that are paid from the same budget.

    Returns:
        The noise multiplier of each release.

    Raises:
        PrivacyError: The other steps leave nothing of the target.

    Guarantees:
        `epsilon` of all of them is at most `target_epsilon`, and mu is at most 0.1 % below the
        largest that meets it.

    >>> one = SampledGaussianSteps(noise_multiplier=1.0, sample_rate=1.0, count=1)
    >>> noise = noise_multipliers_for(
    ...     target_epsilon=4.0, target_delta=1e-6, steps={"a": one, "b": one},
    ...     shares={"a": 0.2, "b": 0.8},
    ... )
    >>> round(noise["a"] / noise["b"], 3)
    2.0
    """

    def multipliers(mu: float) -> dict[str, float]:
        return {name: _noise_of(steps[name], shares[name] * mu**2) for name in steps}

    def cost(mu: float) -> float:
        noise = multipliers(mu)
        mine = [replace(one, noise_multiplier=noise[name]) for name, one in steps.items()]
        return epsilon([*mine, *other_steps], target_delta=target_delta)

    least = 1e-3
    if cost(least) > target_epsilon:
        raise PrivacyError(
            f"what is spent apart from the phases leaves nothing of epsilon={target_epsilon}",
            hint="raise the target, or take fewer evaluations",
        )
    # From here on `low` always meets the target, and `high` never does.
    low, high = least, 2 * least
    while cost(high) <= target_epsilon:
        low, high = high, 2 * high
    while high / low > 1.001:
        middle = (high * low) ** 0.5
        low, high = (middle, high) if cost(middle) <= target_epsilon else (low, middle)
    return multipliers(low)


def squared_mu(steps: SampledGaussianSteps) -> float:
    """Return the squared mu of steps; see `noise_multipliers_for`.

    >>> round(squared_mu(SampledGaussianSteps(noise_multiplier=2.0, sample_rate=1.0, count=8)), 3)
    2.0
    """
    if steps.sample_rate == 1.0:
        return steps.count / steps.noise_multiplier**2
    return steps.sample_rate**2 * steps.count * math.expm1(steps.noise_multiplier**-2)


def _noise_of(steps: SampledGaussianSteps, squared_mu: float) -> float:
    """Return the noise multiplier at which steps have a squared mu: the inverse of it."""
    if steps.sample_rate == 1.0:
        return math.sqrt(steps.count / squared_mu)
    # Several stores per person draw independently; the mean of their draws has the same rate.
    return 1 / math.sqrt(math.log1p(squared_mu / (steps.sample_rate**2 * steps.count)))
