"""Reads numbers as people and programs write them: `1,234.50`, `12,50 €`, `1'234.50`, `12.50-`.

Which sign is the decimal mark is a setting; without one, it is a point. A column whose cells all
look like `1.234` or some like `1,234` could mean one thing or a thousand times as much: that is an
error which names the setting, never a guess.

>>> as_number(pl.Series(["1.5", "many", "", "$1,234.50"]), "column 'price' of sales.csv").to_list()
[1.5, None, None, 1234.5]
>>> as_number(pl.Series(["1.234", "2.500"]), "column 'price' of sales.csv")
Traceback (most recent call last):
    ...
hanse_common.errors.WrongTypes: column 'price' of sales.csv holds numbers like '9.999', which ...
>>> as_number(pl.Series(["1.234", "2,5"]), "column 'price' of sales.csv", decimal=",").to_list()
[1234.0, 2.5]
"""

from __future__ import annotations

import re

import polars as pl

from hanse_client.ingest.casts import Doubts, check_any_readable, shape
from hanse_common.errors import WrongTypes

_PLAIN = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# Groups of three and a fraction behind the other sign: only one reading is left.
_GROUPED = r"^[+-]?\d{1,3}(,\d{3})+\.\d+$|^[+-]?\d{1,3}(,\d{3}){2,}$"
_SPACED = r"^[+-]?\d{1,3}([ '\x{2019}\x{a0}\x{202f}]\d{3})+(\.\d+)?$"
_MAYBE_THOUSANDS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
_MAYBE_THOUSANDTHS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_FRACTION = r"\.\d"
_BLANKS = r"[ '\x{2019}\x{a0}\x{202f}]"
# A sign or a three-letter code of a currency, before or behind.
_CURRENCY = r"^(?:\p{Sc}|[A-Z]{3}[\s\x{a0}])\s*|[\s\x{a0}]*(?:\p{Sc}|[\s\x{a0}][A-Z]{3})$"
_OTHER = {".": ",", ",": "."}


def as_number(
    column: pl.Series,
    where: str,
    *,
    decimal: str = "",
    thousands: str = "",
    doubts: Doubts | None = None,
) -> pl.Series:
    """Read a column as finite numbers; (n,) Float64.

    Args:
        column: Numbers, or text; (n,).
        where: The column's name in error messages.
        decimal: The decimal mark of text; a point if empty.
        thousands: What groups thousands in text; if empty, the other of point and comma where that
            leaves one reading.
        doubts: Keeps what other parts of the column decide, if it is a part of one.

    Raises:
        WrongTypes: Cells are filled, but none is a number; or which sign is the decimal mark cannot
            be told.
    """
    if column.dtype == pl.String:
        cells = _bare(column)
        if decimal or thousands:
            numbers = _by_setting(cells, decimal or ".", thousands)
        else:
            numbers = _unambiguous(cells, where, doubts)
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Float64, strict=False)
    else:
        numbers = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    numbers = numbers.set((~numbers.is_finite()).fill_null(False), None)
    check_any_readable(
        column,
        numbers,
        where,
        "numbers",
        "" if decimal else 'decimal = "," reads 12,50',
        doubts=doubts,
    )
    return numbers


def _bare(column: pl.Series) -> pl.Series:
    """The cells without signs of currencies; a minus behind, or brackets around, come before."""
    cells = column.str.strip_chars().str.replace(r"^\((.*\d.*)\)$", "-${1}")
    cells = cells.str.replace(r"^([+-])\s*(\p{Sc}|[A-Z]{3}[\s\x{a0}])\s*", "${1}")
    cells = cells.str.replace_all(_CURRENCY, "")
    return cells.str.replace(r"^([\d.,]+)-$", "-${1}")


def _unambiguous(cells: pl.Series, where: str, doubts: Doubts | None) -> pl.Series:
    plain = cells.str.contains(_PLAIN)
    doubtful = cells.str.contains(_MAYBE_THOUSANDS)
    judged = Doubts() if doubts is None else doubts
    if (plain & cells.str.contains(_FRACTION) & ~doubtful).any():
        judged.dispel(f"{where}: thousands")
    elif doubtful.any():
        error = _ambiguous(cells.filter(doubtful.fill_null(False))[0], where)
        judged.keep(f"{where}: thousands", error)
    if doubts is None:
        judged.settle()
    commas = cells.str.contains(_MAYBE_THOUSANDTHS).fill_null(False)
    if commas.any():
        raise _ambiguous(cells.filter(commas)[0], where)
    grouped = cells.str.contains(_GROUPED)
    spaced = cells.str.contains(_SPACED)
    bare = cells.to_frame("cell").select(
        pl.when(grouped.fill_null(False))
        .then(pl.col("cell").str.replace_all(",", "", literal=True))
        .when(spaced.fill_null(False))
        .then(pl.col("cell").str.replace_all(_BLANKS, ""))
        .when(plain.fill_null(False))
        .then(pl.col("cell"))
    )["cell"]
    return bare.cast(pl.Float64, strict=False).rename(cells.name)


def _ambiguous(cell: str, where: str) -> WrongTypes:
    return WrongTypes(
        f"{where} holds numbers like {shape(cell)!r}, which may mean thousands or thousandths",
        hint='say which, in that table of store.toml: decimal = "." or decimal = ","',
    )


def _by_setting(cells: pl.Series, decimal: str, thousands: str) -> pl.Series:
    mark = re.escape(decimal)
    if thousands == " ":
        group = r"[ \x{a0}\x{202f}]"
    elif thousands == "'":
        group = r"['\x{2019}]"
    else:
        group = re.escape(thousands or _OTHER[decimal])
    grouped = rf"\d{{1,3}}(?:{group}\d{{3}})+(?:{mark}\d*)?"
    ungrouped = rf"\d+(?:{mark}\d*)?|{mark}\d+"
    sound = cells.str.contains(rf"^[+-]?(?:{grouped}|{ungrouped})(?:[eE][+-]?\d+)?$")
    bare = cells.str.replace_all(group, "").str.replace(decimal, ".", literal=True)
    return bare.set(~sound.fill_null(False), None).cast(pl.Float64, strict=False)
