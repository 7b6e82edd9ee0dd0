r"""Reads JSON: one object a line, or one list of objects.

Numbers stay as they are written, as in a CSV file, so that no digit of an id is lost. A column may
be a path into nested objects, such as `device.category`.

>>> import tempfile
>>> from pathlib import Path
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder, "events.jsonl")
...     _ = path.write_text('{"user": {"id": 7}, "items": [{"id": 1.50}, {"id": 2}]}\nnonsense\n')
...     rows = read_json(path, lambda names: ["user.id", "items.id"], explode="items")
>>> rows.frame.rows(), rows.malformed
([('7', '1.50'), ('7', '2')], 1)
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import polars as pl

from hanse_client.ingest.formats.rows import FileRows, joined
from hanse_client.ingest.formats.streams import as_text, as_utf8, encoding_of
from hanse_common.errors import DataError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

_ROWS_SNIFFED = 1_000
"""Objects in which columns are looked for: one that is always null may be absent at first."""
_ROWS_AT_ONCE = 100_000


def read_json(
    path: Path,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    encoding: str | None = None,
    explode: str | None = None,
) -> FileRows:
    """Read columns of a file of JSON objects as text, or as lists of texts.

    Args:
        path: The file, compressed or not.
        choose: Says which of the columns that the file has are wanted; may raise.
        encoding: As said in the settings.
        explode: A column that holds a list of objects: each is a row of its own.

    Raises:
        DataError: The file is empty or damaged.
    """
    return joined(json_parts(path, choose, encoding=encoding, explode=explode))


def json_parts(
    path: Path,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    encoding: str | None = None,
    explode: str | None = None,
    at_once: int = _ROWS_AT_ONCE,
) -> Iterator[FileRows]:
    """Read a file some rows at a time, in at least one part; see `read_json`."""
    encoding = encoding_of(path, encoding)
    malformed = 0
    with as_utf8(path, encoding) as stream:
        objects = _objects(as_text(stream), path.name)
        start = list(islice(objects, _ROWS_SNIFFED))
        if not start:
            raise DataError(f"{path.name} is empty", hint="a line holds one JSON object")
        known = [row for one in start if one is not None for row in _rows(one, explode)]
        names = dict.fromkeys(name for row in known for name in _names(row))
        wanted = list(choose(list(names)))
        cells: list[tuple[Any, ...]] = []
        for one in _chained(start, objects):
            if one is None:
                malformed += 1
                continue
            cells += [tuple(_cell(row, name) for name in wanted) for row in _rows(one, explode)]
            if len(cells) >= at_once:
                yield FileRows(frame=_frame(wanted, cells), encoding=encoding)
                cells = []
    yield FileRows(frame=_frame(wanted, cells), malformed=malformed, encoding=encoding)


def _objects(text: io.TextIOWrapper, label: str) -> Iterator[dict[str, Any] | None]:
    """The objects of a file; None for a line that holds none."""
    first = True
    for line in _whole_or_lines(text):
        if not (stripped := line.strip()):
            continue
        if first and stripped.startswith("["):
            try:
                whole = _parsed(stripped + text.read())
            except ValueError:
                raise DataError(
                    f"{label} begins as a list of JSON objects and is none",
                    hint="is it complete? otherwise write one object a line",
                ) from None
            yield from (one if isinstance(one, dict) else None for one in whole)
            return
        first = False
        try:
            one = _parsed(stripped)
        except ValueError:
            yield None
        else:
            yield one if isinstance(one, dict) else None


def _whole_or_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a file; or all of it as one, where one object is spread over several."""
    for line in text:
        if line.strip() == "{":
            whole = line + text.read()
            try:
                _parsed(whole)
            except ValueError:
                yield from whole.splitlines()
            else:
                yield whole
            return
        yield line
        if line.strip():
            break
    yield from text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _chained(
    start: list[dict[str, Any] | None], rest: Iterator[dict[str, Any] | None]
) -> Iterator[dict[str, Any] | None]:
    yield from start
    yield from rest


def _rows(one: dict[str, Any], explode: str | None) -> list[dict[str, Any]]:
    if explode is None:
        return [one]
    elements = one.get(explode)
    # An object without elements stays a row, so that it is counted as one that lacks its item.
    return [{**one, explode: part} for part in elements or [None]] if elements else [one]


def _names(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")


def _cell(row: dict[str, Any], path: str) -> Any:
    value: Any = row
    if path in row:
        value = row[path]
    else:
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        return [None if part is None else str(part) for part in value]
    return value if isinstance(value, str) else None


def _frame(names: Sequence[str], cells: list[tuple[Any, ...]]) -> pl.DataFrame:
    columns = zip(*cells, strict=True) if cells else [()] * len(names)
    return pl.DataFrame(
        [_series(name, values) for name, values in zip(names, columns, strict=True)]
    )


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    if any(isinstance(value, list) for value in values):
        lists = [[value] if isinstance(value, str) else value for value in values]
        return pl.Series(name, lists, dtype=pl.List(pl.String))
    return pl.Series(name, values, dtype=pl.String)
