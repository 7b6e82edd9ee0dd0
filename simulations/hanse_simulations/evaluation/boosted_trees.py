"""Boosted trees on engineered features: a strong baseline on centralized data.

About twenty features of a customer's past with a class (counts by window, decayed counts, days
since, shares, popularity, how often the class rises or falls) go into scikit-learn's histogram
gradient boosting: once as a ranker for the next basket (is this class in it?), and once each
for rise and fall. It sees the customers of all stores in one place and adds no noise.
Federations can train trees too, under privacy with noise on every split; these have none, so
that they are a reference for what the data hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories, days, run_split
from hanse_client.tasks.interest import Batch, InterestConfig
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once
from hanse_client.tasks.interest.metrics import FALL, RISE, Figures, judge, split_anchors
from hanse_common.config import RunSettings
from hanse_simulations.evaluation.baselines import outlook_batches

NAME = "boosted_trees"
_MOMENTS_EACH = 13
_DAYS_APART = 14.0
"""A customer's moments: every other week of half a year, all that the references leave room for.
On Complete Journey they lift the rises' AUC in the validation weeks from .718 with four moments,
four weeks apart, to .723, and the falls' from .901 to .904."""
_VISITS_EACH = 3
_NEGATIVES = 40
"""Mean number of classes not bought that a training visit is contrasted with."""
_CANDIDATES = 200
"""Number of most popular classes that are ranked along with those the customer bought before."""
_SMOOTHING = 20.0
_NOT_RANKED = -1e6
_MONTH, _REFERENCE, _EVER = 2, 4, 5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trees:
    """Trees fitted to the training weeks of all stores."""

    priors: Floats
    """Share of purchases, and rates at which an interest in the class falls and rises [C, 3]."""
    basket: Any
    """Ranks the classes of the next basket; None where there were too few examples."""
    outlook: dict[int, Any]
    """FALL and RISE -> a fitted classifier."""

    @classmethod
    def fit(
        cls,
        stores: Sequence[Histories],
        settings: RunSettings,
        config: InterestConfig,
        *,
        seed: int,
    ) -> Trees:
        """Fit to visits before the split's `train_until`.

        Args:
            stores: All stores' histories.
            settings: The run's settings, with the split.
            config: The model's config, with the classes.
            seed: Seed of the sampled visits and negatives, and of early stopping's split.
        """
        until = days(run_split(settings).train_until)
        training = [store.until(until) for store in stores]
        rng = np.random.default_rng(seed)
        outlooks = partial(
            outlook_batches,
            training,
            until,
            config,
            moments_each=_MOMENTS_EACH,
            days_apart=_DAYS_APART,
        )
        priors = _priors(training, outlooks(), len(config.classes))
        examples = _outlook_examples(outlooks(), priors)
        pairs = [
            _visit_examples(batch, priors, rng)
            for store in training
            for batch in _visits(store, config, rng)
        ]
        return cls(
            priors=priors,
            basket=_classifier(pairs, seed),
            outlook={
                side: model
                for side in (FALL, RISE)
                if (model := _classifier([(x, y == side) for x, y in examples], seed))
            },
        )

    def scores(self, batch: Batch) -> tuple[Floats, Floats, Floats]:
        """Scores of the next basket, a rise and a fall, each [R, P, C]."""
        past = _tree_features(batch, self.priors)
        nothing = np.zeros(past.shape[:3], dtype=np.float32)
        # Classes that the trees do not rank come last.
        basket = np.broadcast_to(_NOT_RANKED + self.priors[:, 0], nothing.shape).copy()
        if self.basket is not None and batch.next_basket is not None:
            popular = np.argsort(-self.priors[:, 0], kind="stable")[:_CANDIDATES]
            ranked = batch.past.counts.numpy()[..., _EVER] > 0
            ranked[..., popular] = True
            ranked &= batch.next_basket.numpy().any(axis=-1, keepdims=True)
            if ranked.any():
                basket[ranked] = self.basket.decision_function(past[ranked])
        sides = {side: nothing.copy() for side in (FALL, RISE)}
        active = batch.outlook.numpy() >= 0 if batch.outlook is not None else nothing > 0
        for side, model in self.outlook.items():
            if active.any():
                sides[side][active] = model.decision_function(past[active])
        return basket, sides[RISE], sides[FALL]


def _tree_features(batch: Batch, priors: Floats) -> Floats:
    """Features of every customer's past with every class.

    Args:
        batch: A batch with the customers' pasts.
        priors: `Trees.priors` [C, 3].

    Returns:
        [R, P, C, F].
    """
    past = batch.past
    counts, decayed = past.counts.numpy(), past.decayed.numpy()
    since, visits = past.days_since.numpy(), past.visits.numpy()
    gap, observed = past.gap.numpy()[..., None], past.observed.numpy()[..., None]
    shape = since.shape
    usual_gap = observed / (counts[..., _EVER] + 1)
    of_class = [
        since,
        since / usual_gap,
        since <= gap,  # in the last basket
        counts[..., _EVER] / np.maximum(visits[..., 3:], 1),
        counts[..., _MONTH] - counts[..., _REFERENCE] / 3,
        *(np.broadcast_to(prior, shape) for prior in priors.T),
        *(np.broadcast_to(part, shape) for part in (visits[..., 1:2], visits[..., 2:3])),
        np.broadcast_to(gap, shape),
        np.broadcast_to(observed, shape),
    ]
    stacked = np.stack(of_class, axis=-1)
    return np.concatenate([counts, decayed, stacked], axis=-1, dtype=np.float32)


def judge_trees(
    trees: Trees, histories: Histories, settings: RunSettings, config: InterestConfig, split: str
) -> Figures:
    """Evaluate the trees on one store's customers, as all other arms are."""
    anchors = split_anchors(histories, settings, split)
    parts = []
    rows = rows_at_once(config)
    for start in range(0, max(len(anchors), 1), rows):
        part = anchors.rows(start, start + rows)
        batch = collate(histories, part, config)
        parts.append(judge(batch, *trees.scores(batch), customers=part.customers))
    return Figures.pooled(parts)


def _priors(training: Sequence[Histories], outlooks: Iterable[Batch], classes: int) -> Floats:
    bought = np.zeros(classes)
    for store in training:
        bought += np.bincount(store.pair_classes, minlength=classes)
    sides = np.zeros((3, classes))
    for batch in outlooks:
        if batch.outlook is not None:
            outcomes = batch.outlook.numpy().reshape(-1, classes)
            sides += np.stack([(outcomes == side).sum(axis=0) for side in range(3)])
    overall = sides.sum(axis=1) / max(sides.sum(), 1.0)
    smooth = (sides + _SMOOTHING * overall[:, None]) / (sides.sum(axis=0) + _SMOOTHING)
    columns = [bought / max(bought.sum(), 1.0), smooth[FALL], smooth[RISE]]
    return np.stack(columns, axis=1).astype(np.float32)


def _visits(store: Histories, config: InterestConfig, rng: np.random.Generator) -> Iterator[Batch]:
    """A few visits of each customer, late enough to have a past."""
    known = store.observed_from + config.reference_days
    customers, moments = [], []
    for customer in store.active():
        first, stop = store.visit_offsets[customer : customer + 2]
        own = store.visit_days[first:stop]
        own = own[own >= known]
        if len(own):
            customers.append(int(customer))
            moments.append(rng.choice(own, _VISITS_EACH))
    for start in range(0, len(customers), rows_at_once(config)):
        part = slice(start, start + rows_at_once(config))
        chosen = np.array(moments[part])
        anchors = Anchors(
            customers=np.array(customers[part], dtype=np.int64),
            moments=chosen,
            basket=np.ones(chosen.shape, dtype=bool),
            outlook=np.zeros(chosen.shape, dtype=bool),
        )
        yield collate(store, anchors, config)


def _visit_examples(
    batch: Batch, priors: Floats, rng: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    if batch.next_basket is None:
        raise ValueError("examples need a batch with targets")
    bought = batch.next_basket.numpy() > 0
    contrast = rng.random(bought.shape) < _NEGATIVES / bought.shape[-1]
    chosen = bought.any(axis=-1, keepdims=True) & (bought | contrast)
    return _tree_features(batch, priors)[chosen], bought[chosen]


def _outlook_examples(
    outlooks: Iterable[Batch], priors: Floats
) -> list[tuple[Floats, npt.NDArray[np.int64]]]:
    """Features and outcomes of every known outlook, batch by batch."""
    examples = []
    for batch in outlooks:
        if batch.outlook is not None:
            outcomes = batch.outlook.numpy()
            known = outcomes >= 0
            examples.append((_tree_features(batch, priors)[known], outcomes[known]))
    return examples


def _classifier(examples: Sequence[tuple[Floats, npt.NDArray[np.bool_]]], seed: int) -> Any:
    """Fit a classifier; None where there are fewer than ten examples of either kind."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if not examples:
        return None
    x = np.concatenate([part for part, _ in examples])
    y = np.concatenate([part for _, part in examples])
    if min(y.sum(), len(y) - y.sum()) < 10:
        return None
    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=150,
        max_leaf_nodes=15,
        min_samples_leaf=50,
        l2_regularization=1.0,
        early_stopping=True,
        random_state=seed,
    )
    return model.fit(x, y)
