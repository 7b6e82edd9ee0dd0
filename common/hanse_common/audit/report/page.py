"""Renders a report as one page of HTML.

**Guarantees**: the page refers to no other resource, runs no script, and shows names and texts
of stores and coordinator as plain text, whatever they contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hanse_common.audit.report import chart, sentences
from hanse_common.audit.report.content import Report, Rounds
from hanse_common.pages import page_environment
from hanse_common.privacy.accounting import MOST_ROUNDS
from hanse_common.wording import ABSENT, counted, epsilon, epsilon_left

_HEADLINES = {
    "verified": "Verified",
    "incomplete": "Nothing wrong was found, and not everything could be verified",
    "failed": "FAILED",
}
_MOST_NAMES = 4
_NEAR = 3.0
"""Largest drawn limit, relative to the highest line: a higher one would compress the lines. It
is then given in a sentence."""


def render(report: Report) -> str:
    """Return the page.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    lines = chart.lines_of(report.rounds)
    limit = _common_limit(report)
    highest = max((line.values[-1] for line in lines), default=0.0)
    near = limit if limit is not None and limit <= _NEAR * highest else None
    template = page_environment("hanse_common", "audit/report").get_template("page.html.j2")
    return template.render(
        report=report,
        headline=_HEADLINES[report.status],
        titles={count: f"at {counted(count, 'store')}" for count in report.meaning},
        drawing=chart.draw(lines, limit=near) if lines else None,
        beyond=limit if near is None else None,
        drawn=len(lines),
        limit=limit,
        absent=ABSENT,
        epsilon=epsilon,
        epsilon_left=epsilon_left,
        percent=sentences.percent,
        counted=counted,
        day=sentences.day,
        instant=_instant,
        four=_four,
        apart=_apart,
        names=_names,
        written=_written,
        rounds_left=_rounds_left,
    )


def _common_limit(report: Report) -> float | None:
    """Return the limit to draw: the same at all stores, and without renewals."""
    # The chart shows epsilon over all renewals, to which a limit per renewal does not apply.
    limits = {store.limit for store in report.figures if store.target_delta}
    renewed = any(row.kind == "renewal" for group in report.rounds for row in group.rows)
    return limits.pop() if len(limits) == 1 and not renewed else None


def _instant(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _four(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def _apart(first: float, second: float | None) -> str:
    """Return the relative difference of two accountants."""
    if second is None or first <= 0:
        return ABSENT
    return f"{(second - first) / first:+.2%}"


def _rounds_left(value: int | None) -> str:
    if value is None:
        return ABSENT
    return f"{MOST_ROUNDS}+" if value >= MOST_ROUNDS else str(value)


def _names(stores: Sequence[str], everybody: int) -> str:
    """Return the names of stores, with their number if there are many.

    >>> _names(["bremen"], 2), _names(["bremen", "riga"], 2), _names(list("abcde"), 9)
    ('bremen', 'both stores', '5 stores: a, b, c, d, e')
    """
    if len(stores) == everybody > 1:
        return "both stores" if everybody == 2 else f"all {everybody} stores"
    listed = ", ".join(stores)
    return listed if len(stores) <= _MOST_NAMES else f"{len(stores)} stores: {listed}"


def _written(group: Rounds) -> list[dict[str, str]]:
    """Return the cells of a group's rows as text."""
    return [
        {
            "entry": str(row.entry),
            "what": row.kind,
            "round": str(row.round) if row.round is not None else ABSENT,
            "attempt": str(row.attempt or ABSENT),
            "noise": ABSENT if row.noise_multiplier is None else f"{row.noise_multiplier:.4g}",
            "rate": ABSENT if row.sample_rate is None else f"{row.sample_rate:g}",
            "steps": str(row.steps or ABSENT),
            "epsilon": _four(row.epsilon) if row.epsilon else ABSENT,
            "cumulative": _four(row.cumulative),
            "left": ABSENT if row.left is None else f"{epsilon_left(row.left)}",
        }
        for row in group.rows
    ]
