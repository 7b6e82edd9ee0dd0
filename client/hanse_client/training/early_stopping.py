"""Early stopping by the score on the validation weeks or, for sequences, validation items.

Only for training on a store's own customers without privacy. Under privacy, the choice of a
round would depend on the customers of the validation data, and no noise would cover it.

>>> stopping = EarlyStopping(patience=2)
>>> [stopping.is_enough(score, {"weights": score}) for score in (0.1, 0.3, 0.2, 0.25)]
[False, False, False, True]
>>> stopping.best
{'weights': 0.3}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hanse_client.tasks.base import Figures


class EarlyStopping:
    """Keeps the parameters of the best round, and counts the evaluations since.

    Args:
        patience: Number of evaluations without a better score after which training stops.
    """

    def __init__(self, patience: int) -> None:
        self.best: Mapping[str, Any] | None = None
        self._patience = patience
        self._score = -math.inf
        self._since = 0

    def is_enough(self, score: float, arrays: Mapping[str, Any]) -> bool:
        """Record the score of a round, and return whether to stop.

        Args:
            score: Higher is better; NaN is never better.
            arrays: The parameters of that round.
        """
        # `best is None`: the first round is kept even if its score is NaN.
        if score > self._score or self.best is None:
            self.best, self._score, self._since = arrays, score, 0
            return False
        self._since += 1
        return self._since >= self._patience


def validation_score(figures: Figures) -> float:
    """Sum of NDCG@10 and the outlook's AUC; undefined ones are left out, NaN if both are."""
    metrics = figures.metrics()
    values = (metrics.get(name, math.nan) for name in ("ndcg@10", "outlook_auc"))
    known = [value for value in values if math.isfinite(value)]
    return sum(known) if known else math.nan
