r"""Reads CSV files, and counts their records a second time in another way.

pyarrow reads: a quotation mark within a cell is a sign like any other, and a record with too many
or too few cells is handed over instead of shifted. Whether nothing was lost is then asked of
something else: the number of lines, or, where cells hold line breaks, Python's own `csv`.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     sales = Path(folder, "sales.csv")
...     _ = sales.write_text('id,note\n1,tv 55"\n2,x,y\n3,"two\nlines"\n')
...     table = read_delimited(sales, Dialect(), lambda names: names)
>>> table.frame["id"].to_list(), table.malformed
(['1', '3'], 1)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl

from hanse_client.ingest.formats.rows import FileRows, joined
from hanse_client.ingest.formats.streams import as_text, as_utf8, encoding_of
from hanse_common.errors import DataError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

_CELL_LIMIT = 1 << 27
_BLOCK_SIZE = 1 << 24
"""Bytes that pyarrow parses at once; a record must fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How a file of separated cells is written."""

    separator: str = ","
    quote: str = '"'
    """Empty where a quotation mark means nothing."""
    escape: str = ""
    """What stands before a separator or quotation mark that means nothing; often none."""
    header: bool = True
    """Whether the first record names the columns; they are `1`, `2`, ... otherwise."""
    skip_rows: int = 0
    """Lines before it."""
    encoding: str | None = None
    line_breaks: bool = False
    """Whether cells surely hold line breaks, also where they look like records."""


def read_delimited(
    path: Path, dialect: Dialect, choose: Callable[[Sequence[str]], Collection[str]]
) -> FileRows:
    """Read columns of a CSV file as text.

    Args:
        path: The file, compressed or not.
        dialect: How it is written.
        choose: Says which of the columns that the file has are wanted; may raise.

    Raises:
        DataError: The file is empty or damaged, is not in its encoding, a quotation mark opens
            that nothing closes, or two counts of its records differ.
    """
    return joined(delimited_parts(path, dialect, choose))


def delimited_parts(
    path: Path, dialect: Dialect, choose: Callable[[Sequence[str]], Collection[str]]
) -> Iterator[FileRows]:
    """Read a file a part at a time, at least one; see `read_delimited`.

    Guarantees:
        The last part comes after the records were counted again: who has read all parts has read
        all rows.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    encoding = encoding_of(path, dialect.encoding)
    names, before = _columns(path, dialect, encoding)
    wanted = list(choose(names))
    places = {f"c{index}": name for index, name in enumerate(names) if name in set(wanted)}
    malformed = rejected = 0

    def skip(_: object) -> str:
        nonlocal malformed
        malformed += 1
        return "skip"

    lines = _Lines()
    with as_utf8(path, encoding) as stream:
        counted = _Counting(stream, lines)
        try:
            batches = arrow_csv.open_csv(
                pa.PythonFile(counted, mode="r"),
                read_options=arrow_csv.ReadOptions(
                    column_names=[f"c{index}" for index in range(len(names))],
                    skip_rows=before,
                    skip_rows_after_names=int(dialect.header),
                    block_size=_BLOCK_SIZE,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=dialect.separator,
                    quote_char=dialect.quote or False,
                    double_quote=bool(dialect.quote),
                    escape_char=dialect.escape or False,
                    newlines_in_values=bool(dialect.quote),
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(places) or ["c0"],
                    column_types=dict.fromkeys(places or ["c0"], pa.large_string()),
                    # Which cells are missing is decided later, for all formats alike.
                    null_values=[],
                    strings_can_be_null=False,
                    check_utf8=False,  # decided by `encoding_of`
                ),
            )
            rows = 0
            for batch in batches:
                rows += batch.num_rows
                taken, malformed = malformed, 0
                rejected += taken
                frame = pl.DataFrame(pa.Table.from_batches([batch])).rename(places)
                yield FileRows(frame=frame, malformed=taken, encoding=encoding)
        except pa.ArrowInvalid:
            # The text of pyarrow's error is left out because it quotes the faulty record.
            raise DataError(
                f"{path.name} cannot be read as CSV",
                hint="check separator, quote and encoding in that table of store.toml",
            ) from None
    rows += rejected + malformed
    # A line for each record: the usual file, counted at the speed of reading.
    if lines.number - before - int(dialect.header) != rows:
        _count_again(path, dialect, encoding, rows=rows, cells=len(names))
    # Those after the last batch; an empty frame has the columns of a file without rows.
    names_there = dict.fromkeys(places.values() or ["c0"], pl.String)
    yield FileRows(frame=pl.DataFrame(schema=names_there), malformed=malformed, encoding=encoding)


def _columns(path: Path, dialect: Dialect, encoding: str) -> tuple[list[str], int]:
    """The names of a file's columns, and the number of lines before its first record."""
    with as_utf8(path, encoding) as stream:
        text = as_text(stream)
        _skip(text, dialect)
        before = dialect.skip_rows
        while (line := text.readline()) and not line.strip("\r\n"):
            before += 1
        first = next(_records(chain([line], text), dialect), None)
    if first is None:
        raise DataError(f"{path.name} is empty", hint="its first line names the columns")
    if not dialect.header:
        return [str(place) for place in range(1, len(first) + 1)], before
    return [name.strip() for name in first], before


def _skip(text: io.TextIOWrapper, dialect: Dialect) -> None:
    for _ in range(dialect.skip_rows):
        text.readline()


def _records(lines: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    """The records of a file by Python's `csv`, without empty lines."""
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(
        lines,
        delimiter=dialect.separator,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        escapechar=dialect.escape or None,
        doublequote=bool(dialect.quote),
    )
    return (record for record in reader if record)


class _Lines:
    """Counts the lines of what passes, empty ones included."""

    def __init__(self) -> None:
        self._last = b"\n"
        self.number = 0

    def add(self, block: bytes) -> None:
        self.number += block.count(b"\n")
        self._last = block[-1:]

    def end(self) -> None:
        """A last line may lack its end."""
        self.number += self._last != b"\n"
        self._last = b"\n"


class _Counting:
    """A stream whose lines are counted as they pass."""

    def __init__(self, stream: IO[bytes], lines: _Lines) -> None:
        self._stream, self._lines = stream, lines
        self.closed = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        if block:
            self._lines.add(block)
        else:
            self._lines.end()
        return block

    def close(self) -> None:
        self.closed = True


def _count_again(path: Path, dialect: Dialect, encoding: str, *, rows: int, cells: int) -> None:
    """Count the records of a file by Python's `csv`, and look into cells of several lines.

    Raises:
        DataError: The count differs, or a cell has swallowed whole records.
    """
    with as_utf8(path, encoding) as stream:
        text = as_text(stream)
        _skip(text, dialect)
        count = -int(dialect.header)
        for record in _records(text, dialect):
            count += 1
            if not dialect.line_breaks and _has_swallowed(record, dialect.separator, cells):
                raise DataError(
                    f"a cell of record {count:,} of {path.name} seems to hold whole lines of the "
                    "file: a quotation mark opens there that closes much later, or never",
                    hint='in that table of store.toml, quote = "" says that quotation marks mean '
                    "nothing, line_breaks = true that cells hold such lines",
                )
    if count != rows:
        raise DataError(
            f"{path.name} was counted twice, and the counts differ: {rows:,} records and {count:,}",
            hint="check separator, quote and escape in that table of store.toml; "
            'quote = "" where a quotation mark means nothing',
        )


def _has_swallowed(record: list[str], separator: str, cells: int) -> bool:
    """Whether a cell holds line breaks, and its lines look like records of the file."""
    for place, cell in enumerate(record):
        if "\n" not in cell and "\r" not in cell:
            continue
        if len(record) != cells:
            return True
        # A mark that never closes takes the end of the file with it.
        lines = cell.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
        if len(lines) < 2:
            continue
        first, *inner, last = (line.count(separator) for line in lines)
        # A mark that opens here by mistake leaves the rest of its own record in the first line, and
        # the start of another in the last. Of two columns that may well be prose.
        if (
            first == cells - 1 - place
            and last == place
            and all(number == cells - 1 for number in inner)
            and (cells > 2 or len(inner) > 2)
            and cells > 1
        ):
            return True
    return False
