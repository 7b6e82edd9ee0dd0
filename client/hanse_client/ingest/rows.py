"""Rows of a store's tables: reading cells, rejecting and counting rows, and pseudonyms.

Every table is read in the same three steps. Cells become canonical columns, each with the reasons
to reject a row; the rows without a fault are accepted, the others counted under their first
reason; and the ids of customers become pseudonyms, so that no later code sees a raw id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from hanse_client.ingest.casts import Doubts, as_id, as_text, as_vector, present
from hanse_client.ingest.numbers import as_number
from hanse_client.ingest.pseudonyms import home_lots, load_key, load_or_make_key, pseudonymise
from hanse_client.ingest.reasons import GUEST, LEFT_OUT, MALFORMED, Rejects, refuse_rejects
from hanse_client.ingest.sources import RawRows, read_rows
from hanse_client.ingest.times import as_timestamp
from hanse_common.errors import ConfigError, EmptyStore

if TYPE_CHECKING:
    from hanse_client.ingest.source_settings import PersonalSource, Source, TimedSource
    from hanse_client.ingest.store_config import StoreConfig

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
    rejects: Rejects
    """Rejected rows by reason, the most frequent first."""
    rows_read: int
    encodings: tuple[str, ...] = ()
    """Of files of text."""
    homes: dict[str, int] = field(default_factory=dict)
    """Pseudonym -> keyed hash that decides which store may train on the person; empty if the
    store has no `home_key`."""


def read_filled(source: Source) -> RawRows:
    """Read a source that must not be empty.

    Raises:
        EmptyStore: It has no row.
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`.
    """
    raw = read_rows(source)
    if not raw.rows_read:
        raise EmptyStore(f"{source.label} has no row", hint=f"a store needs {source.TABLE}")
    return raw


def accept(raw: RawRows, columns: pl.DataFrame, reasons: Reasons) -> tuple[pl.DataFrame, Rejects]:
    """Return the rows without a fault, each once, and the numbers of the others by reason."""
    accepted, rejects = reject(raw, columns, reasons)
    distinct = accepted.unique(keep="first", maintain_order=True)
    count(rejects, "duplicate", accepted.height - distinct.height)
    return distinct, dict(sorted(rejects.items(), key=lambda item: -item[1]))


def personal_rows(
    config: StoreConfig,
    source: PersonalSource,
    raw: RawRows,
    columns: pl.DataFrame,
    reasons: Reasons,
) -> PersonalRows:
    """Check canonical columns of a table of customers, and put them under pseudonyms.

    Args:
        config: Its `pseudonym_key` is created if it is missing.
        source: The table; a row without a required column is rejected.
        raw: What was read.
        columns: All rows that were read. The accepted ones are sorted by its columns in order,
            so that equal data prepare equally in whatever order they are.
        reasons: Further reasons to reject rows.

    Raises:
        EmptyStore: All rows are rejected.
        DataError: A larger share of rows than the store tolerates is rejected.
    """
    ids = [name for name in columns.columns if name.endswith("_id")]
    required = [name for name in source.REQUIRED if name != "user_id"]
    missing = [(f"missing {name}", columns[name].is_null()) for name in required]
    judged = [
        *condition(raw, source, columns),
        *unread_ids(raw, source, *ids),
        *guest_reasons(source, columns["user_id"]),
        *missing,
        *reasons,
    ]
    accepted, rejects = accept(raw, columns, judged)
    refuse_rejects(config.max_reject_share, source, rejects, raw.rows_read, accepted.height)
    rows, homes = under_pseudonyms(config, accepted)
    return PersonalRows(
        rows=rows.sort(columns.columns),
        rejects=rejects,
        rows_read=raw.rows_read,
        encodings=raw.encodings,
        homes=homes,
    )


def guest_reasons(source: PersonalSource, users: pl.Series) -> Reasons:
    """Reasons to reject rows without a customer, and those of whoever has no account.

    Args:
        source: Names the ids that stand for nobody in particular.
        users: Raw customer ids; (n,) strings.
    """
    return [("missing user_id", users.is_null()), (GUEST, is_guest(source, users))]


def is_guest(source: PersonalSource, users: pl.Series) -> pl.Series:
    """Whether customer ids stand for whoever has none; (n,) booleans."""
    words = {word.casefold() for word in source.guest_ids}
    guest = users.str.to_lowercase().is_in(sorted(words)).fill_null(False)
    # A zero is often padded to the width of ids.
    return guest | users.str.contains("^0+$").fill_null(False) if "0" in words else guest


def single_visits(source: PersonalSource, users: pl.Series, baskets: pl.Series) -> pl.Series:
    """Make each basket of a guest a customer of its own, if the settings say so; (n,) ids.

    A row of a guest without a basket keeps its id, and is rejected for it.
    """
    if source.guests != "single-visit":
        return users
    # The zero byte is in no id that a shop has given.
    alone = "guest\0" + baskets
    guest = (users.is_null() | is_guest(source, users)) & baskets.is_not_null()
    return alone.zip_with(guest, users)


def unread_ids(raw: RawRows, source: Source, *names: str) -> Reasons:
    """Reasons to reject rows whose ids a spreadsheet has rounded."""
    columns = [(name, _column(raw.frame, name)) for name in names]
    return [
        (f"unreadable {name}", present(cells) & as_id(cells, where(source, name)).is_null())
        for name, cells in columns
    ]


def under_pseudonyms(
    config: StoreConfig, rows: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace the ids of customers; also return the homes, if the store knows them.

    Args:
        config: Its `pseudonym_key` is created if it is missing.
        rows: Accepted rows with raw ids.
    """
    key = load_or_make_key(config.pseudonym_key)
    hidden = rows.with_columns(pseudonymise(rows["user_id"], key))
    if config.home_key is None:
        return hidden, {}
    # Hashed from the raw ids, which agree across stores; pseudonyms do not.
    ids = rows["user_id"].unique()
    lots = home_lots(ids, load_key(config.home_key))
    return hidden, dict(zip(pseudonymise(ids, key), lots, strict=True))


def read_time(
    raw: RawRows,
    source: TimedSource,
    name: str,
    *,
    required: bool,
    doubts: Doubts | None = None,
) -> tuple[pl.Series, Reasons]:
    """Read a column as times; also return the reasons to reject rows because of it.

    Args:
        raw: The source's rows.
        source: Names the format and the time zone.
        name: The canonical column.
        required: Whether a missing time is a reason.
        doubts: Keeps errors about the column, if the rows are a part of the source.
    """
    cells = _column(raw.frame, name)
    times = as_timestamp(
        cells,
        where(source, name),
        formats=source.timestamp_formats,
        time_zone=source.time_zone,
        source_time_zone=source.source_time_zone,
        doubts=doubts,
    )
    filled = present(cells)
    missing: Reasons = [(f"missing {name}", ~filled)] if required else []
    return times, [
        *missing,
        (f"unreadable {name}", filled & times.is_null()),
        (f"too early {name}", times < datetime.combine(source.not_before, time.min)),
    ]


def where(source: Source, name: str) -> str:
    """The name of a column in error messages."""
    named = " + ".join(source.source_of(name))
    meaning = "" if named == name else f" ({name})"
    return f"column {named!r}{meaning} of {source.label}"


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name in frame.columns:
        return frame[name]
    return pl.Series(name, [None], pl.String).new_from_index(0, frame.height)


def read_id(raw: RawRows, source: Source, name: str) -> pl.Series:
    """Read a column as ids, with the source's default in empty cells."""
    if name not in raw.frame.columns:
        return _defaulted(_column(raw.frame, name), source, name)
    return _defaulted(as_id(_column(raw.frame, name), where(source, name)), source, name)


def judged_id(raw: RawRows, source: Source, name: str, doubts: Doubts) -> tuple[pl.Series, Reasons]:
    """Read a column of a part as ids; also return the reason to reject rows because of it."""
    if name not in raw.frame.columns:
        return read_id(raw, source, name), []
    cells = raw.frame[name]
    ids = as_id(cells, where(source, name), doubts)
    fault = ids.is_null() & present(cells) if ids.null_count() else None
    reasons = [] if fault is None else [(f"unreadable {name}", fault)]
    return _defaulted(ids, source, name), reasons


def read_text(raw: RawRows, source: Source, name: str) -> pl.Series:
    """Read a column as text, with the source's default in empty cells."""
    if name not in raw.frame.columns:
        return _defaulted(_column(raw.frame, name), source, name)
    return _defaulted(as_text(raw.frame[name]), source, name)


def _defaulted(values: pl.Series, source: Source, name: str) -> pl.Series:
    default = source.defaults.get(name)
    return values if default is None else values.fill_null(str(default))


def read_number(
    raw: RawRows, source: Source, name: str, doubts: Doubts | None = None
) -> tuple[pl.Series, Reasons]:
    """Read a column as numbers; also return the reasons to reject rows because of it."""
    default = source.defaults.get(name)
    if name not in raw.frame.columns:
        absent = pl.Series(name, [default], pl.Float64, strict=False)
        return absent.new_from_index(0, raw.frame.height), []
    column = raw.frame[name]
    numbers = as_number(
        column,
        where(source, name),
        decimal=source.decimal,
        thousands=source.thousands,
        doubts=doubts,
    )
    # Judged before defaults fill the gaps, so that an unreadable cell is no missing one.
    reasons: Reasons = [(f"unreadable {name}", numbers.is_null() & present(column))]
    if name == "quantity":
        reasons.append(("non-positive quantity", numbers <= 0))
    elif name in ("price", "amount"):
        reasons.append((f"negative {name}", numbers < 0))
    return (numbers if default is None else numbers.fill_null(float(default))), reasons


def read_vector(raw: RawRows, source: Source) -> tuple[pl.Series, Reasons]:
    """Read a column as items' own vectors; also return the reasons to reject rows."""
    column = _column(raw.frame, "vector")
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


def reject(raw: RawRows, columns: pl.DataFrame, reasons: Reasons) -> tuple[pl.DataFrame, Rejects]:
    """Return the rows without a fault; count the others under their first reason."""
    accepted = pl.repeat(True, columns.height, eager=True)
    rejects: Rejects = {}
    count(rejects, MALFORMED, raw.malformed)
    for reason, fault in reasons:
        faulty = fault.fill_null(False)  # a comparison with a missing value is null
        count(rejects, reason, int((accepted & faulty).sum()))
        accepted = accepted & ~faulty
    return columns.filter(accepted), rejects


def condition(raw: RawRows, source: Source, columns: pl.DataFrame) -> Reasons:
    """The reason to leave out rows for which the condition of the settings does not hold.

    Args:
        raw: Has the columns of the source that the condition names.
        source: Has the condition.
        columns: Canonical columns, in their types; (n,).

    Raises:
        ConfigError: It is no condition over these columns.
    """
    if source.where is None:
        return []
    further = [name for name in raw.frame.columns if name not in columns.columns]
    try:
        holds = columns.hstack(raw.frame.select(further)).select(
            pl.sql_expr(source.where).cast(pl.Boolean).alias("holds")
        )["holds"]
    except pl.exceptions.PolarsError:
        # The text of the polars error is left out because it may quote values.
        types = ", ".join(f"{name} ({columns.schema[name]})" for name in columns.columns)
        raise ConfigError(
            f"{source.TABLE}.where cannot be evaluated",
            hint=f"it has columns of the source, which are text, and of ours: {types}",
        ) from None
    if len(holds) != columns.height:
        holds = holds.new_from_index(0, columns.height)
    return [(LEFT_OUT, ~holds.fill_null(False))]


def count(rejects: Rejects, reason: str, rows: int) -> None:
    """Add a reason with its number of rows, if there are any."""
    if rows:
        rejects[reason] = rows
