"""Reads sheets of Excel and LibreOffice as text, as their cells would be exported to CSV."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import polars as pl

from hanse_client.ingest.formats.rows import FileRows
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path


def read_sheet(
    path: Path,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    sheet: str | None = None,
    header: bool = True,
    skip_rows: int = 0,
    most: int | None = None,
) -> FileRows:
    """Read columns of a sheet as text; dates become `2024-01-02 10:30:00`.

    Args:
        path: The file.
        choose: Says which of the columns that the sheet has are wanted; may raise.
        sheet: Its name; the first one if unset.
        header: Whether the first row names the columns; they are `1`, `2`, ... otherwise.
        skip_rows: Rows before it.
        most: Read no more rows than this, the header included; all if unset.

    Raises:
        DataError: The file is damaged or encrypted, or has no such sheet or no row.
    """
    import fastexcel  # imported on use: few stores have sheets

    try:
        book = fastexcel.read_excel(path)
        if sheet is not None and sheet not in book.sheet_names:
            raise DataError(
                f"{path.name} has no sheet of the name that is set",
                hint=f"sheet = one of: {', '.join(book.sheet_names[:20])}",
            )
        # Without a header of its own: names that occur twice would be renamed.
        loaded = book.load_sheet(
            sheet or 0, header_row=None, skip_rows=skip_rows, n_rows=most, dtypes="string"
        )
        cells = pl.DataFrame(loaded)
    except (fastexcel.FastExcelError, OSError, zipfile.BadZipFile):
        # The text of the error is left out because it may quote cells.
        raise DataError(
            f"{path.name} cannot be read as a spreadsheet",
            hint="is it complete, and without a password?",
        ) from None
    # Rows below the last filled one, and empty ones between, are no records in a CSV file either.
    cells = cells.filter(~pl.all_horizontal(pl.all().is_null())) if cells.width else cells
    if cells.is_empty():
        raise DataError(f"{path.name} is empty", hint="its first row names the columns")
    first = cells.row(0)
    if header:
        names = ["" if name is None else name.strip() for name in first]
        cells = cells.slice(1)
    else:
        names = [str(place) for place in range(1, cells.width + 1)]
    wanted = set(choose(names))
    places = {name: place for place, name in enumerate(names) if name in wanted}
    columns = [cells.to_series(place).alias(name) for name, place in places.items()]
    if not columns:
        columns = [pl.Series("", [None] * cells.height, dtype=pl.String)]
    return FileRows(frame=pl.DataFrame(columns))
