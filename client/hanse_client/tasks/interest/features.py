"""From histories to batches: where the future is predicted from, and what came of it.

An *anchor* is a moment in a customer's life. Everything before it may be used, the next
visit after it and the weeks after it are what the heads are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import Histories
from hanse_client.model.backbone import UNSEEN
from hanse_client.tasks.interest import Batch, InterestConfig, Interests
from hanse_client.tasks.interest.heads import VISIT_WINDOWS, has_interest, outlook_bounds

NEVER = 3650.0
_CELLS = 16_000
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchors:
    """R rows of P anchors each; a row is a customer, or a part of a much-visiting one."""

    customers: Ints
    """[R] indices into the histories."""
    moments: Floats
    """[R, P] days."""
    basket: npt.NDArray[np.bool_]
    """[R, P] whether the next visit is asked for."""
    outlook: npt.NDArray[np.bool_]
    """[R, P] whether the outlook is asked for."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> Anchors:
        """The rows of a slice."""
        part = slice(start, stop)
        return Anchors(
            customers=self.customers[part],
            moments=self.moments[part],
            basket=self.basket[part],
            outlook=self.outlook[part],
        )


def training_anchors(
    histories: Histories,
    customers: Ints,
    *,
    count: int,
    until: float,
    config: InterestConfig,
    rng: np.random.Generator,
) -> Anchors:
    """Draw anchors for a training step: half at visits, half at any time with an outlook.

    Args:
        histories: Cut off at `until`.
        customers: [R] who is in this step.
        count: Anchors per customer, P.
        until: First day that training may not look at.
        config: Gives the reference and horizon days.
        rng: The draw.
    """
    earliest = histories.observed_from + config.reference_days
    ahead = max(config.horizon_days, config.horizons[-1])
    latest = max(until - ahead, earliest)
    rows = len(customers)
    moments = rng.uniform(earliest, latest, size=(rows, count))
    at_visits = count // 2
    starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
    picks = starts[:, None] + np.floor(
        rng.random((rows, at_visits)) * (stops - starts)[:, None]
    ).astype(np.int64)
    if len(histories.visit_days):
        some = (stops > starts)[:, None]
        chosen = histories.visit_days[np.minimum(picks, len(histories.visit_days) - 1)]
        moments[:, :at_visits] = np.where(some, chosen, moments[:, :at_visits])
    return Anchors(
        customers=customers,
        moments=moments,
        basket=np.ones((rows, count), dtype=bool),
        outlook=(np.arange(count) >= at_visits)
        & (moments >= earliest)
        & (moments <= until - ahead),
    )


def evaluation_anchors(
    histories: Histories, *, start: float, stop: float, per_row: int = 16
) -> Anchors:
    """Every visit of `[start, stop)`, and one outlook a customer, seen from `start`.

    Args:
        histories: Uncut: an anchor itself hides what comes after it.
        start: First day of the split.
        stop: First day after it.
        per_row: Anchors per row, P; a customer with more visits has several rows.
    """
    customers: list[int] = []
    rows: list[Floats] = []
    baskets: list[npt.NDArray[np.bool_]] = []
    outlooks: list[npt.NDArray[np.bool_]] = []
    for customer in histories.active():
        visits = histories.visit_days[
            histories.visit_offsets[customer] : histories.visit_offsets[customer + 1]
        ]
        wanted = visits[(visits >= start) & (visits < stop)]
        moments = np.concatenate([[start], wanted])
        for first in range(0, len(moments), per_row):
            part = moments[first : first + per_row]
            padded = np.full(per_row, start)
            padded[: len(part)] = part
            basket = np.zeros(per_row, dtype=bool)
            basket[: len(part)] = True
            outlook = np.zeros(per_row, dtype=bool)
            if first == 0:
                basket[0], outlook[0] = False, True
            customers.append(int(customer))
            rows.append(padded)
            baskets.append(basket)
            outlooks.append(outlook)
    shape = (len(rows), per_row)
    return Anchors(
        customers=np.array(customers, dtype=np.int64),
        moments=np.array(rows).reshape(shape),
        basket=np.array(baskets, dtype=bool).reshape(shape),
        outlook=np.array(outlooks, dtype=bool).reshape(shape),
    )


def rows_at_once(config: InterestConfig) -> int:
    """How many rows to look at together: dense [P, C] tables set the limit, no result does."""
    return max(1, min(64, _CELLS // max(len(config.classes), 1)))


def collate(histories: Histories, anchors: Anchors, config: InterestConfig) -> Batch:
    """Build the model's input and targets for some anchors.

    Guarantees:
        An anchor's input depends on nothing at or after its moment, and on no other customer.

    Returns:
        A batch of R customers, P anchors, and as many visits as the longest history here
        has, at most `config.max_steps`.
    """
    customers, moments = anchors.customers, anchors.moments
    starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
    before = (
        np.stack(  # [R, P] visits before each anchor
            [
                np.searchsorted(histories.visit_days[a:b], row, side="left")
                for a, b, row in zip(starts, stops, moments, strict=True)
            ]
        )
        if len(customers)
        else np.zeros(moments.shape, dtype=np.int64)
    )
    vectors, facts, first = _sequences(histories, starts, before, config)
    # An anchor may lie before all visits that its row holds: it has seen none of them.
    last_visit = np.maximum(before - 1 - first[:, None], UNSEEN)

    visit_rows, visit_index = _spread(starts, stops)
    pair_starts = histories.pair_offsets[visit_index]
    pair_visits, pair_index = _spread(pair_starts, histories.pair_offsets[visit_index + 1])
    pairs = _Pairs(
        rows=visit_rows[pair_visits],
        classes=histories.pair_classes[pair_index].astype(np.int64),
        days=histories.visit_days[visit_index[pair_visits]],
        visits=visit_index[pair_visits],
        shape=(*moments.shape, len(config.classes)),
    )
    past = _interests(histories, pairs, moments, visit_rows, visit_index, config)
    next_visit = np.where(before < (stops - starts)[:, None], starts[:, None] + before, -1)
    asked = np.where(anchors.basket, next_visit, -1)
    return Batch(
        visit_vectors=torch.from_numpy(vectors),
        visit_facts=torch.from_numpy(facts),
        anchor_visit=torch.from_numpy(last_visit),
        past=past,
        next_basket=torch.from_numpy(pairs.counted(pairs.visits[:, None] == asked[pairs.rows])),
        outlook=_outlook(pairs, past, anchors, config),
        first_visit=_first_visit(pairs, anchors, config),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """All (visit, class) pairs of a batch's customers, flat: n of them."""

    rows: Ints
    classes: Ints
    days: Floats
    visits: Ints
    shape: tuple[int, ...]
    """(R, P, C)."""

    def counted(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Count [n, P] chosen pairs into [R, P, C]."""
        return self.summed(self.cells(*np.nonzero(chosen)))

    def cells(self, pair: Ints, anchor: Ints) -> Ints:
        """Flat indices into [R, P, C] of some pairs as seen from some anchors."""
        _, points, classes = self.shape
        return (self.rows[pair] * points + anchor) * classes + self.classes[pair]

    def summed(self, cells: Ints, weights: Floats | None = None) -> npt.NDArray[np.float32]:
        """Add up entries, by one or by weight each, into [R, P, C]."""
        flat = np.bincount(cells, weights, minlength=int(np.prod(self.shape)))
        return flat.astype(np.float32).reshape(self.shape)


def _spread(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Concatenate the ranges `starts[i]:stops[i]`; returns (i of each element, element)."""
    sizes = stops - starts
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return owner, starts[owner] + within


def _sequences(
    histories: Histories, starts: Ints, before: Ints, config: InterestConfig
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Ints]:
    """The most recent visits before each row's last anchor, padded on the right.

    Returns:
        ([R, T, vector_size], [R, T, facts], [R] how many earlier visits were dropped).
    """
    most = before.max(axis=1, initial=0)
    first = np.maximum(most - config.max_steps, 0)
    steps = int((most - first).max(initial=1)) or 1
    vectors = np.zeros((len(starts), steps, config.vector_size), dtype=np.float32)
    facts = np.zeros((len(starts), steps, config.visit_facts), dtype=np.float32)
    for row, (start, low, high) in enumerate(zip(starts, first, most, strict=True)):
        part = slice(start + low, start + high)
        vectors[row, : high - low] = histories.visit_vectors[part]
        facts[row, : high - low] = histories.visit_facts[part]
    return vectors, facts, first


def _interests(
    histories: Histories,
    pairs: _Pairs,
    moments: Floats,
    visit_rows: Ints,
    visit_index: Ints,
    config: InterestConfig,
) -> Interests:
    ages = moments[pairs.rows] - pairs.days[:, None]  # [n, P]
    pair, anchor = np.nonzero(ages > 0)
    age, cells = ages[pair, anchor], pairs.cells(pair, anchor)
    counts = [pairs.summed(cells[near]) for near in (age <= window for window in config.windows)]
    decayed = [pairs.summed(cells, np.exp2(-age / half)) for half in config.half_lives]
    days_since = np.full(int(np.prod(pairs.shape)), NEVER)
    days_since[cells] = age  # In the order of time, so that the last visit's stays.

    visit_age = moments[visit_rows] - histories.visit_days[visit_index][:, None]  # [v, P]
    visits = np.zeros((*moments.shape, len(VISIT_WINDOWS)), dtype=np.float32)
    for index, window in enumerate(VISIT_WINDOWS):
        np.add.at(visits[..., index], visit_rows, (visit_age > 0) & (visit_age <= window))
    gap = np.full(moments.shape, NEVER)
    np.minimum.at(gap, visit_rows, np.where(visit_age > 0, visit_age, NEVER))
    return Interests(
        counts=_tensor(np.stack(counts, axis=-1)),
        decayed=_tensor(np.stack(decayed, axis=-1)),
        days_since=_tensor(days_since.reshape(pairs.shape)),
        visits=torch.from_numpy(visits),
        gap=_tensor(gap),
        observed=_tensor(np.maximum(moments - histories.observed_from, 1.0)),
    )


def _outlook(
    pairs: _Pairs, past: Interests, anchors: Anchors, config: InterestConfig
) -> torch.Tensor:
    ahead = pairs.days[:, None] - anchors.moments[pairs.rows]
    future = torch.from_numpy(pairs.counted((ahead >= 0) & (ahead < config.horizon_days)))
    reference = past.counts[..., config.reference_window]
    most, least = outlook_bounds(reference * (config.horizon_days / config.reference_days))
    outcome = 1 + (future > most).long() - (future < least).long()
    asked = torch.from_numpy(anchors.outlook).unsqueeze(-1)
    return torch.where(asked & has_interest(reference, config.min_visits), outcome, -1)


def _first_visit(pairs: _Pairs, anchors: Anchors, config: InterestConfig) -> torch.Tensor:
    """See `Batch.first_visit`."""
    ends = np.array(config.horizons)
    ahead = pairs.days[:, None] - anchors.moments[pairs.rows]
    pair, anchor = np.nonzero((ahead >= 0) & (ahead < ends[-1]))
    first = np.full(int(np.prod(pairs.shape)), len(ends))
    horizon = np.searchsorted(ends, ahead[pair, anchor], side="right")
    np.minimum.at(first, pairs.cells(pair, anchor), horizon)
    asked = anchors.outlook[:, :, None]
    return torch.from_numpy(np.where(asked, first.reshape(pairs.shape), -1))


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
