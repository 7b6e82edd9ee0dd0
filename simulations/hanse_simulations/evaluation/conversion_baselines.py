"""Baselines of the conversion task: the prior rate, and models on centralized data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.conversion.features import NAMES, USUAL_RATE
from hanse_client.tasks.conversion.metrics import Conversions
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_client.tasks.conversion.offers import Offers
from hanse_client.tasks.conversion.task import ConversionTask, held_out, judged
from hanse_common.config import RunSettings

_FOLDS = 5
_TASK = ConversionTask()
Floats = npt.NDArray[np.float32]
Chances = Callable[[Floats], Floats]
"""Maps features of offers [E, F] to chances of redemption [E]."""


def judge_baselines(
    stores: Sequence[Offers], settings: RunSettings, split: str = "test"
) -> dict[str, dict[str, float]]:
    """Fit to all stores' training offers in one place, and evaluate.

    Args:
        stores: All stores' offers.
        settings: The run's settings, with the split in time and the seed.
        split: validate or test.

    Returns:
        Metrics by name: `prior_rate`, the customer's own, which is not fitted; and, without
        any privacy, `logistic_regression`, `boosted_trees` and `stores_alone`, a logistic
        regression per store.
    """
    known = [_TASK.training_data(store, settings) for store in stores]
    untrained = ConversionModel.fresh(NAMES, usual_rate=USUAL_RATE)
    prior = [_TASK.evaluate(store, untrained, settings, split) for store in stores]
    held = [held_out(store, settings, split) for store in stores]

    def everywhere(chances: Chances) -> Conversions:
        return Conversions.pooled([judged(offers, chances(offers.features)) for offers in held])

    pooled = Offers.pooled(known)
    alone = [_logistic(own, settings.seed) for own in known]
    figures: Mapping[str, Conversions] = {
        "prior_rate": Conversions.pooled(prior),
        "stores_alone": Conversions.pooled(
            [
                judged(offers, chances(offers.features))
                for offers, chances in zip(held, alone, strict=True)
            ]
        ),
        "logistic_regression": everywhere(_logistic(pooled, settings.seed)),
        "boosted_trees": everywhere(_boosted(pooled, settings.seed)),
    }
    return {name: one.metrics() for name, one in figures.items()}


def _logistic(offers: Offers, seed: int) -> Chances:
    """Logistic regression, its penalty chosen by cross-validation over customers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    features, redeemed, owners = offers.features, offers.redeemed, offers.owners
    if len(np.unique(redeemed)) < 2:
        rate = float(redeemed.mean()) if len(redeemed) else USUAL_RATE
        return lambda inputs: np.full(len(inputs), rate, np.float32)
    plain = LogisticRegression(max_iter=3000)
    # By customer, so that the penalty is not chosen on offers to people in the training folds.
    folds = min(_FOLDS, len(np.unique(owners[redeemed])))
    if folds < 2:
        return _chances(plain.fit(features, redeemed))
    search = GridSearchCV(
        plain,
        {"C": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]},
        scoring="neg_brier_score",
        cv=GroupKFold(folds, shuffle=True, random_state=seed),
    )
    return _chances(search.fit(features, redeemed, groups=owners))


def _boosted(offers: Offers, seed: int) -> Chances:
    """Small trees at a low learning rate: a few thousand rows support no more."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=80, max_depth=3, random_state=seed
    )
    return _chances(trees.fit(offers.features, offers.redeemed))


def _chances(fitted: Any) -> Chances:
    return lambda inputs: (
        fitted.predict_proba(inputs)[:, 1].astype(np.float32)
        if len(inputs)  # scikit-learn refuses an empty table
        else np.zeros(0, np.float32)
    )
