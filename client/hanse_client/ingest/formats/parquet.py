"""Reads Parquet files: the wanted columns only, into nested ones by a path such as `device.os`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from hanse_client.ingest.formats.rows import ROWS_AT_ONCE, FileRows, joined
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path


def read_parquet(
    path: Path,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    explode: str | None = None,
) -> FileRows:
    """Read columns of a Parquet file, in the types that they have.

    Args:
        path: The file.
        choose: Says which of the columns that the file has are wanted; may raise.
        explode: A column of lists: each element is a row of its own.

    Raises:
        DataError: The file is damaged, or fewer rows were read than its footer counts.
    """
    return joined(parquet_parts(path, choose, explode=explode))


def parquet_parts(
    path: Path,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    explode: str | None = None,
    at_once: int = ROWS_AT_ONCE,
) -> Iterator[FileRows]:
    """Read a file some rows at a time, in at least one part; see `read_parquet`."""
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        if explode is not None and explode in lazy.collect_schema():
            lazy = lazy.explode(explode)
        schema = lazy.collect_schema()
        paths = dict(_paths(schema))
        wanted = list(choose(list(paths)))
        chosen = lazy.select(paths[name].alias(name) for name in wanted)
        rows = 0
        for frame in chosen.collect_batches(chunk_size=at_once, maintain_order=True):
            rows += frame.height
            yield FileRows(frame=frame)
        counted = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or 'no such file'}") from None
    except pl.exceptions.PolarsError:
        # The text of the polars error is left out because it may quote values.
        raise DataError(f"{path.name} cannot be read as Parquet", hint="is it complete?") from None
    if wanted and explode is None and rows != counted:
        raise DataError(f"{path.name} has {counted:,} rows, and {rows:,} were read")
    yield FileRows(frame=chosen.collect_schema().to_frame())


def _paths(schema: pl.Schema) -> Iterator[tuple[str, pl.Expr]]:
    """Every column of a schema, and every field within one, with what selects it."""
    for name, dtype in schema.items():
        yield from _fields(name, dtype, pl.col(name))


def _fields(path: str, dtype: pl.DataType, column: pl.Expr) -> Iterator[tuple[str, pl.Expr]]:
    yield path, column
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            inner = column.struct.field(field.name)
            yield from (
                _fields(f"{path}.{field.name}", field.dtype(), inner)
                if isinstance(field.dtype, type)
                else _fields(f"{path}.{field.name}", field.dtype, inner)
            )
