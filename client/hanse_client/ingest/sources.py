"""Reads one table of a store: files of any known format, or a query on any SQL database.

Only the columns that the mapping names are read. Names and addresses in other columns never enter
this process, and other columns of a query are dropped as they arrive. Types stay as the source has
them (CSV, JSON and sheets: text); `hanse_client.ingest.casts` reads them. No error message quotes a
row or a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl

from hanse_client.ingest.casts import present
from hanse_client.ingest.database import read_query
from hanse_client.ingest.formats.delimited import Dialect, delimited_parts
from hanse_client.ingest.formats.json_lines import json_parts
from hanse_client.ingest.formats.parquet import parquet_parts
from hanse_client.ingest.formats.rows import FileRows
from hanse_client.ingest.formats.spreadsheets import read_sheet
from hanse_client.ingest.source_settings import SUFFIXES, Files, Join, Source
from hanse_common.errors import ConfigError, DataError, MissingColumns, WrongTypes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

_COLUMNS_SHOWN = 20
# What systems put beside data: locks of office programs, marks of Spark, checksums.
_NOT_DATA = (".", "_", "~$")
# Functions of SQL that look at no other row. `avg(price)`, for one, needs all of them.
_OF_ONE_ROW = frozenset(
    {"in", "and", "or", "not", "then", "else", "when", "between", "like", "ilike", "if", "cast"}
    | {"try_cast", "coalesce", "nullif", "ifnull", "abs", "round", "floor", "ceil", "mod"}
    | {"length", "char_length", "lower", "upper", "trim", "ltrim", "rtrim", "left", "right"}
    | {"substr", "substring", "replace", "concat", "starts_with", "ends_with", "regexp_like"}
    | {"strpos", "date_part", "extract", "date", "strftime", "timestamp"}
)
_CALL = re.compile(r"(\w+)\s*\(")
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# A name of a column begins with a letter. A row of data has a number or a date somewhere.
_NAME = re.compile(r"[^\W\d][^@\n\r]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRows:
    """Rows of a table, all or a part of them, as the source has them."""

    frame: pl.DataFrame
    """One column for each canonical column that the source has, and those that `where` names under
    their own names; cells that mean a missing value are null."""
    malformed: int = 0
    """Records of files that are none, and in no frame."""
    encodings: tuple[str, ...] = ()
    """Of its files of text, each once."""

    @property
    def rows_read(self) -> int:
        """All records of the source."""
        return self.frame.height + self.malformed


def read_source(source: Source) -> pl.DataFrame:
    """Read a source under canonical column names; see `read_rows`."""
    return read_rows(source).frame


def read_rows(source: Source) -> RawRows:
    """Read a source under canonical column names.

    Args:
        source: The location, and the names of its columns.

    Returns:
        Its rows. Optional columns may be absent.

    Raises:
        MissingColumns: A required column, or one that the mapping names, is missing.
        DataError: The files cannot be read, no file matches, a row may have been lost, or the query
            fails.
        WrongTypes: Files of one source store a column with incompatible types.
        ConfigError: The environment variable of the URL is not set, or `where` is no condition.
        MissingDependency: The database's driver is not installed.
    """
    parts = list(_parts(source))
    return RawRows(
        frame=_concatenated([part.frame for part in parts], source.label),
        malformed=sum(part.malformed for part in parts),
        encodings=tuple(dict.fromkeys(name for part in parts for name in part.encodings)),
    )


def read_parts(source: Source) -> Iterator[RawRows]:
    """Read a source a part at a time, at least one: memory holds no more of it than that.

    A source whose `where` may look beyond a row comes in one part. Raises what `read_rows` does.

    Guarantees:
        Who has read all parts has read all rows, each once, in the order of the source.
    """
    if source.where is not None and not _row_by_row(source.where):
        yield read_rows(source)
        return
    known = pl.DataFrame()
    for part in _parts(source):
        if part.frame.schema != known.schema:
            known = _concatenated([known, part.frame.clear()], source.label)
        yield part


def _row_by_row(condition: str) -> bool:
    """Whether a condition in SQL surely looks at one row at a time."""
    called = {name.lower() for name in _CALL.findall(condition)}
    return called <= _OF_ONE_ROW and "select" not in condition.lower()


def _parts(source: Source) -> Iterator[RawRows]:
    conditions = _names_in_where(source)
    if source.sql is not None:
        frame = read_query(source, lambda names: _wanted(source, names, source.label, conditions))
        yield RawRows(frame=_canonical(source, frame, conditions))
        return
    joined = [_Joined.read(source, join, conditions) for join in source.join]
    beside = {name for table in joined for name in table.frame.columns}
    for base, path in _files(source, source.label):

        def choose(names: Sequence[str], path: Path = path) -> Collection[str]:
            keys = [key for table in joined for key in table.keys]
            here = [*names, *(name for name in beside if name not in names)]
            wanted = _wanted(source, here, path.name, conditions)
            _refuse_missing_keys(source, keys, here, path.name)
            return [name for name in names if name in {*wanted, *keys}]

        for part in _read_file(source, base, path, choose):
            frame = part.frame
            for table in joined:
                frame = table.beside(frame)
            yield RawRows(
                frame=_canonical(source, frame, conditions),
                malformed=part.malformed,
                encodings=(part.encoding,) if part.encoding else (),
            )


def files_of(source: Source) -> list[Path]:
    """Return all files of a source, those of its joins too, sorted within each table.

    Raises:
        DataError: No file matches.
    """
    tables: Iterable[Files] = (source, *source.join)
    return [path for table in tables if table.paths for _, path in _files(table, source.label)]


def _files(files: Files, label: str) -> list[tuple[Path, Path]]:
    """The files of a table, each with the folder in which names of folders mean columns."""
    found: dict[Path, Path] = {}
    for pattern in files.paths:
        path = Path(pattern).absolute()
        # Sorted: a glob has no order of its own, and the order of rows decides between duplicates.
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        for match in matches:
            inner = sorted(match.rglob("*")) if match.is_dir() else [match]
            for one in inner:
                base = match if match.is_dir() else _fixed_part(path)
                if one.is_file() and _holds_data(files, one, base):
                    found.setdefault(one, base)
    if not found:
        shown = ", ".join(map(repr, files.paths))
        raise DataError(
            f"no file matches the path {shown} of {label}",
            hint="relative paths start at the folder of store.toml; "
            f"files in a folder are known by {', '.join(SUFFIXES)}",
        )
    return [(base, path) for path, base in sorted(found.items())]


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first wildcard."""
    parts = pattern.parent.parts
    fixed = next((place for place, part in enumerate(parts) if "*" in part or "?" in part), None)
    return pattern.parent if fixed is None else Path(*parts[:fixed])


def _holds_data(files: Files, path: Path, base: Path) -> bool:
    inner = path.relative_to(base).parts if path.is_relative_to(base) else (path.name,)
    if any(part.startswith(_NOT_DATA) for part in inner):
        return False
    return files.format_of(path.name) is not None


def _read_file(
    files: Files, base: Path, path: Path, choose: Callable[[Sequence[str]], Collection[str]]
) -> Iterator[FileRows]:
    """Read a file a part at a time, with the columns that its path tells."""
    partitions = _partitions(path, base) | _told_by_path(files, path)
    above: dict[str, pl.Series] = {}

    def among(names: Sequence[str]) -> Collection[str]:
        new = [name for name in partitions if name not in names]
        if absent := [name for name in files.fill_down if name not in names]:
            raise MissingColumns(
                f"{path.name} has no column {', '.join(map(repr, absent))}, which is to be filled",
                hint="fill_down lists columns of the source",
            )
        return [name for name in choose([*names, *new]) if name in names]

    there = [pl.lit(value, pl.String).alias(name) for name, value in partitions.items()]
    for rows in _read_format(files, path, among):
        names = rows.frame.columns
        added = [column for column in there if column.meta.output_name() not in names]
        filled = _filled_down(files, rows.frame, above)
        yield replace(rows, frame=filled.with_columns(added))


def _filled_down(files: Files, frame: pl.DataFrame, above: dict[str, pl.Series]) -> pl.DataFrame:
    """Fill empty cells from the last filled one above, which may be in the part before."""
    for name in files.fill_down:
        if name not in frame.columns or frame.is_empty():
            continue
        cells = frame[name]
        cells = cells.set(~present(cells), None)
        last = above.get(name, cells.clear().extend_constant(None, 1))
        filled = last.append(cells).forward_fill()
        above[name] = filled.tail(1)
        frame = frame.with_columns(filled.tail(frame.height))
    return frame


def _told_by_path(files: Files, path: Path) -> dict[str, str | None]:
    """What the path of a file says about all of its rows.

    Raises:
        DataError: It does not have the form that the settings say.
    """
    if files.from_path is None:
        return {}
    found = re.search(files.from_path, path.as_posix())
    if found is None:
        raise DataError(
            f"the path of {path.name} does not have the form of from_path",
            hint="let path match files of that form only; folders are parted by /",
        )
    return found.groupdict()


def _partitions(path: Path, base: Path) -> dict[str, str | None]:
    """What names of folders such as `month=2024-01` say, as Hive and Spark write them."""
    folders = path.relative_to(base).parent.parts if path.is_relative_to(base) else ()
    pairs = (part.split("=", 1) for part in folders if "=" in part)
    return {
        unquote(name): None if value == _DEFAULT_PARTITION else unquote(value)
        for name, value in pairs
    }


def _read_format(
    files: Files, path: Path, choose: Callable[[Sequence[str]], Collection[str]]
) -> Iterator[FileRows]:
    kind = files.format_of(path.name)
    if kind == "parquet":
        return parquet_parts(path, choose, explode=files.explode)
    if kind == "json":
        return json_parts(path, choose, encoding=files.encoding, explode=files.explode)
    if kind == "sheet":
        sheet = read_sheet(
            path, choose, sheet=files.sheet, header=files.header, skip_rows=files.skip_rows
        )
        return iter([sheet])
    dialect = Dialect(
        separator="\t" if kind == "tsv" else files.separator,
        quote=files.quote,
        escape=files.escape,
        header=files.header,
        skip_rows=files.skip_rows,
        encoding=files.encoding,
        line_breaks=files.line_breaks,
    )
    return delimited_parts(path, dialect, choose)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Joined:
    """A table whose rows stand beside those of another."""

    frame: pl.DataFrame
    """Its columns without the key's, which are the names of `keys`."""
    keys: dict[str, str]
    """The first table's columns -> those here."""
    label: str

    @classmethod
    def read(cls, source: Source, join: Join, conditions: Collection[str]) -> _Joined:
        mapped = {name for column in source.CANONICAL for name in source.source_of(column)}
        # A later join may find its key here.
        wanted = {*mapped, *conditions, *(key for other in source.join for key in other.keys)}
        label = Path(join.paths[0]).name

        def choose(names: Sequence[str]) -> Collection[str]:
            _refuse_missing_keys(source, join.keys.values(), names, label)
            return [name for name in names if name in {*wanted, *join.keys.values()}]

        files = _files(join, source.label)
        parts = [part for base, path in files for part in _read_file(join, base, path, choose)]
        if lost := sum(part.malformed for part in parts):
            raise DataError(
                f"{lost:,} records of {label} have more or fewer cells than its first",
                hint="correct them: rows of the other table would lose what they say",
            )
        frame = _concatenated([part.frame for part in parts], label)
        keys = [frame[theirs].cast(pl.String) for theirs in join.keys.values()]
        if pl.DataFrame(keys).is_duplicated().any():
            raise DataError(
                f"a key of {label} occurs twice, so that rows would be doubled",
                hint=f"under [{source.TABLE}.join] name the columns that tell its rows apart",
            )
        return cls(frame=frame, keys=join.keys, label=label)

    def beside(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the columns to rows of the first table; those without a partner get nulls."""
        left = [pl.col(name).cast(pl.String).alias(f"key {name}") for name in self.keys]
        right = self.frame.select(
            *(
                pl.col(theirs).cast(pl.String).alias(f"key {ours}")
                for ours, theirs in self.keys.items()
            ),
            *(name for name in self.frame.columns if name not in frame.columns),
        )
        named = [f"key {name}" for name in self.keys]
        return (
            frame.with_columns(left)
            .join(right, on=named, how="left", maintain_order="left")
            .drop(named)
        )


def _refuse_missing_keys(
    source: Source, keys: Iterable[str], names: Sequence[str], label: str
) -> None:
    if absent := [key for key in keys if key not in names]:
        raise MissingColumns(
            f"{label} has no column {', '.join(map(repr, absent))}, by which rows are joined",
            hint=f"on = under [{source.TABLE}.join] names it",
        )


def _concatenated(frames: list[pl.DataFrame], label: str) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        raise WrongTypes(
            f"the files of {label} store a column with incompatible types",
            hint="write them with one schema",
        ) from None


def _names_in_where(source: Source) -> tuple[str, ...]:
    """The columns that the condition names."""
    if source.where is None:
        return ()
    try:
        return tuple(dict.fromkeys(pl.sql_expr(source.where).meta.root_names()))
    except pl.exceptions.PolarsError:
        raise ConfigError(
            f"{source.TABLE}.where is no condition in SQL",
            hint="e.g. where = \"event_type <> 'test' AND price > 0\"",
        ) from None


def _wanted(
    source: Source, available: Sequence[str], label: str, conditions: Collection[str]
) -> Collection[str]:
    """The columns of a source that its mapping and its condition name.

    Raises:
        MissingColumns: One of them is missing, or there twice.
    """
    there = set(available)
    missing: dict[str, list[str]] = {}
    wanted: dict[str, None] = {}
    for name in source.CANONICAL:
        columns = source.source_of(name)
        absent = [column for column in columns if column not in there]
        if columns and not absent:
            wanted.update(dict.fromkeys(columns))
        elif absent and (name in source.columns or name in source.REQUIRED):
            missing[name] = absent
    for name in conditions:
        if name in there and name not in source.CANONICAL:
            wanted[name] = None
        elif name not in source.CANONICAL:
            missing[name] = [name]
    if missing:
        raise MissingColumns(
            f"{label} has no column "
            f"{', '.join(repr(column) for columns in missing.values() for column in columns)}"
            f"{_shown(source, available)}",
            hint=_hint_to_map(source, [name for name in missing if name in source.CANONICAL]),
        )
    if twice := [name for name in wanted if available.count(name) > 1]:
        raise DataError(
            f"{label} has two columns of the name {', '.join(map(repr, twice))}",
            hint="rename one of them, or read it by numbers: header = false and skip_rows = 1",
        )
    return list(wanted)


def _shown(source: Source, available: Sequence[str]) -> str:
    """The names of columns for an error message, if they are names at all."""
    # The first row of a file without a header may be a customer's, e-mail address and all.
    if not source.header:
        return f"; it has {len(available)} columns, which are 1, 2, ..."
    if not all(_NAME.fullmatch(name) for name in available if name):
        return "; its first row looks like data, and is not shown"
    shown = ", ".join(available[:_COLUMNS_SHOWN])
    return f"; it has: {shown}{', ...' if len(available) > _COLUMNS_SHOWN else ''}"


def _hint_to_map(source: Source, names: Sequence[str]) -> str:
    if not names:
        return f"{source.TABLE}.where names columns of the source, or of ours"
    lines = ", ".join(f'{name} = "..."' for name in names)
    without = "" if not source.header else "; a file without a header needs header = false"
    return f"under [{source.TABLE}.columns] write {lines} with the column's name there{without}"


def _canonical(source: Source, frame: pl.DataFrame, conditions: Collection[str]) -> pl.DataFrame:
    """Select and rename the columns that the mapping names; missing values become null."""
    cells = {name: _cell(name, frame.schema[name], source) for name in frame.columns}
    chosen = [
        _joined(source, name, [cells[column] for column in columns]).alias(name)
        for name in source.CANONICAL
        if (columns := source.source_of(name)) and all(column in cells for column in columns)
    ]
    further = [
        cells[name].alias(name)
        for name in conditions
        if name in cells and name not in source.CANONICAL
    ]
    return frame.select(*chosen, *further)


def _cell(name: str, dtype: pl.DataType, source: Source) -> pl.Expr:
    """A column of the source; cells that mean a missing value are null."""
    cell = pl.col(name)
    if isinstance(dtype, pl.Categorical | pl.Enum):
        cell, dtype = cell.cast(pl.String), pl.String()
    if dtype != pl.String or not source.missing:
        return cell
    return pl.when(cell.str.strip_chars().is_in(list(source.missing))).then(None).otherwise(cell)


def _joined(source: Source, name: str, cells: list[pl.Expr]) -> pl.Expr:
    if len(cells) == 1:
        return cells[0]
    texts = [cell.cast(pl.String).str.strip_chars() for cell in cells]
    # An empty cell is missing in every format.
    parts = [pl.when(text != "").then(text).otherwise(None) for text in texts]
    if name == "category":
        # A separator inside a part ("MEAT/FISH") must not become a step of the path.
        separator = getattr(source, "category_separator", "/")
        pattern = rf"\s*{re.escape(separator.strip() or separator)}\s*"
        parts = [part.str.replace_all(pattern, "-") for part in parts]
        return pl.concat_str(parts, separator=separator, ignore_nulls=True)
    if name in ("text", "brand", "timestamp", "redeemed_at", "start", "end"):
        # Of a time, the hour may be missing: it is midnight then.
        return pl.concat_str(parts, separator=" ", ignore_nulls=True)
    return pl.concat_str(parts, separator="/")  # an id that lacks a part is missing
