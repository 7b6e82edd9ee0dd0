"""Rows of a store's tables: reading cells, rejecting and counting rows, and pseudonyms.

Every table is read in the same three steps. Cells become canonical columns, each with the reasons
to reject a row; the rows without a fault are accepted, the others counted under their first
reason; and the ids of customers become pseudonyms, so that no later code sees a raw id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from hanse_client.ingest.casts import (
    as_id,
    as_number,
    as_text,
    as_timestamp,
    as_vector,
    present,
)
from hanse_client.ingest.pseudonyms import home_lots, load_key, load_or_make_key, pseudonymise
from hanse_client.ingest.sources import read_source
from hanse_common.errors import DataError, EmptyStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hanse_client.ingest.store_config import Source, StoreConfig, TimedSource

# The largest UTC offset in use (Kiribati): where a store's zone is unknown, no event of the
# present is taken for one of the future.
_FURTHEST_AHEAD = timedelta(hours=14)

Reasons = list[tuple[str, pl.Series]]
"""Pairs of a reason and the rows, (n,) booleans, that it rejects; earlier ones count first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalRows:
    """A table of customers after ingestion."""

    rows: pl.DataFrame
    """The accepted rows, sorted by `user_id`; customer ids are pseudonyms."""
    rejects: dict[str, int]
    """Rejected rows by reason, the most frequent first."""
    rows_read: int
    homes: dict[str, int] = field(default_factory=dict)
    """Pseudonym -> keyed hash that decides which store may train on the person; empty if the
    store has no `home_key`."""


def read_filled(source: Source) -> pl.DataFrame:
    """Read a source that must not be empty.

    Raises:
        EmptyStore: It has no row.
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`.
    """
    raw = read_source(source)
    if raw.is_empty():
        raise EmptyStore(f"{source.label} has no row", hint=f"a store needs {source.TABLE}")
    return raw


def accept(
    columns: pl.DataFrame, reasons: Reasons, *, keep_duplicates: bool = False
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows without a fault, each once, and the numbers of the others by reason."""
    accepted, rejects = reject(columns, reasons)
    if not keep_duplicates:
        distinct = accepted.unique(keep="first", maintain_order=True)
        count(rejects, "duplicate", accepted.height - distinct.height)
        accepted = distinct
    return accepted, dict(sorted(rejects.items(), key=lambda item: -item[1]))


def refuse_bad_rows(
    config: StoreConfig, source: Source, rejects: Mapping[str, int], *, rows: int, accepted: int
) -> None:
    """Refuse a table of which too little is left.

    Raises:
        DataError: A larger share of its rows than `max_reject_share` is rejected.
        EmptyStore: All are.
    """
    refuse_share(config.max_reject_share, source, rejects, rows)
    if not accepted:
        raise EmptyStore(
            f"no row of {source.label} is usable: {listed(rejects)}",
            hint=f"a store needs {source.TABLE}",
        )


def personal_rows(
    config: StoreConfig, source: Source, columns: pl.DataFrame, reasons: Reasons
) -> PersonalRows:
    """Check canonical columns of a table of customers, and put them under pseudonyms.

    Args:
        config: Its `pseudonym_key` is created if it is missing.
        source: The table; a row without a required column is rejected.
        columns: All rows that were read. The accepted ones are sorted by its columns in order,
            so that equal data prepare equally in whatever order they are.
        reasons: Further reasons to reject rows.

    Raises:
        EmptyStore: All rows are rejected.
        DataError: A larger share of rows than `max_reject_share` is rejected.
    """
    missing = [(f"missing {name}", columns[name].is_null()) for name in source.REQUIRED]
    accepted, rejects = accept(columns, [*missing, *reasons])
    refuse_bad_rows(config, source, rejects, rows=columns.height, accepted=accepted.height)
    rows, homes = under_pseudonyms(config, accepted)
    ordered = rows.sort(columns.columns)
    return PersonalRows(rows=ordered, rejects=rejects, rows_read=columns.height, homes=homes)


def under_pseudonyms(
    config: StoreConfig, rows: pl.DataFrame, **domains: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace the ids of customers; also return the homes, if the store knows them.

    Args:
        config: Its `pseudonym_key` is created if it is missing.
        rows: Accepted rows with raw ids.
        domains: Further columns of ids that only the store may see, with the domain of each.
    """
    key = load_or_make_key(config.pseudonym_key)
    hidden = rows.with_columns(
        pseudonymise(rows["user_id"], key),
        *(pseudonymise(rows[name], key, domain=domain) for name, domain in domains.items()),
    )
    if config.home_key is None:
        return hidden, {}
    # Hashed from the raw ids, which agree across stores; pseudonyms do not.
    ids = rows["user_id"].unique()
    lots = home_lots(ids, load_key(config.home_key))
    return hidden, dict(zip(pseudonymise(ids, key), lots, strict=True))


def read_time(
    raw: pl.DataFrame, source: TimedSource, name: str, *, required: bool
) -> tuple[pl.Series, Reasons]:
    """Read a column as times; also return the reasons to reject rows because of it.

    Args:
        raw: The source's rows.
        source: Names the format and the time zone.
        name: The canonical column.
        required: Whether a missing time is a reason.
    """
    cells = _column(raw, name)
    times = as_timestamp(
        cells,
        where(source, name),
        timestamp_format=source.timestamp_format,
        time_zone=source.time_zone,
    )
    filled = present(cells)
    missing: Reasons = [(f"missing {name}", ~filled)] if required else []
    return times, [*missing, (f"unreadable {name}", filled & times.is_null())]


def where(source: Source, name: str) -> str:
    """The name of a column in error messages."""
    named = " + ".join(source.source_of(name))
    meaning = "" if named == name else f" ({name})"
    return f"column {named!r}{meaning} of {source.label}"


def _column(raw: pl.DataFrame, name: str) -> pl.Series:
    return raw[name] if name in raw.columns else pl.Series(name, [None] * raw.height, pl.String)


def read_id(raw: pl.DataFrame, source: Source, name: str) -> pl.Series:
    """Read a column as ids, with the source's default in empty cells."""
    return _defaulted(as_id(_column(raw, name), where(source, name)), source, name)


def read_text(raw: pl.DataFrame, source: Source, name: str) -> pl.Series:
    """Read a column as text, with the source's default in empty cells."""
    return _defaulted(as_text(_column(raw, name)), source, name)


def _defaulted(values: pl.Series, source: Source, name: str) -> pl.Series:
    default = source.defaults.get(name)
    return values if default is None else values.fill_null(str(default))


def read_number(raw: pl.DataFrame, source: Source, name: str) -> tuple[pl.Series, Reasons]:
    """Read a column as numbers; also return the reasons to reject rows because of it."""
    column = _column(raw, name)
    filled, numbers = present(column), as_number(column, where(source, name))
    # Judged before defaults fill the gaps, so that an unreadable cell is no missing one.
    reasons: Reasons = [(f"unreadable {name}", filled & numbers.is_null())]
    if name == "quantity":
        reasons.append(("non-positive quantity", numbers <= 0))
    elif name == "price":
        reasons.append(("negative price", numbers < 0))
    default = source.defaults.get(name)
    return (numbers if default is None else numbers.fill_null(float(default))), reasons


def read_vector(raw: pl.DataFrame, source: Source) -> tuple[pl.Series, Reasons]:
    """Read a column as items' own vectors; also return the reasons to reject rows."""
    column = _column(raw, "vector")
    vectors = as_vector(column, where(source, "vector"))
    lengths = vectors.list.len()
    # The length of most items is right: a catalogue is public, so what the others have may decide.
    most = max(lengths.drop_nulls().mode().to_list(), default=0)
    return vectors, [
        ("unreadable vector", present(column) & vectors.is_null()),
        ("vector of another length", lengths != most),
    ]


def shop_time(now: datetime | None, time_zone: str | None) -> datetime:
    """The current time on the shop's own clock; after it lies the future.

    Args:
        now: In the shop's local time if naive; the system clock's time if unset.
        time_zone: The shop's; where it is unknown, the time in UTC+14.
    """
    if now is not None and now.tzinfo is None:
        return now
    moment = datetime.now(UTC) if now is None else now
    if time_zone is not None:
        return moment.astimezone(ZoneInfo(time_zone)).replace(tzinfo=None)
    return moment.astimezone(UTC).replace(tzinfo=None) + _FURTHEST_AHEAD


def reject(columns: pl.DataFrame, reasons: Reasons) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows without a fault; count the others under their first reason."""
    accepted = pl.repeat(True, columns.height, eager=True)
    rejects: dict[str, int] = {}
    for reason, fault in reasons:
        faulty = fault.fill_null(False)  # a comparison with a missing value is null
        count(rejects, reason, int((accepted & faulty).sum()))
        accepted = accepted & ~faulty
    return columns.filter(accepted), rejects


def count(rejects: dict[str, int], reason: str, rows: int) -> None:
    """Add a reason with its number of rows, if there are any."""
    if rows:
        rejects[reason] = rows


def refuse_share(share: float, source: Source, rejects: Mapping[str, int], rows: int) -> None:
    """Refuse a source of whose rows a larger share than this is rejected.

    Raises:
        DataError: It is; names the most frequent reason.
    """
    rejected = sum(rejects.values())
    if rejected > share * rows:
        reason, count = max(rejects.items(), key=lambda item: item[1])
        raise DataError(
            f"{rejected:,} of {rows:,} rows of {source.label} are rejected "
            f"({rejected / rows:.1%}, at most {share:.1%}), "
            f"most of them for {reason!r}: {count:,}",
            hint="correct the source or its mapping, or raise max_reject_share",
        )


def listed(rejects: Mapping[str, int]) -> str:
    """Numbers of rejected rows by reason, in words."""
    counts: Iterable[str] = (f"{reason}: {count:,}" for reason, count in rejects.items())
    return "; ".join(counts) or "it has no row"
