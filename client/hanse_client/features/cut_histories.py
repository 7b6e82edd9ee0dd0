"""The visits before a day of a store that is larger than memory, read customer by customer.

`Histories.until` copies every visit that it keeps. This class keeps one number a customer, and
reads visits when a batch asks for them: training needs memory for the batch, not for the store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.features.by_customer import at_home
from hanse_client.features.histories import HOMELESS, Histories

Ints = npt.NDArray[np.int64]
_CUSTOMERS: Final = 100_000
"""Customers whose visits are counted at a time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CutHistories:
    """Each customer's first visits, as many as `sizes` says, of histories that stay on the disk.

    Example:
        >>> from hanse_client.pretraining.shoppers import made_up_shoppers
        >>> store = made_up_shoppers(0, shoppers=5, categories=3, weeks=20)
        >>> cut = CutHistories.of(store, until=50.0)
        >>> cut.sizes.tolist() == store.until(50.0).sizes.tolist()
        True
    """

    whole: Histories
    """All visits; see `load_npz`."""
    sizes: Ints
    """[N] number of visits of each customer that are left."""

    @classmethod
    def of(cls, whole: Histories, *, until: float) -> CutHistories:
        """Only the visits that began before a day; all customers stay.

        Args:
            whole: All visits.
            until: In days since 1970.
        """
        sizes = np.zeros(len(whole), dtype=np.int64)
        for start in range(0, len(whole), _CUSTOMERS):
            offsets = whole.visit_offsets[start : start + _CUSTOMERS + 1]
            earlier = whole.visit_days[offsets[0] : offsets[-1]] < until
            counts = np.concatenate([[0], np.cumsum(earlier)])
            # Visits are ascending within a customer, so that the earlier ones are the first.
            sizes[start : start + _CUSTOMERS] = np.diff(counts[offsets - offsets[0]])
        return cls(whole=whole, sizes=sizes)

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def customers(self) -> npt.NDArray[np.str_]:
        """[N] pseudonyms, sorted."""
        return self.whole.customers

    @property
    def observed_from(self) -> float:
        """See `Histories.observed_from`."""
        return self.whole.observed_from

    def active(self) -> Ints:
        """Indices of the customers with at least one visit."""
        return np.flatnonzero(self.sizes)

    def at_home(self, index: int, stores: int) -> CutHistories:
        """See `Histories.at_home`.

        Raises:
            ConfigError: A customer's home is unknown.
        """
        here = at_home(self.whole.homes, index, stores, hint=HOMELESS)
        return replace(self, sizes=np.where(here, self.sizes, 0))

    def select(self, customers: Ints) -> Histories:
        """The histories of these customers in memory, in this order.

        Args:
            customers: [R] indices.
        """
        return self.whole.select(customers, self.sizes[customers])

    def save(self, path: Path) -> None:
        """Write what is left to one file, for which all of it is copied to memory."""
        self.select(np.arange(len(self))).save(path)
