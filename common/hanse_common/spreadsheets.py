"""CSV files that people open in a spreadsheet: no text in them is taken for a formula.

Spreadsheets compute a cell that begins with `=`, `+`, `-` or `@`, and a store id, a product's
name or a note may begin so: `=HYPERLINK(…)` sends what lies beside it wherever it says. Such a
text gets an apostrophe before it, which spreadsheets know as "this is text". Numbers stay
numbers; Parquet and JSON stay as they are.

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
"""How a formula begins; spreadsheets pass over tabs and line ends before one."""
_PATTERN = r"^[=+\-@\t\r\n]"
_MARKED = r"^'([=+\-@\t\r\n])"


def as_text(text: str) -> str:
    """Return a text as a cell that no spreadsheet computes."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_text(cell: str) -> str:
    """Return the text that `as_text` made a cell of."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell


def as_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts no spreadsheet computes; for `write_csv`."""
    import polars as pl

    texts = table.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    return texts.with_columns(
        pl.when(pl.col(pl.String).str.contains(_PATTERN))
        .then("'" + pl.col(pl.String))
        .otherwise(pl.col(pl.String))
        .name.keep()
    )


def from_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table that `as_texts` was given; for `read_csv`."""
    import polars as pl

    return table.with_columns(pl.col(pl.String).str.replace(_MARKED, "$1"))
