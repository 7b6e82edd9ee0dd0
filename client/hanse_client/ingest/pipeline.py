r"""The ingestion pipeline: raw rows become canonical events under pseudonyms.

Every row of the source is either accepted or counted under the first reason to reject it,
so that `rows_read == events.height + sum(rejects.values())`. Customer and basket ids become
pseudonyms (`hanse_client.ingest.pseudonyms`); no later code sees a raw id.

>>> import tempfile
>>> from pathlib import Path
>>> from hanse_client.ingest.store_config import load_store
>>> with tempfile.TemporaryDirectory() as folder:
...     store = Path(folder, "store.toml")
...     _ = Path(folder, "sales.csv").write_text(
...         "user_id,item_id,timestamp\nada,1,2017-01-02\nbob,1,2017-01-03 09:30\n"
...     )
...     _ = Path(folder, "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK\n")
...     _ = store.write_text(
...         "name = 'corner'\n[events]\npath = 'sales.csv'\n[catalogue]\npath = 'items.csv'"
...     )
...     corner = ingest(load_store(store))
>>> corner.events.height, corner.rejects, "ada" in corner.events["user_id"]
(2, {}, False)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from hanse_client.ingest.casts import joined_list
from hanse_client.ingest.events import UNKNOWN_ITEM, read_events
from hanse_client.ingest.pseudonyms import (
    home_lots,
    load_key,
    load_or_make_key,
    pseudonymise,
    visit_seed,
)
from hanse_client.ingest.reasons import REPEATED_ITEM, Rejects, listed, refuse_rejects
from hanse_client.ingest.rows import (
    condition,
    count,
    read_id,
    read_number,
    read_text,
    read_vector,
    reject,
    unread_ids,
)
from hanse_client.ingest.schema import (
    EVENT_COLUMNS,
    UNCATEGORISED,
    conform_catalogue,
    conform_events,
)
from hanse_client.ingest.sources import RawRows, read_rows
from hanse_client.ingest.store_config import (
    CatalogueSource,
    EventsSource,
    StoreConfig,
    load_catalogue,
)
from hanse_common.errors import ConfigError, DataError, EmptyStore, UnknownIds

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """A store's data after ingestion."""

    rows: pl.DataFrame
    """The events, sorted by `user_id` and `timestamp`: columns of `EVENT_COLUMNS`, whose ids may be
    numbers of a dictionary (`pl.Enum`), which take a tenth of the memory. Customer ids are
    pseudonyms; `basket_id` is a visit's number. Columns without a value may have the type
    `pl.Null`."""
    catalogue: pl.DataFrame
    """`CATALOGUE_COLUMNS`, sorted by `item_id`, which is unique."""
    rejects: Rejects
    """Rejected rows of events by reason, the most frequent first."""
    rows_read: int
    catalogue_rejects: Rejects
    """Rejected rows of the catalogue by reason; `repeated item` is not an error."""
    catalogue_rows_read: int
    encodings: dict[str, int] = field(default_factory=dict)
    """Of the events' files of text, each with its number of rows."""
    catalogue_encodings: tuple[str, ...] = ()
    reused_baskets: int = 0
    """Basket numbers that come again on another day, at another shop or for another customer."""
    homes: dict[str, int] = field(default_factory=dict)
    """Pseudonym -> keyed hash that decides which store may train on the person; empty if the
    store has no `home_key`."""

    @property
    def events(self) -> pl.DataFrame:
        """The events in the types of `EVENT_COLUMNS`, in a copy."""
        return conform_events(self.rows)


def ingest(config: StoreConfig, *, now: datetime | None = None) -> Ingested:
    """Read, check and pseudonymise a store's events and catalogue.

    Args:
        config: The store's sources; `config.pseudonym_key` is created if it is missing.
        now: Later events are rejected. In the shop's local time if naive; by default the
            current time in the store's time zone, or in UTC+14 if that is unknown.

    Returns:
        The accepted rows, and the number of rejected ones by reason.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`; also
            if no cell of a filled column can be read as its type.
        EmptyStore: The source has no row, or all were rejected.
        UnknownIds: A larger share of events than `max_reject_share` names items that are not in
            the catalogue.
        DataError: A larger share of rows than that is rejected altogether.
    """
    events, goods = config.table(EventsSource), config.table(CatalogueSource)
    catalogue, catalogue_rejects, raw = _read_goods(goods, config.max_reject_share)
    read = read_events(events, catalogue["item_id"], now)
    if not read.rows_read:
        raise EmptyStore(f"{events.label} has no row", hint=f"a store needs {events.TABLE}")
    # Checked before a key is created: a refused source leaves nothing behind.
    _refuse_unknown_items(config, events, read.rejects, read.rows_read)
    refuse_rejects(config.max_reject_share, events, read.rejects, read.rows_read, read.rows.height)
    rows, homes = _under_pseudonyms(config, read.rows)
    return Ingested(
        rows=rows,
        homes=homes,
        catalogue=catalogue,
        rejects=read.rejects,
        rows_read=read.rows_read,
        encodings=read.encodings,
        reused_baskets=read.reused_baskets,
        catalogue_rejects=catalogue_rejects,
        catalogue_rows_read=raw.rows_read,
        catalogue_encodings=raw.encodings,
    )


def _under_pseudonyms(
    config: StoreConfig, rows: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace the ids of customers and visits, and sort; also return the homes, if known."""
    key = load_or_make_key(config.pseudonym_key)
    distinct = rows["user_id"].unique()
    ids, numbers = distinct.cast(pl.String), distinct.to_physical().to_numpy()
    names = pseudonymise(ids, key)
    order = names.arg_sort().to_numpy()
    # Numbers in the order of pseudonyms: sorting by them is sorting by name, and ten times as fast.
    users = pl.Enum(names[order])
    ranks = np.empty(int(numbers.max()) + 1, dtype=np.uint32)
    ranks[numbers[order]] = np.arange(len(order), dtype=np.uint32)
    ranked = pl.Series("user_id", ranks[rows["user_id"].to_physical().to_numpy()])
    stored = pl.Series([], dtype=users).to_physical().dtype
    hidden = rows.with_columns(ranked.cast(stored).cat.to(users))
    if rows.schema["basket_id"] != pl.Null:
        visits = rows["basket_id"]
        hashed = visits.hash(visit_seed(key))
        hidden = hidden.with_columns(hashed.set(visits.is_null(), None).alias("basket_id"))
    ordered = hidden.select(*EVENT_COLUMNS).sort("user_id", "timestamp", maintain_order=True)
    if config.home_key is None:
        return ordered, {}
    # Hashed from the raw ids, which agree across stores; pseudonyms do not.
    lots = home_lots(ids, load_key(config.home_key))
    return ordered, dict(zip(names, lots, strict=True))


def summarise(store: Ingested) -> dict[str, Any]:
    """Count a store's rows, customers, items and baskets, without any row or id.

    Returns:
        Values ready for JSON. If the source has no `basket_id`, all events of a customer on
        one day are one basket.
    """
    events = store.rows
    if events["basket_id"].is_null().all():
        baskets = events.select(pl.struct("user_id", pl.col("timestamp").dt.date()).n_unique())
    else:
        baskets = events.select(pl.col("basket_id").drop_nulls().n_unique())
    by_type = events["event_type"].value_counts(sort=True)
    return {
        "rows_read": store.rows_read,
        "kept": events.height,
        "rejects": store.rejects,
        "customers": events["user_id"].n_unique(),
        "items": events["item_id"].n_unique(),
        "baskets": int(baskets.item()),
        "first_day": events.select(pl.col("timestamp").min().dt.strftime("%Y-%m-%d")).item(),
        "last_day": events.select(pl.col("timestamp").max().dt.strftime("%Y-%m-%d")).item(),
        "event_types": dict(by_type.iter_rows()),
        "catalogue": {
            "rows_read": store.catalogue_rows_read,
            "kept": store.catalogue.height,
            "rejects": store.catalogue_rejects,
            "categories": store.catalogue["category"].n_unique(),
            "vectors": store.catalogue["vector"].count(),
        },
    }


def read_catalogue(
    source: CatalogueSource, max_reject_share: float
) -> tuple[pl.DataFrame, dict[str, int], int]:
    """Read and check a shop's catalogue.

    Args:
        source: The file or query.
        max_reject_share: Reading fails if a larger share of the rows than this is rejected.

    Returns:
        The canonical catalogue, the numbers of rejected rows by reason, and of rows read.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`.
        DataError: No item is usable, or too many rows are rejected.
    """
    items, rejects, raw = _read_goods(source, max_reject_share)
    return items, rejects, raw.rows_read


def _read_goods(
    source: CatalogueSource, max_reject_share: float
) -> tuple[pl.DataFrame, dict[str, int], RawRows]:
    raw = read_rows(source)
    text, path = read_text(raw, source, "text"), _category_path(raw, source)
    price, price_reasons = read_number(raw, source, "price")
    vector, vector_reasons = read_vector(raw, source)
    columns = pl.DataFrame(
        {
            "item_id": read_id(raw, source, "item_id"),
            # An item without a text is described by the last step of its category path.
            "text": text.zip_with(text.is_not_null(), path.str.split("/").list.last()),
            "category": path.fill_null(UNCATEGORISED),
            "brand": read_text(raw, source, "brand"),
            "price": price,
            "vector": vector,
        }
    )
    accepted, rejects = reject(
        raw,
        columns,
        [
            *condition(raw, source, columns),
            *unread_ids(raw, source, "item_id"),
            ("missing item_id", columns["item_id"].is_null()),
            ("missing text", columns["text"].is_null()),
            *price_reasons,
            *vector_reasons,
        ],
    )
    # Equal rows of an item (say, one per branch) are no error; rows that contradict each
    # other are.
    distinct = accepted.unique(maintain_order=True)
    count(rejects, REPEATED_ITEM, accepted.height - distinct.height)
    items = distinct.unique("item_id", keep="first", maintain_order=True)
    count(rejects, "contradicting item_id", distinct.height - items.height)
    if items.is_empty():
        raise DataError(
            f"{source.label} has no usable item", hint=listed(rejects) or "it has no row"
        )
    refuse_rejects(max_reject_share, source, rejects, raw.rows_read, items.height)
    return conform_catalogue(items.sort("item_id")), rejects, raw


def _category_path(raw: RawRows, source: CatalogueSource) -> pl.Series:
    """Read categories as paths such as `GROCERY/DAIRY/MILK`; null where there is none."""
    name = "category"
    if name in raw.frame.columns and isinstance(raw.frame.schema[name], pl.List | pl.Array):
        # A list is a path. A slash within a step must not become one between two.
        steps = (
            raw.frame[name]
            .cast(pl.List(pl.String))
            .list.eval(pl.element().str.replace_all(r"\s*/\s*", "-"))
        )
        category = joined_list(steps, "/")
    else:
        category = read_text(raw, source, name)
        if source.categories_separator:
            category = category.str.split(source.categories_separator).list.first()
        separator = source.category_separator
        if separator != "/":
            category = category.str.replace_all("/", "-", literal=True)
            category = category.str.replace_all(separator.strip() or separator, "/", literal=True)
    path = category.str.replace_all(r"\s*/[\s/]*", "/").str.strip_chars("/ ")
    return path.set((path == "").fill_null(False), None)


def public_catalogue(path: Path | None) -> pl.DataFrame:
    """Read the catalogue that a federation's initial model is made from.

    Args:
        path: A Parquet, CSV or TSV file with the canonical columns, or a `.toml` file whose
            `[catalogue]` names such a file and its columns.

    Raises:
        ConfigError: No file is named, or the `.toml` file has no valid `[catalogue]`.
        DataError: The catalogue cannot be used; see `read_catalogue`.
    """
    if path is None:
        raise ConfigError(
            "this task's model is made from a catalogue, and none is named",
            hint="`hanse model init CATALOGUE`; docs/data.md says what a catalogue must be",
        )
    if path.suffix == ".toml":
        source = load_catalogue(path)
    else:
        source = CatalogueSource(path=str(path.absolute()))
    items, _, _ = read_catalogue(source, StoreConfig.model_fields["max_reject_share"].default)
    return items


def _refuse_unknown_items(
    config: StoreConfig, source: EventsSource, rejects: Mapping[str, int], rows: int
) -> None:
    # Before the general check: it has a better hint for the most common mistake in a mapping.
    unknown = rejects.get(UNKNOWN_ITEM, 0)
    if unknown > source.tolerances.get(UNKNOWN_ITEM, config.max_reject_share) * rows:
        raise UnknownIds(
            f"{unknown:,} of {rows:,} rows of {source.label} name items that are not in "
            f"the catalogue ({unknown / rows:.1%}, at most {config.max_reject_share:.1%})",
            hint="is item_id the same number in both, leading zeros included? "
            "or raise max_reject_share",
        )
