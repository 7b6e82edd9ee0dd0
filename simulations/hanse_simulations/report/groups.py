"""The report's tables of metrics by group of customers, and of what changes the gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hanse_simulations.experiment.arms import EFFECTS, GAP, METRICS, arm
from hanse_simulations.report.tables import interval
from hanse_simulations.report.wording import ABSENT, figure
from hanse_simulations.runs.results import GroupFigure, RunResult

_SHOWN = ("ndcg@10", "rise_auc", "fall_auc")


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLine:
    """One group, or the gap between the first and the last."""

    label: str
    customers: str
    cells: tuple[tuple[str, str], ...]
    """Each cell is a metric and its interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTable:
    """One metric of all groups, under several arms or as differences between arms."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[GroupLine, ...]


def group_tables(result: RunResult) -> list[GroupTable]:
    """Lay out each metric by group: the arms, then what joining and privacy change.

    Returns:
        One table of arms and one of differences for each metric, without those that are empty.
    """
    cells = {(g.grouping, g.group, g.arm, g.metric): g for g in result.groups}
    sizes = {(g.grouping, g.group): g.customers for g in result.groups}
    tables = []
    for metric in _SHOWN:
        label = METRICS[metric].label
        names = dict.fromkeys(g.arm for g in result.groups if g.metric == metric)
        arms = [name for name in names if name not in EFFECTS]
        effects = [name for name in names if name in EFFECTS]
        for title, shown, columns in (
            (f"{label} by group of customers", arms, [arm(name).label for name in arms]),
            (f"{label}: what changes it", effects, [name.capitalize() for name in effects]),
        ):
            if shown:
                lines = [
                    _line(*key, customers, [cells.get((*key, name, metric)) for name in shown])
                    for key, customers in sizes.items()
                ]
                tables.append(GroupTable(title=title, columns=tuple(columns), lines=tuple(lines)))
    return tables


def _line(
    grouping: str, group: str, customers: int, figures: Sequence[GroupFigure | None]
) -> GroupLine:
    return GroupLine(
        label=f"{grouping}: {group}",
        customers=ABSENT if group == GAP else f"{customers:,}",
        cells=tuple(
            (figure(entry.value), interval(entry).partition(" ")[2]) if entry else (ABSENT, "")
            for entry in figures
        ),
    )
