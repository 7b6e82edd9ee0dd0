"""Metrics by group of customers, the gap between groups under each arm, and what changes it.

Intervals are of a bootstrap over the customers of each group (`paired`), with the same draws for
every arm, so that differences between arms are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from hanse_client.tasks.interest.metrics import Figures
from hanse_simulations.evaluation.grouping import Grouping, Members, count
from hanse_simulations.evaluation.paired import Resampled, Weights, draw_weights, pooled
from hanse_simulations.evaluation.paired_arms import statistics_of
from hanse_simulations.experiment.arms import EFFECTS, GAP
from hanse_simulations.runs.results import GroupFigure

METRICS: Final = ("ndcg@10", "rise_auc", "fall_auc")
_DRAWS: Final = 300
_Key = tuple[str, str]
"""An arm and a metric."""


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
        by_group: dict[str, dict[_Key, Resampled]] = {}
        for place, (name, members) in enumerate(grouping.groups.items()):
            # One seed per group, the same for all arms: differences of arms are paired.
            weights = draw_weights(count(members), seed=[seed, number, place], draws=_DRAWS)
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


def _with_effects(sampled: dict[_Key, Resampled]) -> dict[_Key, Resampled]:
    effects = {
        (name, metric): sampled[more, metric].minus(sampled[less, metric])
        for name, (more, less) in EFFECTS.items()
        for metric in METRICS
        if (more, metric) in sampled and (less, metric) in sampled
    }
    return {**sampled, **effects}


def _row(
    grouping: str, group: str, customers: int, arm: str, metric: str, sampled: Resampled
) -> GroupFigure:
    low, high = sampled.interval()
    return GroupFigure(
        grouping=grouping,
        group=group,
        customers=customers,
        arm=arm,
        metric=metric,
        value=sampled.value,
        low=low,
        high=high,
    )


def _sampled(
    stores: Mapping[str, Figures], members: Members, weights: Weights
) -> dict[str, Resampled]:
    """Metrics of one group under one arm; undefined ones are left out."""
    ranks, place = {}, 0
    for store, own in members.items():
        ranks[store] = np.full(int(own.max(initial=0)) + 1, -1)
        ranks[store][own] = place + np.arange(len(own))
        place += len(own)
    parts = {store: statistics_of(stores[store].of(own)) for store, own in members.items()}
    resampled = {}
    for metric in METRICS:
        found = [
            part[metric].owned_by(ranks[store][part[metric].owners])
            for store, part in parts.items()
        ]
        resampled[metric] = pooled(found).resampled(weights)
    return {metric: one for metric, one in resampled.items() if math.isfinite(one.value)}
