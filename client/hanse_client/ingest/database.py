"""Reads a query on any database that SQLAlchemy supports, in chunks.

Queries are read through a server-side cursor where the database has one. No error message quotes a
row or a password.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import polars as pl

from hanse_common.errors import ConfigError, DataError, MissingDependency, WrongTypes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy.engine import URL

    from hanse_client.ingest.source_settings import Source

_ROWS_AT_ONCE = 100_000
_SECRET_OPTIONS = ("password", "passwd", "pwd", "token", "sslpassword")


def read_query(source: Source, choose: Callable[[Sequence[str]], Collection[str]]) -> pl.DataFrame:
    """Read columns of a source's query, under their own names.

    Args:
        source: Has `sql` and `url_env`.
        choose: Says which of the columns that the query returns are wanted; may raise.

    Raises:
        DataError: The query fails.
        WrongTypes: A column mixes types that have nothing in common.
        ConfigError: The environment variable of the URL is not set.
        MissingDependency: The database's driver is not installed.
    """
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
            wanted = set(choose(names))
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
        return pl.concat([empty, *chunks], how="vertical_relaxed")
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
