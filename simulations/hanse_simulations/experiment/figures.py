"""Turn the figures of an arm's stores into rows of the metrics table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hanse_client.tasks.interest.metrics import Figures
from hanse_simulations.experiment.arms import ALL_STORES
from hanse_simulations.runs.results import MetricRow, Spread


def metric_rows(
    arm: str,
    figures: Mapping[str, Figures],
    customers: Mapping[str, int],
    *,
    split: str,
    number: int | None,
    wanted: Sequence[str] | None = None,
) -> list[MetricRow]:
    """One row per store and metric, and one per metric for all customers together.

    Args:
        arm: The arm's name.
        figures: Figures by store.
        customers: Number of customers by store, the rows' weights.
        split: validate or test.
        number: The round; None for a baseline.
        wanted: Metrics that apply to this arm; all if unset.
    """
    overall = {ALL_STORES: Figures.pooled(list(figures.values()))}
    weights = {**customers, ALL_STORES: sum(customers.values())}
    return [
        MetricRow(
            arm=arm,
            round=number,
            split=split,
            store=store,
            metric=metric,
            value=value,
            weight=weights[store],
        )
        for store, judged in {**figures, **overall}.items()
        for metric, value in judged.metrics().items()
        if wanted is None or metric in wanted
    ]


def overall_figures(rows: Sequence[MetricRow], arm: str) -> dict[str, float | None]:
    """An arm's test figures over all customers together."""
    return {
        row["metric"]: row["value"]
        for row in rows
        if row["arm"] == arm and row["split"] == "test" and row["store"] == ALL_STORES
    }


def spreads(rows: Sequence[MetricRow], arm: str) -> dict[str, Spread]:
    """Spread of an arm's test metrics over the stores; undefined values are left out."""
    by_metric: dict[str, list[float]] = {}
    for row in rows:
        value = row["value"]
        if (row["arm"], row["split"]) != (arm, "test") or row["store"] == ALL_STORES:
            continue
        if value is not None and np.isfinite(value):
            by_metric.setdefault(row["metric"], []).append(value)
    return {metric: spread_of(values) for metric, values in by_metric.items()}


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and extremes of at least one value."""
    return Spread(
        mean=float(np.mean(values)),
        std=float(np.std(values)),
        min=min(values),
        max=max(values),
    )
