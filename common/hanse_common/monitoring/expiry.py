"""How near a certificate's end is, in the words and steps that every warning uses.

>>> from datetime import UTC, datetime
>>> now = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
>>> [step(now + days * DAY, now=now) for days in (40, 29, 6, 0.5, -1)]
[None, 30, 7, 1, 0]
>>> in_words("the TLS certificate", now + 6 * DAY, now=now)
'the TLS certificate ends on 2026-12-07, in 6 days'
>>> in_words("the TLS certificate", now - 1, now=now)
'the TLS certificate ended on 2026-11-30'
"""

from __future__ import annotations

from datetime import UTC, datetime

DAY = 86_400
WARNING_DAYS = (30, 7, 1)
"""Days before a certificate's end from which a warning is given, and given again."""


def step(end: float, *, now: float) -> int | None:
    """Return the warning that a certificate has reached.

    Args:
        end: Unix seconds at which it ends.
        now: Unix seconds.

    Returns:
        The least of `WARNING_DAYS` that it has left at most, 0 once it has ended, None while it
        needs no warning.
    """
    if end <= now:
        return 0
    reached = [days for days in WARNING_DAYS if end - now <= days * DAY]
    return min(reached, default=None)


def in_words(what: str, end: float, *, now: float) -> str:
    """Say when a certificate ends or has ended."""
    if end <= now:
        return f"{what} ended on {day(end)}"
    left = (end - now) / DAY
    when = f"in {left:.0f} days" if left >= 2 else f"in {(end - now) / 3600:.0f} hours"
    return f"{what} ends on {day(end)}, {when}"


def day(seconds: float) -> str:
    """Return the UTC day of a time in Unix seconds; beyond the calendar, the seconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s"
