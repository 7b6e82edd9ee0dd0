"""Lower bound on epsilon from correct guesses about canaries.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run"
(arXiv:2305.08846). Each of m canaries was in the data or not by a fair coin of its own; an
attacker guesses r of the coins from what the mechanism released, and v guesses are right. If
the mechanism is (eps, delta)-DP, then (theorem 3.1; corollary 5.4; the code in appendix D)

    P[at least v right] <= beta + 2 m delta alpha,
    beta  = P[W >= v] for W ~ Binomial(r, e^eps / (e^eps + 1)),
    alpha = max over i = 1..v of P[v > W >= v - i] / i.

Any eps at which that is less than 5 % is refuted with 95 % confidence.

>>> round(epsilon_lower_bound(canaries=1000, guesses=100, right=75, delta=1e-4), 3)
0.673
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_PRECISION = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Guesses:
    """Number of an attacker's guesses about canaries, and how many were right."""

    count: int
    """Guesses made, r; the attacker abstains on the other canaries."""
    right: int
    """Guesses that were right, v."""


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses under (epsilon, delta)-DP.

    Args:
        canaries: m, each in the data by a fair coin.
        guesses: r, at most m.
        right: v, at most r.
        epsilon: The epsilon to test, at least 0.
        delta: In [0, 1].

    Returns:
        An upper bound on the probability of `right` or more right guesses, at most 1.

    Raises:
        ValueError: A number is out of range.
    """
    from scipy.stats import binom  # slow to import; the commands that need no bound start fast

    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right=} <= {guesses=} <= {canaries=} does not hold")
    if epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"{epsilon=} must not be negative, {delta=} must lie in [0, 1]")
    chance = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, chance))
    less = np.arange(1, right + 1)
    below = np.cumsum(binom.pmf(right - less, guesses, chance))
    alpha = float(np.max(below / less, initial=0.0))
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_lower_bound(
    *, canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon that the right guesses refute.

    Args:
        canaries: m, each in the data by a fair coin.
        guesses: r, at most m.
        right: v, at most r.
        delta: Delta at which epsilon is bounded.
        confidence: Probability that the mechanism's epsilon at `delta` is no smaller.

    Returns:
        The bound, rounded down; 0 if not even epsilon = 0 is refuted.

    Raises:
        ValueError: A number is out of range.

    Guarantees:
        For a mechanism that is (epsilon, delta)-DP, whatever the attacker does, the result
        exceeds epsilon with a chance of at most 1 - `confidence`, over the canaries' coins
        and the mechanism's randomness; provided that the number of guesses does not depend
        on how right they are.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} must lie in (0, 1)")

    def refuted(epsilon: float) -> bool:
        p = p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
        return p < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    # The p-value grows with epsilon, so doubling and then bisecting finds where it reaches 5 %.
    while refuted(high):
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low  # the refuted end: rounded down, so that the bound stays valid


def best_lower_bound(
    tries: Sequence[Guesses], *, canaries: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The best of several bounds from one run, each at a confidence that pays for all tries.

    By the union bound: k tries at 1 - (1 - c)/k each are right together with confidence c.

    Args:
        tries: Guesses of different numbers, about the same canaries.
        canaries: m.
        delta: Delta at which epsilon is bounded.
        confidence: Confidence of the result.
    """
    each = 1 - (1 - confidence) / max(len(tries), 1)
    return max(
        (
            epsilon_lower_bound(
                canaries=canaries,
                guesses=one.count,
                right=one.right,
                delta=delta,
                confidence=each,
            )
            for one in tries
        ),
        default=0.0,
    )
