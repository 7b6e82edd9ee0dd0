"""The report of a sweep over ε: the comparison table, and accuracy against ε."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hanse_simulations.experiment.arms import METRICS, TASKS
from hanse_simulations.report.plots import Key, Plot
from hanse_simulations.report.svg import arm_colour, arm_variable, drawing, to_svg
from hanse_simulations.report.tables import comparison_of, mean_of, seed_spreads
from hanse_simulations.report.wording import ABSENT, counted, figure
from hanse_simulations.runs.results import PairedInterval, RunResult, Spread, SweepRow

_PANELS: Final = ("rise_auc", "fall_auc", "ndcg@10", "explore_ndcg@10")
# Colours of arms elsewhere on the page to which these correspond.
_ARMS: Final = {
    "distributed": "federated_private",
    "local": "personal_frequency",
    "centralized_private": "markov",
    "centralized": "markov",
    "federated": "federated",
    "alone": "alone",
}
_MARKERS: Final = {"distributed": "o", "local": "s", "centralized_private": "D"}
_REFERENCE: Final = "alone"
_WHISKERS: Final = {
    True: "whiskers: 95 % interval of the difference to each store alone, paired over customers,"
    " from its line; one that crosses the line shows no difference",
    False: "whiskers: standard deviation over seeds",
}
_SHAPES: Final = {"o": "circle", "s": "square", "D": "diamond"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A metric and its spread."""

    text: str
    spread: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One rule, or one arm at one ε."""

    label: str
    epsilon: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonTable:
    """The comparison table of one task."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Line, ...]


def comparison_tables(result: RunResult) -> list[ComparisonTable]:
    """Lay out the comparison tables for the page; empty where the run has no sweep."""
    if not result.sweep:
        return []
    tables = []
    for task, title in TASKS.items():
        metrics, rows = comparison_of(result.sweep, task)
        lines = tuple(
            Line(
                label=row.label,
                epsilon=ABSENT if row.epsilon is None else f"{row.epsilon:g}",
                cells=tuple(
                    Cell(text=figure(mean_of(row, m.name)), spread=seed_spreads(row, m.name))
                    for m in metrics
                ),
            )
            for row in rows
        )
        columns = tuple(metric.label for metric in metrics)
        tables.append(ComparisonTable(title=title, columns=columns, rows=lines))
    return tables


def accuracy_by_epsilon(
    rows: Sequence[SweepRow], intervals: Sequence[PairedInterval] = ()
) -> Plot | None:
    """Draw accuracy against ε, one panel per metric; arms without privacy as dashed lines.

    Args:
        rows: The rows of a run's sweep.
        intervals: The run's intervals. A whisker is the interval of the difference to each store
            alone, drawn from its line: one that crosses the line shows no difference. Without
            them it is the standard deviation over seeds.

    Returns:
        None where the run has no sweep.
    """
    if not any(row.epsilon is not None for row in rows):
        return None
    rows = [row for row in rows if row.arm in _ARMS]
    lines: dict[str, list[SweepRow]] = {}
    for row in rows:
        lines.setdefault(row.arm, []).append(row)
    paired = {
        (row.arm, row.epsilon, row.metric): row for row in intervals if row.against == _REFERENCE
    }
    with drawing(4.6) as sheet:
        panels = sheet.subplots(2, 2, sharex=True)
        for axes, metric in zip(panels.flat, _PANELS, strict=True):
            for place, (name, points) in enumerate(lines.items()):
                # Side by side, so that one whisker does not hide another.
                _line(axes, name, points, metric, paired, shift=1.04 ** (place - len(lines) / 2))
            axes.set_title(METRICS[metric].label)
            axes.set_xscale("log")
            ticks = sorted({row.epsilon for row in rows if row.epsilon is not None})
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: figure(v)))
        for axes in panels[-1]:
            axes.set_xlabel("ε")
        text = "; ".join(
            f"{row.label}{'' if row.epsilon is None else f' at ε {row.epsilon:g}'}"
            f" {figure(row.figures[_PANELS[0]].mean)}"
            for row in rows
        )
        svg = to_svg(sheet, "accuracy-by-epsilon", "Accuracy by ε", f"Rise AUC: {text}.")
    caption = (
        f"Test figures of all customers together, mean over {counted(rows[0].seeds, 'seed')};"
        f" {_WHISKERS[bool(paired)]}; dashed: without privacy."
    )
    legend = tuple(
        Key(
            label=points[0].label,
            colour=arm_variable(_ARMS[name]),
            dashes="" if name in _MARKERS else "5 2",
            marker=_SHAPES[_MARKERS[name]] if name in _MARKERS else "",
        )
        for name, points in lines.items()
    )
    return Plot(title="Accuracy by ε", caption=caption, svg=svg, legend=legend)


def _line(
    axes: Axes,
    name: str,
    rows: Sequence[SweepRow],
    metric: str,
    paired: Mapping[tuple[str, float | None, str], PairedInterval],
    *,
    shift: float,
) -> None:
    colour = arm_colour(_ARMS[name])
    points = []
    for row in rows:
        found = row.figures.get(metric)
        if found is None or found.mean is None:
            continue
        if row.epsilon is None:
            axes.axhline(found.mean, color=colour, linestyle=(0, (5, 2)), linewidth=1.4)
            continue
        whisker = _whisker(found, paired.get((name, row.epsilon, metric)))
        points.append((row.epsilon * shift, found.mean, *whisker))
    if not points:
        return
    epsilons, means, below, above = zip(*sorted(points), strict=True)
    axes.errorbar(
        epsilons,
        means,
        yerr=[below, above],
        color=colour,
        marker=_MARKERS[name],
        markersize=5.5,
        elinewidth=1.2,
    )


def _whisker(found: Spread, against: PairedInterval | None) -> tuple[float, float]:
    """Lengths of the whisker below and above a mean."""
    if against is None or against.value is None or against.low is None or against.high is None:
        return found.std or 0.0, found.std or 0.0
    return max(against.value - against.low, 0.0), max(against.high - against.value, 0.0)
