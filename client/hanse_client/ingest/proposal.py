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

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from hanse_client.ingest.column_words import NAMES, plain
from hanse_client.ingest.samples import Column, Sample, read_sample

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
_OFFSET = r"(:\d\d(?:\.\d+)?) ?(?:Z|[+-]\d\d:?\d\d|UTC|GMT)$"
_TIMES_OF_DAY = ("time", "uhrzeit", "zeit")
_KEYS_OF_ORDERS = ("id", "entityid", "orderid")
_YEARS = (1990, 2100)
_MOST_WORDS = 12
"""A column with more different words than this holds no types of events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Joined:
    """A sample that has what another lacks, and the column by which they belong together."""

    sample: Sample
    here: str
    there: str


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
    samples = [read_sample(path) for path in files]
    lines = [f"name = {json.dumps(name)}", ""]
    used: list[Sample] = []
    items: pl.Series | None = None
    events, joined = _events_of(samples)
    if events is not None:
        parts = _alike(samples, events)
        lines += _table("events", parts, _matched(events, _EVENTS), joined)
        used += [*parts, *(one.sample for one in joined)]
        item = _matched(events, _EVENTS).get("item_id")
        items = None if item is None else events.cells(item)
    else:
        lines += [
            "# No file has a column that looks like a customer's id.",
            "[events]",
            'path = ""',
        ]
    lines.append("")
    others = [sample for sample in samples if sample not in used]
    goods = _catalogue_of(others, items)
    if goods is not None:
        parts = _alike(others, goods[0])
        lines += _table("catalogue", parts, goods[1], [])
        used += parts
    else:
        lines += [
            "# The assortment, not what was sold: docs/data.md says why.",
            "[catalogue]",
            'path = ""',
        ]
    for sample in samples:
        if sample not in used:
            lines += ["", f"# Not used: {sample.path.name}; a join could add its columns."]
    return "\n".join(lines)


def _events_of(samples: Sequence[Sample]) -> tuple[Sample | None, list[_Joined]]:
    """The file of events and those that know the customer or the time of its rows."""
    best: tuple[tuple[bool, int, int], Sample, list[_Joined]] | None = None
    for sample in samples:
        found = _matched(sample, _EVENTS)
        joined: list[_Joined] = []
        known = {"user_id", "timestamp"} & set(found)
        for name in ("user_id", "timestamp"):
            if name in found or "item_id" not in found:
                continue
            partners = [
                (rank, one)
                for other in samples
                if (rank := _rank(other, name)) is not None
                and (one := _partner(sample, other, found["item_id"])) is not None
            ]
            if partners:
                one = min(partners, key=lambda pair: pair[0])[1]
                known.add(name)
                if one not in joined:
                    joined.append(one)
        score = ("item_id" in found, len(known), -len(joined))
        if "user_id" in known and (best is None or score > best[0]):
            best = (score, sample, joined)
    return (None, []) if best is None else best[1:]


def _partner(sample: Sample, other: Sample, item: Column) -> _Joined | None:
    """Find the column by which each row of a sample has at most one row of another."""
    if other is sample:
        return None
    for here in sample.filled:
        same = plain(here)
        names = {same, *_KEYS_OF_ORDERS} if same == "orderid" else {same}
        for there in other.filled:
            if here == item or plain(there) not in names:
                continue
            keys = other.frame[there].cast(pl.String, strict=False)
            inside = sample.frame[here].cast(pl.String, strict=False).is_in(keys.to_list()).mean()
            if not keys.is_duplicated().any() and isinstance(inside, float) and inside > 0.5:
                return _Joined(sample=other, here=here, there=there)
    return None


def _catalogue_of(
    samples: Sequence[Sample], items: pl.Series | None
) -> tuple[Sample, dict[str, Column]] | None:
    """The file that says the most about items, and its columns.

    Args:
        samples: Files that are not used yet.
        items: Ids in the first events. A column that holds them is the item's, whatever its name.
    """
    best: tuple[tuple[float, int], Sample, dict[str, Column]] | None = None
    sold = [] if items is None else items.cast(pl.String, strict=False).drop_nulls().to_list()
    for sample in samples:
        found = _matched(sample, _CATALOGUE)
        shares = {
            name: len(set(sold) & set(sample.frame[name].cast(pl.String, strict=False).to_list()))
            / max(1, len(set(sold)))
            for name in sample.filled
            if not sample.frame.schema[name].is_nested()
        }
        holder = max(shares, key=lambda name: shares[name], default="")
        share = shares.get(holder, 0.0)
        if share > 0.5 and shares.get(str(found.get("item_id")), 0.0) < share:
            others = {name: column for name, column in found.items() if column != holder}
            found = {**others, "item_id": holder}
        if "item_id" not in found:
            continue
        found = {name: found[name] for name in _CATALOGUE if name in found}
        score = (round(share, 1), len(found))
        if best is None or score > best[0]:
            best = (score, sample, found)
    return None if best is None else best[1:]


def _alike(samples: Sequence[Sample], first: Sample) -> list[Sample]:
    """The samples that have the same columns as one, beginning with it."""
    alike = [
        one
        for one in samples
        if one.frame.columns == first.frame.columns and one.keys == first.keys
    ]
    return [first, *(one for one in alike if one is not first)]


def _named(sample: Sample, canonical: str) -> list[tuple[int, str]]:
    """The columns that may be a canonical one, with the rank of the word that says so."""
    words = {word: rank for rank, word in enumerate(NAMES[canonical], 1)}
    found = []
    for name in sample.filled:
        last, whole = plain(name.split(".")[-1]), plain(name)
        if name == canonical:
            found.append((0, name))
        elif last in words or whole in words:
            found.append((min(words.get(last, 999), words.get(whole, 999)), name))
        elif canonical == "item_id" and name == f"{sample.keys.get('explode')}.id":
            found.append((len(words), name))
    return sorted(found, key=lambda pair: pair[0])


def _rank(sample: Sample, canonical: str) -> int | None:
    """How surely a sample has a canonical column, 0 for its own name; None if it has not."""
    named = _named(sample, canonical)
    return named[0][0] if named else None


def _matched(sample: Sample, wanted: Sequence[str]) -> dict[str, Column]:
    """Canonical column -> the file's; by name, and where there are no names by what cells hold."""
    if sample.keys.get("header") is False:
        return _by_content(sample, wanted)
    found: dict[str, Column] = {}
    # A column of a canonical name is not given away to another.
    for canonical in sorted(wanted, key=lambda name: name not in sample.filled):
        named = [name for _, name in _named(sample, canonical) if name not in found.values()]
        if canonical == "item_id":
            named = _without_line_numbers(sample, named)
        if named:
            found[canonical] = named[0]
    if "price" in found:
        found.pop("amount", None)
    time = found.get("timestamp")
    if isinstance(time, str) and (hour := _time_of_day(sample, time)) is not None:
        found["timestamp"] = [time, hour]
    return {name: found[name] for name in wanted if name in found}


def _without_line_numbers(sample: Sample, named: Sequence[str]) -> list[str]:
    """Leave out a number that each row has of its own, where another column tells items."""
    repeated = [name for name in named if sample.frame[name].is_duplicated().any()]
    return repeated or list(named)


def _time_of_day(sample: Sample, date: str) -> str | None:
    """The column of hours beside one of days."""
    cells = sample.frame[date].cast(pl.String, strict=False)
    if cells.str.contains(":").any():
        return None
    for name in sample.filled:
        hours = sample.frame[name].cast(pl.String, strict=False).str.strip_chars()
        if plain(name) in _TIMES_OF_DAY and hours.str.contains(r"^\d\d?:\d\d").all():
            return name
    return None


def _by_content(sample: Sample, wanted: Sequence[str]) -> dict[str, Column]:
    columns = sample.filled
    if "timestamp" not in wanted:
        return dict(zip(("item_id", "text", "category"), columns, strict=False))
    times = [name for name in columns if _timestamp_format(sample.frame[name])]
    if not times:
        return {}
    found: dict[str, Column] = {}
    others = [name for name in columns if name != times[0]]
    words = [name for name in others if _holds_words(sample.frame[name])]
    # Who comes before what in most logs.
    found |= dict(
        zip(("user_id", "item_id"), (name for name in others if name not in words), strict=False)
    )
    found["timestamp"] = times[0]
    if words:
        found["event_type"] = words[0]
    return found


def _holds_words(column: pl.Series) -> bool:
    """Whether a column holds a few words again and again, as a type of events does."""
    cells = column.cast(pl.String, strict=False)
    few = cells.n_unique() <= min(_MOST_WORDS, len(cells) // 2)
    return bool(few and cells.str.contains(r"^[A-Za-z_ -]+$").all())


def _table(
    table: str, parts: Sequence[Sample], found: Mapping[str, Column], joined: Sequence[_Joined]
) -> list[str]:
    sample = parts[0]
    for one in joined:
        there = {
            name: column
            for name, column in _matched(one.sample, _EVENTS).items()
            if name not in found and name in ("user_id", "timestamp")
        }
        found = {**found, **there}
    time = found.get("timestamp")
    holder = next((one for one in (sample, *(j.sample for j in joined)) if _has(one, time)), sample)
    paths = [part.path.name for part in parts]
    keys = [f"{key} = {_toml(value)}" for key, value in sample.keys.items()]
    if time is not None:
        keys += _time_keys(holder.cells(time))
    prices = [column for name in ("price", "amount") if isinstance(column := found.get(name), str)]
    keys += _number_keys(sample.frame, prices)
    joins: list[str] = []
    for one in joined:
        on = _toml(one.here) if one.here == one.there else f"{{ {one.here} = {_toml(one.there)} }}"
        joins += ["", f"[[{table}.join]]", f"path = {_toml(one.sample.path.name)}"]
        joins += [f"{key} = {_toml(value)}" for key, value in one.sample.keys.items()]
        joins.append(f"on = {on}")
    required = (
        ("user_id", "item_id", "timestamp")
        if table == "events"
        else ("item_id", "text", "category")
    )
    numbered = sample.keys.get("header") is False
    columns = [
        f"{name} = {_toml(int(column) if numbered and isinstance(column, str) else column)}"
        for name, column in found.items()
        if name != column or numbered
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
        f"path = {_toml(paths[0] if len(paths) == 1 else paths)}",
        *keys,
        *joins,
        "",
        f"[{table}.columns]",
        *columns,
        *absent,
        *words,
    ]


def _has(sample: Sample, column: Column | None) -> bool:
    names = [column] if isinstance(column, str) else column or []
    return all(name in sample.frame.columns for name in names)


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
    digits = bare.filter(bare.str.contains(r"^\d+$")).str.len_chars()
    for width, name in _EPOCHS.items():
        # A few may be placeholders of another length.
        if (digits == width).sum() > 0.8 * len(bare):
            return name
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


def _number_keys(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    for name in names:
        if frame.schema[name] != pl.String:
            continue
        cells = frame[name].str.strip_chars()
        if cells.str.contains(r"\d,\d{1,2}(\D|$)").any():
            return ['decimal = ","']
        whole = cells.str.contains(r"^\d{1,3}\.\d{3}$")
        if whole.any() and not cells.str.contains(r"\.\d{1,2}$").any():
            return ['decimal = "."  # or ",", if 1.234 is more than a thousand']
    return []
