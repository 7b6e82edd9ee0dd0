"""Predict whether a customer buys a category within 7, 14 and 28 days.

There is one prediction at the first moment of the test weeks for each earlier customer and class:
for the classes that the customer bought before, and for all classes. Metrics: AUC, average
precision, expected calibration error.

Baselines, fitted centralized on the training weeks of all stores, without masks or noise:

- long-run rate: a Poisson process at the daily rate of visits with the class so far
- logistic regression and boosted trees on counts and their logarithms, one for each horizon,
  for classes bought before
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import visits_ahead
from hanse_client.analytics.purchase_chances import BOUGHT_BEFORE, Foresight, foresee, judged
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_client.tasks.interest.features import Floats
from hanse_simulations.downstream.table import DownstreamRow
from hanse_simulations.evaluation.baselines import simple_features

_TRAINING_MOMENTS = 3
_METRICS = {"auc": "auc", "average_precision": "ap", "calibration_error": "ece"}


def within_rows(
    stores: Sequence[Histories],
    models: Mapping[str, InterestModel],
    *,
    train_until: float,
    start: float,
) -> list[DownstreamRow]:
    """Measure every method, all stores together.

    Args:
        stores: Uncut histories.
        models: The models to compare by method; the run's own is `model`.
        train_until: First day after the data that the baselines are fitted to.
        start: First day of the test.
    """
    config = next(iter(models.values())).config
    rows = []
    for name, model in models.items():
        seen = Foresight.pooled([foresee(store, model, start) for store in stores])
        rows += _rows(name, seen.judged())
    known = seen.known
    bought = seen.observed > 0
    methods = _fitted(stores, train_until, config)
    features, rates = zip(*(_described(store, start, config) for store in stores), strict=True)
    long_run = -np.expm1(-np.concatenate(rates)[..., None] * np.array(config.horizons))
    rows += _rows("long_run_rate", judged(long_run, bought, known, config.horizons))
    inputs = np.concatenate(features)[known]
    for name, fits in methods.items():
        chances = np.zeros(bought.shape)
        for index, fit in enumerate(fits):
            chances[known, index] = fit.predict_proba(inputs)[:, 1]
        figures = judged(chances, bought, known, config.horizons)
        rows += _rows(name, [row for row in figures if row["classes"] == BOUGHT_BEFORE])
    return sorted(rows, key=lambda row: (row.task, ["auc", "ap", "ece"].index(row.metric)))


def _rows(method: str, figures: Sequence[Mapping[str, Any]]) -> list[DownstreamRow]:
    return [
        DownstreamRow(
            task=f"buys within {row['horizon_days']:02.0f} days, classes: {row['classes']}",
            method=method,
            part="",
            metric=short,
            value=round(row[figure], 4) if np.isfinite(row[figure]) else None,
            cases=row["cases"],
            judged=row["judged"],
        )
        for row in figures
        for figure, short in _METRICS.items()
    ]


def _fitted(
    stores: Sequence[Histories], until: float, config: InterestConfig
) -> Mapping[str, list[Any]]:
    """Classifiers by method, one per horizon; none where nothing or everything was bought."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x: list[npt.NDArray[np.float32]] = []
    y: list[npt.NDArray[np.bool_]] = []
    for store in stores:
        past = store.until(until)
        for back in range(1, _TRAINING_MOMENTS + 1):
            moment = until - back * config.horizons[-1]
            # The outcome must be known and the 12 weeks before the moment observed.
            if moment < store.observed_from + config.reference_days:
                continue
            customers = past.until(moment).active()
            features, _ = _described(past, moment, config)
            known = features[..., len(config.windows) - 1] > 0
            observed = [
                visits_ahead(past, customers, moment, horizon=h, classes=len(config.classes)) > 0
                for h in config.horizons
            ]
            x.append(features[known])
            y.append(np.stack(observed, axis=-1)[known])
    if not x:
        return {}
    features, outcomes = np.concatenate(x), np.concatenate(y)
    if any(column.all() or not column.any() for column in outcomes.T):
        return {}
    logistic = [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(features, column)
        for column in outcomes.T
    ]
    boosted = [
        HistGradientBoostingClassifier(max_iter=150, learning_rate=0.08, random_state=0).fit(
            features, column
        )
        for column in outcomes.T
    ]
    return {"logistic_regression": logistic, "boosted_trees": boosted}


def _described(
    histories: Histories, moment: float, config: InterestConfig
) -> tuple[npt.NDArray[np.float32], Floats]:
    """(`simple_features` [n, C, F], daily visits so far [n, C]) of customers before a moment."""
    customers = histories.until(moment).active()
    count, classes = len(customers), len(config.classes)
    features: npt.NDArray[np.float32] | None = None
    rates = np.zeros((count, classes))
    for view in views(histories, customers, np.full(count, moment), config):
        part = simple_features(view.past)[:, 0]
        if features is None:
            features = np.zeros((count, classes, part.shape[-1]), dtype=np.float32)
        features[view.questions] = part
        past = view.past
        rates[view.questions] = (past.counts[:, 0, :, -1] / past.observed).numpy()
    return (np.zeros((0, classes, 1), np.float32) if features is None else features), rates
