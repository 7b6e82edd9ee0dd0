"""Metrics of predicted review labels: accuracy, F1, area under the ROC curve, absolute error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse_client.features.by_customer import customers_and_means
from hanse_client.tasks.base import StoredFigures
from hanse_client.tasks.scoring import auc


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts(StoredFigures):
    """Predicted probabilities of L labels and the true label of E reviews."""

    chances: npt.NDArray[np.float32]
    """[E, L] predicted probabilities."""
    labels: npt.NDArray[np.int64]
    """[E] index of the true label."""
    customers: npt.NDArray[np.int64]
    """[E] index of each review's customer in the store's reviews."""

    def metrics(self) -> dict[str, float]:
        """Metrics over all reviews; NaN without any.

        Returns:
            `accuracy`; the macro `f1`; the `auc` of the second label if there are two; `mae`,
            the mean absolute error of the expected label, in labels.
        """
        if not len(self.labels):
            return dict.fromkeys(("accuracy", "f1", "auc", "mae"), float("nan"))
        predicted = self.chances.argmax(1)
        places = np.arange(self.chances.shape[1])
        expected = self.chances.astype(np.float64) @ places
        two = self.chances.shape[1] == 2
        return {
            "accuracy": float((predicted == self.labels).mean()),
            "f1": float(np.mean([_f1(predicted == x, self.labels == x) for x in places])),
            "auc": auc(self.chances[:, 1], self.labels == 1) if two else float("nan"),
            "mae": float(np.abs(expected - self.labels).mean()),
        }

    def sums(self, allowed: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """Sums over customers of 1 and of a customer's accuracy; see `Figures.sums`."""
        right = (self.chances.argmax(1) == self.labels).astype(np.float64)
        return customers_and_means(self.customers, {"accuracy": right}, allowed=allowed)


def _f1(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    both = int((predicted & true).sum())
    # 0 for a label that is neither predicted nor present, as scikit-learn has it.
    return 2 * both / max(int(predicted.sum()) + int(true.sum()), 1)
