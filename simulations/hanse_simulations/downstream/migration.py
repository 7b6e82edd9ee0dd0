"""Predict whether a customer's leading class changes, and to which one.

There is one prediction for each customer who bought in the 12 weeks before the test weeks and in
the 4 weeks after their first moment. The leading class of 12 weeks is the one with the most
visits (`leaders`); it *changes* if it has not the most visits of the next 4 weeks. In these,
several classes are often tied: naming one of them counts as right. Metrics: AUC of the change;
top-1 and HR@5 of the next leading class, over all classes.

Baselines, fitted centralized on the training weeks of all stores, without masks or noise:

- stay: the counts of the 12 weeks as they are; change by how narrowly the leader leads
- Markov: transitions from leading class to leading class, over windows
- logistic regression on history and recent counts: one for the change, one for each class that
  the customer bought in the 12 weeks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse_client.analytics.migration import leaders, migrations
from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import visits_ahead
from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_client.tasks.interest.features import Floats, Ints
from hanse_simulations.downstream.injected_anomalies import Mask
from hanse_simulations.downstream.table import DownstreamRow

CHANGE, NEXT = "leader changes", "next leader"
_TRAINING_WINDOWS = 4
_TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """n customers of one store at one moment, and their outcomes."""

    customers: Ints
    leading: Ints
    """Leading class of the 12 weeks before [n]."""
    counts: Floats
    """Visits with each class in the model's windows [n, C, W]."""
    visits: Floats
    """Visits in `VISIT_WINDOWS` [n, 4]."""
    next_leaders: Mask
    """Whether a class has the most visits of the horizon [n, C]; several may be tied."""

    @property
    def changed(self) -> Mask:
        """Whether the leading class leads no longer [n]."""
        return ~self.next_leaders[np.arange(len(self.leading)), self.leading]


def questions(histories: Histories, moment: float, config: InterestConfig) -> Questions:
    """Cases of one store at one moment.

    Args:
        histories: The store's histories.
        moment: Days since 1970.
        config: Names the classes and windows.
    """
    customers = histories.active()
    moments = np.full(len(customers), moment)
    ahead = visits_ahead(
        histories, customers, moment, horizon=config.horizon_days, classes=len(config.classes)
    )
    size = (len(customers), len(config.classes), len(config.windows))
    counts, visits = np.zeros(size), np.zeros((len(customers), 4))
    leading = np.full(len(customers), -1)
    for view in views(histories, customers, moments, config):
        past = view.past
        counts[view.questions] = past.counts[:, 0].numpy()
        visits[view.questions] = past.visits[:, 0].numpy()
        leading[view.questions] = leaders(past, config.reference_window)
    most = ahead.max(axis=1, keepdims=True)
    cases = (leading >= 0) & (most[:, 0] > 0)
    return Questions(
        customers=customers[cases],
        leading=leading[cases],
        counts=counts[cases],
        visits=visits[cases],
        next_leaders=(ahead == most)[cases],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """Baselines fitted once to the training weeks of all stores."""

    transitions: Floats
    """Probability of the next leading class (column), by the last one (row) [C, C]."""
    change: Any
    """A fitted scikit-learn pipeline, or None if nothing or everything changed."""
    candidate: Any
    """A pipeline for a class of the last 12 weeks to lead next, or None as for `change`."""
    config: InterestConfig

    @classmethod
    def fit(cls, stores: Sequence[Histories], until: float, config: InterestConfig) -> Baselines:
        """Fit to windows that end before `until`, with 12 weeks observed before each."""
        past = []
        for store in stores:
            known = store.until(until)
            for back in range(1, _TRAINING_WINDOWS + 1):
                moment = until - back * config.horizon_days
                if moment >= store.observed_from + config.reference_days:
                    past.append(questions(known, moment, config))
        classes = len(config.classes)
        # Ten pseudo-counts of the overall shares, of which no class has zero.
        led = np.full(classes, 0.01)
        follows = np.zeros((classes, classes))
        for cases in past:
            share = cases.next_leaders / cases.next_leaders.sum(axis=1, keepdims=True)
            led += share.sum(axis=0)
            np.add.at(follows, cases.leading, share)
        smoothed = follows + 10 * led / led.sum()
        window = config.reference_window
        bought = [cases.counts[..., window] > 0 for cases in past]
        return cls(
            transitions=smoothed / smoothed.sum(axis=1, keepdims=True),
            change=_logistic(
                [_change_features(cases, config) for cases in past],
                [cases.changed for cases in past],
            ),
            candidate=_logistic(
                [_class_features(a, config)[b] for a, b in zip(past, bought, strict=True)],
                [a.next_leaders[b] for a, b in zip(past, bought, strict=True)],
            ),
            config=config,
        )

    def answers(self, cases: Questions) -> Mapping[str, tuple[Floats, Floats]]:
        """Scores (change [n], next leader [n, C]) by method; higher is likelier."""
        recent = cases.counts[..., self.config.reference_window]
        ever = cases.counts[..., -1]
        usual = recent + ever / (ever.max(axis=1, keepdims=True, initial=0.0) + 1)
        two = -np.partition(-usual, 1, axis=1)[:, :2] if usual.shape[1] > 1 else usual
        chances = self.transitions[cases.leading]
        by_method = {
            "stay": (-(two[:, 0] - two[:, -1]) / np.sqrt(two[:, 0] + 1), usual),
            "markov": (1 - chances[np.arange(len(chances)), cases.leading], chances),
        }
        if self.change is not None and self.candidate is not None and len(recent):
            # Classes not bought in the 12 weeks rank behind all that were, by the Markov chain.
            scores = np.where(recent > 0, 0.0, chances - 1e3)
            bought = recent > 0
            features = _class_features(cases, self.config)[bought]
            scores[bought] = self.candidate.decision_function(features)
            change = self.change.decision_function(_change_features(cases, self.config))
            by_method["logistic_regression"] = (change, scores)
        return by_method


def migration_rows(
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
    baselines = Baselines.fit(stores, train_until, config)
    answers: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
    cases = [questions(store, start, config) for store in stores]
    for store, own in zip(stores, cases, strict=True):
        moments = np.full(len(own.customers), start)
        for name, model in models.items():
            for part, use_outlook in (("both heads", True), ("next basket", False)):
                predicted = migrations(
                    store, own.customers, moments, model, use_outlook=use_outlook
                )
                answers.setdefault((name, part), []).append((predicted.change, predicted.leads))
        for name, answer in baselines.answers(own).items():
            answers.setdefault((name, ""), []).append(answer)
    changed = np.concatenate([own.changed for own in cases])
    right = np.concatenate([own.next_leaders for own in cases])
    rows = [
        DownstreamRow.auc(CHANGE, *key, np.concatenate([part[0] for part in parts]), changed)
        for key, parts in answers.items()
    ]
    for key, parts in answers.items():
        ranked = np.argsort(-np.concatenate([part[1] for part in parts]), axis=1, kind="stable")
        hits = np.take_along_axis(right, ranked[:, :_TOP], axis=1)
        rows.append(DownstreamRow.share(NEXT, *key, "top-1", hits[:, 0]))
        rows.append(DownstreamRow.share(NEXT, *key, f"hr@{_TOP}", np.any(hits, axis=1)))
    return rows


def _change_features(cases: Questions, config: InterestConfig) -> Floats:
    """Features of the leading class and its three rivals [n, F]: counts, shares, gaps, visits."""
    order = np.argsort(-cases.counts[..., config.reference_window], axis=1, kind="stable")[:, :4]
    rivals = np.take_along_axis(cases.counts, order[..., None], axis=1)  # [n, 4, W]
    leader = cases.counts[np.arange(len(order)), cases.leading]  # [n, W]
    per_visit = leader / (cases.counts.sum(axis=1) + 1)
    raw = np.concatenate(
        [leader, rivals.reshape(len(order), -1), cases.counts.sum(axis=1), cases.visits], axis=1
    )
    gaps = leader[:, None] - rivals
    return np.concatenate([np.log1p(raw), per_visit, gaps.reshape(len(order), -1)], axis=1)


def _class_features(cases: Questions, config: InterestConfig) -> Floats:
    """Features of each class [n, C, F]: counts, relative to the leader's, shares, gaps, rank 1."""
    counts = cases.counts
    leader = counts[np.arange(len(counts)), cases.leading][:, None]
    share = counts / (counts.sum(axis=1, keepdims=True) + 1)
    is_leader = np.zeros((*counts.shape[:2], 1))
    is_leader[np.arange(len(counts)), cases.leading] = 1.0
    return np.concatenate(
        [np.log1p(counts), counts / (leader + 1), share, counts - leader, is_leader], axis=-1
    )


def _logistic(features: Sequence[Floats], outcomes: Sequence[Mask]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not features:
        return None
    x, y = np.concatenate(features), np.concatenate(outcomes)
    if y.all() or not y.any():
        return None
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(x, y)
