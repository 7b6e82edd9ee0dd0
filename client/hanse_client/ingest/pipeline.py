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
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl

from hanse_client.ingest.casts import (
    as_id,
    as_number,
    as_text,
    as_timestamp,
    as_vector,
    present,
)
from hanse_client.ingest.pseudonyms import home_lots, load_key, load_or_make_key, pseudonymise
from hanse_client.ingest.schema import (
    EVENT_DEFAULTS,
    EVENT_TYPES,
    UNCATEGORISED,
    conform_catalogue,
    conform_events,
)
from hanse_client.ingest.sources import read_source
from hanse_common.errors import DataError, EmptyStore, UnknownIds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hanse_client.ingest.store_config import CatalogueSource, EventsSource, Source, StoreConfig

_UNKNOWN_ITEM = "unknown item_id"
_REPEATED_ITEM = "repeated item"
# The largest UTC offset in use (Kiribati): where a store's zone is unknown, no event of the
# present is taken for one of the future.
_FURTHEST_AHEAD = timedelta(hours=14)

__all__ = ["Ingested", "ingest", "pseudonymise", "summarise"]

_Reasons = list[tuple[str, pl.Series]]
"""Pairs of a reason and the rows, (n,) booleans, that it rejects; earlier ones count first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """A store's data after ingestion."""

    events: pl.DataFrame
    """`EVENT_COLUMNS`, sorted by `user_id` and `timestamp`; customer ids are pseudonyms."""
    catalogue: pl.DataFrame
    """`CATALOGUE_COLUMNS`, sorted by `item_id`, which is unique."""
    rejects: dict[str, int]
    """Rejected rows of events by reason, the most frequent first."""
    rows_read: int
    catalogue_rejects: dict[str, int]
    """Rejected rows of the catalogue by reason; `repeated item` is not an error."""
    catalogue_rows_read: int
    homes: dict[str, int] = field(default_factory=dict)
    """Pseudonym -> keyed hash that decides which store may train on the person; empty if the
    store has no `home_key`."""


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
    share = config.max_reject_share
    catalogue, catalogue_rejects, catalogue_rows = read_catalogue(config.catalogue, share)
    raw = read_source(config.events)
    if raw.is_empty():
        raise EmptyStore(f"{config.events.label} has no row", hint="a store needs events")

    columns, reasons = _read_events(raw, config.events, catalogue["item_id"], now)
    accepted, rejects = _reject(columns, reasons)
    if not config.events.keep_duplicates:
        distinct = accepted.unique(keep="first", maintain_order=True)
        _count(rejects, "duplicate", accepted.height - distinct.height)
        accepted = distinct
    rejects = dict(sorted(rejects.items(), key=lambda item: -item[1]))
    # Checked before a key is created: a refused source leaves nothing behind.
    _refuse_bad_events(config, rejects, raw.height, accepted.height)

    key = load_or_make_key(config.pseudonym_key)
    pseudonymous = accepted.with_columns(
        pseudonymise(accepted["user_id"], key),
        pseudonymise(accepted["basket_id"], key, domain="basket"),
    )
    homes: dict[str, int] = {}
    if config.home_key is not None:
        # Hashed from the raw ids, which agree across stores; pseudonyms do not.
        ids = accepted["user_id"].unique()
        lots = home_lots(ids, load_key(config.home_key))
        homes = dict(zip(pseudonymise(ids, key), lots, strict=True))
    return Ingested(
        homes=homes,
        events=conform_events(pseudonymous.sort("user_id", "timestamp", maintain_order=True)),
        catalogue=catalogue,
        rejects=rejects,
        rows_read=raw.height,
        catalogue_rejects=catalogue_rejects,
        catalogue_rows_read=catalogue_rows,
    )


def summarise(store: Ingested) -> dict[str, Any]:
    """Count a store's rows, customers, items and baskets, without any row or id.

    Returns:
        Values ready for JSON. If the source has no `basket_id`, all events of a customer on
        one day are one basket.
    """
    events = store.events
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
    raw = read_source(source)
    text, category = _text(raw, source, "text"), _text(raw, source, "category")
    path = category.str.replace_all(r"\s*/[\s/]*", "/").str.strip_chars("/ ")
    path = path.set((path == "").fill_null(False), None)
    price, price_reasons = _number(raw, source, "price")
    vector, vector_reasons = _vector(raw, source)
    columns = pl.DataFrame(
        {
            "item_id": _id(raw, source, "item_id"),
            # An item without a text is described by the last step of its category path.
            "text": text.zip_with(text.is_not_null(), path.str.split("/").list.last()),
            "category": path.fill_null(UNCATEGORISED),
            "brand": _text(raw, source, "brand"),
            "price": price,
            "vector": vector,
        }
    )
    accepted, rejects = _reject(
        columns,
        [
            ("missing item_id", columns["item_id"].is_null()),
            ("missing text", columns["text"].is_null()),
            *price_reasons,
            *vector_reasons,
        ],
    )
    # Equal rows of an item (say, one per branch) are no error; rows that contradict each
    # other are.
    distinct = accepted.unique(maintain_order=True)
    _count(rejects, _REPEATED_ITEM, accepted.height - distinct.height)
    items = distinct.unique("item_id", keep="first", maintain_order=True)
    _count(rejects, "contradicting item_id", distinct.height - items.height)
    faults = {reason: count for reason, count in rejects.items() if reason != _REPEATED_ITEM}
    if items.is_empty():
        raise DataError(f"{source.label} has no usable item", hint=_listed(rejects))
    _refuse_share(max_reject_share, source, faults, raw.height)
    return conform_catalogue(items.sort("item_id")), rejects, raw.height


def _read_events(
    raw: pl.DataFrame, source: EventsSource, known_items: pl.Series, now: datetime | None
) -> tuple[pl.DataFrame, _Reasons]:
    """Read all columns; also return the reasons to reject rows, in order of precedence."""
    users, items = _id(raw, source, "user_id"), _id(raw, source, "item_id")
    times = as_timestamp(
        raw["timestamp"],
        _where(source, "timestamp"),
        timestamp_format=source.timestamp_format,
        time_zone=source.time_zone,
    )
    types = _text(raw, source, "event_type").str.to_lowercase()
    if source.event_types:
        words = {word.lower(): meaning for word, meaning in source.event_types.items()}
        types = types.replace(words)
    types = types.fill_null(str(EVENT_DEFAULTS["event_type"]))
    quantity, quantity_reasons = _number(raw, source, "quantity")
    quantity = quantity.fill_null(float(EVENT_DEFAULTS["quantity"]))
    price, price_reasons = _number(raw, source, "price")
    rating, rating_reasons = _number(raw, source, "rating")
    columns = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": times,
            "event_type": types,
            "basket_id": _id(raw, source, "basket_id"),
            "shop_id": _id(raw, source, "shop_id"),
            "quantity": quantity,
            "price": price,
            "rating": rating,
            "text": _text(raw, source, "text"),
        }
    )
    filled = present(raw["timestamp"])
    return columns, [
        ("missing user_id", users.is_null()),
        ("missing item_id", items.is_null()),
        ("missing timestamp", ~filled),
        ("unreadable timestamp", filled & times.is_null()),
        ("future timestamp", times > _shop_time(now, source.time_zone)),
        ("unknown event_type", ~types.is_in(EVENT_TYPES)),
        *quantity_reasons,
        *price_reasons,
        *rating_reasons,
        (_UNKNOWN_ITEM, ~items.is_in(known_items.to_list())),
    ]


def _where(source: Source, name: str) -> str:
    named = " + ".join(source.source_of(name))
    meaning = "" if named == name else f" ({name})"
    return f"column {named!r}{meaning} of {source.label}"


def _column(raw: pl.DataFrame, name: str) -> pl.Series:
    return raw[name] if name in raw.columns else pl.Series(name, [None] * raw.height, pl.String)


def _id(raw: pl.DataFrame, source: Source, name: str) -> pl.Series:
    return _defaulted(as_id(_column(raw, name), _where(source, name)), source, name)


def _text(raw: pl.DataFrame, source: Source, name: str) -> pl.Series:
    return _defaulted(as_text(_column(raw, name)), source, name)


def _defaulted(values: pl.Series, source: Source, name: str) -> pl.Series:
    default = source.defaults.get(name)
    return values if default is None else values.fill_null(str(default))


def _number(raw: pl.DataFrame, source: Source, name: str) -> tuple[pl.Series, _Reasons]:
    column = _column(raw, name)
    filled, numbers = present(column), as_number(column, _where(source, name))
    # Judged before defaults fill the gaps, so that an unreadable cell is no missing one.
    reasons: _Reasons = [(f"unreadable {name}", filled & numbers.is_null())]
    if name == "quantity":
        reasons.append(("non-positive quantity", numbers <= 0))
    elif name == "price":
        reasons.append(("negative price", numbers < 0))
    default = source.defaults.get(name)
    return (numbers if default is None else numbers.fill_null(float(default))), reasons


def _vector(raw: pl.DataFrame, source: Source) -> tuple[pl.Series, _Reasons]:
    column = _column(raw, "vector")
    vectors = as_vector(column, _where(source, "vector"))
    lengths = vectors.list.len()
    # The length of most items is right: a catalogue is public, so what the others have may decide.
    most = max(lengths.drop_nulls().mode().to_list(), default=0)
    return vectors, [
        ("unreadable vector", present(column) & vectors.is_null()),
        ("vector of another length", lengths != most),
    ]


def _shop_time(now: datetime | None, time_zone: str | None) -> datetime:
    if now is not None and now.tzinfo is None:
        return now
    moment = datetime.now(UTC) if now is None else now
    if time_zone is not None:
        return moment.astimezone(ZoneInfo(time_zone)).replace(tzinfo=None)
    return moment.astimezone(UTC).replace(tzinfo=None) + _FURTHEST_AHEAD


def _reject(columns: pl.DataFrame, reasons: _Reasons) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows without a fault; count the others under their first reason."""
    accepted = pl.repeat(True, columns.height, eager=True)
    rejects: dict[str, int] = {}
    for reason, fault in reasons:
        faulty = fault.fill_null(False)  # a comparison with a missing value is null
        _count(rejects, reason, int((accepted & faulty).sum()))
        accepted = accepted & ~faulty
    return columns.filter(accepted), rejects


def _count(rejects: dict[str, int], reason: str, rows: int) -> None:
    if rows:
        rejects[reason] = rows


def _refuse_bad_events(
    config: StoreConfig, rejects: Mapping[str, int], rows: int, accepted: int
) -> None:
    # Before the general check: it has a better hint for the most common mistake in a mapping.
    unknown = rejects.get(_UNKNOWN_ITEM, 0)
    if unknown > config.max_reject_share * rows:
        raise UnknownIds(
            f"{unknown:,} of {rows:,} rows of {config.events.label} name items that are not in "
            f"the catalogue ({unknown / rows:.1%}, at most {config.max_reject_share:.1%})",
            hint="is item_id the same number in both, leading zeros included? "
            "or raise max_reject_share",
        )
    _refuse_share(config.max_reject_share, config.events, rejects, rows)
    if not accepted:
        raise EmptyStore(
            f"no row of {config.events.label} is usable: {_listed(rejects)}",
            hint="a store needs events",
        )


def _refuse_share(share: float, source: Source, rejects: Mapping[str, int], rows: int) -> None:
    rejected = sum(rejects.values())
    if rejected > share * rows:
        reason, count = max(rejects.items(), key=lambda item: item[1])
        raise DataError(
            f"{rejected:,} of {rows:,} rows of {source.label} are rejected "
            f"({rejected / rows:.1%}, at most {share:.1%}), "
            f"most of them for {reason!r}: {count:,}",
            hint="correct the source or its mapping, or raise max_reject_share",
        )


def _listed(rejects: Mapping[str, int]) -> str:
    counts: Iterable[str] = (f"{reason}: {count:,}" for reason, count in rejects.items())
    return "; ".join(counts) or "it has no row"
