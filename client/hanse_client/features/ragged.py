"""Ragged per-customer arrays (CSR offsets): reviews, offers or items, any number a customer."""

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
_HOMELESS = (
    "set home_key in store.toml to the stores' common key, and prepare again; data sets of "
    "simulations have no homes: leave privacy.one_home off"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """The E entries of a store's N customers; subclasses add arrays with one row an entry."""

    BY_CUSTOMER: ClassVar[tuple[str, ...]] = ("customers", "homes")
    """Names of the fields with one row a customer."""
    BY_ENTRY: ClassVar[tuple[str, ...]] = ()
    """Names of the fields with one row an entry."""
    customers: npt.NDArray[np.str_]
    """[N] pseudonyms."""
    homes: Ints
    """[N] keyed hashes, as in `Histories`; -1 if unknown."""
    offsets: Ints
    """[N + 1]: customer i has the entries `offsets[i]:offsets[i + 1]`."""

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def sizes(self) -> Ints:
        """[N] number of entries of each customer."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Ints:
        """[E] index of each entry's customer."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def active(self) -> Ints:
        """Indices of the customers with at least one entry."""
        return np.flatnonzero(self.sizes > 0)

    def only(self, rows: Mask) -> Self:
        """Only the entries marked in the mask [E]; all customers stay, possibly with none."""
        sizes = np.bincount(self.owners[rows], minlength=len(self))
        entries = {name: getattr(self, name)[rows] for name in self.BY_ENTRY}
        return replace(self, offsets=offsets_of(sizes), **entries)

    def select(self, customers: Ints) -> Self:
        """A store with only these customers, by their indices, in this order."""
        offsets = offsets_of(self.sizes[customers])
        # Row r of the result is row r + (its customer's old begin - new begin) of the source.
        begins = np.repeat(self.offsets[customers] - offsets[:-1], np.diff(offsets))
        rows = begins + np.arange(len(begins))
        return replace(
            self,
            offsets=offsets,
            **{name: getattr(self, name)[customers] for name in self.BY_CUSTOMER},
            **{name: getattr(self, name)[rows] for name in self.BY_ENTRY},
        )

    def at_home(self, index: int, stores: int) -> Self:
        """Remove the entries of customers whose home is not the store with this index.

        Customers stay without entries, so that indices and pseudonyms keep their order.

        Raises:
            ConfigError: A customer's home is unknown.
        """
        return self.only(at_home(self.homes, index, stores, hint=_HOMELESS)[self.owners])

    def save(self, path: Path) -> None:
        """Write all arrays to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or of another kind.
        """
        return load_npz(cls, path, hint="prepare the store again")


def offsets_of(sizes: Ints) -> Ints:
    """CSR offsets [N + 1] of sizes [N]: the begin of each customer's entries, and the total.

    >>> offsets_of(np.array([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def ranges(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Concatenate the ranges `starts[i]:stops[i]`; returns (i of each element, the element).

    >>> owner, element = ranges(np.array([0, 5, 2]), np.array([2, 5, 3]))
    >>> owner.tolist(), element.tolist()
    ([0, 0, 2], [0, 1, 2])
    """
    sizes = stops - starts
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return owner, starts[owner] + within
