"""What a reader of one file returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRows:
    """The rows of one file."""

    frame: pl.DataFrame
    """The wanted columns, under the names that they have in the file."""
    malformed: int = 0
    """Records that are none, such as those with more or fewer cells than the first: in no frame."""
    encoding: str = ""
    """Of a file of text; empty otherwise."""
