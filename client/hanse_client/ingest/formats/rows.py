"""What a reader of one file returns: its rows, all of them or a part at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

ROWS_AT_ONCE = 250_000
"""Rows of a part: reading takes memory for one part, however large the file is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRows:
    """Rows of one file."""

    frame: pl.DataFrame
    """The wanted columns, under the names that they have in the file."""
    malformed: int = 0
    """Records that are none, such as those with more or fewer cells than the first: in no frame."""
    encoding: str = ""
    """Of a file of text; empty otherwise."""


def joined(parts: Iterable[FileRows]) -> FileRows:
    """All parts of a file, at least one, as one."""
    read = list(parts)
    return FileRows(
        frame=pl.concat([part.frame for part in read], how="vertical_relaxed"),
        malformed=sum(part.malformed for part in read),
        encoding=read[0].encoding,
    )
