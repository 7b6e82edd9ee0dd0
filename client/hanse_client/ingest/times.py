"""Reads times into the shop's own clock; an unreadable cell becomes null.

>>> cells = pl.Series(["2024-03-01T23:30:00Z", "2024-03-01 23:30:00 UTC"])
>>> as_timestamp(cells, "column 'sold' of sales.csv", time_zone="Asia/Shanghai").to_list()
[datetime.datetime(2024, 3, 2, 7, 30), datetime.datetime(2024, 3, 2, 7, 30)]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from hanse_client.ingest.casts import Doubts, check_any_readable, present, shape
from hanse_common.errors import WrongTypes

if TYPE_CHECKING:
    from collections.abc import Sequence

_DATETIME = pl.Datetime("us")
# The letter T is replaced by a blank first; an offset may be Z, +01, +0100 or +01:00.
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M")
_ISO_WITH_OFFSET = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_EPOCHS = {"epoch": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
EXCEL = "excel"
# Excel counts days from here, as it takes 1900 for a leap year.
_EXCEL_ZERO_DAYS = 25_569
# Half of the int64 range, so that no rounded product overflows in the cast.
_MAX_MICROSECONDS = 2**62
_LEAP_SECOND = r"(:59):60\b"
_NAMED_UTC = re.compile(r"(?:\bUTC|\bGMT|Z)\s*$")
_HINTS = {
    "99999999": '20240131 is timestamp_format = "%Y%m%d"',
    "9999999999": 'seconds since 1970 are timestamp_format = "epoch"',
    "9999999999999": 'milliseconds since 1970 are timestamp_format = "epoch_ms"',
    "9999999999999999": 'microseconds since 1970 are timestamp_format = "epoch_us"',
    "99999": 'days since 1900, as in a spreadsheet, are timestamp_format = "excel"',
}


def as_timestamp(
    column: pl.Series,
    where: str,
    *,
    formats: Sequence[str] = (),
    time_zone: str | None = None,
    source_time_zone: str | None = None,
    doubts: Doubts | None = None,
) -> pl.Series:
    """Read a column as timestamps in the shop's local time.

    Args:
        column: Datetimes, dates, text, or numbers where a format reads them; (n,).
        where: The column's name in error messages.
        formats: Of strftime, or `epoch`, `epoch_ms`, `epoch_us`, `excel`; the first that reads a
            cell counts. ISO 8601 if empty. A format that ends in `UTC`, `GMT` or `Z` reads times of
            that zone.
        time_zone: The shop's time zone; timestamps with an offset are converted to it.
        source_time_zone: The zone of timestamps without an offset, if it is not the shop's.
        doubts: Keeps the error that no cell is a time, if the column is a part of one.

    Returns:
        Naive datetimes in microseconds; (n,). A time that the source's zone skipped is null, one
        that it had twice is the earlier.

    Raises:
        WrongTypes: Cells are filled, but none is a timestamp; or timestamps carry an offset
            and the shop's time zone is not configured.
    """
    dtype = column.dtype
    times = pl.Series(column.name, [None] * len(column), dtype=_DATETIME)
    aware = pl.Series(column.name, [None] * len(column), dtype=pl.Datetime("us", "UTC"))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        aware = column.dt.convert_time_zone("UTC").cast(aware.dtype)
    elif dtype.is_temporal() and dtype in (pl.Date, pl.Datetime):
        times = column.cast(_DATETIME)
    elif dtype == pl.String or (dtype.is_numeric() and formats):
        cells = column if dtype == pl.String else column.cast(pl.Int64, strict=False)
        text = _text(cells.cast(pl.String))
        for one in formats or (*_ISO, *_ISO_WITH_OFFSET):
            naive, with_zone = _read(column, text, one, where)
            unread = times.is_null() & aware.is_null()
            # The first format that reads a cell wins, so their order decides.
            times = naive.zip_with(unread, times) if naive is not None else times
            aware = with_zone.zip_with(unread, aware) if with_zone is not None else aware
            if (times.is_not_null() | aware.is_not_null() | text.is_null()).all():
                break
    if source_time_zone is not None:
        placed = times.dt.replace_time_zone(
            source_time_zone, ambiguous="earliest", non_existent="null"
        )
        aware = aware.zip_with(aware.is_not_null(), placed.dt.convert_time_zone("UTC"))
        times = pl.Series(column.name, [None] * len(column), dtype=_DATETIME)
    # The time zone is only required once a cell really carries an offset.
    if aware.is_not_null().any():
        times = times.zip_with(times.is_not_null(), _to_shop_clock(aware, time_zone, where))
    hint = "" if times.null_count() < len(times) else _hint(column, formats)
    check_any_readable(column, times, where, "times", hint, doubts=doubts)
    return times


def _text(column: pl.Series) -> pl.Series:
    """Cells as the formats expect them: a leap second is the second before it."""
    return column.str.strip_chars().str.replace(_LEAP_SECOND, "${1}:59")


def _read(
    column: pl.Series, text: pl.Series, one: str, where: str
) -> tuple[pl.Series | None, pl.Series | None]:
    """Read cells by one format; as naive times, or as times of UTC."""
    if one in _EPOCHS or one == EXCEL:
        numeric = column.dtype.is_numeric()
        numbers = (column if numeric else column.str.strip_chars()).cast(pl.Float64, strict=False)
        if one == EXCEL:
            microseconds = _in_range((numbers - _EXCEL_ZERO_DAYS) * 86_400).round() * 1_000_000
            return microseconds.cast(pl.Int64).cast(_DATETIME), None
        scaled = _in_range(numbers * _EPOCHS[one])
        return None, scaled.cast(pl.Int64).cast(_DATETIME).dt.replace_time_zone("UTC")
    if one in (*_ISO, *_ISO_WITH_OFFSET):
        text = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ").str.replace(r" ?(UTC|GMT)$", "Z")
    if "%d" in one and "%H" in one and not any(letter in one for letter in ("%M", "%T", "%R")):
        # An hour alone is no time to polars.
        one, text = f"{one}:%M", text + ":00"
    try:
        parsed = text.str.to_datetime(one, time_unit="us", strict=False)
    except pl.exceptions.PolarsError:
        raise WrongTypes(
            f"{where} cannot be read with the format {one!r}",
            hint="timestamp_format takes strftime's letters, e.g. %Y-%m-%d %H:%M",
        ) from None
    if parsed.dtype != _DATETIME:
        return None, parsed.dt.convert_time_zone("UTC")
    if _NAMED_UTC.search(one):
        return None, parsed.dt.replace_time_zone("UTC")
    return parsed, None


def _in_range(numbers: pl.Series) -> pl.Series:
    # Nulled before the cast, which would raise for the column because of one such cell.
    unfit = ~numbers.is_finite() | (numbers.abs() > _MAX_MICROSECONDS)
    return numbers.set(unfit.fill_null(False), None)


def _to_shop_clock(aware: pl.Series, time_zone: str | None, where: str) -> pl.Series:
    if time_zone is None:
        raise WrongTypes(
            f"{where} holds times with a UTC offset, but the shop's time zone is not set",
            hint='write it in that table of store.toml, e.g. time_zone = "Europe/Berlin"',
        )
    return (
        aware.dt.convert_time_zone(ZoneInfo(time_zone).key)
        .dt.replace_time_zone(None)
        .cast(_DATETIME)
    )


def _hint(column: pl.Series, formats: Sequence[str]) -> str:
    if formats:
        return f"timestamp_format is {' or '.join(map(repr, formats))}"
    cells = column.filter(present(column)).head(1).cast(pl.String, strict=False)
    looks = "" if cells.is_empty() or cells[0] is None else shape(cells[0]).split(".")[0]
    if looks in _HINTS:
        return _HINTS[looks]
    return 'say how to read it, e.g. timestamp_format = "%d.%m.%Y %H:%M"'
