"""Small tables as shops really export them, each with what must come of it.

A case is a store of one file of events and one of items; its outcome is the number of rows that are
kept and the rejected ones by reason, or the code of a refusal.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import openpyxl
import polars as pl

from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import load_store

ITEMS = "item_id,text,category\n1,milk,A/x\n2,wine,B/y\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One store and its outcome."""

    events: str | bytes | Callable[[Path], None]
    """The file's content, or what writes it."""
    keys: str = ""
    """Further lines of `[events]`."""
    name: str = "sales.csv"
    items: str | bytes | Callable[[Path], None] = ITEMS
    items_name: str = "items.csv"
    catalogue_keys: str = ""
    kept: int | None = None
    rejects: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    """The code, where the store is refused."""
    says: str = ""
    """Words of the refusal."""
    share: float = 1.0
    """`max_reject_share`; 1, so that counts are seen, unless the refusal is meant."""
    check: Callable[[Ingested], bool] | None = None
    """What else must hold."""


def store_of(case: Case, folder: Path) -> Ingested:
    """Write a case's files, and read them as training does."""
    for name, content in ((case.name, case.events), (case.items_name, case.items)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "store.toml").write_text(
        f'name = "x"\nmax_reject_share = {case.share}\n'
        f'[events]\npath = "{case.name}"\n{case.keys}\n'
        f'[catalogue]\npath = "{case.items_name}"\n{case.catalogue_keys}\n'
    )
    return ingest(load_store(folder / "store.toml"))


def column(name: str, *values: object) -> Callable[[Ingested], bool]:
    """A check that a column of events, in the order of times, holds these values."""

    def holds(store: Ingested) -> bool:
        found = store.events.sort("timestamp", "item_id")[name].to_list()
        if found != list(values):
            raise AssertionError(f"{name} is {found}")
        return True

    return holds


def catalogue(name: str, *values: object) -> Callable[[Ingested], bool]:
    """A check that a column of the catalogue, in the order of ids, holds these values."""

    def holds(store: Ingested) -> bool:
        found = store.catalogue[name].to_list()
        if found != list(values):
            raise AssertionError(f"{name} is {found}")
        return True

    return holds


def customers(number: int) -> Callable[[Ingested], bool]:
    """A check of how many customers there are."""

    def holds(store: Ingested) -> bool:
        found = store.events["user_id"].n_unique()
        if found != number:
            raise AssertionError(f"{found} customers")
        return True

    return holds


Rows = list[dict[str, str | None]]


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows of texts to a file of the kind that its suffix names."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)).write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.append(names)
        for row in rows:
            sheet.append([row[name] for name in names])
        for cell in (cell for line in sheet.iter_rows() for cell in line if cell.value):
            cell.data_type = "s"  # what begins with "=" is a text here, too
        book.save(path)
    elif path.suffix == ".ods":
        _write_ods(path, [names, *([row[name] for name in names] for row in rows)])
    else:
        text = io.StringIO(newline="")
        inner = path.with_suffix("") if path.suffix == ".gz" else path
        writer = csv.writer(text, delimiter="\t" if inner.suffix == ".tsv" else ",")
        writer.writerow(names)
        writer.writerows([row[name] or "" for name in names] for row in rows)
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_ods(path: Path, cells: list[list[str | None]]) -> None:
    """Write a sheet of LibreOffice: a zip archive with one file of XML that matters."""
    rows = "".join(
        "<table:table-row>"
        + "".join(
            "<table:table-cell/>"
            if cell is None
            else '<table:table-cell office:value-type="string">'
            f"<text:p>{escape(cell)}</text:p></table:table-cell>"
            for cell in row
        )
        + "</table:table-row>"
        for row in cells
    )
    space = "urn:oasis:names:tc:opendocument:xmlns"
    content = (
        '<?xml version="1.0" encoding="UTF-8"?><office:document-content '
        f'xmlns:office="{space}:office:1.0" xmlns:table="{space}:table:1.0" '
        f'xmlns:text="{space}:text:1.0" office:version="1.2"><office:body><office:spreadsheet>'
        f'<table:table table:name="Sales">{rows}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", content)
        archive.writestr(
            "META-INF/manifest.xml",
            '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:oasis:names:tc:'
            'opendocument:xmlns:manifest:1.0"/>',
        )
