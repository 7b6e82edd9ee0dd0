"""Metrics by group of customers, the gap between groups under each arm, and what changes it.

Intervals are percentiles of a bootstrap over customers (Efron and Tibshirani 1993): customers
are drawn with replacement inside each group, the same draw for every arm, so that differences
between arms are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.interest.metrics import FALL, RISE, Figures
from hanse_simulations.evaluation.grouping import Grouping, Members, count
from hanse_simulations.experiment.arms import EFFECTS, GAP
from hanse_simulations.runs.results import GroupFigure

METRICS: Final = ("ndcg@10", "rise_auc", "fall_auc")
_DRAWS: Final = 300
_INTERVAL: Final = (2.5, 97.5)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sampled:
    """A metric and its bootstrap draws."""

    value: float
    draws: Floats

    def minus(self, other: _Sampled) -> _Sampled:
        return _Sampled(value=self.value - other.value, draws=self.draws - other.draws)


def group_figures(
    arms: Mapping[str, Mapping[str, Figures]], groupings: Sequence[Grouping], *, seed: int
) -> list[GroupFigure]:
    """Compute the metrics of every group, the gaps, and what joining and privacy change.

    Args:
        arms: Test figures by arm and store.
        groupings: The groupings, with the members of each group.
        seed: Seed of the bootstrap.
    """
    rows: list[GroupFigure] = []
    for number, grouping in enumerate(groupings):
        by_group: dict[str, dict[tuple[str, str], _Sampled]] = {}
        for place, (name, members) in enumerate(grouping.groups.items()):
            # One generator per group, the same for all arms: differences of arms are paired.
            rng = np.random.default_rng([seed, number, place])
            weights = rng.multinomial(
                count(members), np.full(count(members), 1 / count(members)), size=_DRAWS
            ).astype(np.float64)
            by_group[name] = _with_effects(
                {
                    (arm, metric): sampled
                    for arm, stores in arms.items()
                    for metric, sampled in _sampled(stores, members, weights).items()
                }
            )
        first, *_, last = grouping.groups
        gaps = {
            key: by_group[first][key].minus(by_group[last][key])
            for key in by_group[first]
            if key in by_group[last]
        }
        sizes = {name: count(members) for name, members in grouping.groups.items()}
        for name, sampled_by_key in {**by_group, GAP: gaps}.items():
            for (arm, metric), sampled in sampled_by_key.items():
                rows.append(_row(grouping.name, name, sizes.get(name, 0), arm, metric, sampled))
    return rows


def _with_effects(sampled: dict[tuple[str, str], _Sampled]) -> dict[tuple[str, str], _Sampled]:
    effects = {
        (name, metric): sampled[more, metric].minus(sampled[less, metric])
        for name, (more, less) in EFFECTS.items()
        for metric in METRICS
        if (more, metric) in sampled and (less, metric) in sampled
    }
    return {**sampled, **effects}


def _row(
    grouping: str, group: str, customers: int, arm: str, metric: str, sampled: _Sampled
) -> GroupFigure:
    known = sampled.draws[np.isfinite(sampled.draws)]
    low, high = np.percentile(known, _INTERVAL) if len(known) else (np.nan, np.nan)
    return GroupFigure(
        grouping=grouping,
        group=group,
        customers=customers,
        arm=arm,
        metric=metric,
        value=sampled.value,
        low=float(low),
        high=float(high),
    )


def _sampled(
    stores: Mapping[str, Figures], members: Members, weights: Floats
) -> dict[str, _Sampled]:
    """Metrics of one group under one arm; undefined ones are left out."""
    ranks, place = {}, 0
    for store, own in members.items():
        ranks[store] = np.full(int(own.max(initial=0)) + 1, -1)
        ranks[store][own] = place + np.arange(len(own))
        place += len(own)
    parts = {store: stores[store].of(own) for store, own in members.items()}
    together = Figures.pooled(list(parts.values()))
    baskets = np.concatenate([ranks[store][part.customers] for store, part in parts.items()])
    owners = np.concatenate(
        [ranks[store][part.interest_customers] for store, part in parts.items()]
    )
    # The first row, all ones, is the metric itself; the others are the bootstrap.
    weighed = np.concatenate([np.ones((1, place)), weights])
    metrics = {"ndcg@10": _weighted_mean(together.ndcg, baskets, weighed)}
    for side, metric, scores in (
        (RISE, "rise_auc", together.rise_scores),
        (FALL, "fall_auc", together.fall_scores),
    ):
        metrics[metric] = weighted_auc(scores, together.outcomes == side, weighed[:, owners])
    return {
        metric: _Sampled(value=float(values[0]), draws=values[1:])
        for metric, values in metrics.items()
        if np.isfinite(values[0])
    }


def _weighted_mean(values: Floats, owners: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """Mean over baskets [1 + draws]; a draw weighs all baskets of a customer alike."""
    sums = np.bincount(owners, values, minlength=weights.shape[1])
    counts = np.bincount(owners, minlength=weights.shape[1])
    with np.errstate(invalid="ignore"):
        result: Floats = (weights @ sums) / (weights @ counts)
    return result


def weighted_auc(
    scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_], weights: Floats
) -> Floats:
    """Area under the ROC curve where each case counts with a weight.

    Args:
        scores: Scores of the cases [n].
        positive: Whether a case is positive [n].
        weights: k weightings of the cases [k, n].

    Returns:
        One AUC per weighting [k]; NaN where all positives or all negatives weigh zero.

    >>> scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    >>> weighted_auc(scores, positive, np.ones((1, 4))).tolist()
    [0.75]
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ranked, weights = scores[order], weights[:, order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    positives = np.add.reduceat(weights * positive[order], starts, axis=1)
    negatives = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2  # ties count one half
    total = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore"):
        result: Floats = (positives * below).sum(axis=1) / total
    return result
