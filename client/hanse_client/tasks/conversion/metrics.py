"""How well conversions were predicted: area under the curve, precision, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import concatenated, load_npz, save_npz
from hanse_client.features.by_customer import customers_and_means
from hanse_client.tasks.scoring import auc, average_precision, calibration_error

NAMES = ("auc", "auc_within", "ap", "ece", "mean_predicted", "observed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversions:
    """What an evaluation found, one entry per judged offer.

    Example:
        >>> found = Conversions(
        ...     chances=np.array([0.2, 0.9, 0.1], np.float32),
        ...     redeemed=np.array([False, True, False]),
        ...     campaigns=np.array([1, 1, 2]),
        ...     customers=np.array([0, 1, 1]),
        ... )
        >>> found.metrics()["auc"], {name: round(x, 3) for name, x in found.sums().items()}
        (1.0, {'customers': 2.0, 'brier': 0.05})
    """

    chances: npt.NDArray[np.float32]
    """[E]."""
    redeemed: npt.NDArray[np.bool_]
    """[E]."""
    campaigns: npt.NDArray[np.int64]
    """[E]."""
    customers: npt.NDArray[np.int64]
    """[E] whose offer it is, as an index into the store's offers."""

    def metrics(self) -> dict[str, float]:
        """Figures over all offers; NaN where there is nothing to judge.

        Returns:
            `auc`; `auc_within`, which compares customers of one campaign alone, a mean over
            campaigns by their redemptions: who, of those whom it was sent to? (`auc` also
            judges which campaign); average precision `ap`; calibration error `ece`; the mean
            chance `mean_predicted`, and the share that redeemed, `observed`.
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
        """Sums over customers: 1, and the mean squared error of a customer's chances."""
        errors = np.square(self.chances.astype(np.float64) - self.redeemed)
        return customers_and_means(self.customers, {"brier": errors}, allowed=allowed)

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Conversions:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or holds no such figures.
        """
        return load_npz(cls, path, hint="evaluate again")

    @classmethod
    def pooled(cls, parts: list[Conversions]) -> Conversions:
        """The figures of several stores as if they were one."""
        return concatenated(cls, parts)

    def _within(self) -> float:
        values, weights = [], []
        for campaign in np.unique(self.campaigns):
            of = self.campaigns == campaign
            value = auc(self.chances[of], self.redeemed[of])
            if np.isfinite(value):
                values.append(value)
                weights.append(int(self.redeemed[of].sum()))
        return float(np.average(values, weights=weights)) if values else float("nan")
