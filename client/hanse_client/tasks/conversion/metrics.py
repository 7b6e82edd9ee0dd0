"""Metrics of predicted conversions: area under the ROC curve, precision and calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse_client.features.by_customer import customers_and_means
from hanse_client.tasks.base import StoredFigures
from hanse_client.tasks.scoring import auc, average_precision, calibration_error

NAMES = ("auc", "auc_within", "ap", "ece", "mean_predicted", "observed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversions(StoredFigures):
    """Predicted probabilities and outcomes of E offers.

    Example:
        >>> conversions = Conversions(
        ...     chances=np.array([0.2, 0.9, 0.1], np.float32),
        ...     redeemed=np.array([False, True, False]),
        ...     campaigns=np.array([1, 1, 2]),
        ...     customers=np.array([0, 1, 1]),
        ... )
        >>> sums = conversions.sums()
        >>> conversions.metrics()["auc"], {name: round(x, 3) for name, x in sums.items()}
        (1.0, {'customers': 2.0, 'brier': 0.05})
    """

    chances: npt.NDArray[np.float32]
    """[E] predicted probability of a redemption."""
    redeemed: npt.NDArray[np.bool_]
    """[E] whether a coupon was redeemed."""
    campaigns: npt.NDArray[np.int64]
    """[E] number of the campaign."""
    customers: npt.NDArray[np.int64]
    """[E] index of each offer's customer in the store's offers."""

    def metrics(self) -> dict[str, float]:
        """Metrics over all offers; NaN without any.

        Returns:
            `auc`; `auc_within`, the mean of each campaign's own AUC weighted by redemptions
            (`auc` also compares offers of different campaigns); average precision `ap`;
            calibration error `ece`; the mean probability `mean_predicted`, and the share that
            redeemed, `observed`.
        """
        if not len(self.redeemed):
            return dict.fromkeys(NAMES, float("nan"))
        chances = self.chances.astype(np.float64)
        return {
            "auc": auc(chances, self.redeemed),
            "ap": average_precision(chances, self.redeemed),
            "ece": calibration_error(chances, self.redeemed),
            "auc_within": self._within(),
            "mean_predicted": float(chances.mean()),
            "observed": float(self.redeemed.mean()),
        }

    def sums(self, allowed: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """Sums over customers of 1 and of a customer's Brier score; see `Figures.sums`."""
        errors = np.square(self.chances.astype(np.float64) - self.redeemed)
        return customers_and_means(self.customers, {"brier": errors}, allowed=allowed)

    def _within(self) -> float:
        """The mean of each campaign's AUC, weighted by its redemptions."""
        values, weights = [], []
        for campaign in np.unique(self.campaigns):
            of = self.campaigns == campaign
            value = auc(self.chances[of], self.redeemed[of])
            if np.isfinite(value):
                values.append(value)
                weights.append(int(self.redeemed[of].sum()))
        return float(np.average(values, weights=weights)) if values else float("nan")
