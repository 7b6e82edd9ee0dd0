"""Paired bootstrap intervals over customers, for differences between arms.

All cases of a customer are drawn together (the cluster bootstrap of Field and Welsh 2007), with
replacement, and every arm is evaluated on the same draws, so that what customers have in common
under two arms cancels in their difference. Intervals are percentiles (Efron and Tibshirani 1993).

>>> weights = draw_weights(40, seed=7)
>>> owners = np.arange(40)
>>> better = Mean(values=np.linspace(0.2, 0.6, 40), owners=owners).resampled(weights)
>>> worse = Mean(values=np.linspace(0.1, 0.5, 40), owners=owners).resampled(weights)
>>> difference = better.minus(worse)
>>> round(difference.value, 6), [round(bound, 6) for bound in difference.interval()]
(0.1, [0.1, 0.1])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

DRAWS: Final = 1000
FEWEST: Final = 10
"""With fewer customers than this there is no interval: percentiles would be far too narrow."""
_INTERVAL: Final = (2.5, 97.5)
_AT_ONCE: Final = 16
"""Draws that an AUC is computed for together; their running sums must fit into the cache."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int32]
"""How often each customer is drawn [1 + draws, customers]; the first row is all ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """A metric, and its value in every draw of customers."""

    value: float
    draws: Floats
    """[draws]; NaN where the metric is undefined."""
    customers: int
    """Number of customers that are drawn from."""

    def minus(self, other: Resampled) -> Resampled:
        """The difference of two arms on the same draws."""
        return Resampled(
            value=self.value - other.value,
            draws=self.draws - other.draws,
            customers=min(self.customers, other.customers),
        )

    @classmethod
    def mean(cls, parts: Sequence[Resampled]) -> Resampled:
        """The mean over several seeds of at least one, draw by draw."""
        return cls(
            value=math.fsum(part.value for part in parts) / len(parts),
            draws=np.mean([part.draws for part in parts], axis=0),
            customers=min(part.customers for part in parts),
        )

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval.

        Edge cases:
            NaN where there are fewer than `FEWEST` customers, or where more than one draw in
            twenty is undefined.
        """
        known = self.draws[np.isfinite(self.draws)]
        if self.customers < FEWEST or len(known) < 0.95 * len(self.draws) or not len(known):
            return math.nan, math.nan
        low, high = np.percentile(known, _INTERVAL)
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over cases, such as NDCG over baskets.

    Args:
        values: The cases' values [n].
        owners: Place of each case's customer among all that are drawn from [n].
    """

    values: Floats
    owners: Ints

    def owned_by(self, owners: Ints) -> Mean:
        """The same cases with other owners."""
        return replace(self, owners=owners)

    @classmethod
    def pooled(cls, parts: Sequence[Mean]) -> Mean:
        """The cases of several stores, at least one."""
        return cls(
            values=np.concatenate([part.values for part in parts]),
            owners=np.concatenate([part.owners for part in parts]),
        )

    def resampled(self, weights: Weights) -> Resampled:
        """Compute the mean for every draw; undefined where no case is drawn."""
        customers = weights.shape[1]
        sums = np.bincount(self.owners, self.values, minlength=customers)
        counts = np.bincount(self.owners, minlength=customers).astype(np.float64)
        drawn = weights.astype(np.float64)
        with np.errstate(invalid="ignore"):
            means = (drawn @ sums) / (drawn @ counts)
        return _resampled(means, self.owners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """An area under the ROC curve over cases.

    Args:
        scores: The cases' scores [n], higher for likelier positives.
        positive: Whether a case is positive [n].
        owners: Place of each case's customer among all that are drawn from [n].
    """

    scores: npt.NDArray[np.float32]
    positive: npt.NDArray[np.bool_]
    owners: Ints

    def owned_by(self, owners: Ints) -> Area:
        """The same cases with other owners."""
        return replace(self, owners=owners)

    @classmethod
    def pooled(cls, parts: Sequence[Area]) -> Area:
        """The cases of several stores, at least one."""
        return cls(
            scores=np.concatenate([part.scores for part in parts]),
            positive=np.concatenate([part.positive for part in parts]),
            owners=np.concatenate([part.owners for part in parts]),
        )

    def resampled(self, weights: Weights) -> Resampled:
        """Compute the area for every draw; undefined where one side is not drawn.

        The cases are sorted once. A draw's area is then the weighted number of negatives below
        each positive, from running sums over the sorted negatives; ties count one half.
        """
        order = np.argsort(self.scores, kind="stable")
        scores, positive, owners = self.scores[order], self.positive[order], self.owners[order]
        below = scores[~positive]
        first = np.searchsorted(below, scores[positive], side="left")
        last = np.searchsorted(below, scores[positive], side="right")
        areas = np.full(len(weights), np.nan)
        for start in range(0, len(weights), _AT_ONCE):
            # [customers, draws], so that a case's weights lie next to each other.
            drawn = np.ascontiguousarray(weights[start : start + _AT_ONCE].T)
            of_positives = drawn[owners[positive]]
            sums = np.zeros((len(below) + 1, drawn.shape[1]), dtype=np.int32)
            np.cumsum(drawn[owners[~positive]], axis=0, out=sums[1:])
            # Sums over cases need not fit into 32 bits; a negative's weight counts twice.
            won = np.einsum("nd,nd->d", of_positives, sums[first] + sums[last], dtype=np.int64) / 2
            pairs = of_positives.sum(axis=0, dtype=np.int64) * sums[-1]
            with np.errstate(invalid="ignore"):
                areas[start : start + _AT_ONCE] = won / pairs
        return _resampled(areas, self.owners)


def pooled(parts: Sequence[Mean | Area]) -> Mean | Area:
    """The cases of one metric at several stores, at least one."""
    if isinstance(parts[0], Mean):
        return Mean.pooled([part for part in parts if isinstance(part, Mean)])
    return Area.pooled([part for part in parts if isinstance(part, Area)])


def draw_weights(customers: int, *, seed: int | Sequence[int], draws: int = DRAWS) -> Weights:
    """Draw customers with replacement, as many as there are.

    Args:
        customers: Number of customers to draw from.
        seed: Seed of the draws.
        draws: Number of draws.

    Returns:
        How often each customer is drawn [1 + draws, customers]. The first row is all ones: under
        it a metric has its own value.
    """
    weights = np.ones((1 + draws, customers), dtype=np.int32)
    if customers:
        rng = np.random.default_rng(seed)
        chances = np.full(customers, 1 / customers)
        weights[1:] = rng.multinomial(customers, chances, size=draws)
    return weights


def _resampled(values: Floats, owners: Ints) -> Resampled:
    return Resampled(value=float(values[0]), draws=values[1:], customers=len(np.unique(owners)))
