"""Visits of a store's customers from its events, some customers at a time.

What is prepared of a customer depends on nobody else, so that the events are arranged in parts
of some ten thousand rows: memory holds the arrays of one part, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_client.features.array_files import GrowingArray
from hanse_client.features.histories import EPOCH, EVENT_KINDS, item_class
from hanse_client.ingest.schema import EVENT_COLUMNS

_ROWS: Final = 50_000
"""Events that are arranged at a time; 25,000 to 200,000 take about the same time."""
_VECTOR_ROWS: Final = 16_384
"""Events whose vectors are added at a time: 25 MB of 384 numbers each."""
COLUMNS: Final = (
    *("user_id", "item_id", "timestamp", "event_type"),
    *("basket_id", "quantity", "price"),
)
"""What is read of events; without the other columns they take two thirds of the memory."""


def class_index(catalogue: pl.DataFrame, classes: Sequence[str], level: str) -> pl.Series:
    """[items] index of each item's class; null for items outside the vocabulary."""
    known = {name: index for index, name in enumerate(classes)}
    rows = zip(catalogue["category"], catalogue["item_id"], strict=True)
    return pl.Series(
        [known.get(item_class(path, item, level)) for path, item in rows], dtype=pl.Int32
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemVectors:
    """What a visit's vector is the mean of; the items are those of the catalogue, in its order."""

    of_texts: npt.NDArray[np.float32]
    """[texts, width] vectors of the distinct texts."""
    texts: npt.NDArray[np.int64]
    """[items] index of each item's text."""
    own: npt.NDArray[np.float32]
    """[items, own width] vectors that the catalogue brings; the width may be 0."""

    @property
    def width(self) -> int:
        """Length of a visit's vector: that of a text, then the item's own."""
        return int(self.of_texts.shape[1] + self.own.shape[1])

    def of(self, items: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """[n, width] vectors of items."""
        return np.concatenate([self.of_texts[self.texts[items]], self.own[items]], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visits:
    """The v visits of n customers, in order of customer and time."""

    customers: npt.NDArray[np.str_]
    """[n] pseudonyms, sorted."""
    sizes: npt.NDArray[np.int64]
    """[n] number of visits of each customer, at least 1."""
    days: npt.NDArray[np.float64]
    """[v] see `Histories.visit_days`."""
    vectors: npt.NDArray[np.float16]
    """[v, width] see `Histories.visit_vectors`."""
    facts: npt.NDArray[np.float32]
    """[v, len(FACTS)]."""
    pair_sizes: npt.NDArray[np.int64]
    """[v] number of distinct classes bought at each visit."""
    pair_classes: npt.NDArray[np.int32]
    """Their indices, visit by visit, ascending within one."""


def visits_of(
    events: pl.DataFrame, items: pl.DataFrame, vectors: ItemVectors | None, *, folder: Path
) -> Visits:
    """Arrange a store's events as visits.

    Args:
        events: At least one, in the types of `Ingested.rows`; best sorted by `user_id`.
        items: `item_id, item_index, class_index` of the catalogue, the second its row number.
        vectors: Of the items; None for visits with vectors of length 0.
        folder: Where arrays that are too large for memory are kept.
    """
    names = events["user_id"].unique().cast(pl.String)
    longest = int(names.str.len_chars().to_numpy().max())
    grown: dict[str, GrowingArray] = {}
    for part in _by_customers(events):
        visits = _arranged(part, items, vectors, longest)
        for field in fields(Visits):
            rows = getattr(visits, field.name)
            if field.name not in grown:
                grown[field.name] = GrowingArray(rows, folder=folder)
            grown[field.name].append(rows)
    return Visits(**{name: array.whole() for name, array in grown.items()})


def _by_customers(events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Consecutive events of whole customers, some `_ROWS` at a time.

    What comes back or is cancelled is no visit, and says nothing of what somebody wants.
    """
    if not events["event_type"].is_in(EVENT_KINDS).all():
        events = events.filter(pl.col("event_type").is_in(EVENT_KINDS))
    events = events.select(COLUMNS)
    if not events["user_id"].is_sorted():
        events = events.sort("user_id", maintain_order=True)
    # Numbers in the order of names, where names are those of a dictionary.
    users = events["user_id"].to_physical()
    start = 0
    while start < len(events):
        # To the end of the last customer, so that all of their visits are in one part.
        last = users[min(start + _ROWS, len(events)) - 1]
        stop = int(users.search_sorted(last, side="right"))
        # The texts of ids for one part only.
        yield events[start:stop].cast({name: EVENT_COLUMNS[name] for name in COLUMNS})
        start = stop


def _arranged(
    part: pl.DataFrame, items: pl.DataFrame, vectors: ItemVectors | None, longest: int
) -> Visits:
    lines = _in_order(part, items)
    begins = lines["begins"].to_numpy()
    visit, first = np.cumsum(begins) - 1, np.flatnonzero(begins)
    lengths = np.diff(np.append(first, len(lines)))
    heads = lines[first]
    owners = heads["user"].to_numpy()
    since = heads.select((pl.col("begun") - EPOCH).dt.total_microseconds() / 86_400e6)
    days = since.to_series().to_numpy()
    kinds, listed = lines["kind"].to_numpy(), lines["class_index"].to_numpy()
    # Only purchases make a (visit, class) pair: views and carts describe the visit alone.
    bought = (listed >= 0) & (kinds == EVENT_KINDS.index("purchase"))
    width = int(listed.max(initial=0)) + 1
    pairs = np.unique(visit[bought] * width + listed[bought])
    names = heads["user_id"].filter(heads["user"] != heads["user"].shift(fill_value=-1))
    return Visits(
        customers=names.to_numpy().astype(f"<U{longest}"),
        sizes=np.bincount(owners),
        days=days,
        vectors=_mean_vectors(lines["item_index"].to_numpy(), first, lengths, vectors),
        facts=_facts(lines["spend"].to_numpy(), kinds, visit, lengths, days, owners),
        pair_sizes=np.bincount(pairs // width, minlength=len(first)),
        pair_classes=(pairs % width).astype(np.int32),
    )


def _in_order(part: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The events of some customers by customer, visit, time and item.

    Columns are added: `user`, a number from 0; `begins`, whether the event is the first of its
    visit; `begun`, when that was; `kind`, an index of `EVENT_KINDS`; and `spend`.
    """
    key = pl.col("basket_id")
    if part["basket_id"].null_count():
        key = pl.coalesce(key, pl.col("timestamp").dt.date().cast(pl.String))
    kinds = range(len(EVENT_KINDS))
    lines = (
        part.join(items, on="item_id", how="left", validate="m:1", maintain_order="left")
        .with_columns(
            user=pl.col("user_id").rle_id().cast(pl.Int64),
            visit_key=key,
            kind=pl.col("event_type").replace_strict(
                EVENT_KINDS, kinds, default=-1, return_dtype=pl.Int8
            ),
            spend=pl.col("price").fill_null(0) * pl.col("quantity"),
            class_index=pl.col("class_index").fill_null(-1),
        )
        .with_columns(begun=pl.col("timestamp").min().over("user", "visit_key"))
        # Down to the item and its price, so that sums of floats over a visit do not depend on
        # the order of the source's rows.
        .sort("user", "begun", "visit_key", "timestamp", "item_id", "spend")
    )
    new = [pl.col(name) != pl.col(name).shift() for name in ("user", "visit_key")]
    return lines.with_columns(begins=pl.any_horizontal(new).fill_null(True))


def _mean_vectors(
    items: npt.NDArray[Any],
    first: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    vectors: ItemVectors | None,
) -> npt.NDArray[np.float16]:
    """[v, width] mean vector of each visit's items.

    Args:
        items: [lines] index of each line's item.
        first: [v] each visit's first line.
        lengths: [v] each visit's number of lines.
        vectors: Of the items.
    """
    if vectors is None:
        return np.zeros((len(first), 0), dtype=np.float16)
    means = np.empty((len(first), vectors.width), dtype=np.float16)
    start = 0
    while start < len(first):
        # A visit of more lines than that is added at once.
        stop = int(np.searchsorted(first, first[start] + _VECTOR_ROWS, side="right")) - 1
        stop = len(first) if first[start] + _VECTOR_ROWS >= len(items) else max(stop, start + 1)
        end = int(first[stop - 1] + lengths[stop - 1])
        lines = vectors.of(items[first[start] : end])
        sums = _sums(lines, first[start:stop] - first[start], lengths[start:stop])
        means[start:stop] = (sums / lengths[start:stop, None]).astype(np.float16)
        start = stop
    return means


def _sums(
    lines: npt.NDArray[np.float32], first: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """[v, width] sums of consecutive lines, each line added to the sum of those before it.

    `numpy.add.reduceat` adds long runs in another order, and so gives other last bits.
    """
    sums = np.zeros((len(first), lines.shape[1]), dtype=np.float32)
    # The longest visits first, so that those with a k-th line are a slice.
    order = np.argsort(-lengths, kind="stable")
    counts = np.bincount(lengths)
    longer = len(first) - np.cumsum(counts)[:-1]  # [longest] visits of more than k lines
    for k, count in enumerate(longer):
        chosen = order[:count]
        sums[chosen] += lines[first[chosen] + k]
    return sums


def _facts(
    spend: npt.NDArray[np.float64],
    kinds: npt.NDArray[np.int8],
    visit: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    days: npt.NDArray[np.float64],
    owners: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """[v, len(FACTS)] facts; each row depends only on its own visit and the one before it.

    Scaling is by constants: means or spreads of the data would depend on other customers.

    Args:
        spend: [lines] what each line cost.
        kinds: [lines] index of each line's kind of event.
        visit: [lines] index of each line's visit.
        lengths: [v] number of lines.
        days: [v] beginning of the visit.
        owners: [v] the visit's customer.
    """
    gaps = np.diff(days, prepend=days[:1])
    gaps[np.flatnonzero(np.diff(owners, prepend=-1))] = 0.0
    angle = 2 * np.pi * days / 7
    columns = [
        np.log1p(lengths),
        np.log1p(np.bincount(visit, spend, minlength=len(days))),
        np.log1p(gaps),
        np.sin(angle),
        np.cos(angle),
        *(
            np.bincount(visit[kinds == kind], minlength=len(days)) / lengths
            for kind in range(len(EVENT_KINDS))
        ),
    ]
    return np.stack(columns, axis=1).astype(np.float32)
