r"""Proposes a `store.toml` from the columns of files and their first rows, without printing a cell.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     sales = Path(folder, "sales.csv")
...     _ = sales.write_text("Card No;SKU;Sold at;Price\n17;4;31.01.2024 10:30;1,50\n")
...     lines = proposal([sales]).splitlines()
>>> lines[4:7]
['separator = ";"', 'timestamp_format = "%d.%m.%Y %H:%M"', 'decimal = ","']
>>> lines[9:11]
['user_id = "Card No"', 'item_id = "SKU"']
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from hanse_client.ingest.formats.json_lines import read_json
from hanse_client.ingest.formats.parquet import read_parquet
from hanse_client.ingest.formats.spreadsheets import read_sheet
from hanse_client.ingest.formats.streams import as_text, as_utf8, encoding_of
from hanse_client.ingest.source_settings import SUFFIXES, Files
from hanse_common.errors import DataError

_ROWS_READ = 1_000
_SEPARATORS = ",;\t|"

# Words that names of columns are made of, the surest first. Names are compared without case,
# blanks and signs, so that "Customer ID", "customer_id" and "customerId" are one.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": (
        *("userid", "customerid", "customer", "memberid", "member", "visitorid", "clientid"),
        *("householdkey", "householdid", "cardno", "cardnumber", "loyaltycard", "card", "user"),
        *("customerno", "customernumber", "userpseudoid", "customeremail", "email", "kunde"),
        *("kundennummer", "buyerid", "shopperid", "sessionid", "customeruniqueid"),
    ),
    "item_id": (
        *("itemid", "productid", "sku", "lineitemsku", "stockcode", "articleid", "articleno"),
        *("product", "item", "goodsid", "asin", "artikelnummer", "material", "variantid"),
        *("iid", "ean", "plu", "streamproductid"),
    ),
    "timestamp": (
        *("timestamp", "datetime", "createdat", "eventtime", "invoicedate", "orderdate", "soldat"),
        *("purchasedate", "transactiondate", "transactiontimestamp", "eventtimestamp", "paidat"),
        *("orderpurchasetimestamp", "collectortstamp", "datum", "zeit", "date", "time", "day"),
    ),
    "event_type": ("eventtype", "event", "eventname", "behavior", "behaviour", "action", "type"),
    "basket_id": (
        *("basketid", "orderid", "invoiceno", "invoice", "receipt", "receiptno", "ticket"),
        *("transactionid", "ordernumber", "bon", "cartid", "ordername"),
    ),
    "shop_id": ("shopid", "storeid", "store", "branch", "shop", "filiale", "location", "site"),
    "quantity": ("quantity", "qty", "units", "amountofunits", "menge", "lineitemquantity", "count"),
    "price": ("price", "unitprice", "lineitemprice", "preis", "itemprice", "sellingprice"),
    "amount": ("amount", "total", "linetotal", "salesvalue", "revenue", "netamount", "umsatz"),
    "rating": ("rating", "stars", "score"),
    "text": (
        *("title", "name", "productname", "itemname", "description", "productdescription", "text"),
        *("review", "reviewtext", "bezeichnung"),
    ),
    "category": (
        *("category", "categorypath", "categoryname", "producttype", "productcategory", "aisle"),
        *("categoryid", "department", "group", "productgroup", "warengruppe", "type"),
    ),
    "brand": ("brand", "vendor", "manufacturer", "marke"),
}
_EVENTS = (
    *("user_id", "item_id", "timestamp", "event_type", "basket_id", "shop_id"),
    *("quantity", "price", "amount"),
)
_CATALOGUE = ("item_id", "text", "category", "brand", "price")
_FORMATS = (
    *("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"),
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d.%m.%y"),
    *("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%m/%d/%y %H:%M", "%m/%d/%y"),
    *("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%d/%m/%y"),
    *("%Y%m%d", "%Y%m%d%H%M%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d"),
)
_ISO = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_EPOCHS = {10: "epoch", 13: "epoch_ms", 16: "epoch_us"}
_OFFSET = r"(:\d\d(?:\.\d+)?)(?:Z|[+-]\d\d:?\d\d| UTC| GMT)$"
_YEARS = (1990, 2100)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """The first rows of a file as text, and the keys by which they were read."""

    path: Path
    frame: pl.DataFrame
    keys: dict[str, object]


def proposal(files: Sequence[Path], *, name: str = "my-shop") -> str:
    """Propose a `store.toml` for files of events and of a catalogue.

    Args:
        files: The one with customers and times holds events, the one without the catalogue.
        name: The store's.

    Returns:
        The file's text, with comments on what was not found or may be meant otherwise.

    Raises:
        DataError: A file cannot be read, or is of an unknown kind.
    """
    samples = [_sample(path) for path in files]
    matches = [_matched(sample, _EVENTS) for sample in samples]
    events = [place for place, found in enumerate(matches) if "user_id" in found]
    goods = [
        place
        for place in range(len(samples))
        if place not in events[:1] and "item_id" in _matched(samples[place], _CATALOGUE)
    ]
    lines = [f"name = {json.dumps(name)}", ""]
    if events:
        lines += _table("events", samples[events[0]], _EVENTS)
    else:
        lines += [
            "# No file has a column that looks like a customer's id.",
            "[events]",
            'path = ""',
        ]
    lines.append("")
    if goods:
        lines += _table("catalogue", samples[goods[0]], _CATALOGUE)
    else:
        lines += [
            "# The assortment, not what was sold: docs/data.md says why.",
            "[catalogue]",
            'path = ""',
        ]
    used = {*events[:1], *goods[:1]}
    for place, sample in enumerate(samples):
        if place not in used:
            lines += ["", f"# Not used: {sample.path.name}; [events.join] could add its columns."]
    return "\n".join(lines)


def _sample(path: Path) -> _Sample:
    kind = Files(path=str(path)).format_of(path.name)
    if kind == "parquet":
        frame = read_parquet(path, lambda names: names).frame.head(_ROWS_READ)
        return _Sample(path=path, frame=frame, keys={})
    if kind == "json":
        return _Sample(path=path, frame=read_json(path, lambda names: names).frame, keys={})
    if kind == "sheet":
        return _Sample(path=path, frame=read_sheet(path, lambda names: names).frame, keys={})
    if kind is None and path.suffix.lower() not in (".txt", ".dat", ".log", ""):
        raise DataError(f"{path.name} is of an unknown kind", hint=f"known: {', '.join(SUFFIXES)}")
    return _delimited(path, kind)


def _delimited(path: Path, kind: str | None) -> _Sample:
    keys: dict[str, object] = {} if kind else {"format": "csv"}
    encoding = encoding_of(path, None)
    if encoding not in ("utf-8", "utf-8-sig"):
        keys["encoding"] = encoding
    with as_utf8(path, encoding) as stream:
        lines = [line for line in islice(as_text(stream), _ROWS_READ + 1) if line.strip()]
    if not lines:
        raise DataError(f"{path.name} is empty", hint="its first line names the columns")
    separator = "\t" if kind == "tsv" else _separator(lines)
    if separator not in (",", "\t") or (separator == "\t" and kind == "csv"):
        keys["separator"] = separator
    rows = [row for row in csv.reader(lines, delimiter=separator) if row]
    first = [cell.strip() for cell in rows[0]]
    header = all(re.fullmatch(r"[^\W\d][^@]*", cell) for cell in first if cell)
    if not header:
        keys["header"] = False
    names = first if header else [str(place) for place in range(1, len(first) + 1)]
    body = [row for row in rows[int(header) :] if len(row) == len(names)]
    columns = {name: [row[place] for row in body] for place, name in enumerate(names) if name}
    return _Sample(path=path, frame=pl.DataFrame(columns), keys=keys)


def _separator(lines: Sequence[str]) -> str:
    """The sign that parts the most rows into one number of cells."""

    def fit(sign: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=sign)]
        width = max(set(widths), key=widths.count)
        return (widths.count(width), width) if width > 1 else (0, 0)

    return max(_SEPARATORS, key=fit)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _matched(sample: _Sample, wanted: Sequence[str]) -> dict[str, str]:
    """Canonical column -> the file's; by name, and where there are no names by what cells hold."""
    columns = sample.frame.columns
    found: dict[str, str] = {}
    if sample.keys.get("header") is False:
        return _by_content(sample, wanted)
    for canonical in wanted:
        if canonical in columns:
            found[canonical] = canonical
    for canonical in wanted:
        for word in _NAMES[canonical]:
            match = next(
                (name for name in columns if _plain(name.split(".")[-1]) == word), None
            ) or next((name for name in columns if _plain(name) == word), None)
            if match is not None and match not in found.values():
                found.setdefault(canonical, match)
    return found


def _by_content(sample: _Sample, wanted: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if "timestamp" in wanted:
        times = [name for name in sample.frame.columns if _timestamp_format(sample.frame[name])]
        if times:
            found["timestamp"] = times[0]
            others = [name for name in sample.frame.columns if name != times[0]]
            # Who comes before what in most logs.
            found |= dict(zip(("user_id", "item_id"), others, strict=False))
    else:
        found |= dict(zip(("item_id", "text", "category"), sample.frame.columns, strict=False))
    return found


def _table(table: str, sample: _Sample, wanted: Sequence[str]) -> list[str]:
    found = _matched(sample, wanted)
    keys = [f"{key} = {_toml(value)}" for key, value in sample.keys.items()]
    if "timestamp" in found:
        keys += _time_keys(sample.frame[found["timestamp"]])
    keys += _number_keys(sample.frame, [found.get("price"), found.get("amount")])
    required = (
        ("user_id", "item_id", "timestamp")
        if table == "events"
        else ("item_id", "text", "category")
    )
    columns = [
        f"{name} = {_toml(int(column) if sample.keys.get('header') is False else column)}"
        for name, column in found.items()
        if name != column or sample.keys.get("header") is False
    ]
    absent = [
        f'{name} = ""  # not found: name the column' for name in required if name not in found
    ]
    words: list[str] = []
    if "event_type" in found:
        words = [
            "",
            f"[{table}.event_types]",
            "# Your words on the left: view, search, cart, purchase, redeem, rate, return, cancel",
            '# order_paid = "purchase"',
        ]
    return [
        f"[{table}]",
        f"path = {json.dumps(sample.path.name)}",
        *keys,
        "",
        f"[{table}.columns]",
        *columns,
        *absent,
        *words,
    ]


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _timestamp_format(column: pl.Series) -> str | None:
    """The format that reads the most cells of a column; None if none reads most of them."""
    if column.dtype in (pl.Datetime, pl.Date):
        return _ISO[0]
    cells = column.cast(pl.String, strict=False).str.strip_chars()
    cells = cells.filter(cells.is_not_null() & (cells != ""))
    if cells.is_empty():
        return None
    bare = cells.str.replace(_OFFSET, "${1}").str.replace(r"(:\d\d)\.\d+$", "${1}")
    widths = bare.filter(bare.str.contains(r"^\d+$")).str.len_chars().unique().to_list()
    if len(widths) == 1 and widths[0] in _EPOCHS and bare.str.contains(r"^\d+$").all():
        return _EPOCHS[widths[0]]
    read = {
        form: bare.str.to_datetime(form, strict=False, time_unit="us").dt.year()
        for form in _FORMATS
    }
    rows = {form: int(years.is_between(*_YEARS).sum()) for form, years in read.items()}
    best = max(_FORMATS, key=lambda form: rows[form])
    return best if rows[best] > 0.8 * len(cells) else None


def _time_keys(column: pl.Series) -> list[str]:
    form = _timestamp_format(column)
    if form is None:
        return ['# timestamp_format = "%d.%m.%Y %H:%M"  # no usual format reads the times']
    keys = [] if form in _ISO else [f"timestamp_format = {json.dumps(form)}"]
    if "%d/%m" in form or "%m/%d" in form:
        keys[-1] += "  # day and month may be the other way round: look at days after the 12th"
    cells = column.cast(pl.String, strict=False)
    if form in _EPOCHS.values() or cells.str.contains(_OFFSET).any():
        keys.append('time_zone = "UTC"  # name the shop\'s own, e.g. "Europe/Berlin"')
    return keys


def _number_keys(frame: pl.DataFrame, names: Sequence[str | None]) -> list[str]:
    for name in names:
        if name is None or frame.schema[name] != pl.String:
            continue
        cells = frame[name].str.strip_chars()
        if cells.str.contains(r"\d,\d{1,2}(\D|$)").any():
            return ['decimal = ","']
        whole = cells.str.contains(r"^\d{1,3}\.\d{3}$")
        if whole.any() and not cells.str.contains(r"\.\d{1,2}$").any():
            return ['decimal = "."  # or ",", if 1.234 is more than a thousand']
    return []
