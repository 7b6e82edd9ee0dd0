"""Occasions: single visits of customers, or days with all visits, and their contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import FACTS, Histories
from hanse_client.tasks.interest.features import Floats, Ints

_ITEMS = FACTS.index("log_items")
_CART, _PURCHASE = (FACTS.index(f"share_{kind}") for kind in ("cart", "purchase"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasions:
    """n occasions, each of one or more consecutive visits of a customer."""

    customers: Ints
    """[n] indices into the histories."""
    moments: Floats
    """[n] beginning of the first visit, in days since 1970; only the past before it is known."""
    first: Ints
    """[n] index of the first visit."""
    stop: Ints
    """[n] index after the last visit."""

    def __len__(self) -> int:
        return len(self.customers)

    def keep(self, chosen: npt.NDArray[Any]) -> Occasions:
        """Only the occasions chosen by a mask or by indices."""
        return Occasions(
            customers=self.customers[chosen],
            moments=self.moments[chosen],
            first=self.first[chosen],
            stop=self.stop[chosen],
        )


def each_visit(histories: Histories, *, start: float, stop: float) -> Occasions:
    """Every visit that began in `[start, stop)` as an occasion of its own."""
    return _grouped(histories, start, stop, whole_days=False)


def each_day(histories: Histories, *, start: float, stop: float) -> Occasions:
    """Every day in `[start, stop)` on which a customer made visits, as one occasion."""
    return _grouped(histories, start, stop, whole_days=True)


def _grouped(histories: Histories, start: float, stop: float, *, whole_days: bool) -> Occasions:
    owners = visit_owners(histories)
    visits = np.flatnonzero((histories.visit_days >= start) & (histories.visit_days < stop))
    owner, day = owners[visits], np.floor(histories.visit_days[visits])
    # Visits are sorted by customer and time, so that those of one day are consecutive.
    same = (owner[1:] == owner[:-1]) & (day[1:] == day[:-1]) & whole_days
    begins = np.flatnonzero(np.append(True, ~same)[: len(visits)])
    ends = np.append(begins[1:], len(visits))[: len(begins)]
    return Occasions(
        customers=owner[begins],
        moments=histories.visit_days[visits[begins]],
        first=visits[begins],
        stop=visits[ends - 1] + 1 if len(begins) else visits[:0],
    )


def visit_owners(histories: Histories) -> Ints:
    """[V] index of each visit's customer."""
    return np.repeat(np.arange(len(histories)), np.diff(histories.visit_offsets))


def basket_counts(histories: Histories, occasions: Occasions, classes: int) -> Floats:
    """[n, C] visits of each occasion with each class of the vocabulary."""
    counts = np.zeros((len(occasions), classes))
    first, stop = histories.pair_offsets[occasions.first], histories.pair_offsets[occasions.stop]
    sizes = stop - first
    owner = np.repeat(np.arange(len(sizes)), sizes)
    pair = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[owner]
    np.add.at(counts, (owner, histories.pair_classes[pair]), 1.0)
    return counts


def visits_ahead(
    histories: Histories, customers: Ints, moment: float, *, horizon: float, classes: int
) -> Floats:
    """[n, C] visits of customers with each class in `[moment, moment + horizon)`."""
    until = histories.visit_offsets[customers + 1]
    first, stop = (
        np.array(
            [
                a + np.searchsorted(histories.visit_days[a:b], day)
                for a, b in zip(histories.visit_offsets[customers], until, strict=True)
            ],
            dtype=np.int64,
        )
        for day in (moment, moment + horizon)
    )
    moments = np.full(len(customers), moment)
    ahead = Occasions(customers=customers, moments=moments, first=first, stop=stop)
    return basket_counts(histories, ahead, classes)


def left_in_cart(histories: Histories) -> Floats:
    """[V] items put into the cart beyond those bought at the same visit."""
    facts = histories.visit_facts.astype(np.float64)
    # Facts are logarithms and shares in float32; counts are recovered from them by rounding.
    surplus = np.expm1(facts[:, _ITEMS]) * (facts[:, _CART] - facts[:, _PURCHASE])
    return np.maximum(np.rint(surplus), 0.0)
