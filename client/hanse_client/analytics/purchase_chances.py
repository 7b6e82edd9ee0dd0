"""Will the customer buy the category within 7, 14, 28 days: predicted and observed.

found = foresee(histories, model, moment)
found.judged()[0]    # {"horizon_days": 7.0, "classes": "bought before", "auc": …}
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
    """Of n customers at one moment."""

    horizons: tuple[float, ...]
    customers: Ints
    """[n] indices into the histories."""
    known: npt.NDArray[np.bool_]
    """[n, C] whether the customer bought of the class before."""
    expected: npt.NDArray[np.float32]
    """[n, C, H] visits to expect."""
    observed: npt.NDArray[np.float32]
    """[n, C, H] visits that were observed."""

    @property
    def chances(self) -> npt.NDArray[np.float32]:
        """[n, C, H] of at least one visit."""
        return chances(torch.from_numpy(self.expected)).numpy()

    def judged(self) -> list[dict[str, Any]]:
        """AUC, average precision, calibration error and reliability, horizon by horizon.

        Returns:
            Two rows a horizon, over all customers' classes that they bought before and over all
            classes: `horizon_days`, `classes`, `cases`, `judged`, `auc`, `average_precision`,
            `calibration_error`, and `reliability`, a list.
        """
        return judged(self.chances, self.observed > 0, self.known, self.horizons)

    @classmethod
    def pooled(cls, parts: Sequence[Foresight]) -> Foresight:
        """Several stores' as if they were one."""
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
    """Judge any forecaster's chances, the model's or a baseline's; see `Foresight.judged`."""
    rows = []
    for index, horizon in enumerate(horizons):
        for name, chosen in ((BOUGHT_BEFORE, known), (ALL_CLASSES, np.ones_like(known))):
            said, did = chance[..., index][chosen].astype(np.float64), bought[..., index][chosen]
            rows.append(
                {
                    "horizon_days": horizon,
                    "classes": name,
                    "cases": int(did.sum()),
                    "judged": len(did),
                    "auc": auc(said, did),
                    "average_precision": average_precision(said, did),
                    "calibration_error": calibration_error(said, did),
                    "reliability": reliability(said, did),
                }
            )
    return rows


def first_day(settings: RunSettings, split: str) -> float:
    """The first day of a split."""
    ends = run_split(settings)
    return days(ends.train_until if split == "validate" else ends.validate_until)


def foresee(histories: Histories, model: InterestModel, moment: float) -> Foresight:
    """Ask the model about every customer with a visit before a moment, and look what it bought.

    Args:
        histories: Uncut: a moment itself hides what comes at it and after it.
        model: The shared model.
        moment: Days.
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
