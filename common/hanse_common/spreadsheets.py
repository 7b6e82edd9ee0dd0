"""Escapes texts in CSV files so that a spreadsheet does not evaluate them as formulas.

Spreadsheets evaluate a cell that begins with `=`, `+`, `-` or `@`, and a store id, a product's
name or a note may begin so: `=HYPERLINK(…)` can send neighbouring cells to any address. Such a
text gets a leading apostrophe, by which spreadsheets recognise text. So does what follows a
semicolon, a tab or a line end within a text: a spreadsheet of another locale begins a cell
there, whatever quotes there are. Numbers are unchanged, and so are Parquet and JSON files. The
attack is known as CSV injection.

>>> as_text("=1+1"), as_text("-3.5 kg"), as_text("milk;=1+1"), as_text("milk")
("'=1+1", "'-3.5 kg", "milk;'=1+1", 'milk')
>>> from_text(as_text("@store"))
'@store'
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_FORMULA = r"=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}"
"""First characters of a formula; East Asian versions of Excel take the wide ones too."""
# Apostrophes before a formula get one more, so that the text comes back. In the syntax of polars.
_FIRST, _FIRST_MARKED = rf"^('*[{_FORMULA}\t\r\n])", rf"^'('*[{_FORMULA}\t\r\n])"
_WITHIN, _WITHIN_MARKED = rf"([;\t\r\n])('*[{_FORMULA}])", rf"([;\t\r\n])'('*[{_FORMULA}])"


def as_text(text: str) -> str:
    """Return a text as a cell that no spreadsheet evaluates."""
    return _python(_FIRST).sub(r"'\1", _python(_WITHIN).sub(r"\1'\2", text))


def from_text(cell: str) -> str:
    """Return the text of a cell that `as_text` wrote."""
    return _python(_WITHIN_MARKED).sub(r"\1\2", _python(_FIRST_MARKED).sub(r"\1", cell))


@cache
def _python(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\x\{(\w{4})\}", r"\\u\1", pattern))


def as_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts no spreadsheet evaluates; for `write_csv`."""
    import polars as pl

    # The selector of strings below does not match categorical columns, which hold texts too.
    texts = table.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    return texts.with_columns(
        pl.col(pl.String).str.replace_all(_WITHIN, "${1}'${2}").str.replace(_FIRST, "'${1}")
    )


def from_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table before `as_texts`; for use after `read_csv`."""
    import polars as pl

    return table.with_columns(
        pl.col(pl.String)
        .str.replace(_FIRST_MARKED, "${1}")
        .str.replace_all(_WITHIN_MARKED, "${1}${2}")
    )
