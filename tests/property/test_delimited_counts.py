"""Whatever Python's csv module writes, in any dialect, is read in full, and nothing else."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_client.ingest.formats.delimited import Dialect, read_delimited
from hanse_common.errors import DataError

SIGNS = st.sampled_from([*"ab1 ,;|\t\"'\\\n\r\u00a0é牛🥛=", "\r\n", '""', '",'])
CELL = st.lists(SIGNS, max_size=6).map("".join)
ROWS = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=8)
)


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, object]:
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    return {
        "delimiter": draw(st.sampled_from([",", ";", "|", "\t"])),
        "quotechar": draw(st.sampled_from(['"', "'"])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": quoting,
    }


@given(rows=ROWS, dialect=dialects(), encoding=st.sampled_from(["utf-8", "utf-16", "gb18030"]))
@settings(max_examples=300, deadline=None)
def test_every_cell_that_csv_writes_is_read(tmp_path_factory, rows, dialect, encoding):
    path: Path = tmp_path_factory.mktemp("csv") / "table.csv"
    text = io.StringIO(newline="")
    if any("\r" in cell for row in rows for cell in row):
        # Python leaves a lone "\r" bare, which ends a line for every reader, its own included.
        dialect = dialect | {"quoting": csv.QUOTE_ALL}
    csv.writer(text, **dialect).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    read = read_delimited(
        path,
        Dialect(
            separator=dialect["delimiter"],
            quote=dialect["quotechar"],
            header=False,
            encoding=encoding,
            line_breaks=True,
        ),
        lambda names: names,
    )
    # A record of one empty cell is an empty line; ours have two at least.
    assert read.malformed == 0
    assert [list(row) for row in read.frame.rows()] == rows


@given(lines=st.lists(st.lists(CELL, max_size=5).map(",".join), max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_as_csv_reads_it_or_refused(tmp_path_factory, lines):
    path: Path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_bytes("\n".join(["a,b,c", *lines]).encode())
    try:
        read = read_delimited(path, Dialect(line_breaks=True), lambda names: names)
    except DataError:
        return  # a count that differs, for one: nothing is lost in silence
    with path.open(newline="", encoding="utf-8") as stream:
        records = [record for record in csv.reader(stream) if record][1:]
    whole = [record for record in records if len(record) == 3]
    assert [list(row) for row in read.frame.rows()] == whole
    assert read.malformed == len(records) - len(whole)
