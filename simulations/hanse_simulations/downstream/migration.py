"""Will a customer's leading class change, and to which one? The model and baselines.

Asked once of each customer, at the first moment of the test weeks, of those who bought in the
12 weeks before and in the 4 weeks after. The leading class of 12 weeks is the one at the most
visits (`leaders`); it *changes* if it is not at the most visits of the next 4 weeks. There
several classes often lead together: naming one of them is right. Figures: AUC of the
change; top-1 and HR@5 of the next leading class, over all classes.

Baselines, fitted centralized on the training weeks of all stores, as no federation could:

- stay: the counts of the 12 weeks as they are; change by how narrowly the leader leads
- Markov: from leading class to leading class, over windows
- logistic regression on history and recent counts: one of the change, one of each class that
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
    """n customers of one store at one moment, and what came of them."""

    customers: Ints
    leading: Ints
    """[n]."""
    counts: Floats
    """[n, C, W] visits with each class in the model's windows."""
    visits: Floats
    """[n, 4] visits in `VISIT_WINDOWS`."""
    next_leaders: Mask
    """[n, C] the classes at the most visits of the horizon."""

    @property
    def changed(self) -> Mask:
        """[n]."""
        return ~self.next_leaders[np.arange(len(self.leading)), self.leading]


def questions(histories: Histories, moment: float, config: InterestConfig) -> Questions:
    """Who is asked at a moment, and the answers."""
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
    asked = (leading >= 0) & (most[:, 0] > 0)
    return Questions(
        customers=customers[asked],
        leading=leading[asked],
        counts=counts[asked],
        visits=visits[asked],
        next_leaders=(ahead == most)[asked],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """Fitted once to the training weeks of all stores."""

    transitions: Floats
    """[C, C] probability of the next leading class, by the last one."""
    change: Any
    """A fitted scikit-learn pipeline, or None if nothing or everything changed."""
    candidate: Any
    """The same for a class of the last 12 weeks."""
    config: InterestConfig

    @classmethod
    def fit(cls, stores: Sequence[Histories], until: float, config: InterestConfig) -> Baselines:
        """Ask about windows that end before `until`, with 12 weeks observed before them."""
        past = []
        for store in stores:
            known = store.until(until)
            for back in range(1, _TRAINING_WINDOWS + 1):
                moment = until - back * config.horizon_days
                if moment >= store.observed_from + config.reference_days:
                    past.append(questions(known, moment, config))
        classes = len(config.classes)
        led = np.full(classes, 0.01)
        follows = np.zeros((classes, classes))
        for asked in past:
            share = asked.next_leaders / asked.next_leaders.sum(axis=1, keepdims=True)
            led += share.sum(axis=0)
            np.add.at(follows, asked.leading, share)
        smoothed = follows + 10 * led / led.sum()
        window = config.reference_window
        bought = [asked.counts[..., window] > 0 for asked in past]
        return cls(
            transitions=smoothed / smoothed.sum(axis=1, keepdims=True),
            change=_logistic(
                [_change_features(asked, config) for asked in past],
                [asked.changed for asked in past],
            ),
            candidate=_logistic(
                [_class_features(a, config)[b] for a, b in zip(past, bought, strict=True)],
                [a.next_leaders[b] for a, b in zip(past, bought, strict=True)],
            ),
            config=config,
        )

    def answers(self, asked: Questions) -> Mapping[str, tuple[Floats, Floats]]:
        """(change [n], next leader [n, C]) by method, higher is likelier."""
        recent = asked.counts[..., self.config.reference_window]
        ever = asked.counts[..., -1]
        usual = recent + ever / (ever.max(axis=1, keepdims=True, initial=0.0) + 1)
        two = -np.partition(-usual, 1, axis=1)[:, :2] if usual.shape[1] > 1 else usual
        chances = self.transitions[asked.leading]
        found = {
            "stay": (-(two[:, 0] - two[:, -1]) / np.sqrt(two[:, 0] + 1), usual),
            "markov": (1 - chances[np.arange(len(chances)), asked.leading], chances),
        }
        if self.change is not None and self.candidate is not None and len(recent):
            scores = np.where(recent > 0, 0.0, chances - 1e3)
            bought = recent > 0
            features = _class_features(asked, self.config)[bought]
            scores[bought] = self.candidate.decision_function(features)
            change = self.change.decision_function(_change_features(asked, self.config))
            found["logistic_regression"] = (change, scores)
        return found


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
        train_until: What the baselines are fitted to ends here.
        start: First day of the test.
    """
    config = next(iter(models.values())).config
    baselines = Baselines.fit(stores, train_until, config)
    answers: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
    asked = [questions(store, start, config) for store in stores]
    for store, some in zip(stores, asked, strict=True):
        moments = np.full(len(some.customers), start)
        for name, model in models.items():
            for part, heard in (("both heads", True), ("next basket", False)):
                predicted = migrations(store, some.customers, moments, model, use_outlook=heard)
                answers.setdefault((name, part), []).append((predicted.change, predicted.leads))
        for name, found in baselines.answers(some).items():
            answers.setdefault((name, ""), []).append(found)
    changed = np.concatenate([some.changed for some in asked])
    right = np.concatenate([some.next_leaders for some in asked])
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


def _change_features(asked: Questions, config: InterestConfig) -> Floats:
    """[n, F] of the leading class and its closest rivals: counts in windows, shares, visits."""
    order = np.argsort(-asked.counts[..., config.reference_window], axis=1, kind="stable")[:, :4]
    rivals = np.take_along_axis(asked.counts, order[..., None], axis=1)  # [n, 4, W]
    leader = asked.counts[np.arange(len(order)), asked.leading]  # [n, W]
    per_visit = leader / (asked.counts.sum(axis=1) + 1)
    raw = np.concatenate(
        [leader, rivals.reshape(len(order), -1), asked.counts.sum(axis=1), asked.visits], axis=1
    )
    gaps = leader[:, None] - rivals
    return np.concatenate([np.log1p(raw), per_visit, gaps.reshape(len(order), -1)], axis=1)


def _class_features(asked: Questions, config: InterestConfig) -> Floats:
    """[n, C, F] of each class: counts in windows, against the leader's, shares, how it stands."""
    counts = asked.counts
    leader = counts[np.arange(len(counts)), asked.leading][:, None]
    share = counts / (counts.sum(axis=1, keepdims=True) + 1)
    is_leader = np.zeros((*counts.shape[:2], 1))
    is_leader[np.arange(len(counts)), asked.leading] = 1.0
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
