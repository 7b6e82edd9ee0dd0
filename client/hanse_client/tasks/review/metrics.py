"""How well reviews were judged: accuracy, F1, area under the curve, and distance in stars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import concatenated, load_npz, save_npz
from hanse_client.features.by_customer import customers_and_means
from hanse_client.tasks.scoring import auc


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What an evaluation found, one entry per judged review of L labels."""

    chances: npt.NDArray[np.float32]
    """[E, L]."""
    labels: npt.NDArray[np.int64]
    """[E]."""
    customers: npt.NDArray[np.int64]
    """[E] whose review it is, as an index into the store's reviews."""

    def metrics(self) -> dict[str, float]:
        """Figures over all reviews; NaN where there is none.

        Returns:
            `accuracy`; `f1`, a mean over labels; `auc` of the second label where there are
            two; `mae` in labels between the expected label and the true one.
        """
        if not len(self.labels):
            return dict.fromkeys(("accuracy", "f1", "auc", "mae"), float("nan"))
        said = self.chances.argmax(1)
        places = np.arange(self.chances.shape[1])
        expected = self.chances.astype(np.float64) @ places
        two = self.chances.shape[1] == 2
        return {
            "accuracy": float((said == self.labels).mean()),
            "f1": float(np.mean([_f1(said == label, self.labels == label) for label in places])),
            "auc": auc(self.chances[:, 1], self.labels == 1) if two else float("nan"),
            "mae": float(np.abs(expected - self.labels).mean()),
        }

    def sums(self, allowed: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """Sums over customers: 1, and the share of their reviews that were judged right."""
        right = (self.chances.argmax(1) == self.labels).astype(np.float64)
        return customers_and_means(self.customers, {"accuracy": right}, allowed=allowed)

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Verdicts:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or holds no verdicts.
        """
        return load_npz(cls, path, hint="evaluate again")

    @classmethod
    def pooled(cls, parts: list[Verdicts]) -> Verdicts:
        """The verdicts of several stores as if they were one."""
        return concatenated(cls, parts)


def _f1(said: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    both = int((said & true).sum())
    return 2 * both / max(int(said.sum()) + int(true.sum()), 1)
