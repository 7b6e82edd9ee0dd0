"""A store's events, read a part at a time and kept in few bytes a row.

Each part is judged, counted and made compact before the next one is read: ids become numbers of a
dictionary that all parts share, and a visit a number of 64 bits. Memory grows by some 40 bytes a
row, not by the texts of ids. What only the whole column tells, such as whether `1.234` is a
thousand, is judged after the last part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from hanse_client.ingest.casts import Doubts
from hanse_client.ingest.reasons import MALFORMED, Rejects
from hanse_client.ingest.rows import (
    Reasons,
    condition,
    guest_reasons,
    judged_id,
    read_number,
    read_text,
    read_time,
    reject,
    shop_time,
    single_visits,
)
from hanse_client.ingest.schema import EVENT_DEFAULTS, EVENT_TYPES
from hanse_client.ingest.sources import RawRows, read_parts

if TYPE_CHECKING:
    from datetime import datetime

    from hanse_client.ingest.store_config import EventsSource

UNKNOWN_ITEM: Final = "unknown item_id"
_TYPES: Final = pl.Enum(EVENT_TYPES)
_BASKET: Final = "basket"
"""A column of this module: the basket's number, hashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRows:
    """The accepted events of a source, in its order."""

    rows: pl.DataFrame
    """`user_id, item_id, timestamp, event_type, basket_id, shop_id, quantity, price, rating, text`:
    raw ids as numbers of a dictionary (`pl.Categorical`, `pl.Enum`), and in place of `basket_id` a
    number of the visit, UInt64. A column of which no cell is filled has the type `pl.Null`."""
    rejects: Rejects
    """Rejected rows by reason, the most frequent first."""
    rows_read: int
    encodings: dict[str, int]
    """Of files of text, each with its number of rows."""
    reused_baskets: int
    """Basket numbers that come again on another day, at another shop or for another customer."""


def read_events(source: EventsSource, known_items: pl.Series, now: datetime | None) -> EventRows:
    """Read, check and count all events of a source.

    Args:
        source: The table.
        known_items: Ids of the catalogue; each once.
        now: Later events are rejected; see `shop_time`.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency, DataError: See `read_rows`; also
            if no cell of a filled column can be read as its type.
    """
    items = pl.Enum(known_items)
    # One moment for all parts, and dictionaries of this table's own, which end with it.
    latest, doubts = shop_time(now, source.time_zone), Doubts()
    codes = {
        name: pl.Categorical(pl.Categories.random()) for name in ("user_id", "shop_id", "text")
    }
    order: dict[str, None] = {MALFORMED: None}
    rejects: Rejects = {}
    encodings: dict[str, int] = {}
    parts: list[pl.DataFrame] = []
    rows = 0
    for part in read_parts(source):
        columns, reasons = _judged(part, source, items, latest, doubts)
        accepted, rejected = reject(part, columns, reasons)
        parts.append(_compact(accepted, codes))
        rows += part.rows_read
        for name in part.encodings:
            encodings[name] = encodings.get(name, 0) + part.rows_read
        order.update(dict.fromkeys(reason for reason, _ in reasons))
        for reason, number in rejected.items():
            rejects[reason] = rejects.get(reason, 0) + number
    doubts.settle()
    whole = pl.concat(parts, how="vertical_relaxed", rechunk=False)
    if not source.keep_duplicates:
        distinct = _without_duplicates(whole)
        if distinct.height < whole.height:
            rejects["duplicate"] = whole.height - distinct.height
        whole = distinct
    place = {reason: number for number, reason in enumerate(order)}
    ranked = sorted(rejects, key=lambda one: (-rejects[one], place.get(one, len(place))))
    return EventRows(
        rows=whole.drop(_BASKET),
        rejects={reason: rejects[reason] for reason in ranked},
        rows_read=rows,
        encodings=encodings,
        reused_baskets=_reused_baskets(whole),
    )


def _judged(
    raw: RawRows, source: EventsSource, known: pl.Enum, latest: datetime, doubts: Doubts
) -> tuple[pl.DataFrame, Reasons]:
    """Read all columns; also return the reasons to reject rows, in order of precedence."""
    items, item_reasons = judged_id(raw, source, "item_id", doubts)
    baskets, basket_reasons = judged_id(raw, source, "basket_id", doubts)
    shops, shop_reasons = judged_id(raw, source, "shop_id", doubts)
    users, user_reasons = judged_id(raw, source, "user_id", doubts)
    users = single_visits(source, users, baskets)
    times, time_reasons = read_time(raw, source, "timestamp", required=True, doubts=doubts)
    types = read_text(raw, source, "event_type").str.to_lowercase()
    if source.event_types:
        words = {word.lower(): meaning for word, meaning in source.event_types.items()}
        types = types.replace(words)
    types = types.fill_null(str(EVENT_DEFAULTS["event_type"]))
    quantity, quantity_reasons = read_number(raw, source, "quantity", doubts)
    price, price_reasons = read_number(raw, source, "price", doubts)
    amount, amount_reasons = read_number(raw, source, "amount", doubts)
    if source.negative_quantity == "return":
        back = (quantity < 0).fill_null(False)
        types = types.set(back, "return")
        quantity, amount = quantity.abs(), amount.abs()
        quantity_reasons = [(reason, fault & ~back) for reason, fault in quantity_reasons]
        amount_reasons = [(reason, fault & ~back) for reason, fault in amount_reasons]
    quantity = quantity.fill_null(float(EVENT_DEFAULTS["quantity"]))
    # A line's total is the price of its units together.
    price = price.zip_with(price.is_not_null(), amount / quantity)
    rating, rating_reasons = read_number(raw, source, "rating", doubts)
    columns = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": times,
            "event_type": types,
            "basket_id": baskets,
            "shop_id": shops,
            "quantity": quantity,
            "price": price,
            "rating": rating,
            "text": read_text(raw, source, "text"),
        }
    )
    reasons = [
        *condition(raw, source, columns),
        *user_reasons,
        *item_reasons,
        *basket_reasons,
        *shop_reasons,
        *guest_reasons(source, users),
        ("missing item_id", items.is_null()),
        *time_reasons,
        ("future timestamp", times > latest),
        ("unknown event_type", ~types.is_in(EVENT_TYPES)),
        *quantity_reasons,
        *price_reasons,
        *amount_reasons,
        ("unreadable price", price.is_infinite()),  # a total of very few units
        *rating_reasons,
    ]
    listed = items.cast(known, strict=False)
    return columns.with_columns(item_id=listed), [*reasons, (UNKNOWN_ITEM, listed.is_null())]


def _compact(accepted: pl.DataFrame, codes: dict[str, pl.Categorical]) -> pl.DataFrame:
    """The rows of a part in few bytes each; columns that are empty throughout take none."""
    baskets = accepted["basket_id"]
    columns = accepted.with_columns(
        pl.col("event_type").cast(_TYPES),
        _visits(accepted),
        baskets.hash().zip_with(baskets.is_not_null(), _NO_NUMBER).alias(_BASKET),
        *(pl.col(name).cast(dtype) for name, dtype in codes.items()),
    )
    empty = [one.name for one in columns if one.null_count() == len(one)]
    return columns.with_columns(pl.lit(None).alias(name) for name in empty)


_NO_NUMBER: Final = pl.Series([None], dtype=pl.UInt64)


def _visits(events: pl.DataFrame) -> pl.Series:
    """Tell baskets apart that have one number: a visit is a customer's, at a shop, on a day.

    Tills begin anew each day, and every branch counts for itself. A number that comes again months
    later would otherwise pull what is bought then into the past, beyond the split.

    Returns:
        `basket_id`: hashes of 64 bits, (n,) UInt64, null where neither basket nor shop is known.
        Two of a customer's v visits share one with a probability below v² / 2^65.
    """
    parts = events.select("shop_id", pl.col("timestamp").dt.date(), "user_id", "basket_id")
    known = events["basket_id"].is_not_null() | events["shop_id"].is_not_null()
    return parts.hash_rows().zip_with(known, _NO_NUMBER).alias("basket_id")


def _without_duplicates(events: pl.DataFrame) -> pl.DataFrame:
    """The rows, each once; of equal ones the first."""
    # Rows are only compared where hashes of theirs are equal: the usual table has few such, and
    # comparing all takes several times the memory of the table.
    hashes = events.with_columns(pl.all().to_physical()).hash_rows()
    ordered = np.sort(hashes.to_numpy())
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return events
    alike = hashes.is_in(pl.Series(again).implode())
    suspects = events.with_row_index("place").filter(alike)
    columns = [name for name in suspects.columns if name != "place"]
    kept = suspects.unique(columns, keep="first", maintain_order=True)["place"].to_numpy()
    keep = ~alike.to_numpy()
    keep[kept] = True
    return events.filter(pl.Series(keep))


def _reused_baskets(events: pl.DataFrame) -> int:
    if events.schema[_BASKET] == pl.Null:
        return 0
    numbered = events.select("basket_id", _BASKET).filter(pl.col(_BASKET).is_not_null())
    visits, baskets = (_distinct(numbered[name]) for name in numbered.columns)
    return visits - baskets


def _distinct(numbers: pl.Series) -> int:
    """The number of distinct numbers, none null; sorting takes less memory than a hash table."""
    ordered = np.sort(numbers.to_numpy())
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ordered))
