"""Entries of a store's customers, any number each: reviews, offers, items taken.

One array by customer and one by entry for each fact; `offsets` says whose entry is whose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import load_npz, save_npz
from hanse_client.features.by_customer import at_home

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """N customers of a store, and E entries of theirs; a kind of entry adds its own arrays."""

    BY_CUSTOMER: ClassVar[tuple[str, ...]] = ("customers", "homes")
    """Fields with a row a customer."""
    BY_ENTRY: ClassVar[tuple[str, ...]] = ()
    """Fields with a row an entry."""
    HOMELESS: ClassVar[str] = "leave privacy.one_home off"
    """What to do where homes are asked for and not known."""

    customers: npt.NDArray[np.str_]
    """[N] pseudonyms."""
    homes: Ints
    """[N] as in `Histories`; -1 if unknown."""
    offsets: Ints
    """[N + 1]: entries `offsets[i]:offsets[i + 1]` are customer i's."""

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def sizes(self) -> Ints:
        """[N] how many entries each customer has."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Ints:
        """[E] whose entry it is."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def active(self) -> Ints:
        """Indices of the customers with an entry."""
        return np.flatnonzero(self.sizes > 0)

    def only(self, rows: Mask) -> Self:
        """These entries [E] alone; all customers stay."""
        sizes = np.bincount(self.owners[rows], minlength=len(self))
        entries = {name: getattr(self, name)[rows] for name in self.BY_ENTRY}
        return replace(self, offsets=offsets_of(sizes), **entries)

    def some(self, customers: Ints) -> Self:
        """A store of these customers alone, in this order."""
        offsets = offsets_of(self.sizes[customers])
        begins = np.repeat(self.offsets[customers] - offsets[:-1], np.diff(offsets))
        rows = begins + np.arange(len(begins))
        return replace(
            self,
            offsets=offsets,
            **{name: getattr(self, name)[customers] for name in self.BY_CUSTOMER},
            **{name: getattr(self, name)[rows] for name in self.BY_ENTRY},
        )

    def at_home(self, index: int, stores: int) -> Self:
        """Only the customers whose home is the store with this index; the others stay, empty.

        Raises:
            ConfigError: A customer's home is not known.
        """
        return self.only(at_home(self.homes, index, stores, hint=self.HOMELESS)[self.owners])

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, or holds something else.
        """
        return load_npz(cls, path, hint="prepare the store again")


def offsets_of(sizes: Ints) -> Ints:
    """Where each customer's entries begin, and where the last one's end.

    >>> offsets_of(np.array([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
