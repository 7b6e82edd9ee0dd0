"""Stopping when the validation weeks no longer get better, and keeping the best round.

Only for who trains on own customers without privacy. Under privacy the choice of a round says
something of the customers it was chosen by, and no noise would cover that.

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
    """The best round so far, and how long ago it was.

    Args:
        patience: Looks without a better score after which it is enough.
    """

    def __init__(self, patience: int) -> None:
        self.best: Mapping[str, Any] | None = None
        self._patience = patience
        self._score = -math.inf
        self._since = 0

    def is_enough(self, score: float, arrays: Mapping[str, Any]) -> bool:
        """Take note of a round; say whether to stop.

        Args:
            score: Higher is better; NaN is never better.
            arrays: The model of that round.
        """
        if score > self._score or self.best is None:
            self.best, self._score, self._since = arrays, score, 0
            return False
        self._since += 1
        return self._since >= self._patience


def validation_score(figures: Figures) -> float:
    """Add up the two tasks: NDCG@10 and the mean of the two areas; what is unknown is left out."""
    found = figures.metrics()
    values = (found.get(name, math.nan) for name in ("ndcg@10", "outlook_auc"))
    known = [value for value in values if math.isfinite(value)]
    return sum(known) if known else math.nan
