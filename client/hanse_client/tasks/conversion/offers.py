"""Offers: each campaign that a customer was sent, what was known then, and whether it sold.

A campaign's outcome is known when it is over. Training on a day therefore looks at campaigns
that had ended by then, and a forecast is judged on campaigns that begin later.
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
    """Offers of a store: N customers in order of name, E campaigns sent to one, F facts of each.

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
    HOMELESS: ClassVar = "leave privacy.one_home off: prepared offers know no home"

    campaigns: Ints
    """[E]."""
    features: Floats
    """[E, F] what was known before the start, in the order of `features.NAMES`."""
    starts: Ints
    """[E] first day of the campaign, in days since 1970."""
    ends: Ints
    """[E] its last day."""
    redeemed: Mask
    """[E] whether the customer redeemed a coupon of it, on one of its days."""

    def over_by(self, day: float) -> Offers:
        """Campaigns whose last day was over then; all customers stay."""
        return self.only(self.ends + 1 <= day)

    def starting(self, since: float, until: float) -> Offers:
        """Campaigns that began in `[since, until)`; all customers stay."""
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
