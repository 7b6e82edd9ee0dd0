"""Simple rules that a model has to beat, evaluated on the same customers, visits and interests.

Basket: global popularity, the customer's own purchases (decayed over 180 days), a Markov chain
from the last basket. Outlook: return to the mean, the long-run rate, and a logistic regression
on simple features. All are centralized: they see more than any store does, and their metrics
are not private.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories, days, run_split
from hanse_client.tasks.interest import Batch, InterestConfig, Interests
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once
from hanse_client.tasks.interest.metrics import FALL, RISE, Figures, judge, split_anchors
from hanse_common.config import RunSettings

Floats = npt.NDArray[np.float32]
Forecast = tuple[Floats, Floats, Floats]
"""(basket scores, rise scores, fall scores), each [R, P, C]."""
_TRAINING_OUTLOOKS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The rules, fitted once to the training weeks of all stores."""

    popularity: Floats
    """Share of purchases in the class [C]."""
    transitions: Floats
    """Log-probability of a class in the visit after one with the row's class [C, C]."""
    outlook_models: dict[int, Any]
    """FALL and RISE -> a fitted scikit-learn pipeline."""

    @classmethod
    def fit(
        cls, stores: Sequence[Histories], settings: RunSettings, config: InterestConfig
    ) -> Rules:
        """Count and fit on visits before the split's `train_until`."""
        until = days(run_split(settings).train_until)
        training = [store.until(until) for store in stores]
        count = len(config.classes)
        bought = np.zeros(count)
        follows = np.full((count, count), 0.1)  # no transition has probability zero
        for store in training:
            bought += np.bincount(store.pair_classes, minlength=count)
            _count_transitions(store, follows)
        popularity = bought / max(bought.sum(), 1.0)
        smoothed = follows + 10 * popularity
        return cls(
            popularity=popularity.astype(np.float32),
            transitions=np.log(smoothed / smoothed.sum(axis=1, keepdims=True)).astype(np.float32),
            outlook_models=_fit_outlook(training, until, config),
        )

    def forecasts(self, batch: Batch, last_classes: Floats) -> Iterator[tuple[str, Forecast]]:
        """Score a batch by every rule, under the names of the arms.

        Args:
            batch: A batch with the customers' pasts.
            last_classes: 1 for each class of the visit before the anchor [R, P, C].
        """
        past = batch.past
        counts, decayed = past.counts.numpy(), past.decayed.numpy()
        nothing = np.zeros(counts.shape[:3], dtype=np.float32)
        shape = counts.shape[:3]

        popular = np.broadcast_to(self.popularity, shape)
        yield "global_popularity", (popular, nothing, nothing)
        frequency = decayed[..., -1] + 1e-4 * popular  # popularity only breaks ties
        yield "personal_frequency", (frequency, nothing, nothing)
        visits = np.maximum(last_classes.sum(axis=-1, keepdims=True), 1)
        markov = np.where(
            last_classes.any(axis=-1, keepdims=True),
            last_classes @ np.exp(self.transitions) / visits,
            popular,
        )
        yield "markov", (markov.astype(np.float32), nothing, nothing)

        expected = counts[..., 4] / 3  # 12 weeks, brought to the 4 of the outlook
        back = expected - counts[..., 2]
        yield "mean_reversion", (nothing, back, -back)
        rate = counts[..., 5] / past.observed.numpy()[..., None] * 28
        yield "long_run_rate", (nothing, rate - expected, expected - rate)
        scores = {side: nothing.copy() for side in (FALL, RISE)}
        active = batch.outlook.numpy() >= 0 if batch.outlook is not None else nothing > 0
        if active.any() and self.outlook_models:
            features = simple_features(batch.past)[active]
            for side, model in self.outlook_models.items():
                scores[side][active] = model.decision_function(features)
        yield "logistic_regression", (nothing, scores[RISE], scores[FALL])


BASKET_RULES = ("global_popularity", "personal_frequency", "markov")
OUTLOOK_RULES = ("mean_reversion", "long_run_rate", "logistic_regression")


def simple_features(past: Interests) -> Floats:
    """The features to try first: counts, their logarithms, time since, visits.

    Returns:
        [R, P, C, F].
    """
    classes = past.counts.shape[2]
    visits = past.visits.unsqueeze(2).expand(-1, -1, classes, -1).numpy()
    raw = [past.counts.numpy(), past.decayed.numpy(), past.days_since.numpy()[..., None], visits]
    stacked = np.concatenate(raw, axis=-1)
    return np.concatenate([stacked, np.log1p(stacked)], axis=-1)


def judge_rules(
    rules: Rules, histories: Histories, settings: RunSettings, config: InterestConfig, split: str
) -> dict[str, Figures]:
    """Evaluate every rule on one store's customers."""
    anchors = split_anchors(histories, settings, split)
    figures: dict[str, list[Figures]] = {}
    rows = rows_at_once(config)
    for start in range(0, max(len(anchors), 1), rows):
        part = anchors.rows(start, start + rows)
        batch = collate(histories, part, config)
        for name, scores in rules.forecasts(batch, _last_classes(histories, part, config)):
            figures.setdefault(name, []).append(judge(batch, *scores, customers=part.customers))
    return {name: Figures.pooled(parts) for name, parts in figures.items()}


def _last_classes(histories: Histories, anchors: Anchors, config: InterestConfig) -> Floats:
    """1 for each class of the last visit before the anchor [R, P, C]."""
    result = np.zeros((*anchors.moments.shape, len(config.classes)), dtype=np.float32)
    for row, (customer, moments) in enumerate(zip(anchors.customers, anchors.moments, strict=True)):
        first, stop = histories.visit_offsets[customer : customer + 2]
        before = np.searchsorted(histories.visit_days[first:stop], moments, side="left")
        for anchor, count in enumerate(before):
            if count:
                visit = first + count - 1
                a, b = histories.pair_offsets[visit : visit + 2]
                result[row, anchor, histories.pair_classes[a:b]] = 1
    return result


def _count_transitions(store: Histories, follows: npt.NDArray[np.float64]) -> None:
    for first, stop in zip(store.visit_offsets[:-1], store.visit_offsets[1:], strict=True):
        for visit in range(int(first), int(stop) - 1):
            a, b, c = store.pair_offsets[visit : visit + 3]
            here, there = store.pair_classes[a:b], store.pair_classes[b:c]
            if len(here) and len(there):
                follows[np.ix_(here, there)] += 1 / len(here)


def _fit_outlook(
    training: Sequence[Histories], until: float, config: InterestConfig
) -> dict[int, Any]:
    """Fit one logistic regression for falls and one for rises; none without both outcomes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, outcomes = [], []
    for batch in outlook_batches(training, until, config):
        if batch.outlook is None:
            continue
        known = batch.outlook.numpy() >= 0
        features.append(simple_features(batch.past)[known])
        outcomes.append(batch.outlook.numpy()[known])
    x, y = np.concatenate(features), np.concatenate(outcomes)
    models = {}
    for side in (FALL, RISE):
        if 0 < (y == side).sum() < len(y):
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
            models[side] = model.fit(x, y == side)
    return models


def outlook_batches(
    training: Sequence[Histories],
    until: float,
    config: InterestConfig,
    *,
    moments_each: int = _TRAINING_OUTLOOKS,
    days_apart: float | None = None,
) -> Iterator[Batch]:
    """Outlooks of every customer at several moments before training ends, in batches.

    Args:
        training: The stores' histories until the end of training.
        until: The day on which training ends.
        config: The model's config, with the classes and the days of an outlook.
        moments_each: Largest number of moments; the last outlook ends with the training.
        days_apart: Days from one moment to the next; those of an outlook if unset.
    """
    apart = days_apart or config.horizon_days
    for store in training:
        moments = until - config.horizon_days - apart * np.arange(moments_each)
        # As for the model: an outlook needs the reference weeks before it in the records.
        moments = moments[moments >= store.observed_from + config.reference_days]
        customers = store.active()
        for start in range(0, len(customers), rows_at_once(config)):
            part = customers[start : start + rows_at_once(config)]
            shape = (len(part), len(moments))
            anchors = Anchors(
                customers=part,
                moments=np.broadcast_to(moments, shape).copy(),
                basket=np.zeros(shape, dtype=bool),
                outlook=np.ones(shape, dtype=bool),
            )
            yield collate(store, anchors, config)
