"""Read research data sets of sequences in the formats of the papers' repositories.

- SASRec and S3-Rec: `user item item ...` a line in the order of time, or `user item` pairs
- the same with commas: a user, then their items separated by commas
- RecBole's atomic files: `name.inter`, tabs between columns, whose header names and types them:
  `user_id:token	item_id:token	timestamp:float`

- a `store.toml`: purchases of any table that ingestion reads, of the items of its catalogue

A `name.items` next to a file is the public list of items, one a line; without it a catalogue
is. Without both the items are those that the customers took, which no epsilon covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from hanse_client.features.public_list import read_public_list
from hanse_client.features.public_store import public_store
from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.source_settings import SUFFIXES
from hanse_client.tasks.next_item.features import Sequences
from hanse_common.errors import DataError

_COLUMNS = {"user_id": "token", "item_id": "token", "timestamp": "float"}
_SHORTEST = 3
"""A customer needs a training item, a validation item and a test item."""
Events = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A data set, with counts of rows that were repeated, reordered or left out."""

    sequences: Sequences
    names: list[str]
    """Ids of the items in the data set, by their number."""
    interactions: int
    duplicates: int
    """Rows that repeat another one. They are left out of atomic files, where the time
    distinguishes them from a second purchase, and kept in text files."""
    out_of_order: int
    """Rows of atomic files earlier than the row before them of the same customer; sorted."""
    filtered: int
    """Interactions that `min_count` dropped."""
    too_short: int
    """Customers with fewer than three items; left out."""
    unlisted: int
    """Interactions with items that are not on the public list; left out."""
    rejected: int
    """Rows that the ingestion of a `store.toml` rejected."""
    listed: bool
    """Whether the items come from a public list, and not from the customers."""

    @property
    def note(self) -> str:
        """One sentence on the data set."""
        counted = (
            (self.duplicates, "duplicates"),
            (self.out_of_order, "rows out of order"),
            (self.filtered, "interactions of rare customers or items left out"),
            (self.too_short, "customers with fewer than three items left out"),
            (self.rejected, "rows rejected"),
            (self.unlisted, "interactions with items that the list has not left out"),
        )
        seen = "".join(f", {count:,} {what}" for count, what in counted if count)
        return (
            f"{len(self.sequences):,} customers, {self.sequences.items:,} items, "
            f"{self.interactions:,} interactions{seen}"
        )


def read_sequences(
    path: Path, *, min_count: int = 1, catalogue: Sequence[str] | None = None
) -> Read:
    """Read a data set; `.inter` files are atomic files, `.toml` files stores, all others text.

    Args:
        path: The file.
        min_count: Drop customers and items with fewer interactions until none is left; 5 is
            the 5-core of the papers, and their own files have been through it.
        catalogue: Ids of a public catalogue's items, which are the list of items where no file
            `.items` is next to the data.

    Raises:
        DataError: The file is missing or malformed; names the line.

    Guarantees:
        With a public list of items and `min_count` 1, a customer's sequence and how many items
        there are depend on no other customer.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check --data") from error
    if not path.is_file() or not size:
        raise DataError(f"{path} is empty or not a file", hint="check --data")
    rejected = 0
    if path.suffix == ".toml":
        events, catalogue, rejected = _read_store(path)
        duplicates, out_of_order = 0, 0
    elif path.suffix == ".inter":
        events, duplicates, out_of_order = _read_atomic(path)
    else:
        events = _read_text(path)
        duplicates, out_of_order = len(events) - len(set(events)), 0
    items = read_public_list(path, ".items")
    if items is None and catalogue is not None:
        items = list(catalogue)
    known = None if items is None else frozenset(items)
    listed = [(user, item) for user, item in events if known is None or item in known]
    core = _core(listed, min_count)
    by_user: dict[str, list[str]] = {}
    for user, item in core:
        by_user.setdefault(user, []).append(item)
    long_enough = {user: taken for user, taken in by_user.items() if len(taken) >= _SHORTEST}
    if not long_enough:
        raise DataError(
            f"{path} has no customer with {_SHORTEST} items"
            + (" of the public list" if len(events) > len(listed) else ""),
            hint="lower next_item.min_count"
            if len(events) == len(listed)
            else "the list or catalogue must name items as the data do",
        )
    names = (
        _in_order(i for taken in long_enough.values() for i in taken) if items is None else items
    )
    numbers = {item: i for i, item in enumerate(names)}
    customers = sorted(long_enough)
    return Read(
        sequences=Sequences.of(
            [[numbers[item] for item in long_enough[user]] for user in customers],
            items=len(numbers),
            customers=customers,
        ),
        names=names,
        interactions=sum(map(len, long_enough.values())),
        duplicates=duplicates,
        out_of_order=out_of_order,
        filtered=len(listed) - len(core),
        too_short=len(by_user) - len(long_enough),
        unlisted=len(events) - len(listed),
        rejected=rejected,
        listed=items is not None,
    )


def _read_store(path: Path) -> tuple[Events, list[str], int]:
    """Purchases (user, item) in order of time, the catalogue's items, and rows rejected."""
    with public_store(path) as store:
        data = ingest(store)
    bought = data.events.filter(pl.col("event_type") == "purchase")
    # As a deployed store orders them: those at one time by basket and item.
    ordered = bought.sort("user_id", "timestamp", "basket_id", "item_id")
    events = list(ordered.select("user_id", "item_id").iter_rows())
    return events, data.catalogue["item_id"].to_list(), sum(data.rejects.values())


def _read_text(path: Path) -> Events:
    """Rows (user, item) in order, of any kind of text file."""
    if path.suffix in SUFFIXES:
        raise DataError(
            f"{path} is a table, and not a text file of sequences",
            hint="describe it in a store.toml (docs/data.md), and name that: --data store.toml",
        )
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}", hint="check --data") from error
    rows = _with_commas(path, rows)
    for number, row in enumerate(rows, start=1):
        if len(row) == 1:
            raise DataError(
                f"{path}, line {number}: no item after user {row[0]!r}",
                hint="a line is `user item item ...`, or `user item`",
            )
    users = Counter(row[0] for row in rows if row)
    pairs = all(len(row) in (0, 2) for row in rows)
    again = next((user for user, count in users.items() if count > 1), None)
    if again is not None and not pairs:
        number = max(i for i, row in enumerate(rows, start=1) if row and row[0] == again)
        raise DataError(
            f"{path}, line {number}: user {again!r} has a line already",
            hint="write each user's items on one line, or one `user item` pair on each line",
        )
    return [(row[0], item) for row in rows for item in row[1:]]


def _with_commas(path: Path, rows: list[list[str]]) -> list[list[str]]:
    """The same rows, with items that commas separate taken apart.

    Raises:
        DataError: One line has commas and another has none to go with them.
    """
    if not any("," in field for row in rows for field in row):
        return rows
    split = []
    for number, row in enumerate(rows, start=1):
        user, *items = row or [""]
        if "," in user or (len(items) > 1 and not all(item.endswith(",") for item in items[:-1])):
            raise DataError(
                f"{path}, line {number}: commas do not separate the items of one user",
                hint="a line is a user, a tab, and items with commas between them; describe a "
                "table of events in a store.toml, and name that",
            )
        names = [name for item in items for name in item.split(",") if name]
        split.append([user, *names] if row else [])
    return split


def _read_atomic(path: Path) -> tuple[Events, int, int]:
    """Rows (user, item) in order of time; how many were duplicates, and out of order."""
    try:
        # Ids stay text: inferred as numbers, 007 and 7 would be one user.
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no atomic file: {reason}", hint="check its tabs") from error
    for name, kind in _COLUMNS.items():
        if f"{name}:{kind}" not in table.columns:
            raise DataError(
                f"{path} has no column '{name}:{kind}', only {', '.join(table.columns)}",
                hint="the first line names and types the columns, with tabs between them",
            )
    rows = table.select(
        pl.col("user_id:token").alias("user"),
        pl.col("item_id:token").alias("item"),
        pl.col("timestamp:float").cast(pl.Float64, strict=False).alias("time"),
    )
    finite = pl.col("time").is_finite().fill_null(value=False)
    bad = rows.with_row_index("line", offset=2).filter(
        pl.col("user").is_null() | pl.col("item").is_null() | ~finite
    )
    if bad.height:
        raise DataError(
            f"{path}, line {bad['line'][0]}: no user, no item, or no time that is a number",
            hint="every row needs all three",
        )
    late = rows.select((pl.col("time") < pl.col("time").shift(1).over("user")).sum()).item()
    unique = rows.unique(maintain_order=True)
    ordered = unique.sort("time", maintain_order=True)
    events = list(zip(ordered["user"].to_list(), ordered["item"].to_list(), strict=True))
    return events, rows.height - unique.height, int(late)


def _core(events: Events, least: int) -> Events:
    """Drop rare customers and items until every one of both has `least` interactions."""
    while True:
        users, items = Counter(u for u, _ in events), Counter(i for _, i in events)
        frequent = [(u, i) for u, i in events if users[u] >= least and items[i] >= least]
        if len(frequent) == len(events):
            return frequent
        events = frequent


def _in_order(names: Iterable[str]) -> list[str]:
    """Distinct names, numbers in numeric order, so that ids do not depend on the order of rows."""
    # Digits sort by length, then as text, which is their numeric order; names come after them.
    return sorted(set(names), key=lambda name: (len(name), name) if name.isdigit() else (99, name))
