"""Reads one source of a store: Parquet, CSV, or a query on any SQL database.

Only the columns that the mapping names are read. Names and addresses in other columns of a
file never enter this process, and other columns of a query are dropped as they arrive.
Queries are read in chunks, through a server-side cursor where the database has one. Types
stay as the source has them (CSV: text); `hanse_client.ingest.pipeline` casts them. No error
message quotes a row or a password.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import polars as pl

from hanse_common.errors import (
    ConfigError,
    DataError,
    MissingColumns,
    MissingDependency,
    WrongTypes,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import URL

    from hanse_client.ingest.store_config import Source

_ROWS_AT_ONCE = 100_000
_COLUMNS_SHOWN = 20
_SECRET_OPTIONS = ("password", "passwd", "pwd", "token", "sslpassword")


def read_source(source: Source) -> pl.DataFrame:
    """Read a source under canonical column names.

    Args:
        source: The location, and the names of its columns.

    Returns:
        One column for each canonical column that the source has, with the source's type.
        Optional columns may be absent.

    Raises:
        MissingColumns: A required column, or one that the mapping names, is missing.
        DataError: The files cannot be read, no file matches, or the query fails.
        WrongTypes: Files of one source store a column with incompatible types.
        ConfigError: The environment variable of the URL is not set.
        MissingDependency: The database's driver is not installed.
    """
    if source.sql is not None:
        return _read_sql(source)
    frames = [_read_file(source, path) for path in files_of(source)]
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        raise WrongTypes(
            f"the files of {source.label} store a column with incompatible types",
            hint="write them with one schema",
        ) from None


def files_of(source: Source) -> list[Path]:
    """Return the files that a source's path matches, sorted.

    Raises:
        DataError: No file matches.
    """
    path = Path(source.path or "").absolute()
    # Sorted: a glob has no order of its own, and the order of rows decides between duplicates.
    files = sorted(
        match
        for match in Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        if match.is_file()
    )
    if not files:
        raise DataError(
            f"no file matches {source.TABLE}.path={source.path!r}",
            hint="relative paths start at the folder of store.toml",
        )
    return files


def _read_file(source: Source, path: Path) -> pl.DataFrame:
    parquet = path.suffix.lower() == ".parquet"
    try:
        if parquet:
            lazy = pl.scan_parquet(path, glob=False)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else source.separator
            # As text: polars would infer that 00123 is a number, and the id would lose its zeros.
            lazy = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
        columns = lazy.collect_schema().names()
        return lazy.select(_canonical(source, columns, path.name)).collect()
    except pl.exceptions.NoDataError:
        raise DataError(f"{path.name} is empty", hint="its first line names the columns") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or 'no such file'}") from None
    except pl.exceptions.PolarsError:
        # The text of the polars error is left out because it quotes the faulty line.
        raise DataError(
            f"{path.name} cannot be read as {'Parquet' if parquet else 'CSV'}",
            hint="is it complete?" if parquet else "check separator, quotes and UTF-8 encoding",
        ) from None


def _canonical(source: Source, available: Sequence[str], label: str) -> list[pl.Expr]:
    """Select and rename the columns that the mapping names."""
    there = set(available)
    missing: dict[str, list[str]] = {}
    chosen: list[pl.Expr] = []
    for name in source.CANONICAL:
        wanted = source.source_of(name)
        absent = [column for column in wanted if column not in there]
        if wanted and not absent:
            chosen.append(_joined(name, wanted).alias(name))
        elif absent and (name in source.columns or name in source.REQUIRED):
            missing[name] = absent
    if missing:
        shown = ", ".join(available[:_COLUMNS_SHOWN])
        more = ", ..." if len(available) > _COLUMNS_SHOWN else ""
        lines = ", ".join(f'{name} = "..."' for name in missing)
        absent_names = [column for columns in missing.values() for column in columns]
        raise MissingColumns(
            f"{label} has no column {', '.join(map(repr, absent_names))}; it has: {shown}{more}",
            hint=f"under [{source.TABLE}.columns] write {lines} with the column's name there",
        )
    return chosen


def _joined(name: str, columns: Sequence[str]) -> pl.Expr:
    if len(columns) == 1:
        return pl.col(columns[0])
    parts = [pl.col(column).cast(pl.String).str.strip_chars() for column in columns]
    if name == "category":
        # A slash inside a part ("MEAT/FISH") must not become a step of the path.
        parts = [part.str.replace_all(r"\s*/\s*", "-") for part in parts]
        return pl.concat_str(parts, separator="/", ignore_nulls=True)
    if name in ("text", "brand"):
        return pl.concat_str(parts, separator=" ", ignore_nulls=True)
    return pl.concat_str(parts, separator="/")  # an id that lacks a part is missing


def _read_sql(source: Source) -> pl.DataFrame:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

    url = _url(source)
    query = source.sql or ""
    try:
        engine = sqlalchemy.create_engine(url)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{url.drivername} needs the package {error.name!r}, which is not installed",
            hint=f"pip install {error.name}",
        ) from None
    except (ArgumentError, SQLAlchemyError):
        raise DataError(
            f"SQLAlchemy has no driver {url.drivername!r}, which the URL in {source.url_env} names"
        ) from None
    try:
        # Passed to the driver unchanged, so that ':name' and '%' in the query are no parameters.
        with engine.connect().execution_options(
            stream_results=True, no_parameters=True
        ) as connection:
            result = connection.exec_driver_sql(query)
            names = list(result.keys())
            if len(set(names)) < len(names):
                raise DataError(
                    f"{source.label} returns two columns of the same name",
                    hint="name each with AS",
                )
            # Checked before fetching, so that a missing column is reported at once.
            chosen = _canonical(source, names, source.label)
            wanted = {column for name in source.CANONICAL for column in source.source_of(name)}
            chunks = [_frame(names, rows, wanted) for rows in result.partitions(_ROWS_AT_ONCE)]
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise DataError(
            f"{source.label} failed: {_without_secrets(str(cause), url, query)}",
            hint=f"check sql under [{source.TABLE}] and the database in {source.url_env}",
        ) from None
    finally:
        engine.dispose()
    # A frame without rows fixes the columns when the query returns no chunk.
    empty = pl.DataFrame({name: pl.Series(dtype=pl.Null) for name in names if name in wanted})
    try:
        return pl.concat([empty, *chunks], how="vertical_relaxed").select(chosen)
    except pl.exceptions.PolarsError:
        raise WrongTypes(
            f"{source.label} returns a column with incompatible types",
            hint="CAST it in the query",
        ) from None


def _url(source: Source) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    text = os.environ.get(source.url_env or "", "")
    if not text:
        raise ConfigError(
            f"the environment variable {source.url_env} is not set",
            hint=f"export {source.url_env}='postgresql://user:password@host/database'",
        )
    try:
        return make_url(text)
    except (SQLAlchemyError, ValueError):
        # Without the value: it may hold a password.
        raise ConfigError(
            f"the environment variable {source.url_env} holds no SQLAlchemy URL",
            hint="it looks like postgresql://user:password@host/database",
        ) from None


def _frame(
    names: Sequence[str], rows: Sequence[Sequence[Any]], wanted: Collection[str]
) -> pl.DataFrame:
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return pl.DataFrame([_series(name, values) for name, values in columns if name in wanted])


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    """Build a column from one chunk; SQLite, for one, may mix types within a column."""
    try:
        series = pl.Series(name, values)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        series = pl.Series(name, [], dtype=pl.Object)
    if series.dtype != pl.Object:
        return series
    # Mixed numbers become floats; anything else becomes text, which the casts then judge.
    if all(value is None or isinstance(value, int | float | Decimal) for value in values):
        return pl.Series(name, [None if value is None else float(value) for value in values])
    return pl.Series(name, [None if value is None else str(value) for value in values], pl.String)


def _without_secrets(text: str, url: URL, query: str) -> str:
    """The first line of a driver's message, without passwords, URLs or values of the data."""
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    line = re.sub(r"[\w+.-]+://\S+", "<url>", line)
    in_query = (value for name, value in url.query.items() if name.lower() in _SECRET_OPTIONS)
    for secret in (url.password, *in_query):
        if secret and isinstance(secret, str):
            # Drivers echo the secret raw or as it was escaped in the URL.
            for written in (secret, quote(secret, safe=""), quote_plus(secret)):
                line = line.replace(written, "***")
    # Drivers quote the cell that they could not read; only words of the query itself may stay.
    return re.sub(r"(['\"])(.*?)\1", lambda match: match[0] if match[2] in query else "'...'", line)
