"""Offers: each campaign that a customer was sent, what was known then, and whether it sold.

A campaign's outcome is known when it is over. Training on a day therefore looks at campaigns
that had ended by then, and a forecast is judged on campaigns that begin later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanse_client.inputs.by_customer import at_home
from hanse_client.inputs.npz import load_npz, save_npz

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """Offers of a store: N customers, E campaigns sent to one of them, F facts about each.

    Example:
        >>> store = Offers(
        ...     customers=np.array(["a", "b"]),
        ...     homes=np.array([-1, -1]),
        ...     offsets=np.array([0, 2, 3]),
        ...     campaigns=np.array([1, 2, 1]),
        ...     features=np.zeros((3, 1), np.float32),
        ...     starts=np.array([10, 40, 10]),
        ...     ends=np.array([30, 60, 30]),
        ...     redeemed=np.array([True, False, False]),
        ... )
        >>> store.over_by(31).offsets.tolist(), store.starting(31, 50).offsets.tolist()
        ([0, 1, 2], [0, 1, 1])
    """

    customers: npt.NDArray[np.str_]
    """[N] pseudonyms, sorted."""
    homes: Ints
    """[N] as in `Histories`; -1 if unknown."""
    offsets: Ints
    """[N + 1]: customer i was sent `offsets[i]:offsets[i + 1]`."""
    campaigns: Ints
    """[E]."""
    features: Floats
    """[E, F] as `hanse_client.inputs.offering.NAMES` has them: what was known before the start."""
    starts: Ints
    """[E] first day of the campaign, in days since 1970."""
    ends: Ints
    """[E] its last day."""
    redeemed: Mask
    """[E] whether the customer redeemed a coupon of it, on one of its days."""

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def owners(self) -> Ints:
        """[E] whose offer it is."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def active(self) -> Ints:
        """Indices of the customers who were sent something."""
        return np.flatnonzero(np.diff(self.offsets) > 0)

    def over_by(self, day: float) -> Offers:
        """Campaigns whose last day was over then; all customers stay."""
        return self._only(self.ends + 1 <= day)

    def starting(self, since: float, until: float) -> Offers:
        """Campaigns that began in `[since, until)`; all customers stay."""
        return self._only((self.starts >= since) & (self.starts < until))

    def at_home(self, index: int, stores: int) -> Offers:
        """Only the customers whose home is the store with this index; the others stay, empty.

        Raises:
            ConfigError: A customer's home is not known.
        """
        here = at_home(
            self.homes,
            index,
            stores,
            hint="leave privacy.one_home off: prepared offers know no home",
        )
        return self._only(here[self.owners])

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Offers:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or holds no offers.
        """
        return load_npz(cls, path, hint="prepare the store again")

    @classmethod
    def pooled(cls, stores: Sequence[Offers]) -> Offers:
        """The offers of several stores in one place, whose customers are different people."""
        names = np.concatenate([store.customers for store in stores])
        order = np.argsort(names, kind="stable")
        sizes = np.concatenate([np.diff(store.offsets) for store in stores])[order]
        firsts = np.cumsum([0, *(len(store) for store in stores)])
        owners = np.concatenate(
            [store.owners + first for store, first in zip(stores, firsts[:-1], strict=True)]
        )
        rows = np.argsort(np.argsort(order)[owners], kind="stable")
        return cls(
            customers=names[order],
            homes=np.concatenate([store.homes for store in stores])[order],
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            **{
                name: np.concatenate([getattr(store, name) for store in stores])[rows]
                for name in ("campaigns", "features", "starts", "ends", "redeemed")
            },
        )

    def _only(self, kept: Mask) -> Offers:
        sizes = np.bincount(self.owners[kept], minlength=len(self))
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            campaigns=self.campaigns[kept],
            features=self.features[kept],
            starts=self.starts[kept],
            ends=self.ends[kept],
            redeemed=self.redeemed[kept],
        )
