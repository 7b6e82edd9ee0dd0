"""Casts of raw columns to ids, numbers, vectors or times; an unreadable cell becomes null.

If no cell of a column can be read, the mapping is wrong rather than the rows. That raises
`WrongTypes`, which shows the shape of a cell (`99/99/9999`) instead of its value.

>>> as_number(pl.Series(["1.5", "many", ""]), "column 'quantity' of sales.csv").to_list()
[1.5, None, None]
>>> as_number(pl.Series(["Ada 7"]), "column 'quantity' of sales.csv")
Traceback (most recent call last):
hanse_common.errors.WrongTypes: column 'quantity' of sales.csv holds text like 'aaa 9', not numbers
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

import polars as pl

from hanse_common.errors import WrongTypes

_DATETIME = pl.Datetime("us")
_VECTOR = pl.List(pl.Float32)
# The letter T is replaced by a blank first; an offset may be Z, +01, +0100 or +01:00.
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M")
_ISO_WITH_OFFSET = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_EPOCHS = {"epoch": 1_000_000, "epoch_ms": 1_000}
# Half of the int64 range, so that no rounded product overflows in the cast.
_MAX_MICROSECONDS = 2**62


def as_text(column: pl.Series) -> pl.Series:
    """Strip text; blank text becomes null.

    Args:
        column: Any type; (n,).

    Returns:
        Strings; (n,). A whole-numbered float or decimal loses its fraction (`7.0` -> `7`),
        because a column of integer ids becomes one as soon as a cell of it is empty.
    """
    dtype = column.dtype
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    if dtype.is_float() or dtype.is_decimal():
        finite = column.set(~column.cast(pl.Float64).is_finite(), None)
        integers = finite.cast(pl.Int64, strict=False)
        # Equal null counts rule out numbers beyond int64, which the lax cast made null.
        if (integers.cast(pl.Float64) == finite.cast(pl.Float64)).all() and (
            integers.null_count() == finite.null_count()
        ):
            column = integers
        else:
            column = finite
    stripped = column.cast(pl.String).str.strip_chars()
    return stripped.set(stripped == "", None)


def present(column: pl.Series) -> pl.Series:
    """Return which cells are neither null nor blank; (n,) booleans."""
    if column.dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(False)
    if isinstance(column.dtype, pl.List):
        return (column.list.len() > 0).fill_null(False)
    return column.is_not_null()


def as_id(column: pl.Series, where: str) -> pl.Series:
    """Read a column as ids.

    Raises:
        WrongTypes: It holds lists, structures or bytes.
    """
    ids = as_text(column)
    _check_any_readable(column, ids, where, "ids")
    return ids


def as_number(column: pl.Series, where: str) -> pl.Series:
    """Read a column as finite numbers; (n,) Float64.

    Raises:
        WrongTypes: Cells are filled, but none is a number.
    """
    if column.dtype == pl.String:
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Float64, strict=False)
    else:
        numbers = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    numbers = numbers.set((~numbers.is_finite()).fill_null(False), None)
    _check_any_readable(column, numbers, where, "numbers")
    return numbers


def as_vector(column: pl.Series, where: str) -> pl.Series:
    """Read a column as vectors of finite numbers; (n,) lists of Float32.

    Args:
        column: Lists of numbers, or text with spaces or commas between the numbers, in square
            brackets or without, as databases and spreadsheets write them; (n,).
        where: The column's name in error messages.

    Raises:
        WrongTypes: Cells are filled, but none is a vector.
    """
    dtype = column.dtype
    vectors = pl.Series(column.name, [None] * len(column), dtype=_VECTOR)
    if dtype == pl.String:
        numbers = column.str.strip_chars().str.strip_chars("[]").str.replace_all(r"[\s,]+", " ")
        # Splitting an empty text gives one empty number, which is no vector.
        parts = numbers.str.strip_chars().str.split(" ")
        vectors = parts.list.eval(pl.element().cast(pl.Float32, strict=False))
    elif isinstance(dtype, pl.List | pl.Array) and dtype.inner.is_numeric():
        vectors = column.cast(_VECTOR)
    # Beyond Float32 a number is infinite, which no direction can be taken from.
    sound = vectors.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    vectors = vectors.set(~(sound & (vectors.list.len() > 0)).fill_null(False), None)
    _check_any_readable(column, vectors, where, "vectors of numbers", 'such as "0.1 -0.4 0.9"')
    return vectors


def as_timestamp(
    column: pl.Series,
    where: str,
    *,
    timestamp_format: str | None = None,
    time_zone: str | None = None,
) -> pl.Series:
    """Read a column as timestamps in the shop's local time.

    Args:
        column: Datetimes, dates, text, or numbers if the format is an epoch; (n,).
        where: The column's name in error messages.
        timestamp_format: A strftime format, `epoch` or `epoch_ms`; ISO 8601 if unset.
        time_zone: The shop's time zone; timestamps with an offset are converted to it.

    Returns:
        Naive datetimes in microseconds; (n,).

    Raises:
        WrongTypes: Cells are filled, but none is a timestamp; or timestamps carry an offset
            and the shop's time zone is not configured.
    """
    dtype = column.dtype
    aware: pl.Series | None = None
    times = pl.Series(column.name, [None] * len(column), dtype=_DATETIME)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        aware = column
    elif dtype.is_temporal() and dtype in (pl.Date, pl.Datetime):
        times = column.cast(_DATETIME)
    elif timestamp_format in _EPOCHS and (dtype.is_numeric() or dtype == pl.String):
        aware = _from_epoch(as_number(column, where), _EPOCHS[timestamp_format])
    elif dtype == pl.String:
        formats = [timestamp_format] if timestamp_format else [*_ISO, *_ISO_WITH_OFFSET]
        times, aware = _from_text(column, formats, where)
    # The time zone is only required once a cell really carries an offset.
    if aware is not None and aware.is_not_null().any():
        times = times.zip_with(times.is_not_null(), _to_shop_clock(aware, time_zone, where))
    hint = ""
    if timestamp_format is not None:
        hint = f"timestamp_format is {timestamp_format!r}"
    elif dtype.is_numeric():
        hint = 'seconds since 1970 are timestamp_format = "epoch", milliseconds "epoch_ms"'
    elif dtype == pl.String:
        hint = 'say how to read it, e.g. timestamp_format = "%d.%m.%Y %H:%M"'
    _check_any_readable(column, times, where, "times", hint)
    return times


def _from_epoch(numbers: pl.Series, microseconds: int) -> pl.Series:
    scaled = numbers * microseconds
    # Nulled before the cast, which would raise for the column because of one such cell.
    in_range = scaled.set((scaled.abs() > _MAX_MICROSECONDS).fill_null(False), None)
    return in_range.cast(pl.Int64).cast(_DATETIME).dt.replace_time_zone("UTC")


def _from_text(column: pl.Series, formats: list[str], where: str) -> tuple[pl.Series, pl.Series]:
    """Return (naive, aware) times; a cell is filled in at most one of the two."""
    text = column.str.strip_chars()
    if formats[0] == _ISO[0]:
        text = text.str.replace("T", " ", literal=True)
    naive = pl.Series(column.name, [None] * len(column), dtype=_DATETIME)
    aware = pl.Series(column.name, [None] * len(column), dtype=pl.Datetime("us", "UTC"))
    for form in formats:
        try:
            parsed = text.str.to_datetime(form, time_unit="us", strict=False)
        except pl.exceptions.PolarsError:
            raise WrongTypes(
                f"{where} cannot be read with the format {form!r}",
                hint="timestamp_format takes strftime's letters, e.g. %Y-%m-%d %H:%M",
            ) from None
        if parsed.dtype == _DATETIME:
            # The first format that reads a cell wins, so their order decides.
            naive = naive.zip_with(naive.is_not_null(), parsed)
        else:
            aware = aware.zip_with(aware.is_not_null(), parsed.dt.convert_time_zone("UTC"))
        if (naive.is_not_null() | aware.is_not_null() | text.is_null()).all():
            break
    return naive, aware


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


def _check_any_readable(
    column: pl.Series, read: pl.Series, where: str, wanted: str, hint: str = ""
) -> None:
    """Raise `WrongTypes` if cells are filled and not one of them was read."""
    if read.is_not_null().any() or not present(column).any():
        return
    if column.dtype == pl.String:
        sample = column.filter(present(column))[0]
        held = f"text like {_shape(sample)!r}"
    else:
        held = f"{column.dtype.base_type().__name__} values"
    raise WrongTypes(f"{where} holds {held}, not {wanted}", hint=hint)


def _shape(value: str) -> str:
    """Replace letters by a and digits by 9: the format stays visible, the customer's data not."""
    shape = "".join(
        "9" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in value.strip()
    )
    return shape if len(shape) <= 24 else f"{shape[:24]}..."
