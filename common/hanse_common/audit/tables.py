"""Prints audits for people: tables on stdout, with the findings below them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.missing import Gaps
from hanse_common.audit.repeats import repeats_in_words
from hanse_common.audit.spending import BudgetRow, RoundRow
from hanse_common.audit.store_checks import Audit
from hanse_common.printing import console
from hanse_common.privacy.accounting import MOST_ROUNDS
from hanse_common.wording import printable

_PLAIN_WIDTH = 140
"""Width of lines in characters where stdout is not a terminal."""
_ABSENT = "–"
_LEFT = ("store", "log", "result", "kind", "missing", "files", "named by")
_WRAPPED = ("result", "files")


def print_audits(audits: Sequence[Audit]) -> None:
    """Print a row per store, then the findings, each with the number of stores."""
    table = _table("store", "entries", "rounds", "ε", "by Opacus", "δ", "result")
    for audit in audits:
        table.add_row(
            _safe(audit.store),
            str(audit.entries),
            str(audit.rounds),
            f"{audit.epsilon:.4f}",
            _figure(audit.second_epsilon, 4),
            f"{audit.target_delta:g}" if audit.target_delta else _ABSENT,
            _safe(_result(audit)),
        )
    _console().print(table)
    _print_notes(audits, "stores")


def print_logs(logs: Sequence[LogAudit]) -> None:
    """Print a row per round log, then the findings; nothing without logs."""
    if not logs:
        return
    table = _table("log", "records", "attempts", "sums", "models", "receipts", "stores", "result")
    for log in logs:
        table.add_row(
            _safe(log.log.parent.name or log.log.name),
            str(log.records),
            str(log.announced),
            str(log.summed),
            str(log.published),
            f"{log.matched}/{log.receipts}",
            str(len(log.cosigned_by)),
            _safe(f"FAILED: {log.failure}" if log.fault else "ok"),
        )
    _console().print(table)
    _print_notes(logs, "logs")


def print_gaps(gaps: Gaps, *, required: bool) -> None:
    """Print the missing evidence; nothing if all is there.

    Args:
        gaps: The missing evidence.
        required: Print gaps as faults, and not as open points.
    """
    if gaps.stores:
        table = _table("missing", "files", "named by", "rosters", "receipts")
        for missing in gaps.stores:
            table.add_row(
                _safe(missing.store),
                _safe(missing.what),
                _safe(", ".join(missing.named_by)),
                _count(missing.rosters),
                _count(missing.receipts),
            )
        _console().print(table)
    title = "FAILED" if required else "Not verified"
    for note in gaps.faults if required else gaps.notes:
        _console().print(_safe(f"{title}: {note}"))


def _print_notes(audits: Sequence[Audit] | Sequence[LogAudit], things: str) -> None:
    screen = _console()
    place = "entry" if things == "stores" else "record"
    for title, notes in (
        ("Verified", [note for audit in audits for note in audit.verified]),
        ("Repeated", [note for audit in audits for note in repeats_in_words(audit.uses, place)]),
        ("Not verified", [note for audit in audits for note in audit.unverified]),
    ):
        counts = Counter(notes)
        for note, count in counts.items():
            where = "" if count == len(audits) else f" ({count} of {len(audits)} {things})"
            screen.print(_safe(f"{title}: {note}{where}"))


def print_rounds(rows: Iterable[RoundRow]) -> None:
    """Print a row per entry."""
    table = _table(
        *("store", "entry", "kind", "round", "try", "σ", "q", "steps", "shops"),
        *("δ", "ε of it", "ε so far", "left"),
    )
    for row in rows:
        table.add_row(
            _safe(row.store),
            str(row.entry),
            _safe(row.kind),
            str(row.round),
            str(row.attempt or _ABSENT),
            _figure(row.noise_multiplier, 3),
            _figure(row.sample_rate, 3),
            str(row.steps or _ABSENT),
            str(row.stores_per_person or _ABSENT),
            f"{row.target_delta:g}" if row.target_delta else _ABSENT,
            _figure(row.epsilon, 4),
            _figure(row.cumulative, 4),
            _figure(row.left, 4),
        )
    _console().print(table)


def print_budgets(rows: Sequence[BudgetRow]) -> None:
    """Print a row per store, then how to read the last columns."""
    counts = sorted({count for row in rows for count in row.at_stores})
    table = _table(
        *("store", "δ", "spent", "ever", "limit", "left", "rounds left"),
        *(f"ε at {count} {'store' if count == 1 else 'stores'}" for count in counts),
    )
    for row in rows:
        left = row.rounds_left
        # The accountant stops counting there, so that the number is a lower bound.
        more = left is not None and left >= MOST_ROUNDS
        table.add_row(
            _safe(row.store),
            f"{row.target_delta:g}",
            _figure(row.spent, 4),
            _figure(row.spent_ever, 4),
            _ABSENT if row.limit is None else f"{row.limit:g}",
            _figure(row.left, 4),
            _ABSENT if left is None else f"{MOST_ROUNDS}+" if more else str(left),
            *(_figure(row.at_stores.get(count), 4) for count in counts),
        )
    screen = _console()
    screen.print(table)
    covers = sorted({row.covers_stores for row in rows})
    screen.print(
        f"Spent, left: for a person at up to {' or '.join(map(str, covers))} store(s). Last "
        "columns: upper bounds, if each of the person's stores spent, ever, as this one did."
    )


def _result(audit: Audit) -> str:
    if audit.fault is not None:
        return f"FAILED: {audit.fault}"
    return "ok" if audit.entries else "nothing to verify"


def _safe(text: str) -> Text:
    """Return a store's text as one line without control characters or markup."""
    return Text(printable(text))


def _count(value: int | None) -> str:
    return _ABSENT if value is None else str(value)


def _figure(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        left = heading in _LEFT
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=heading not in _WRAPPED
        )
    return table


def _console() -> Console:
    return console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
