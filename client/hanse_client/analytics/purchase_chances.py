"""Purchases of each category within 7, 14 and 28 days: predicted and observed.

forecast = foresee(histories, model, moment)
forecast.judged()[0]  # {"horizon_days": 7.0, "classes": "bought before", "auc": …}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import visits_ahead
from hanse_client.features.histories import Histories, days, run_split
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Ints
from hanse_client.tasks.interest.rates import chances
from hanse_client.tasks.scoring import auc, average_precision, calibration_error, reliability
from hanse_common.config import RunSettings

BOUGHT_BEFORE, ALL_CLASSES = "bought before", "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Foresight:
    """Predicted and observed visits of n customers after one moment."""

    horizons: tuple[float, ...]
    customers: Ints
    """[n] indices into the histories."""
    known: npt.NDArray[np.bool_]
    """[n, C] whether the customer bought the class before."""
    expected: npt.NDArray[np.float32]
    """[n, C, H] expected visits."""
    observed: npt.NDArray[np.float32]
    """[n, C, H] observed visits."""

    @property
    def chances(self) -> npt.NDArray[np.float32]:
        """[n, C, H] predicted probability of at least one visit."""
        return chances(torch.from_numpy(self.expected)).numpy()

    def judged(self) -> list[dict[str, Any]]:
        """AUC, average precision, calibration error and reliability of each horizon.

        Returns:
            Two rows a horizon, one over the classes that each customer bought before, one over
            all classes: `horizon_days`, `classes`, `cases` (purchases), `judged` (all pairs of
            customer and class), `auc`, `average_precision`, `calibration_error`, and the list
            `reliability`.
        """
        return judged(self.chances, self.observed > 0, self.known, self.horizons)

    @classmethod
    def pooled(cls, parts: Sequence[Foresight]) -> Foresight:
        """The forecasts of several stores, concatenated."""
        return cls(
            horizons=parts[0].horizons,
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("customers", "known", "expected", "observed")
            },
        )


def judged(
    chance: npt.NDArray[Any],
    bought: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    horizons: Sequence[float],
) -> list[dict[str, Any]]:
    """Metrics of probabilities, the model's or a baseline's; see `Foresight.judged`.

    Args:
        chance: [n, C, H] predicted probabilities.
        bought: [n, C, H] whether the class was bought.
        known: [n, C] whether it was bought before.
        horizons: H ends, in days.
    """
    rows = []
    for index, horizon in enumerate(horizons):
        for name, chosen in ((BOUGHT_BEFORE, known), (ALL_CLASSES, np.ones_like(known))):
            predicted = chance[..., index][chosen].astype(np.float64)
            observed = bought[..., index][chosen]
            rows.append(
                {
                    "horizon_days": horizon,
                    "classes": name,
                    "cases": int(observed.sum()),
                    "judged": len(observed),
                    "auc": auc(predicted, observed),
                    "average_precision": average_precision(predicted, observed),
                    "calibration_error": calibration_error(predicted, observed),
                    "reliability": reliability(predicted, observed),
                }
            )
    return rows


def first_day(settings: RunSettings, split: str) -> float:
    """The first day of a split, in days since 1970."""
    ends = run_split(settings)
    return days(ends.train_until if split == "validate" else ends.validate_until)


def foresee(histories: Histories, model: InterestModel, moment: float) -> Foresight:
    """Predict the purchases of all customers with a visit before a moment, and observe them.

    Args:
        histories: Complete histories; what follows the moment is hidden from the model.
        model: The shared model.
        moment: In days since 1970.
    """
    config = model.config
    customers = histories.until(moment).active()
    shape = (len(customers), len(config.classes), len(config.horizons))
    expected = np.zeros(shape, dtype=np.float32)
    known = np.zeros(shape[:2], dtype=bool)
    with torch.inference_mode():
        for view in views(histories, customers, np.full(len(customers), moment), config):
            expected[view.questions] = view.of(model(view.batch).expected_visits).numpy()
            known[view.questions] = view.past.counts[:, 0].amax(-1).numpy() > 0
    observed = [
        visits_ahead(histories, customers, moment, horizon=horizon, classes=shape[1])
        for horizon in config.horizons
    ]
    return Foresight(
        horizons=tuple(config.horizons),
        customers=customers,
        known=known,
        expected=expected,
        observed=np.stack(observed, axis=-1).astype(np.float32),
    )
