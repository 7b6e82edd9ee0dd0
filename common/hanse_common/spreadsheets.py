"""Escapes texts in CSV files so that a spreadsheet does not evaluate them as formulas.

Spreadsheets evaluate a cell that begins with `=`, `+`, `-` or `@`, and a store id, a product's
name or a note may begin so: `=HYPERLINK(…)` can send neighbouring cells to any address. Such a
text gets a leading apostrophe, by which spreadsheets recognise text. Numbers are unchanged, and
so are Parquet and JSON files. The attack is known as CSV injection.

>>> as_text("=1+1"), as_text("-3.5 kg"), as_text("milk")
("'=1+1", "'-3.5 kg", 'milk')
>>> from_text(as_text("@store"))
'@store'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a formula; spreadsheets skip tabs and line ends before it."""
_PATTERN = r"^[=+\-@\t\r\n]"
_MARKED = r"^'([=+\-@\t\r\n])"


def as_text(text: str) -> str:
    """Return a text as a cell that no spreadsheet evaluates."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_text(cell: str) -> str:
    """Return the text of a cell that `as_text` wrote."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell


def as_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts no spreadsheet evaluates; for `write_csv`."""
    import polars as pl

    # The selector of strings below does not match categorical columns, which hold texts too.
    texts = table.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    return texts.with_columns(
        pl.when(pl.col(pl.String).str.contains(_PATTERN))
        .then("'" + pl.col(pl.String))
        .otherwise(pl.col(pl.String))
        .name.keep()
    )


def from_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table before `as_texts`; for use after `read_csv`."""
    import polars as pl

    return table.with_columns(pl.col(pl.String).str.replace(_MARKED, "$1"))
