"""Offers: the campaigns that customers were sent, with features and outcomes.

The outcome of a campaign is known when it is over. Training up to a day therefore uses
campaigns that had ended by then, and evaluation uses campaigns that begin later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hanse_client.features.ragged import Entries, Ints, Mask, offsets_of

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers(Entries):
    """A store's E offers, one campaign sent to one of N customers (by pseudonym), F features each.

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

    BY_ENTRY: ClassVar = ("campaigns", "features", "starts", "ends", "redeemed")

    campaigns: Ints
    """[E] number of the campaign."""
    features: Floats
    """[E, F] known before the campaign began, in the order of `features.NAMES`."""
    starts: Ints
    """[E] first day of the campaign, in days since 1970."""
    ends: Ints
    """[E] last day of the campaign, in days since 1970."""
    redeemed: Mask
    """[E] whether the customer redeemed one of its coupons during the campaign."""

    def over_by(self, day: float) -> Offers:
        """Only the offers of campaigns that ended before `day`; all customers stay."""
        return self.only(self.ends + 1 <= day)  # the last day itself is part of the campaign

    def starting(self, since: float, until: float) -> Offers:
        """Only the offers of campaigns that began in `[since, until)`; all customers stay."""
        return self.only((self.starts >= since) & (self.starts < until))

    @classmethod
    def pooled(cls, stores: Sequence[Offers]) -> Offers:
        """The offers of several stores in one place, whose customers are different people."""
        together = cls(
            offsets=offsets_of(np.concatenate([store.sizes for store in stores])),
            **{
                name: np.concatenate([getattr(store, name) for store in stores])
                for name in (*cls.BY_CUSTOMER, *cls.BY_ENTRY)
            },
        )
        return together.select(np.argsort(together.customers, kind="stable"))
