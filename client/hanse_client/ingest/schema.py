"""The canonical schema of events (what customers did) and of the catalogue (what a shop sells).

All code after ingestion sees these columns, whatever the shop's own tables look like. An
event is one row of a history: a customer, an item, a time and the kind of event. The
catalogue is public: item texts and a category path such as `GROCERY/DAIRY/MILK`.
Timestamps are naive, in the shop's local time.

>>> import datetime
>>> rows = {"user_id": ["ada"], "item_id": ["1"], "timestamp": [datetime.datetime(2017, 1, 2)]}
>>> conform_events(pl.DataFrame(rows)).select("event_type", "quantity").row(0)
('purchase', 1.0)
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import polars as pl

from hanse_common.errors import DataError, MissingColumns, WrongTypes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polars.datatypes import DataType, DataTypeClass

EventType = Literal["view", "search", "cart", "purchase", "redeem", "rate", "return", "cancel"]
EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)

EVENT_COLUMNS: Final[Mapping[str, DataTypeClass | DataType]] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Datetime("us"),
    "event_type": pl.String,
    "basket_id": pl.String,
    "shop_id": pl.String,
    "quantity": pl.Float64,
    "price": pl.Float64,
    "rating": pl.Float64,
    "text": pl.String,
}
"""`price` is the price of one unit in the shop's currency; `text` is free text, e.g. a search."""

CATALOGUE_COLUMNS: Final[Mapping[str, DataTypeClass | DataType]] = {
    "item_id": pl.String,
    "text": pl.String,
    "category": pl.String,
    "brand": pl.String,
    "price": pl.Float64,
    "vector": pl.List(pl.Float32),
}
"""`vector` has numbers by any public encoder, as many for every item that has one."""

REVIEW_COLUMNS: Final = ("user_id", "text", "rating", "timestamp")
"""Of a customer's reviews; `rating` is a label, such as a number of stars."""
OFFER_COLUMNS: Final = ("user_id", "campaign_id", "redeemed_at", "coupon_id")
"""Of campaigns that customers were sent: a row each, and more rows for several redemptions."""
CAMPAIGN_COLUMNS: Final = ("campaign_id", "start", "end", "kind", "coupon_id", "item_id")
"""Of the public list of campaigns: a row for each item that a coupon of it is for."""
CAMPAIGN_KINDS: Final = ("A", "B", "C")

REQUIRED_EVENT_COLUMNS: Final = ("user_id", "item_id", "timestamp")
REQUIRED_CATALOGUE_COLUMNS: Final = ("item_id", "text", "category")

EVENT_DEFAULTS: Final[Mapping[str, str | float]] = {"event_type": "purchase", "quantity": 1.0}
"""The values of absent columns and empty cells; the other optional columns stay null."""

UNCATEGORISED: Final = "UNCATEGORISED"
"""The category path of an item that has none in its source."""


@cache
def _events_schema() -> Any:
    """Return the `pandera.polars.DataFrameSchema` of events."""
    import pandera.polars as pa  # imported on use: it costs half a second

    column, check = pa.Column, pa.Check
    return pa.DataFrameSchema(
        {
            "user_id": column(pl.String, check.str_length(min_value=1)),
            "item_id": column(pl.String, check.str_length(min_value=1)),
            "timestamp": column(pl.Datetime("us")),
            "event_type": column(pl.String, check.isin(EVENT_TYPES)),
            "basket_id": column(pl.String, nullable=True),
            "shop_id": column(pl.String, nullable=True),
            # Bounded by the largest float, which excludes infinity as well as zero.
            "quantity": column(
                pl.Float64, check.in_range(0, sys.float_info.max, include_min=False)
            ),
            "price": column(pl.Float64, check.in_range(0, sys.float_info.max), nullable=True),
            "rating": column(
                pl.Float64,
                check.in_range(-sys.float_info.max, sys.float_info.max),
                nullable=True,
            ),
            "text": column(pl.String, nullable=True),
        },
        name="events",
        strict=True,
    )


@cache
def _catalogue_schema() -> Any:
    """Return the `pandera.polars.DataFrameSchema` of a catalogue."""
    import pandera.polars as pa

    column, check = pa.Column, pa.Check
    return pa.DataFrameSchema(
        {
            "item_id": column(pl.String, check.str_length(min_value=1), unique=True),
            "text": column(pl.String, check.str_length(min_value=1)),
            "category": column(pl.String, check.str_length(min_value=1)),
            "brand": column(pl.String, nullable=True),
            "price": column(pl.Float64, check.in_range(0, sys.float_info.max), nullable=True),
            "vector": column(pl.List(pl.Float32), nullable=True),
        },
        name="catalogue",
        strict=True,
    )


def conform_events(frame: pl.DataFrame) -> pl.DataFrame:
    """Convert a frame with canonical column names to the events schema, and validate it.

    Missing optional columns are added, unknown columns are dropped, and types are cast.

    Args:
        frame: One row per event.

    Returns:
        `EVENT_COLUMNS`, in that order; the rows and their order are unchanged.

    Raises:
        MissingColumns: A required column is absent.
        WrongTypes: A column cannot be cast, e.g. its timestamps carry a time zone.
        DataError: A value is missing or out of range.
    """
    columns = _cast(frame, EVENT_COLUMNS, REQUIRED_EVENT_COLUMNS, "events")
    filled = columns.with_columns(
        pl.col(name).fill_null(value) for name, value in EVENT_DEFAULTS.items()
    )
    return _validated(filled, _events_schema(), "events")


def conform_catalogue(frame: pl.DataFrame) -> pl.DataFrame:
    """Convert a frame with canonical column names to the catalogue schema; see `conform_events`.

    Raises:
        MissingColumns: A required column is absent.
        WrongTypes: A column cannot be cast.
        DataError: A value is missing or out of range, or an `item_id` occurs twice.
    """
    columns = _cast(frame, CATALOGUE_COLUMNS, REQUIRED_CATALOGUE_COLUMNS, "catalogue")
    return _validated(columns, _catalogue_schema(), "catalogue")


def _cast(
    frame: pl.DataFrame,
    columns: Mapping[str, DataTypeClass | DataType],
    required: tuple[str, ...],
    table: str,
) -> pl.DataFrame:
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise MissingColumns(
            f"{table}: no column {', '.join(missing)}",
            hint=f"there are: {', '.join(frame.columns)}",
        )
    cast = []
    for name, dtype in columns.items():
        if name not in frame.columns:
            cast.append(pl.lit(None, dtype=dtype).alias(name))
            continue
        held = frame.schema[name]
        # Refused, as a cast to naive datetimes would silently take UTC for the shop's local time.
        if isinstance(held, pl.Datetime) and held.time_zone is not None:
            raise WrongTypes(
                f"{table}: column {name!r} carries the time zone {held.time_zone!r}",
                hint="convert it to the shop's own clock and drop the zone",
            )
        cast.append(pl.col(name).cast(dtype))
    try:
        return frame.select(cast)
    except pl.exceptions.PolarsError:
        # The text of the polars error is left out because it quotes values.
        held_types = ", ".join(f"{name}: {frame.schema[name]}" for name in frame.columns)
        raise WrongTypes(
            f"{table}: a column is of the wrong type: {held_types}",
            hint=f"wanted: {', '.join(f'{name}: {dtype}' for name, dtype in columns.items())}",
        ) from None


def _validated(frame: pl.DataFrame, schema: Any, table: str) -> pl.DataFrame:
    from pandera.errors import SchemaErrors

    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        # Only names of columns and checks: the text of the pandera error quotes values.
        faults = dict.fromkeys(
            f"{fault.schema.name}: {fault.check}" for fault in errors.schema_errors
        )
        raise DataError(f"{table}: values break the schema: {'; '.join(faults)}") from None
    return frame
