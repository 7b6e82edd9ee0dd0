"""Sequences: what each customer took, in order, as item ids; and their last ones held out.

Leave-one-out is the protocol of the papers on sequential recommendation: a customer's last
item is the test, the one before it the validation, and training sees what came earlier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.inputs.by_customer import at_home
from hanse_client.inputs.npz import load_npz, save_npz

HELD_OUT = {"validate": 2, "test": 1}
"""How many of the last items an evaluation may not look at; its target is the first of them."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Sequences of a store: N customers, E items taken.

    Example:
        >>> store = Sequences.of([[4, 2, 0, 1], [3, 0, 2]], items=5)
        >>> [store.of_customer(i).tolist() for i in range(2)]
        [[4, 2, 0, 1], [3, 0, 2]]
        >>> [store.without_last(2).of_customer(i).tolist() for i in range(2)]
        [[4, 2], [3]]
    """

    customers: npt.NDArray[np.str_]
    """[N] pseudonyms."""
    homes: Ints
    """[N] as in `Histories`; -1 if unknown."""
    offsets: Ints
    """[N + 1]: customer i took `taken[offsets[i]:offsets[i + 1]]`."""
    taken: npt.NDArray[np.int32]
    """[E] item ids from 0, in order within a customer."""
    items: int
    """How many items there are, in all stores."""

    def __len__(self) -> int:
        return len(self.customers)

    @classmethod
    def of(cls, sequences: list[list[int]], *, items: int) -> Sequences:
        """Number the customers of some lists."""
        sizes = [len(one) for one in sequences]
        return cls(
            customers=np.array([f"{i:07d}" for i in range(len(sizes))], dtype=np.str_),
            homes=np.full(len(sizes), -1, dtype=np.int64),
            offsets=np.cumsum([0, *sizes]).astype(np.int64),
            taken=np.array([item for one in sequences for item in one], dtype=np.int32),
            items=items,
        )

    def of_customer(self, customer: int) -> npt.NDArray[np.int32]:
        """What a customer took."""
        return self.taken[self.offsets[customer] : self.offsets[customer + 1]]

    def active(self) -> Ints:
        """Indices of the customers with an item and a next one."""
        return np.flatnonzero(np.diff(self.offsets) >= 2)

    def without_last(self, count: int) -> Sequences:
        """Everybody's sequence without its last items; all customers stay."""
        sizes = np.diff(self.offsets)
        return self._cut(np.maximum(sizes - count, 0))

    def at_home(self, index: int, stores: int) -> Sequences:
        """Only the customers whose home is the store with this index; the others stay, empty.

        Raises:
            ConfigError: A customer's home is not known.
        """
        here = at_home(
            self.homes,
            index,
            stores,
            hint="leave privacy.one_home off: research data sets know no home",
        )
        return self._cut(np.where(here, np.diff(self.offsets), 0))

    def some(self, customers: Ints) -> Sequences:
        """A store of these customers alone."""
        parts = [self.of_customer(int(customer)) for customer in customers]
        return Sequences(
            customers=self.customers[customers],
            homes=self.homes[customers],
            offsets=np.cumsum([0, *map(len, parts)]).astype(np.int64),
            taken=np.concatenate(parts) if parts else np.zeros(0, np.int32),
            items=self.items,
        )

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Sequences:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or holds no sequences.
        """
        found = load_npz(cls, path, hint="prepare the store again")
        return replace(found, items=int(found.items))

    def _cut(self, sizes: Ints) -> Sequences:
        """Keep the first `sizes` [N] items of everybody."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        place = np.arange(len(self.taken)) - self.offsets[owner]
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            taken=self.taken[place < sizes[owner]],
        )
