"""Metrics of leave-one-out: HR, NDCG and MRR from the rank of the target among all items.

Between items of the same score a public hash of customer and item decides, as fairly as a lot
and the same in every run and partition. The item's number must not: research data sets number
items in the order in which customers took them, so that low numbers are popular.

There are two rankings. Papers on sequential recommendation (S3-Rec and its successors) exclude
the items of the customer's history; the other ranking has all items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import concatenated
from hanse_client.tasks.base import StoredFigures
from hanse_client.tasks.next_item.features import HELD_OUT, Sequences
from hanse_client.tasks.next_item.public_hash import Hashes, hashes, of_names
from hanse_client.tasks.scoring import TOP

Ints = npt.NDArray[np.int64]
Past: TypeAlias = Sequence[npt.NDArray[np.int32]]
_CUTS = (5, TOP)
_ROWS = 256  # of a dense [rows, items] table of scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks(StoredFigures):
    """The ranks of n customers' targets, counted from 1.

    Example:
        >>> ranks = Ranks(new=np.array([1, 3]), every=np.array([1, 12]), customers=np.arange(2))
        >>> {name: round(value, 3) for name, value in ranks.metrics().items() if "10" in name}
        {'hr@10': 1.0, 'ndcg@10': 0.75, 'all_hr@10': 0.5, 'all_ndcg@10': 0.5}
    """

    new: Ints
    """[n] among the target and the items that are not in the customer's history."""
    every: Ints
    """[n] among all items."""
    customers: Ints
    """[n] indices into the store's sequences."""

    def metrics(self) -> dict[str, float]:
        """Means over customers, `all_…` from the ranks among all items; NaN without customers."""
        if not len(self.customers):
            names = [name for kind in ("", "all_") for name in _judged(self.new, kind)]
            return dict.fromkeys(names, float("nan"))
        parts = {**_judged(self.new, ""), **_judged(self.every, "all_")}
        return {name: float(values.mean()) for name, values in parts.items()}

    def sums(self, allowed: Ints | None = None) -> dict[str, float]:
        """Sums over customers, which may leave the store under masks and noise.

        Args:
            allowed: Indices of the customers to count; all if left out.

        Returns:
            `customers`, and HR@10, NDCG@10 and MRR.

        Guarantees:
            A customer has one rank, and adds a number in [0, 1] to each sum.
        """
        counted = np.isin(self.customers, self.customers if allowed is None else allowed)
        judged = _judged(self.new[counted], "")
        # Clipped although ranks start at 1: the sensitivity rests on it, whatever is in the file.
        judged = {name: np.nan_to_num(values).clip(0.0, 1.0) for name, values in judged.items()}
        sums = {name: float(judged[name].sum()) for name in (f"hr@{TOP}", f"ndcg@{TOP}", "mrr")}
        return {"customers": float(counted.sum()), **sums}

    @classmethod
    def pooled(cls, parts: list[Ranks]) -> Ranks:
        """The ranks of several stores, concatenated."""
        none = np.zeros(0, np.int64)
        return concatenated(cls, [cls(new=none, every=none, customers=none), *parts])


def judge(data: Sequences, split: str, scores: Callable[[Past], npt.NDArray[Any]]) -> Ranks:
    """Rank all items for every customer's held-out target.

    Args:
        data: Complete sequences.
        split: `validate` or `test`.
        scores: From the histories of n customers to scores of all items, [n, items].
    """
    history = data.without_last(HELD_OUT[split])
    customers = np.flatnonzero(history.sizes)
    targets = data.taken[data.offsets[customers + 1] - HELD_OUT[split]]
    lots = of_names(data.customers[customers].tolist())
    parts = []
    for start in range(0, len(customers), _ROWS):
        part = slice(start, start + _ROWS)
        past = [history.of_customer(int(customer)) for customer in customers[part]]
        parts.append(
            rank_of(scores(past), targets[part], past, customers=customers[part], lots=lots[part])
        )
    return Ranks.pooled(parts)


def rank_of(
    scores: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    past: Past,
    *,
    customers: Ints,
    lots: Hashes,
) -> Ranks:
    """Each target's rank among all items; ties are broken by a public hash.

    Args:
        scores: [n, items], higher is likelier next.
        targets: [n] item ids.
        past: Each customer's history of item ids.
        customers: [n] index of each row's customer.
        lots: [n] hash of each row's customer, the same wherever the customer is.
    """
    rows = np.arange(len(targets))
    own = scores[rows, targets][:, None]
    ahead = scores > own
    row, item = np.nonzero(scores == own)  # each target, and what ties with it
    targets_lots = hashes(np.asarray(targets), lots)
    ahead[row, item] = hashes(item, lots[row]) < targets_lots[row]
    every = 1 + ahead.sum(axis=1)
    # The target is never ahead of itself, so a repeated purchase still has a rank.
    for number, taken in enumerate(past):
        ahead[number, taken] = False
    return Ranks(new=1 + ahead.sum(axis=1), every=every, customers=customers)


def _judged(ranks: Ints, kind: str) -> dict[str, npt.NDArray[np.float64]]:
    judged: dict[str, npt.NDArray[np.float64]] = {}
    for cut in _CUTS:
        judged[f"{kind}hr@{cut}"] = (ranks <= cut).astype(np.float64)
        # With one target the ideal DCG is 1.
        judged[f"{kind}ndcg@{cut}"] = np.where(ranks <= cut, 1 / np.log2(ranks + 1), 0.0)
    return {**judged, f"{kind}mrr": 1 / ranks}
