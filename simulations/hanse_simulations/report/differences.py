"""Tables of every arm's difference to the arms that joining is judged against.

>>> row = PairedInterval(arm="a", metric="ndcg@10", value=0.0061, low=0.0002, high=0.0122)
>>> difference(row)
'+.0061 [.0002, .0122]'
>>> difference(row.model_copy(update={"low": -0.001}))
'none [-.0010, .0122]'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hanse_simulations.experiment.arms import ARMS, METRICS, arm
from hanse_simulations.report.wording import ABSENT, figure
from hanse_simulations.runs.results import PairedInterval

_DIGITS: Final = 4
SHOWN: Final = ("ndcg@10", "explore_ndcg@10", "rise_auc", "fall_auc")
"""Metrics of the task interest that the tables and charts have room for."""

READING: Final = (
    "95 % intervals of a bootstrap over customers, the same draws for every arm. none: the"
    " interval contains 0, so that no difference can be seen."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferenceTable:
    """All arms' differences to one reference."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    """An arm's label, its epsilon, and its difference in each column."""


def difference_tables(intervals: Sequence[PairedInterval]) -> list[DifferenceTable]:
    """Lay out one table for each reference, in the order in which the intervals name them."""
    tables = []
    for reference in dict.fromkeys(row.against for row in intervals if row.against is not None):
        own = [row for row in intervals if row.against == reference]
        metrics = shown_metrics(own)
        cells = {(row.arm, row.epsilon, row.metric): row for row in own}
        rows = tuple(
            (
                arm(name).label,
                ABSENT if epsilon is None else f"{epsilon:g}",
                tuple(difference(cells.get((name, epsilon, metric))) for metric in metrics),
            )
            for name, epsilon in arms_in_order(own)
        )
        labels = (METRICS[name].label if name in METRICS else name for name in metrics)
        title = f"Difference to: {arm(reference).label}"
        tables.append(DifferenceTable(title=title, columns=tuple(labels), rows=rows))
    return tables


def shown_metrics(intervals: Sequence[PairedInterval]) -> tuple[str, ...]:
    """The metrics to show: the leading ones of the task interest, or all of another task."""
    known = tuple(dict.fromkeys(row.metric for row in intervals))
    leading = tuple(name for name in SHOWN if name in known)
    return leading if {"rise_auc", "explore_ndcg@10"} & set(known) else known


def arms_in_order(intervals: Sequence[PairedInterval]) -> list[tuple[str, float | None]]:
    """Arms and their epsilon in the order of the tables, epsilon falling."""
    order = {name: place for place, name in enumerate(ARMS)}
    keys = dict.fromkeys((row.arm, row.epsilon) for row in intervals)
    return sorted(keys, key=lambda key: (order.get(key[0], len(order)), -(key[1] or 0.0)))


def difference(row: PairedInterval | None) -> str:
    """Write a difference with its interval; `none` in its place where the interval has 0."""
    if row is None or row.value is None:
        return ABSENT
    if row.low is None or row.high is None:
        return "none (too few customers)"
    bounds = f"[{figure(row.low, digits=_DIGITS)}, {figure(row.high, digits=_DIGITS)}]"
    if row.is_none:
        return f"none {bounds}"
    sign = "+" if row.value > 0 else ""
    return f"{sign}{figure(row.value, digits=_DIGITS)} {bounds}"
