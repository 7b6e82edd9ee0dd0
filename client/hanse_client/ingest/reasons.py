"""Why rows are rejected, how many may be, and what to do when it is more.

Each row counts under one reason. Those that a table tolerates by name are judged by their own
share; all others together by `max_reject_share`.

>>> from hanse_client.ingest.source_settings import Source
>>> sales = Source(path="sales.csv", tolerances={"missing user_id": 0.3})
>>> refuse_rejects(0.05, sales, {"missing user_id": 25, "duplicate": 4}, rows=100, accepted=71)
>>> refuse_rejects(0.05, sales, {"missing user_id": 35, "duplicate": 6}, rows=100, accepted=59)
Traceback (most recent call last):
    ...
hanse_common.errors.DataError: 41 of 100 rows of sales.csv are rejected: missing user_id: 35 ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hanse_common.errors import DataError, EmptyStore

if TYPE_CHECKING:
    from hanse_client.ingest.source_settings import Source

Rejects = dict[str, int]
"""Reason -> number of rows."""

MALFORMED = "malformed record"
GUEST = "guest"
LEFT_OUT = "left out by where"
REPEATED_ITEM = "repeated item"

_HINTS = {
    MALFORMED: "it has more or fewer cells than the first record; check separator and quote",
    GUEST: 'guests = "leave-out" leaves out who has no account, "single-visit" makes each basket a '
    "customer; guest_ids lists their ids",
    "missing user_id": 'guests = "leave-out" leaves out rows without a customer',
    "too early timestamp": 'epochs in seconds are timestamp_format = "epoch", in milliseconds '
    '"epoch_ms"; years of two digits are %y; not_before sets the earliest day',
    "future timestamp": 'epochs in milliseconds are timestamp_format = "epoch_ms", in microseconds '
    '"epoch_us"; check time_zone and the order of day and month',
    "unreadable timestamp": "timestamp_format takes several formats in a list",
    "unknown event_type": "under [events.event_types] say what each word means",
    "non-positive quantity": 'negative_quantity = "return" takes them for goods that came back',
    "unreadable price": 'decimal = "," and thousands = "." read 1.234,50',
    "duplicate": "keep_duplicates = true, if the till writes one row for each unit",
}


def tolerances(source: Source) -> dict[str, float]:
    """The largest share of rows that each of some reasons may have, apart from the others."""
    chosen = {LEFT_OUT: 1.0, REPEATED_ITEM: 1.0}
    if getattr(source, "guests", "refuse") != "refuse":
        chosen |= {GUEST: 1.0, "missing user_id": 1.0}
    return chosen | source.tolerances


def refuse_rejects(
    share: float, source: Source, rejects: Mapping[str, int], rows: int, accepted: int
) -> None:
    """Refuse a table of which too little is left.

    Args:
        share: The largest one of rows that are rejected for reasons without a tolerance.
        source: The table, with its tolerances.
        rejects: Rejected rows by reason.
        rows: Number of rows read.
        accepted: Number of rows kept.

    Raises:
        DataError: A larger share is rejected; names every reason with its share.
        EmptyStore: All rows are.
    """
    own = tolerances(source)
    others = sum(number for reason, number in rejects.items() if reason not in own)
    over = [reason for reason, most in own.items() if rejects.get(reason, 0) > most * rows]
    if over or others > share * rows:
        worst = max(over or (set(rejects) - set(own)), key=lambda reason: rejects[reason])
        general = (
            f"; those without a tolerance of their own: {others / rows:.1%}, at most {share:.1%}"
            if others > share * rows
            else ""
        )
        hint = _HINTS.get(worst, "correct the source or its mapping")
        raise DataError(
            f"{sum(rejects.values()):,} of {rows:,} rows of {source.label} are rejected: "
            f"{listed(rejects, rows, own)}{general}",
            hint=f"{worst}: {hint}; or let tolerances in [{source.TABLE}] say how many may be",
        )
    if not accepted:
        raise EmptyStore(
            f"no row of {source.label} is usable: {listed(rejects) or 'it has none'}",
            hint=f"a store needs {source.TABLE}",
        )


def listed(
    rejects: Mapping[str, int], rows: int = 0, own: Mapping[str, float] | None = None
) -> str:
    """Numbers of rejected rows by reason, in words, with shares if the rows are given."""

    def words(reason: str, number: int) -> str:
        if not rows:
            return f"{reason}: {number:,}"
        most = (own or {}).get(reason, 1.0)
        bound = f", at most {most:.1%}" if most < 1 else ""
        return f"{reason}: {number:,} ({number / rows:.1%}{bound})"

    return "; ".join(words(reason, number) for reason, number in rejects.items())
