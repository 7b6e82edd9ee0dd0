"""Forecasts of a shop's demand for a category, and of its rise or fall.

The forecast is of visits in the next 7, 14 and 28 days, for each store and class, at moments of
the test weeks two weeks apart, as far as the test weeks reach. A class *rises* if its visits
exceed mu + sqrt(mu + 1), with mu the mean of as many days over 12 weeks, and *falls* below
mu - sqrt(mu + 1), as an interest of a customer does.

Baselines: the rate of the 4 weeks before (*last 4 weeks*) and of the 12 weeks before (*usual*);
for rise and fall, the return of a shop from its last days to its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hanse_client.analytics.demand import Demand, demand, observed_visits
from hanse_client.analytics.occasions import visits_ahead
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Floats
from hanse_client.tasks.interest.heads import outlook_bounds
from hanse_simulations.downstream.table import DownstreamRow

_RECENT = 28.0
_ENOUGH = 5.0
"""Smallest usual number of visits at which an error in per cent is meaningful."""


def shop_rows(
    stores: Sequence[Histories],
    models: Mapping[str, InterestModel],
    *,
    start: float,
    stop: float,
) -> list[DownstreamRow]:
    """Measure every method, all stores, classes and moments together.

    Args:
        stores: Uncut histories.
        models: The models to compare by method; the run's own is `model`.
        start: First day of the test.
        stop: First day after it.
    """
    config = next(iter(models.values())).config
    # Every moment leaves room for the shortest horizon before the test weeks end.
    moments = np.arange(start, stop - config.horizons[0] + 0.5, 14.0)
    forecasts = {
        (number, moment, name): demand(store, model, moment)
        for number, store in enumerate(stores)
        for moment in moments
        for name, model in models.items()
    }
    rows = []
    for index, horizon in enumerate(config.horizons):
        parts: dict[str, list[Demand]] = {name: [] for name in models}
        actual, recent = [], []
        for number, store in enumerate(stores):
            for moment in moments[moments + horizon <= stop]:
                for name in models:
                    parts[name].append(forecasts[number, moment, name].of(index))
                actual.append(observed_visits(store, moment, horizon, len(config.classes)))
                recent.append(_recent(store, moment, len(config.classes)) * horizon / _RECENT)
        if not actual:
            continue
        now, last = np.concatenate(actual), np.concatenate(recent)
        any_ = parts[next(iter(models))]  # usual and before are counts, the same for all models
        usual = np.concatenate([one.usual[:, 0] for one in any_])
        before = np.concatenate([one.before[:, 0] for one in any_])
        task = f"shop and class, {horizon:02.0f} days"
        most, least = (bound.numpy() for bound in outlook_bounds(torch.from_numpy(usual)))
        risen, fallen = now > most, now < least
        for name, demands in parts.items():
            expected, low, high, rise, fall = (
                np.concatenate([getattr(one, part)[:, 0] for one in demands])
                for part in ("expected", "low", "high", "rise", "fall")
            )
            rows += _errors(task, name, expected, now, usual)
            inside = (now >= low) & (now <= high)
            rows.append(DownstreamRow.share(task, name, "nine in ten", "coverage", inside))
            rows.append(DownstreamRow.auc(f"{task}: rise", name, "", rise, risen))
            rows.append(DownstreamRow.auc(f"{task}: fall", name, "", fall, fallen))
        rows += _errors(task, "last_weeks", last, now, usual)
        rows += _errors(task, "usual", usual, now, usual)
        rows.append(DownstreamRow.auc(f"{task}: rise", "mean_reversion", "", usual - before, risen))
        rows.append(
            DownstreamRow.auc(f"{task}: fall", "mean_reversion", "", before - usual, fallen)
        )
    return sorted(rows, key=lambda row: row.task)


def _recent(histories: Histories, moment: float, classes: int) -> Floats:
    """Visits with each class in the last 4 weeks [C]."""
    customers = histories.active()
    counts: Floats = visits_ahead(
        histories, customers, moment - _RECENT, horizon=_RECENT, classes=classes
    ).sum(axis=0)
    return counts


def _errors(
    task: str, method: str, expected: Floats, now: Floats, usual: Floats
) -> list[DownstreamRow]:
    """Mean absolute error, and its percentage where at least `_ENOUGH` visits are usual."""
    off = np.abs(expected - now)
    large = (usual >= _ENOUGH) & (now > 0)
    figures = {
        "mae": (off, len(off)),
        "mape": (off[large] / now[large], int(large.sum())),
    }
    return [
        DownstreamRow(
            task=task,
            method=method,
            part="",
            metric=metric,
            value=round(float(values.mean()), 4) if len(values) else None,
            cases=count,
            judged=len(off),
        )
        for metric, (values, count) in figures.items()
    ]
