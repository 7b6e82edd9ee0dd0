"""Batches of the interest model from histories: anchors, inputs before them, targets after them.

An *anchor* is a moment from which the heads predict. The input is what a customer did before
it; the targets are the next visit and the weeks from it on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hanse_client.features.histories import Histories
from hanse_client.features.ragged import ranges
from hanse_client.model.backbone import UNSEEN
from hanse_client.tasks.interest import Batch, InterestConfig, Interests
from hanse_client.tasks.interest.heads import VISIT_WINDOWS, has_interest, outlook_bounds
from hanse_client.tasks.interest.token_batch import token_batch

_NEVER = 3650.0  # days; with the longest window, ten years stand for "ever"
# Rows times classes of a batch: each cell has P anchors in a dozen dense float tables.
_CELLS = 16_000
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchors:
    """R rows of P anchors each; in an evaluation a customer with many visits has several rows."""

    customers: Ints
    """[R] indices into the histories."""
    moments: Floats
    """[R, P] in days since 1970."""
    basket: npt.NDArray[np.bool_]
    """[R, P] whether the next visit is a target."""
    outlook: npt.NDArray[np.bool_]
    """[R, P] whether the outlook is a target."""

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def forecast(self) -> npt.NDArray[np.bool_]:
        """[R, P] whether an outlook is to be made: where it is a target, or without targets."""
        has_targets = self.basket.any() or self.outlook.any()
        return self.outlook if has_targets else np.ones_like(self.outlook)

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
    """Draw the anchors of a training step: half at visits, half at uniform times with an outlook.

    The outlook is trained at uniform times only: at a visit's own moment 8.1 % of interests
    rise, at uniform times 5.5 % (docs/lab-notes.md).

    Args:
        histories: Cut off at `until`.
        customers: [R] customers of the step.
        count: Anchors per customer, P.
        until: First day that training must not use.
        config: Of the model, for the reference and horizon days.
        rng: The source of randomness.

    Guarantees:
        Every customer has P anchors, whatever their history: one row is one privacy unit.
    """
    earliest = histories.observed_from + config.reference_days
    ahead = max(config.horizon_days, config.horizons[-1])
    latest = max(until - ahead, earliest)
    rows = len(customers)
    moments = rng.uniform(earliest, latest, size=(rows, count))
    at_visits = count // 2
    starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
    # Drawn whether or not a customer has visits, so that no draw depends on another's history.
    picks = starts[:, None] + np.floor(
        rng.random((rows, at_visits)) * (stops - starts)[:, None]
    ).astype(np.int64)
    if len(histories.visit_days):
        has_visits = (stops > starts)[:, None]
        chosen = histories.visit_days[np.minimum(picks, len(histories.visit_days) - 1)]
        moments[:, :at_visits] = np.where(has_visits, chosen, moments[:, :at_visits])
    return Anchors(
        customers=customers,
        moments=moments,
        basket=np.ones((rows, count), dtype=bool),
        # An outlook needs its whole horizon before `until`, and reference days before it.
        outlook=(np.arange(count) >= at_visits)
        & (moments >= earliest)
        & (moments <= until - ahead),
    )


def evaluation_anchors(
    histories: Histories, *, start: float, stop: float, per_row: int = 16
) -> Anchors:
    """An anchor at every visit in `[start, stop)`, and one outlook a customer at `start`.

    Args:
        histories: Complete histories; `collate` hides what follows an anchor.
        start: First day of the split.
        stop: First day after the split.
        per_row: Anchors per row, P; customers with more visits have several rows.
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
    """Number of rows that fit in memory with their dense [P, C] tables; it affects speed only."""
    return max(1, min(64, _CELLS // max(len(config.classes), 1)))


def collate(histories: Histories, anchors: Anchors, config: InterestConfig) -> Batch:
    """Build the model's input and targets for anchors.

    Guarantees:
        An anchor's input depends on nothing at or after its moment, and on no other customer.

    Returns:
        A batch of R rows with P anchors and T visits, the length of the longest history in it
        but at most `config.max_steps`.
    """
    customers, moments = anchors.customers, anchors.moments
    starts, stops = histories.visit_offsets[customers], histories.visit_offsets[customers + 1]
    before = (
        # Side "left": a visit that begins at the anchor is its target and not its past.
        np.stack(  # [R, P] visits before each anchor
            [
                np.searchsorted(histories.visit_days[a:b], row, side="left")
                for a, b, row in zip(starts, stops, moments, strict=True)
            ]
        )
        if len(customers)
        else np.zeros(moments.shape, dtype=np.int64)
    )
    by_category = config.kind == "categories"
    # A model of categories reads no visits as such: one empty step stands for them.
    steps = np.zeros_like(before) if by_category else before
    vectors, facts, first = _sequences(histories, starts, steps, config)
    # An anchor may precede all visits of its row's window; it has seen none of them.
    last_visit = np.maximum(before - 1 - first[:, None], UNSEEN)

    visit_rows, visit_index = ranges(starts, stops)
    pair_starts = histories.pair_offsets[visit_index]
    pair_visits, pair_index = ranges(pair_starts, histories.pair_offsets[visit_index + 1])
    pairs = _Pairs(
        rows=visit_rows[pair_visits],
        classes=histories.pair_classes[pair_index].astype(np.int64),
        days=histories.visit_days[visit_index[pair_visits]],
        visits=visit_index[pair_visits],
        shape=(*moments.shape, len(config.classes)),
    )
    past = _interests(histories, pairs, moments, visit_rows, visit_index, config)
    next_visit = np.where(before < (stops - starts)[:, None], starts[:, None] + before, -1)
    target = np.where(anchors.basket, next_visit, -1)
    return Batch(
        visit_vectors=torch.from_numpy(vectors),
        visit_facts=torch.from_numpy(facts),
        anchor_visit=torch.from_numpy(last_visit),
        past=past,
        tokens=(
            token_batch(histories, customers, moments, wanted=anchors.forecast)
            if by_category
            else None
        ),
        next_basket=torch.from_numpy(pairs.counted(pairs.visits[:, None] == target[pairs.rows])),
        outlook=_outlook(pairs, past, anchors, config),
        first_visit=_first_visit(pairs, anchors, config),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """The n (visit, class) pairs of a batch's customers, as flat arrays."""

    rows: Ints
    classes: Ints
    days: Floats
    visits: Ints
    shape: tuple[int, ...]
    """(R, P, C)."""

    def counted(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Count the pairs marked in the mask [n, P] by cell of [R, P, C]."""
        return self.summed(self.cells(*np.nonzero(chosen)))

    def cells(self, pair: Ints, anchor: Ints) -> Ints:
        """Flat indices into [R, P, C] of pairs as seen from anchors."""
        _, points, classes = self.shape
        return (self.rows[pair] * points + anchor) * classes + self.classes[pair]

    def summed(self, cells: Ints, weights: Floats | None = None) -> npt.NDArray[np.float32]:
        """Add 1, or a weight, to [R, P, C] at each of the flat indices."""
        flat = np.bincount(cells, weights, minlength=int(np.prod(self.shape)))
        return flat.astype(np.float32).reshape(self.shape)


def _sequences(
    histories: Histories, starts: Ints, before: Ints, config: InterestConfig
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Ints]:
    """The latest visits before each row's last anchor, padded on the right.

    Returns:
        ([R, T, vector_size], [R, T, facts], [R] number of earlier visits left out).
    """
    most = before.max(axis=1, initial=0)
    first = np.maximum(most - config.max_steps, 0)
    steps = int((most - first).max(initial=1)) or 1
    vectors = np.zeros((len(starts), steps, config.vector_size), dtype=np.float32)
    facts = np.zeros((len(starts), steps, config.visit_facts), dtype=np.float32)
    for row, (start, low, high) in enumerate(zip(starts, first, most, strict=True)):
        part = slice(start + low, start + high)
        if high > low:  # a model of categories reads no visit, and has no vectors of any
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
    """A customer's past with every class at each anchor; only visits with an age above 0 count."""
    ages = moments[pairs.rows] - pairs.days[:, None]  # [n, P]
    pair, anchor = np.nonzero(ages > 0)
    age, cells = ages[pair, anchor], pairs.cells(pair, anchor)
    counts = [pairs.summed(cells[near]) for near in (age <= window for window in config.windows)]
    decayed = [pairs.summed(cells, np.exp2(-age / half)) for half in config.half_lives]
    days_since = np.full(int(np.prod(pairs.shape)), _NEVER)
    days_since[cells] = age  # pairs are in order of time, so the latest visit is written last

    visit_age = moments[visit_rows] - histories.visit_days[visit_index][:, None]  # [v, P]
    visits = np.zeros((*moments.shape, len(VISIT_WINDOWS)), dtype=np.float32)
    for index, window in enumerate(VISIT_WINDOWS):
        np.add.at(visits[..., index], visit_rows, (visit_age > 0) & (visit_age <= window))
    gap = np.full(moments.shape, _NEVER)
    np.minimum.at(gap, visit_rows, np.where(visit_age > 0, visit_age, _NEVER))
    return Interests(
        counts=_tensor(np.stack(counts, axis=-1)),
        decayed=_tensor(np.stack(decayed, axis=-1)),
        days_since=_tensor(days_since.reshape(pairs.shape)),
        visits=torch.from_numpy(visits),
        gap=_tensor(gap),
        # Since the store's records began, which is public; not since the customer's first visit.
        observed=_tensor(np.maximum(moments - histories.observed_from, 1.0)),
    )


def _outlook(
    pairs: _Pairs, past: Interests, anchors: Anchors, config: InterestConfig
) -> torch.Tensor:
    """See `Batch.outlook`."""
    ahead = pairs.days[:, None] - anchors.moments[pairs.rows]
    future = torch.from_numpy(pairs.counted((ahead >= 0) & (ahead < config.horizon_days)))
    reference = past.counts[..., config.reference_window]
    most, least = outlook_bounds(reference * (config.horizon_days / config.reference_days))
    outcome = 1 + (future > most).long() - (future < least).long()
    has_target = torch.from_numpy(anchors.outlook).unsqueeze(-1)
    return torch.where(has_target & has_interest(reference, config.min_visits), outcome, -1)


def _first_visit(pairs: _Pairs, anchors: Anchors, config: InterestConfig) -> torch.Tensor:
    """See `Batch.first_visit`."""
    ends = np.array(config.horizons)
    ahead = pairs.days[:, None] - anchors.moments[pairs.rows]
    pair, anchor = np.nonzero((ahead >= 0) & (ahead < ends[-1]))
    first = np.full(int(np.prod(pairs.shape)), len(ends))
    # Side "right": horizons are half-open, so a visit after exactly 7 days is in the second.
    horizon = np.searchsorted(ends, ahead[pair, anchor], side="right")
    np.minimum.at(first, pairs.cells(pair, anchor), horizon)
    has_target = anchors.outlook[:, :, None]
    return torch.from_numpy(np.where(has_target, first.reshape(pairs.shape), -1))


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
