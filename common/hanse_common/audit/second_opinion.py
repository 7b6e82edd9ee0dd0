"""Epsilon by another library: Opacus' accountant by privacy loss random variables.

Gopi, Lee and Wutschitz 2021, "Numerical composition of differential privacy". It knows one
Poisson-sampled Gaussian a step, and no mixture over several stores.

>>> from hanse_common.privacy.accounting import epsilon
>>> steps = [SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=200)]
>>> first = epsilon(steps, target_delta=1e-6)
>>> abs(second_epsilon(steps, target_delta=1e-6, about=first) / first - 1) < TOLERANCE
True
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from hanse_common.privacy.accounting import SampledGaussianSteps

TOLERANCE = 0.02
"""By how much, relatively, two accountants may differ."""
SMALLEST = 0.01
"""Epsilon below which they need not agree: at sigma 1,000 and 100 steps the first one's grid of
10^-3 makes 0.009 of 0.003."""
_ACCURACY = 0.002
_LEAST_ERROR = 1e-4

Composed = tuple[float, float, int]
"""Noise multiplier, sample rate, count."""


def why_not(spent: Sequence[SampledGaussianSteps], first: float) -> str | None:
    """Say why there is no second opinion on these steps; None if there is one.

    Args:
        spent: Everything that was charged.
        first: What the first accountant says of it.
    """
    if math.isinf(first):
        return "no second accountant: the first one finds no bound that could be compared"
    if any(steps.stores > 1 for steps in spent):
        return "no second accountant: several stores share a person's clip (a mixture)"
    if find_spec("opacus") is None:
        return "no second accountant: opacus is not installed"
    return None


def second_epsilon(
    spent: Sequence[SampledGaussianSteps], *, target_delta: float, about: float
) -> float:
    """Epsilon of what was spent, an upper bound.

    Args:
        spent: Each step of one Poisson-sampled Gaussian; see `why_not`.
        target_delta: In (0, 1).
        about: What the first accountant says; the error is kept small beside it.

    Raises:
        ArithmeticError, ValueError, RuntimeError: The library cannot compute it.
    """
    counts: dict[tuple[float, float], int] = {}
    for steps in spent:
        key = (steps.noise_multiplier, steps.sample_rate)
        counts[key] = counts.get(key, 0) + steps.count
    composed = tuple(sorted((*key, count) for key, count in counts.items() if count))
    return _prv_epsilon(composed, target_delta, _error(about)) if composed else 0.0


def agree(first: float, second: float) -> bool:
    """Whether two accountants say the same, as far as they compute it.

    >>> agree(3.0, 3.05), agree(3.0, 3.07), agree(0.0088, 0.0028)
    (True, False, True)
    """
    return abs(second - first) <= max(TOLERANCE * first, SMALLEST)


def _error(about: float) -> float:
    return float(f"{max(about * _ACCURACY, _LEAST_ERROR):.3g}")


@lru_cache(maxsize=4096)
def _prv_epsilon(composed: tuple[Composed, ...], target_delta: float, error: float) -> float:
    with warnings.catch_warnings():
        # Of a logarithm of zero where everybody is drawn, which it then leaves out.
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant  # imported on use: torch

        accountant = PRVAccountant()
        accountant.history = list(composed)
        return float(accountant.get_epsilon(target_delta, eps_error=error))
