"""Divide one shop's own file into stores: by a column, or by which branches share customers.

An analyst often has one export of a whole chain. `data.partition_by` divides it, as the data set of
groceries is divided into regions:

- a column of the events, such as a branch or a region: a store for each of its values
- `co-shopping`: branches (`shop_id`) that the same customers visit form a region

Either way a customer belongs to the store where they have most baskets before training ends, and a
store has its own customers' events in its own branches, as its own tills would. Stores share no
customer, so that a customer's epsilon is that of one store.

The file is read once, through the production ingestion, so that every row is kept or counted as
rejected. The stores are written with pseudonyms in place of customers' ids, into a folder that only
their owner can read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import EventsSource, StoreConfig, load_store
from hanse_common.config import CO_SHOPPING
from hanse_common.errors import ConfigError, DataError, MissingColumns
from hanse_simulations.datasets import partitions
from hanse_simulations.datasets.dataset import Dataset
from hanse_simulations.datasets.freezing import LEAST, REGIONS, core_shops, named_regions

if TYPE_CHECKING:
    from hanse_common.config import DataSettings, Split

JOINED = "others"
"""Name of the store that small ones are joined into."""
_MOST_STORES = 1_000
"""A column with more values holds ids or times, and every value would be a file."""
_YEAR = timedelta(days=365)
"""Begin of the records before training ends, where `store.toml` names no day: a public constant."""


def divide(data: DataSettings) -> tuple[Dataset, str]:
    """Divide the file of the settings into stores.

    Args:
        data: `path` is a `store.toml`, and `partition_by` says how to divide it. `stores` is the
            number of regions of `co-shopping`; of a column's stores it keeps the first by name.

    Returns:
        The stores, and a digest of all that they depend on.

    Raises:
        ConfigError: The settings do not fit together.
        MissingColumns: The file lacks the column, or has no branches for `co-shopping`.
        DataError [too-few-customers]: A store has fewer than `data.min_customers`.
        DataError: The file cannot be read or used; see `ingest`.
    """
    if data.path is None or data.partition_by is None or data.split is None:
        raise ConfigError("one file needs data.path, data.partition_by and data.split")
    if data.customers is not None:
        raise ConfigError(
            f"data.customers={data.customers} cannot limit your own file",
            hint="leave it out, or limit the table",
        )
    config = load_store(data.path)
    column = _column(config, data.partition_by)
    read = ingest(config if column is None else _carrying(config, column))
    # From here on `shop_id` is what the file is divided by, and `branch` the events' own shop.
    events = (
        read.events
        if column is None
        else read.events.rename({"shop_id": "branch", "text": "shop_id"})
    )
    visits = _visits(events, data.split)
    shops = (
        _regions(visits, data)
        if data.partition_by == CO_SHOPPING
        else _values(events, data.partition_by)
    )
    partition = _large_enough(visits, shops, data)
    names = partition.names
    if data.partition_by != CO_SHOPPING and data.stores is not None:
        if data.stores > len(names):
            raise ConfigError(
                f"data.stores={data.stores}, and data.partition_by gives {len(names)}",
                hint=f"ask for at most {len(names)}",
            )
        names = names[: data.stores]
    stores = [(name, _own_events(partition.events_of(events, name))) for name in names]
    kept = sum(part.height for _, part in stores)
    begun = config.observed_from or (data.split.train_until - _YEAR).date()
    terms = [config.name, data.partition_by, begun.isoformat(), data.split.model_dump_json(), names]
    return Dataset(
        stores=stores,
        catalogue=_filled(read.catalogue),
        observed_from=begun,
        split=data.split,
        note=_note(data, read, partition, kept),
        facts={
            "rows_read": read.rows_read,
            "rows_rejected": sum(read.rejects.values()),
            "events_in_no_store": events.height - kept,
        },
    ), hashlib.sha256(json.dumps(terms).encode()).hexdigest()


def _column(config: StoreConfig, partition_by: str) -> str | None:
    """The table's column to divide by; None if it is the events' `shop_id` itself."""
    columns = config.table(EventsSource).columns
    if partition_by in (CO_SHOPPING, "shop_id") or columns.get("shop_id") == partition_by:
        return None
    named = columns.get(partition_by, partition_by)
    if not isinstance(named, str):
        raise ConfigError(
            f"data.partition_by={partition_by!r} is joined from several columns",
            hint="name one of them",
        )
    return named


def _carrying(config: StoreConfig, column: str) -> StoreConfig:
    """The same store with a column as the events' `text`, which no task reads.

    As `shop_id` it would stand for the branch, and make purchases in two branches of a region
    duplicates of each other.
    """
    source = config.table(EventsSource)
    # An empty cell is in no store: a default would put it into one.
    defaults = {name: value for name, value in source.defaults.items() if name != "text"}
    changed = source.model_copy(
        update={"columns": {**source.columns, "text": column}, "defaults": defaults}
    )
    return config.model_copy(update={"events": changed})


def _own_events(events: pl.DataFrame) -> pl.DataFrame:
    """A store's events under canonical names, without columns that hold nothing."""
    if "branch" in events.columns:
        events = events.drop("shop_id").rename({"branch": "shop_id"})
    return _filled(events)


def _visits(events: pl.DataFrame, split: Split) -> pl.DataFrame:
    """`user_id, shop_id, baskets` before training ends, a row per customer and branch."""
    basket = pl.coalesce("basket_id", pl.col("timestamp").dt.date().cast(pl.String))
    return (
        events.filter(pl.col("timestamp") < split.train_until, pl.col("shop_id").is_not_null())
        .group_by("user_id", "shop_id")
        .agg(baskets=basket.n_unique())
        .sort("user_id", "shop_id")
    )


def _values(events: pl.DataFrame, column: str) -> pl.DataFrame:
    """`shop_id, store`: a store for each value of the column."""
    values = events["shop_id"].drop_nulls().unique().sort()
    if values.is_empty():
        raise MissingColumns(
            f"data.partition_by={column!r}: the column is empty in every event",
            hint="name a column of the events, such as a branch or a region",
        )
    if len(values) > _MOST_STORES:
        raise ConfigError(
            f"data.partition_by={column!r}: the column has {len(values):,} different values",
            hint="name a column of branches or regions, not of ids",
        )
    return pl.DataFrame({"shop_id": values, "store": _store_names(values.to_list())})


def _store_names(values: Sequence[str]) -> list[str]:
    """A file name for each value, none of them twice.

    >>> _store_names(["Köln / Süd", "koln sud", "17"])
    ['köln-süd', 'koln-sud', '17']
    """
    names: list[str] = []
    for value in values:
        plain = re.sub(r"[^\w]+", "-", value.lower()).strip("-")[:40] or "store"
        name, number = plain, 1
        while name in names or name == JOINED:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def _regions(visits: pl.DataFrame, data: DataSettings) -> pl.DataFrame:
    """`shop_id, store`: regions of branches that share customers."""
    shops = visits["shop_id"].unique().sort()
    if shops.is_empty():
        raise MissingColumns(
            f"data.partition_by={CO_SHOPPING!r} needs branches, and no event has a shop_id",
            hint='map it in store.toml: [events.columns] shop_id = "your column"',
        )
    core = len(core_shops(visits))
    wanted = min(REGIONS, core) if data.stores is None else data.stores
    if not 2 <= wanted <= core:
        raise DataError(
            f"{core} branches are home to {LEAST} customers or more, too few for "
            f"{max(wanted, 2)} regions",
            code="too-few-customers",
            hint="lower data.stores, or divide by a column",
        )
    return named_regions(visits, shops, regions=wanted)


def _large_enough(
    visits: pl.DataFrame, shops: pl.DataFrame, data: DataSettings
) -> partitions.Partition:
    """The stores with their customers, small ones refused or joined."""
    partition = _assigned(visits, shops)
    small = [name for name, size in partition.sizes.items() if size < data.min_customers]
    if small and data.small_stores == "join":
        joined = pl.when(pl.col("store").is_in(small)).then(pl.lit(JOINED)).otherwise("store")
        partition = _assigned(visits, shops.with_columns(store=joined))
        small = [name for name, size in partition.sizes.items() if size < data.min_customers]
    if small:
        # Numbers only: a value of the column may name a person.
        raise DataError(
            f"{len(small)} of {len(partition.sizes)} stores have fewer than "
            f"data.min_customers={data.min_customers} customers before training ends",
            code="too-few-customers",
            hint='join them with data.small_stores = "join", lower data.min_customers, or divide '
            "by a column with fewer values"
            if data.small_stores == "refuse"
            else "lower data.min_customers, or divide by a column with fewer values",
        )
    return partition


def _assigned(visits: pl.DataFrame, shops: pl.DataFrame) -> partitions.Partition:
    # The table counts no customers: nothing here is limited by it.
    table = partitions.StoreTable(
        shops=shops, households=dict.fromkeys(shops["store"].unique().sort(), 0)
    )
    return partitions.regions(visits, table)


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that hold something."""
    return frame.select(name for name in frame.columns if frame[name].null_count() < frame.height)


def _note(data: DataSettings, read: Ingested, partition: partitions.Partition, kept: int) -> str:
    by = (
        f"regions of branches that share customers ({len(partition.names)})"
        if data.partition_by == CO_SHOPPING
        else f"the column {data.partition_by!r} ({len(partition.names)} stores)"
    )
    count = read.events.height
    return (
        f"One file of {count:,} events, divided by {by}; {count - kept:,} of them are in no store, "
        "or in another one than their customer's. The division was counted from these customers "
        "before training ends, without noise: epsilon does not cover it."
    )
