"""A data set split into stores, as every source returns it before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    from hanse_common.config import Split

Fact = int | float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Stores in memory, or generated one by one as they are written."""

    stores: Iterable[tuple[str, pl.DataFrame]]
    """Name and events of each; the columns are canonical ones (`hanse_client.ingest.schema`)."""
    catalogue: pl.DataFrame
    """Canonical columns; one for all stores, and public."""
    observed_from: date
    """First day of the records, by the calendar of the data set and not of any customer."""
    split: Split
    note: str
    """Licence and origin, for every place that shows results."""
    facts: Mapping[str, Fact]
