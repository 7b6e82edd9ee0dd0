"""Sequences: each customer's items in order, as ids, with the last ones held out.

The split is leave-one-out, as in the papers on sequential recommendation: a customer's last
item is the test target, the one before it the validation target, and training uses the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hanse_client.features.ragged import Entries, Ints, offsets_of

HELD_OUT = {"validate": 2, "test": 1}
"""Number of last items that are hidden from an evaluation; its target is the first of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences(Entries):
    """Sequences of a store: N customers, E items.

    Example:
        >>> store = Sequences.of([[4, 2, 0, 1], [3, 0, 2]], items=5)
        >>> [store.of_customer(i).tolist() for i in range(2)]
        [[4, 2, 0, 1], [3, 0, 2]]
        >>> [store.without_last(2).of_customer(i).tolist() for i in range(2)]
        [[4, 2], [3]]
    """

    BY_ENTRY: ClassVar = ("taken",)

    taken: npt.NDArray[np.int32]
    """[E] item ids from 0, in order within a customer."""
    items: int
    """Number of items of the public list, the same at all stores."""

    @classmethod
    def of(
        cls, sequences: list[list[int]], *, items: int, customers: list[str] | None = None
    ) -> Sequences:
        """Convert lists to arrays.

        Args:
            sequences: N lists of item ids.
            items: Number of items of the public list.
            customers: N names, in the same order; numbers if left out.
        """
        sizes = [len(one) for one in sequences]
        names = [f"{i:07d}" for i in range(len(sizes))] if customers is None else customers
        return cls(
            customers=np.array(names, dtype=np.str_),
            homes=np.full(len(sizes), -1, dtype=np.int64),
            offsets=offsets_of(np.array(sizes)),
            taken=np.array([item for one in sequences for item in one], dtype=np.int32),
            items=items,
        )

    def of_customer(self, customer: int) -> npt.NDArray[np.int32]:
        """The item ids of one customer, in order."""
        return self.taken[self.offsets[customer] : self.offsets[customer + 1]]

    def active(self) -> Ints:
        """Indices of the customers with at least two items: one to read, one to predict."""
        return np.flatnonzero(self.sizes >= 2)

    def without_last(self, count: int) -> Sequences:
        """Remove the last `count` items of every sequence; all customers stay."""
        place = np.arange(len(self.taken)) - self.offsets[self.owners]
        return self.only(place < (self.sizes - count)[self.owners])
