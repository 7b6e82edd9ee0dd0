"""Intervals of all arms, and of their differences to the arms that joining is judged against.

All arms are evaluated on the same customers, and every interval is of the same draws of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.conversion.metrics import Conversions
from hanse_client.tasks.interest.metrics import FALL, RISE, Figures
from hanse_client.tasks.next_item.metrics import Ranks
from hanse_client.tasks.review.metrics import Verdicts
from hanse_client.tasks.scoring import TOP
from hanse_simulations.evaluation.paired import Area, Mean, Resampled, draw_weights, pooled
from hanse_simulations.runs.results import PairedInterval

REFERENCES: Final = ("alone", "boosted_trees", "federated")
"""Arms that others are compared with: staying alone, the strongest rule, no privacy."""

Ints = npt.NDArray[np.int64]
Key = tuple[str, float | None]
"""An arm and its target epsilon, None without privacy."""
ByStore = Mapping[str, Any]
"""Figures of one training by store."""
_OWNERS: Final = ("customers", "explore_customers", "interest_customers")


def compare_arms(
    arms: Mapping[Key, Sequence[ByStore]],
    *,
    seed: int,
    wanted: Mapping[str, Sequence[str]] | None = None,
    references: Sequence[str] = REFERENCES,
) -> list[PairedInterval]:
    """Compute the interval of every arm, and of its difference to each reference.

    A store that one arm has no figures of is compared under none, and an arm without any
    figures is left out. The figure of an arm with
    several trainings is their mean in every draw of customers.

    Args:
        arms: Test figures of each arm's trainings, one a seed, by store.
        seed: Seed of the draws.
        wanted: Metrics that apply to an arm, by its name; all for an arm that is not named.
        references: Arms to compare with; those that were not trained are left out.
    """
    evaluated = {key: [one for one in seeds if one] for key, seeds in arms.items()}
    arms = {key: seeds for key, seeds in evaluated.items() if seeds}
    trainings = [by_store for seeds in arms.values() for by_store in seeds]
    if not trainings:
        return []
    stores = [name for name in trainings[0] if all(name in other for other in trainings)]
    members = {name: _members([by_store[name] for by_store in trainings]) for name in stores}
    weights = draw_weights(sum(map(len, members.values())), seed=seed)
    resampled: dict[Key, dict[str, Resampled]] = {}
    for key, seeds in arms.items():
        metrics = (wanted or {}).get(key[0])
        drawn = [_resampled(by_store, members, weights, metrics) for by_store in seeds]
        resampled[key] = {
            metric: Resampled.mean([one[metric] for one in drawn])
            for metric in drawn[0]
            if all(metric in one for one in drawn)
        }
    counts = {key: len(seeds) for key, seeds in arms.items()}
    return list(_intervals(resampled, counts, references))


def statistics_of(figures: Any) -> dict[str, Mean | Area]:
    """Return the metrics of a task's figures that are means or areas, with their cases.

    Args:
        figures: Figures of the task interest, next-item, conversion or review. Their customers
            are the owners.
    """
    match figures:
        case Figures():
            return _of_interests(figures)
        case Ranks():
            return _of_ranks(figures)
        case Conversions():
            redeemed = Area(
                scores=figures.chances, positive=figures.redeemed, owners=figures.customers
            )
            return {"auc": redeemed}
        case Verdicts():
            right = figures.chances.argmax(1) == figures.labels
            return {"accuracy": Mean(values=right.astype(np.float64), owners=figures.customers)}
        case _:
            return {}


def _of_interests(figures: Figures) -> dict[str, Mean | Area]:
    statistics: dict[str, Mean | Area] = {
        f"{kind}{name}@{TOP}": Mean(
            values=getattr(figures, kind + name), owners=getattr(figures, f"{kind}customers")
        )
        for kind in ("", "explore_")
        for name in ("ndcg", "hr", "recall")
    }
    for name, side, scores in (
        ("rise_auc", RISE, figures.rise_scores),
        ("fall_auc", FALL, figures.fall_scores),
    ):
        statistics[name] = Area(
            scores=scores, positive=figures.outcomes == side, owners=figures.interest_customers
        )
    return statistics


def _of_ranks(figures: Ranks) -> dict[str, Mean | Area]:
    ranks, owners = figures.new, figures.customers
    inside = ranks <= TOP
    # With one target the ideal DCG is 1.
    gains = np.where(inside, 1 / np.log2(ranks + 1), 0.0)
    return {
        f"hr@{TOP}": Mean(values=inside.astype(np.float64), owners=owners),
        f"ndcg@{TOP}": Mean(values=gains, owners=owners),
        "mrr": Mean(values=1 / ranks, owners=owners),
    }


def _members(figures: Sequence[Any]) -> Ints:
    """The customers of a store with a case under any arm, in order."""
    owners = [
        np.unique(getattr(one, name)) for one in figures for name in _OWNERS if hasattr(one, name)
    ]
    return np.unique(np.concatenate(owners)).astype(np.int64)


def _resampled(
    by_store: ByStore,
    members: Mapping[str, Ints],
    weights: npt.NDArray[np.int32],
    metrics: Sequence[str] | None,
) -> dict[str, Resampled]:
    """All defined metrics of one training in every draw."""
    parts: dict[str, list[Mean | Area]] = {}
    place = 0
    for store, own in members.items():
        for metric, statistic in statistics_of(by_store[store]).items():
            if metrics is None or metric in metrics:
                owners = place + np.searchsorted(own, statistic.owners)
                parts.setdefault(metric, []).append(statistic.owned_by(owners))
        place += len(own)
    resampled = {metric: pooled(found).resampled(weights) for metric, found in parts.items()}
    return {metric: one for metric, one in resampled.items() if math.isfinite(one.value)}


def _intervals(
    arms: Mapping[Key, Mapping[str, Resampled]],
    seeds: Mapping[Key, int],
    references: Sequence[str],
) -> Iterator[PairedInterval]:
    for key, metrics in arms.items():
        for metric, own in metrics.items():
            yield _interval(key, None, metric, own, seeds[key])
        for reference in references:
            others = arms.get((reference, None), {})
            if key == (reference, None):
                continue
            for metric in (name for name in metrics if name in others):
                difference = metrics[metric].minus(others[metric])
                yield _interval(key, reference, metric, difference, seeds[key])


def _interval(
    key: Key, against: str | None, metric: str, found: Resampled, seeds: int
) -> PairedInterval:
    low, high = found.interval()
    return PairedInterval(
        arm=key[0],
        epsilon=key[1],
        against=against,
        metric=metric,
        seeds=seeds,
        customers=found.customers,
        value=found.value,
        low=low,
        high=high,
    )
