"""Ingestion of reviews: raw rows become texts and labels under pseudonyms."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from hanse_client.ingest.rows import (
    PersonalRows,
    personal_rows,
    read_filled,
    read_id,
    read_text,
    read_time,
    shop_time,
)
from hanse_client.ingest.store_config import ReviewsSource, StoreConfig


def ingest_reviews(config: StoreConfig, *, now: datetime | None = None) -> PersonalRows:
    """Read, check and pseudonymise a store's reviews.

    Args:
        config: The store's sources; `config.pseudonym_key` is created if it is missing.
        now: Later reviews are rejected; see `shop_time`.

    Returns:
        Rows of `REVIEW_COLUMNS`, with ratings as text; see `plain_ratings`.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`; also if
            the store has no `[reviews]`.
        EmptyStore: The source has no row, or all were rejected.
        DataError: A larger share of rows than `max_reject_share` is rejected.
    """
    source = config.table(ReviewsSource)
    raw = read_filled(source)
    times, time_reasons = read_time(raw, source, "timestamp", required=False)
    columns = pl.DataFrame(
        {
            "user_id": read_id(raw, source, "user_id"),
            "timestamp": times,
            "text": read_text(raw, source, "text"),
            "rating": plain_ratings(read_text(raw, source, "rating")),
        }
    )
    reasons = [*time_reasons, ("future timestamp", times > shop_time(now, source.time_zone))]
    return personal_rows(config, source, raw, columns, reasons)


def plain_ratings(ratings: pl.Series) -> pl.Series:
    """Write whole numbers without a fraction, cell by cell.

    A column of numbers has fractions in all cells as soon as one customer rated 4.5: how a rating
    is written would otherwise depend on other customers.

    >>> plain_ratings(pl.Series(["5.0", "4.5", "good"])).to_list()
    ['5', '4.5', 'good']
    """
    return ratings.str.replace(r"^(-?[0-9]+)\.0+$", "${1}")
