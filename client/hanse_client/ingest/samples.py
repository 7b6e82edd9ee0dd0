r"""The first rows of a file, and the keys of a `store.toml` by which they were read.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     sales = Path(folder, "sales.csv")
...     _ = sales.write_text("Report of 2024\n\nCard;SKU\n17;4\n18;5\n")
...     read_sample(sales).keys
{'separator': ';', 'skip_rows': 2}
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from hanse_client.ingest.casts import present
from hanse_client.ingest.column_words import NAMES, plain
from hanse_client.ingest.formats.json_lines import json_parts
from hanse_client.ingest.formats.parquet import parquet_parts
from hanse_client.ingest.formats.spreadsheets import read_sheet
from hanse_client.ingest.formats.streams import as_text, as_utf8, encoding_of
from hanse_client.ingest.source_settings import SUFFIXES, Files
from hanse_common.errors import DataError

_ROWS_READ = 1_000
_SEPARATORS = ",;\t|"
Column = str | list[str]
"""A column, or several that are joined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The first rows of a file as text, and the keys by which they were read."""

    path: Path
    frame: pl.DataFrame
    keys: dict[str, object]

    @property
    def filled(self) -> list[str]:
        """The columns that are not empty throughout."""
        return [column.name for column in self.frame if present(column).any()]

    def cells(self, column: Column) -> pl.Series:
        """A column, or the texts of several with blanks between."""
        if isinstance(column, str):
            return self.frame[column]
        return self.frame.select(pl.concat_str(column, separator=" "))[column[0]]


def read_sample(path: Path) -> Sample:
    """Read the first rows of a file, and find the keys by which they are read.

    Raises:
        DataError: It is empty, damaged or of an unknown kind.
    """
    kind = Files(path=str(path)).format_of(path.name)
    if kind == "parquet":
        parts = parquet_parts(path, lambda names: names, at_once=_ROWS_READ)
        return Sample(path=path, frame=next(parts).frame.head(_ROWS_READ), keys={})
    if kind == "json":
        explode = _list_of_items(path)
        parts = json_parts(path, lambda names: names, explode=explode, at_once=_ROWS_READ)
        frame = next(parts).frame.head(_ROWS_READ)
        return Sample(path=path, frame=frame, keys={} if explode is None else {"explode": explode})
    if kind == "sheet":
        sheet = read_sheet(path, lambda names: names, most=_ROWS_READ + 1)
        return Sample(path=path, frame=sheet.frame, keys={})
    if kind is None and path.suffix.lower() not in (".txt", ".dat", ".log", ""):
        raise DataError(f"{path.name} is of an unknown kind", hint=f"known: {', '.join(SUFFIXES)}")
    return _delimited(path, kind)


def _list_of_items(path: Path) -> str | None:
    """The field of JSON objects that holds a list of objects which look like items."""
    with as_utf8(path, encoding_of(path, None)) as stream:
        text = as_text(stream)
        lines = list(islice(text, _ROWS_READ))
        if lines and lines[0].lstrip().startswith("["):
            return None
    fields: dict[str, int] = {}
    for line in lines:
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for field, value in one.items() if isinstance(one, dict) else ():
            parts = value if isinstance(value, list) else []
            for part in parts:
                names = {plain(name) for name in part} if isinstance(part, dict) else set()
                if names & {*NAMES["item_id"]} or ("id" in names and names & {*NAMES["text"]}):
                    fields[field] = fields.get(field, 0) + 1
    return max(fields, key=lambda field: fields[field], default=None)


def _delimited(path: Path, kind: str | None) -> Sample:
    keys: dict[str, object] = {} if kind else {"format": "csv"}
    encoding = encoding_of(path, None)
    if encoding not in ("utf-8", "utf-8-sig"):
        keys["encoding"] = encoding
    with as_utf8(path, encoding) as stream:
        lines = list(islice(as_text(stream), _ROWS_READ + 1))
    if not any(line.strip() for line in lines):
        raise DataError(f"{path.name} is empty", hint="its first line names the columns")
    separator = "\t" if kind == "tsv" else _separator(lines)
    if separator not in (",", "\t") or (separator == "\t" and kind == "csv"):
        keys["separator"] = separator
    skip = _lines_before(lines, separator)
    if skip:
        keys["skip_rows"] = skip
    rows = [row for row in csv.reader(lines[skip:], delimiter=separator) if row]
    first = [cell.strip() for cell in rows[0]]
    header = all(re.fullmatch(r"[^\W\d][^@]*", cell) for cell in first if cell)
    if not header:
        keys["header"] = False
    names = first if header else [str(place) for place in range(1, len(first) + 1)]
    body = [row for row in rows[int(header) :] if len(row) == len(names)]
    columns = {name: [row[place] for row in body] for place, name in enumerate(names) if name}
    return Sample(path=path, frame=pl.DataFrame(columns), keys=keys)


def _separator(lines: Sequence[str]) -> str:
    """The sign that parts the most rows into one number of cells."""

    def fit(sign: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=sign) if row]
        width = max(set(widths), key=widths.count)
        return (widths.count(width), width) if width > 1 else (0, 0)

    return max(_SEPARATORS, key=fit)


def _lines_before(lines: Sequence[str], separator: str) -> int:
    """The number of lines before the first record as wide as most, such as a report's title."""
    reader = csv.reader(lines, delimiter=separator)
    starts: list[tuple[int, int]] = []  # first line, cells
    line = 0
    for row in reader:
        if row:
            starts.append((line, len(row)))
        line = reader.line_num
    widths = [width for _, width in starts]
    usual = max(set(widths), key=widths.count)
    # A header that lacks one or two cells of its rows is still a header, and the row after it is a
    # customer's, which must not be taken for names.
    if widths[0] > usual // 2:
        return 0
    return next(start for start, width in starts if width == usual)
