"""Histories: the visits of a store's customers as arrays, prepared once from its events.

The events of one basket are one *visit*; without basket ids, all events of a customer on one
day are. A history is a customer's visits in order of time. Preparation needs polars and the
text encoder; reading a prepared file needs only numpy, so that a round starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hanse_client.features.array_files import load_npz, save_npz
from hanse_client.features.by_customer import at_home, homes_of
from hanse_client.features.ragged import Ints, offsets_of, ranges
from hanse_common.config import RunSettings, Split
from hanse_common.errors import EmptyStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from hanse_client.features.visits import ItemVectors
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
HOMELESS = "set home_key in store.toml to the stores' common key, and prepare again"
"""Hint where a person's home is unknown."""


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
    """[V, vector_size] mean vector of the visit's items: of their texts, then their own; [V, 0]
    for a model of categories, which reads none."""
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

    def select(self, customers: npt.NDArray[np.int64], sizes: Ints | None = None) -> Histories:
        """The histories of these customers, in this order.

        Args:
            customers: [R] indices; a customer may be there several times.
            sizes: [R] how many of each one's first visits to take; all if left out.
        """
        starts = self.visit_offsets[customers]
        sizes = self.visit_offsets[customers + 1] - starts if sizes is None else sizes
        _, visits = ranges(starts, starts + sizes)
        pair_starts, pair_stops = self.pair_offsets[visits], self.pair_offsets[visits + 1]
        _, pairs = ranges(pair_starts, pair_stops)
        return replace(
            self,
            customers=self.customers[customers],
            homes=self.homes[customers],
            visit_offsets=offsets_of(sizes),
            visit_days=self.visit_days[visits],
            visit_vectors=self.visit_vectors[visits],
            visit_facts=self.visit_facts[visits],
            pair_offsets=offsets_of(pair_stops - pair_starts),
            pair_classes=self.pair_classes[pairs],
        )

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
        here = at_home(self.homes, index, stores, hint=HOMELESS)
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
    text_vectors: Mapping[str, npt.NDArray[np.float32]] | None = None,
    own: npt.NDArray[np.float32] | None = None,
    observed_from: datetime | None = None,
    folder: Path | None = None,
) -> Histories:
    """Build histories from a store's ingested events.

    Args:
        data: The result of `ingest`.
        classes: The federation's public vocabulary, in the model's order.
        level: The kind of the classes: category, type or product.
        text_vectors: Item text -> vector, for every text of the catalogue. If left out, visits
            have vectors of length 0: a model of categories reads none.
        own: [items, any width] the items' own vectors in the catalogue's order, which follow
            those of the texts; see `own_vectors`.
        observed_from: First day of the store's records, a public fact. If left out, the day
            of the first event: then one customer can change the rates of all others, and no
            promise of privacy covers it.
        folder: Where arrays that are too large for memory are kept, in files without a name;
            the system's folder of temporary files if left out.

    Raises:
        EmptyStore: There is no event.
    """
    import polars as pl

    from hanse_client.features.visits import class_index, visits_of

    if data.rows.is_empty():
        raise EmptyStore("the store has no usable event", hint="see `hanse data check`")
    items = data.catalogue.select(
        "item_id",
        item_index=pl.int_range(pl.len(), dtype=pl.Int64),
        class_index=class_index(data.catalogue, classes, level),
    )
    vectors = None if text_vectors is None else _item_vectors(data.catalogue, text_vectors, own)
    visits = visits_of(
        data.rows, items, vectors, folder=Path(gettempdir()) if folder is None else folder
    )
    begun = visits.days.min() if observed_from is None else days(observed_from)
    nowhere = np.full(len(visits.customers), -1, dtype=np.int64)
    return Histories(
        customers=visits.customers,
        homes=homes_of(visits.customers, data.homes) if data.homes else nowhere,
        visit_offsets=offsets_of(visits.sizes),
        visit_days=visits.days,
        visit_vectors=visits.vectors,
        visit_facts=visits.facts,
        pair_offsets=offsets_of(visits.pair_sizes),
        pair_classes=visits.pair_classes,
        observed_from=float(np.floor(begun)),
    )


def unranked(data: Ingested, classes: Sequence[str], level: str) -> int:
    """Number of events with items whose class is outside the vocabulary."""
    from hanse_client.features.visits import class_index

    foreign = data.catalogue.filter(class_index(data.catalogue, classes, level).is_null())
    if foreign.is_empty():
        return 0
    return int(data.rows["item_id"].is_in(foreign["item_id"].to_list()).sum())


def _item_vectors(
    catalogue: pl.DataFrame,
    text_vectors: Mapping[str, npt.NDArray[np.float32]],
    own: npt.NDArray[np.float32] | None,
) -> ItemVectors:
    from hanse_client.features.visits import ItemVectors

    texts = catalogue["text"].unique().sort()
    places = catalogue["text"].replace_strict(texts, np.arange(len(texts)))
    return ItemVectors(
        of_texts=np.stack([text_vectors[text] for text in texts]).astype(np.float32),
        texts=places.to_numpy(),
        own=np.zeros((catalogue.height, 0), np.float32) if own is None else own,
    )
