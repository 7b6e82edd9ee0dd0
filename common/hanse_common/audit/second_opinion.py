"""A second computation of epsilon, by Opacus' accountant of privacy loss random variables.

Gopi, Lee and Wutschitz 2021, "Numerical composition of differential privacy". The accountant
supports one Poisson-sampled Gaussian per step, and no mixture over several stores.

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
"""Largest relative difference between the two accountants."""
_SMALLEST = 0.01
"""Absolute difference that is always allowed: at sigma 1,000 and 100 steps, the first
accountant's grid of 10^-3 turns an epsilon of 0.003 into 0.009."""
_ACCURACY = 0.002
"""Error bound of the second accountant, relative to the first one's epsilon."""
_LEAST_ERROR = 1e-4

Composed = tuple[float, float, int]
"""Noise multiplier, sample rate, count."""


def why_not(spent: Sequence[SampledGaussianSteps], first: float) -> str | None:
    """Return why there is no second opinion on these steps; None if there is one.

    Args:
        spent: All charged steps.
        first: Their epsilon by the first accountant.
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
    """Return an upper bound on the epsilon of charged steps, by Opacus.

    Args:
        spent: Steps of Poisson-sampled Gaussians, one store each; see `why_not`.
        target_delta: In (0, 1).
        about: The first accountant's epsilon, which scales the error bound.

    Raises:
        ArithmeticError, ValueError, RuntimeError: The library cannot compute it.
    """
    counts: dict[tuple[float, float], int] = {}
    for steps in spent:
        key = (steps.noise_multiplier, steps.sample_rate)
        counts[key] = counts.get(key, 0) + steps.count
    # Equal steps are merged, and sorted so that the cache recognises them in any order.
    composed = tuple(sorted((*key, count) for key, count in counts.items() if count))
    return _prv_epsilon(composed, target_delta, _error(about)) if composed else 0.0


def agree(first: float, second: float) -> bool:
    """Return whether two epsilons agree within the accountants' accuracy.

    >>> agree(3.0, 3.05), agree(3.0, 3.07), agree(0.0088, 0.0028)
    (True, False, True)
    """
    return abs(second - first) <= max(TOLERANCE * first, _SMALLEST)


def _error(about: float) -> float:
    # Rounded, so that almost equal values share an entry of the cache.
    return float(f"{max(about * _ACCURACY, _LEAST_ERROR):.3g}")


@lru_cache(maxsize=4096)
def _prv_epsilon(composed: tuple[Composed, ...], target_delta: float, error: float) -> float:
    with warnings.catch_warnings():
        # At sample rate 1 Opacus warns of the logarithm of zero in a term that it then drops.
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant  # imported on use: torch

        accountant = PRVAccountant()
        accountant.history = list(composed)
        return float(accountant.get_epsilon(target_delta, eps_error=error))
