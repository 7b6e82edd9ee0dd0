"""Histories: the visits of a store's customers as arrays, prepared once from its events.

The events of one basket are one *visit*; without basket ids, all events of a customer on one
day are. A history is a customer's visits in order of time. Preparation needs polars and the
text encoder; reading a prepared file needs only numpy, so that a round starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import load_npz, save_npz
from hanse_client.features.by_customer import at_home, homes_of
from hanse_client.features.ragged import offsets_of
from hanse_common.config import RunSettings, Split
from hanse_common.errors import EmptyStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from hanse_client.ingest.pipeline import Ingested

EPOCH = datetime(1970, 1, 1)
EVENT_KINDS = ("view", "search", "cart", "purchase", "redeem", "rate")
FACTS = (
    "log_items",
    "log_spend",
    "log_gap_days",
    "week_sine",
    "week_cosine",
    *(f"share_{kind}" for kind in EVENT_KINDS),
)
_CATEGORY_DEPTH = 2


def days(moment: datetime) -> float:
    """Days since 1970 in the shop's local time."""
    return (moment - EPOCH).total_seconds() / 86_400


def run_split(settings: RunSettings) -> Split:
    """The run's split in time.

    Raises:
        EmptyStore: The settings have none.
    """
    if settings.data.split is None:
        raise EmptyStore("the run's settings have no split in time", hint="set data.split")
    return settings.data.split


def item_class(category: str, item_id: str, level: str) -> str:
    """The class of an item at a level of the vocabulary.

    Args:
        category: The item's path, e.g. `GROCERY/DAIRY/MILK`.
        item_id: The item's id.
        level: `category` (the path's first two steps), `type` (the whole path), `product`.
    """
    if level == "product":
        return item_id
    return "/".join(category.split("/")[:_CATEGORY_DEPTH]) if level == "category" else category


@dataclass(frozen=True, kw_only=True, slots=True)
class Histories:
    """All histories of a store: N customers, V visits, L (visit, class) pairs, CSR offsets."""

    customers: npt.NDArray[np.str_]
    """[N] pseudonyms, sorted."""
    homes: npt.NDArray[np.int64]
    """[N] keyed hash that decides which store may train on the person; -1 if unknown."""
    visit_offsets: npt.NDArray[np.int64]
    """[N + 1]: the visits of customer i are `visit_offsets[i]:visit_offsets[i + 1]`."""
    visit_days: npt.NDArray[np.float64]
    """[V] beginning of the visit, in days since 1970; ascending within a customer."""
    visit_vectors: npt.NDArray[np.float16]
    """[V, vector_size] mean vector of the visit's items: of their texts, then their own."""
    visit_facts: npt.NDArray[np.float32]
    """[V, len(FACTS)]."""
    pair_offsets: npt.NDArray[np.int64]
    """[V + 1]: the classes bought at visit v are `pair_classes[pair_offsets[v]:...]`."""
    pair_classes: npt.NDArray[np.int32]
    """[L] distinct classes bought at a visit, as indices into the vocabulary."""
    observed_from: float
    """First day of the store's records, in days since 1970; it depends on no customer.

    Days without a visit before it say nothing about a customer's rate.
    """

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[N] number of visits of each customer."""
        return np.diff(self.visit_offsets)

    def until(self, day: float) -> Histories:
        """Only the visits that began before `day`.

        Customers without such a visit stay, with an empty history.
        """
        return self._where(self.visit_days < day)

    def only(self, customers: npt.NDArray[np.int64]) -> Histories:
        """Only the histories of these customers; the others stay, with an empty one."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.visit_offsets))
        return self._where(np.isin(owners, customers))

    def _where(self, keep: npt.NDArray[np.bool_]) -> Histories:
        """Only the visits marked in the mask [V]; all customers stay."""
        # The appended False lets an offset equal V: reduceat refuses indices past the end.
        counts = np.add.reduceat(np.append(keep, False), self.visit_offsets[:-1])
        # Of an empty slice reduceat returns the next element instead of 0.
        counts = np.where(np.diff(self.visit_offsets) > 0, counts, 0)
        sizes = np.diff(self.pair_offsets)
        return Histories(
            customers=self.customers,
            homes=self.homes,
            visit_offsets=offsets_of(counts),
            visit_days=self.visit_days[keep],
            visit_vectors=self.visit_vectors[keep],
            visit_facts=self.visit_facts[keep],
            pair_offsets=offsets_of(sizes[keep]),
            pair_classes=self.pair_classes[np.repeat(keep, sizes)],
            # Unchanged: taken from the visits that are left, it would depend on customers.
            observed_from=self.observed_from,
        )

    @classmethod
    def pooled(cls, parts: Sequence[Histories]) -> Histories:
        """The histories of several stores in one place, whose customers are different people.

        Args:
            parts: Histories of one or more stores with the same vocabulary.
        """
        # Prefixed by store: stores may use the same pseudonym for different people.
        names = [f"{i}/{name}" for i, part in enumerate(parts) for name in part.customers]
        return cls(
            customers=np.array(names),
            homes=np.concatenate([p.homes for p in parts]),
            visit_offsets=offsets_of(np.concatenate([np.diff(p.visit_offsets) for p in parts])),
            visit_days=np.concatenate([p.visit_days for p in parts]),
            visit_vectors=np.concatenate([p.visit_vectors for p in parts]),
            visit_facts=np.concatenate([p.visit_facts for p in parts]),
            pair_offsets=offsets_of(np.concatenate([np.diff(p.pair_offsets) for p in parts])),
            pair_classes=np.concatenate([p.pair_classes for p in parts]),
            observed_from=min(p.observed_from for p in parts),
        )

    def active(self) -> npt.NDArray[np.int64]:
        """Indices of the customers with at least one visit."""
        return np.flatnonzero(self.sizes)

    def at_home(self, index: int, stores: int) -> Histories:
        """Remove the visits of customers whose home is not the store with this index.

        Customers stay with an empty history, and training never draws them.

        Raises:
            ConfigError: A customer's home is unknown.
        """
        here = at_home(
            self.homes,
            index,
            stores,
            hint="set home_key in store.toml to the stores' common key, and prepare again",
        )
        return self._where(np.repeat(here, self.sizes))

    def save(self, path: Path) -> None:
        """Write all arrays to one file."""
        save_npz(self, path)

    @classmethod
    def load(cls, path: Path) -> Histories:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or not a histories file.
        """
        return load_npz(cls, path, hint="prepare the store again")


def prepare(
    data: Ingested,
    *,
    classes: Sequence[str],
    level: str,
    text_vectors: dict[str, npt.NDArray[np.float32]],
    own: npt.NDArray[np.float32] | None = None,
    observed_from: datetime | None = None,
) -> Histories:
    """Build histories from a store's ingested events.

    Args:
        data: The result of `ingest`.
        classes: The federation's public vocabulary, in the model's order.
        level: The kind of the classes: category, type or product.
        text_vectors: Item text -> vector, for every text of the catalogue.
        own: [items, any width] the items' own vectors in the catalogue's order, which follow
            those of the texts; see `own_vectors`.
        observed_from: First day of the store's records, a public fact. If left out, the day
            of the first event: then one customer can change the rates of all others, and no
            promise of privacy covers it.

    Raises:
        EmptyStore: There is no event.
    """
    import polars as pl

    if data.events.is_empty():
        raise EmptyStore("the store has no usable event", hint="see `hanse data check`")
    texts = data.catalogue["text"].unique().sort()
    vectors = np.stack([text_vectors[text] for text in texts]).astype(np.float32)
    items = data.catalogue.select(
        "item_id",
        text_index=pl.col("text").replace_strict(texts, range(len(texts)), return_dtype=pl.Int64),
        class_index=_class_index(data.catalogue, classes, level),
        item_index=pl.int_range(pl.len()),
    )
    events = _with_visits(data.events.join(items, on="item_id", how="left", validate="m:1"))
    visits = _visits(events)

    visit = events["visit"].to_numpy()
    sums = np.zeros((visits.height, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, visit, vectors[events["text_index"].to_numpy()])
    if own is not None and own.shape[1]:
        added = np.zeros((visits.height, own.shape[1]), dtype=np.float32)
        np.add.at(added, visit, own[events["item_index"].to_numpy()])
        sums = np.concatenate([sums, added], axis=1)
    # Only purchases make a (visit, class) pair: views and carts describe the visit alone.
    pairs = (
        events.filter(pl.col("class_index").is_not_null() & (pl.col("event_type") == "purchase"))
        .select("visit", "class_index")
        .unique()
        .sort("visit", "class_index")
    )
    customers = visits["user_id"].unique().sort()
    day = visits["day"].to_numpy()
    return Histories(
        customers=customers.to_numpy().astype(np.str_),
        homes=homes_of(customers, data.homes),
        visit_offsets=offsets_of(
            visits.group_by("user_id").len().sort("user_id")["len"].to_numpy()
        ),
        visit_days=day,
        visit_vectors=(sums / visits["items"].to_numpy()[:, None]).astype(np.float16),
        visit_facts=_facts(visits),
        pair_offsets=offsets_of(np.bincount(pairs["visit"].to_numpy(), minlength=visits.height)),
        pair_classes=pairs["class_index"].to_numpy().astype(np.int32),
        observed_from=float(np.floor(day.min() if observed_from is None else days(observed_from))),
    )


def unranked(data: Ingested, classes: Sequence[str], level: str) -> int:
    """Number of events with items whose class is outside the vocabulary."""
    import polars as pl

    foreign = data.catalogue.filter(_class_index(data.catalogue, classes, level).is_null())
    return data.events.filter(pl.col("item_id").is_in(foreign["item_id"].implode())).height


def _class_index(catalogue: pl.DataFrame, classes: Sequence[str], level: str) -> pl.Series:
    """[items] index of each item's class; null for items outside the vocabulary."""
    import polars as pl

    known = {name: index for index, name in enumerate(classes)}
    rows = zip(catalogue["category"], catalogue["item_id"], strict=True)
    return pl.Series(
        [known.get(item_class(path, item, level)) for path, item in rows], dtype=pl.Int64
    )


def _with_visits(events: pl.DataFrame) -> pl.DataFrame:
    """Add the column `visit` in [0, V), ascending by customer and time of the first event."""
    import polars as pl

    key = pl.coalesce("basket_id", pl.col("timestamp").dt.date().cast(pl.String))
    begun = pl.col("timestamp").min().over("user_id", "visit_key").alias("begun")
    events = events.with_columns(visit_key=key).with_columns(begun)
    # Sorted down to the item, so that sums of floats over a visit do not depend on the order of
    # the source's rows.
    events = events.sort("user_id", "begun", "visit_key", "timestamp", "item_id")
    return events.with_columns(
        visit=pl.struct("user_id", "visit_key").rle_id().cast(pl.Int64),
    )


def _visits(events: pl.DataFrame) -> pl.DataFrame:
    """One row a visit: customer, day, items, spend, days since the last visit, event shares."""
    import polars as pl

    shares = [(pl.col("event_type") == kind).mean().alias(f"share_{kind}") for kind in EVENT_KINDS]
    since = (pl.col("begun").first() - EPOCH).dt.total_microseconds() / 86_400e6
    return (
        events.group_by("visit", maintain_order=True)
        .agg(
            pl.col("user_id").first(),
            day=since,
            items=pl.len(),
            spend=(pl.col("price").fill_null(0) * pl.col("quantity")).sum(),
            **{share.meta.output_name(): share for share in shares},
        )
        .sort("visit")
        .with_columns(gap=pl.col("day").diff().over("user_id").fill_null(0))
    )


def _facts(visits: pl.DataFrame) -> npt.NDArray[np.float32]:
    """[V, len(FACTS)] facts; each row depends only on its own visit and the one before it.

    Scaling is by constants: means or spreads of the data would depend on other customers.
    """
    angle = 2 * np.pi * visits["day"].to_numpy() / 7
    columns = [
        np.log1p(visits["items"].to_numpy()),
        np.log1p(visits["spend"].to_numpy()),
        np.log1p(visits["gap"].to_numpy()),
        np.sin(angle),
        np.cos(angle),
        *(visits[f"share_{kind}"].to_numpy() for kind in EVENT_KINDS),
    ]
    return np.stack(columns, axis=1).astype(np.float32)
