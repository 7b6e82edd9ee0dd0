"""Tables printed at the end of a run, and later by `hanse runs`.

On a terminal the best figure of a column is bold; elsewhere it carries a `*`, and the
text is `PLAIN_WIDTH` characters wide, whatever it is piped into.

>>> from hanse_simulations.runs.results import RunResult
>>> import io
>>> page = io.StringIO()
>>> print_result(RunResult(recipe="smoke", run="first", metrics={"ndcg@10": 0.35}), file=page)
>>> page.getvalue().splitlines()[0]
'first (smoke): 0 stores, 0 customers, 0 rounds, 0.0 s'
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanse_common import printing
from hanse_simulations.experiment.arms import (
    EFFECTS,
    GAP,
    METRICS,
    TASKS,
    Arm,
    Metric,
    Task,
    Trainer,
    arm,
    metrics_of,
)
from hanse_simulations.report.differences import READING, difference_tables
from hanse_simulations.report.wording import ABSENT, counted, delta, duration, epsilon, figure
from hanse_simulations.runs.results import EpsilonSpent, GroupFigure, RunResult, Spread, SweepRow

if TYPE_CHECKING:
    from hanse_simulations.runs.folder import Comparison, RunSummary

PLAIN_WIDTH = 110
"""Width of a table that does not go to a terminal."""
_ROOMY = 104
"""Least width at which a figure and its spread fit on one line."""
_ONE_LINE = 136
"""Least width at which four differences and their intervals fit on one line."""


def print_result(result: RunResult, *, file: IO[str] | None = None) -> None:
    """Print the comparison of a run, arms by metrics, and notes on how to read it.

    Args:
        result: The run's outcome.
        file: Where to print; stdout by default.
    """
    with _page(file) as console:
        _say(console, _headline(result))
        if result.data_note:
            _say(console, result.data_note)
        for task, title in TASKS.items():
            table = _task_table(result, task, title, console)
            if table is not None:
                console.print()
                console.print(table)
        if result.sweep:
            for task, title in TASKS.items():
                console.print()
                console.print(_sweep_table(result.sweep, task, title))
        print_differences(result, console)
        if result.groups:
            console.print()
            console.print(_groups_table(result))
        for line in reading_notes(result, marked="bold" if console.is_terminal else "*"):
            _say(console, line)


def print_runs(runs: Sequence[RunSummary], *, file: IO[str] | None = None) -> None:
    """Print one line per run."""
    table = _table("")
    for heading in ("Run", "Recipe", "State", "Changed"):
        table.add_column(heading, no_wrap=heading != "Recipe")
    for heading in ("Stores", "Rounds", "NDCG@10", "Rise", "Fall", "ε"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        result = run.result
        cells = [run.name, run.recipe, run.state, f"{run.changed:%Y-%m-%d %H:%M}"]
        if result is not None:
            cells += [f"{result.stores:,}", f"{result.rounds:,}"]
            cells += [figure(result.metrics.get(m)) for m in ("ndcg@10", "rise_auc", "fall_auc")]
            cells.append(epsilon(result.epsilon.max) if result.epsilon else "none")
        table.add_row(*(Text(cell) for cell in cells))
    with _page(file) as console:
        console.print(table)


def print_comparison(comparison: Comparison, *, file: IO[str] | None = None) -> None:
    """Print several runs side by side, and the settings in which they differ."""
    results = comparison.results
    table = _table("")
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(Text(result.run), justify="right", overflow="fold")
    with _page(file) as console:
        for name, metric in METRICS.items():
            column = {result.run: result.metrics.get(name) for result in results}
            if any(value is not None for value in column.values()):
                best = _best(column) if comparison.like_for_like else set()
                cells = (_mark(Text(figure(v)), run in best, console) for run, v in column.items())
                table.add_row(metric.label, *cells)
        table.add_section()
        for label, fact in _FACTS.items():
            table.add_row(label, *(fact(result) for result in results))
        table.add_section()
        for key, values in comparison.settings.items():
            table.add_row(Text(key), *(Text(_plain(values.get(result.run))) for result in results))
        console.print(table)
        if not comparison.like_for_like:
            _say(console, "The runs used different data: their figures cannot be compared.")


def comparison_of(rows: Sequence[SweepRow], task: Task) -> tuple[list[Metric], list[SweepRow]]:
    """Return the comparison table's columns and rows that apply to a task."""
    known = {name for row in rows for name in row.figures}
    metrics = [metric for metric in metrics_of(task) if metric.name in known]
    return metrics, [row for row in rows if any(m.name in row.figures for m in metrics)]


def mean_of(row: SweepRow, metric: str) -> float | None:
    """Return a row's mean of a metric, if it has one."""
    return row.figures[metric].mean if metric in row.figures else None


def seed_spreads(row: SweepRow, metric: str) -> str:
    """Write how a figure spreads over the seeds and over the stores."""
    shown = row.figures.get(metric)
    if shown is None or shown.mean is None:
        return ""
    seeds = figure(shown.std) if row.seeds > 1 else ABSENT
    stores = row.over_stores.get(metric)
    return f"±{seeds}/{figure(stores.std if stores else None)}"


def print_differences(result: RunResult, console: Console) -> None:
    """Print every arm's paired differences to each reference, and how to read them."""
    tables = difference_tables(result.intervals)
    for shown in tables:
        table = _table(shown.title)
        table.add_column("Who trains")
        table.add_column("ε", justify="right")
        for label in shown.columns:
            table.add_column(label, justify="right", no_wrap=True)
        gap = " " if console.width >= _ONE_LINE else "\n"
        for label, target, cells in shown.rows:
            table.add_row(label, target, *(Text(cell.replace(" [", gap + "[")) for cell in cells))
        console.print()
        console.print(table)
    if tables:
        _say(console, READING)


def _sweep_table(rows: Sequence[SweepRow], task: Task, title: str) -> Table:
    metrics, shown = comparison_of(rows, task)
    seeds = counted(max(row.seeds for row in rows), "seed")
    table = _table(f"{title}: mean of {seeds}, ±over seeds/over stores")
    table.add_column("Who trains")
    table.add_column("ε", justify="right")
    for metric in metrics:
        table.add_column(metric.label, justify="right", no_wrap=True)
    for row in shown:
        cells = [
            f"{figure(mean_of(row, metric.name))} {seed_spreads(row, metric.name)}"
            for metric in metrics
        ]
        table.add_row(row.label, ABSENT if row.epsilon is None else f"{row.epsilon:g}", *cells)
    return table


_GAINS = (("joining", "ndcg@10"), ("joining", "rise_auc"), ("privacy", "rise_auc"))


def _groups_table(result: RunResult) -> Table:
    """Effects of joining and of privacy on each group; the report has every arm's metrics."""
    table = _table("Who gains: difference to the other arm, and its 95 % interval over customers")
    for heading in ("Group", "Customers"):
        table.add_column(heading, justify="right" if heading == "Customers" else "left")
    cells = {(g.grouping, g.group, g.arm, g.metric): g for g in result.groups}
    known = {(g.arm, g.metric) for g in result.groups}
    columns = [column for column in _GAINS if column in known]
    if not columns:
        columns = [(result.main_arm, metric) for metric in ("ndcg@10", "rise_auc")]
    for name, metric in columns:
        label = name.capitalize() if name in EFFECTS else arm(name).label
        table.add_column(f"{label}\n{METRICS[metric].label}", justify="right", no_wrap=True)
    sizes = {(g.grouping, g.group): g.customers for g in result.groups}
    for (grouping, group), customers in sizes.items():
        entries = (cells.get((grouping, group, name, metric)) for name, metric in columns)
        table.add_row(
            Text(f"{grouping}: {group}"),
            ABSENT if group == GAP else f"{customers:,}",
            *(interval(entry) for entry in entries),
        )
    return table


def interval(entry: GroupFigure | None) -> str:
    """Write a group's metric with its interval."""
    if entry is None or entry.value is None:
        return ABSENT
    return f"{figure(entry.value)} [{figure(entry.low)}, {figure(entry.high)}]"


_FACTS: dict[str, Callable[[RunResult], str]] = {
    "ε at most": lambda result: epsilon(result.epsilon.max) if result.epsilon else "none",
    "stores": lambda result: f"{result.stores:,}",
    "customers": lambda result: f"{result.customers:,}",
    "rounds": lambda result: f"{result.rounds:,}",
    "masked": lambda result: "yes" if result.secure_aggregation else "no",
    "time": lambda result: duration(result.seconds),
}


def reading_notes(result: RunResult, *, marked: str = "bold") -> list[str]:
    """Return the lines that say how to read a run's figures: spread, promise, reservations.

    Args:
        result: The run's outcome.
        marked: How the best figure of a column is marked.
    """
    notes = [f"All figures: test customers of all stores together. Best of a column: {marked}."]
    if any(result.spread.values()):
        notes.append(f"±: standard deviation over {counted(result.stores, 'store')}.")
    notes.append(f"Privacy: {promise(result.epsilon)}")
    if result.secure_aggregation or result.epsilon is not None:
        notes.append(f"Secure aggregation: {masking(result)}.")
    return [*notes, *result.notes, *result.group_notes]


def masking(result: RunResult) -> str:
    """Return in one line what the coordinator saw of the stores' updates."""
    if result.secure_aggregation:
        return "on; the coordinator saw sums over stores, never one store's update"
    return "OFF; the coordinator saw each store's own update"


def promise(spent: EpsilonSpent | None) -> str:
    """Return in one line the privacy promise and its limits."""
    if spent is None:
        return "no arm of this run promises anything to its customers."
    return (
        f"ε ≤ {epsilon(spent.max)} at δ = {delta(spent.delta)} for every"
        f" {spent.unit} of a store ({spent.relation}, mode {spent.mode}). It holds for the"
        f" model of the row '{arm('federated_private').label}' alone; the other rows, and"
        " the accuracy figures themselves, are computed without noise."
    )


def best_arms(figures: Mapping[str, Mapping[str, float | None]], metric: str) -> set[str]:
    """Return the arms with the best figure; several, if they are equal as printed."""
    return _best({name: values.get(metric) for name, values in figures.items()})


def arms_of_task(result: RunResult, task: Task) -> list[tuple[Arm, dict[str, float | None]]]:
    """Return the arms that have a figure for this task, baselines first."""
    names = {metric.name for metric in metrics_of(task)}
    rows = []
    for name, values in result.all_arms().items():
        if any(values.get(metric) is not None for metric in names):
            trainer: Trainer = "baseline" if name in result.baselines else "federated"
            rows.append((arm(name, trainer), values))
    return sorted(rows, key=lambda row: row[0].kind != "baseline")


def shown_metrics(
    rows: Iterable[tuple[Arm, Mapping[str, float | None]]], task: Task
) -> list[Metric]:
    """Return the task's metrics for which any arm has a figure."""
    table = list(rows)
    return [
        metric
        for metric in metrics_of(task)
        if any(values.get(metric.name) is not None for _, values in table)
    ]


def _task_table(result: RunResult, task: Task, title: str, console: Console) -> Table | None:
    rows = arms_of_task(result, task)
    if not rows:
        return None
    metrics = shown_metrics(rows, task)
    figures = {row.name: values for row, values in rows}
    table = _table(title)
    table.add_column("", min_width=22)
    for metric in metrics:
        table.add_column(
            metric.label.replace(" explore", "\nexplore"), justify="right", no_wrap=True
        )
    for position, (row, values) in enumerate(rows):
        cells = [
            _cell(
                values.get(metric.name),
                result.spread.get(row.name, {}).get(metric.name),
                row.name in best_arms(figures, metric.name),
                console,
            )
            for metric in metrics
        ]
        last_of_kind = [other.kind for other, _ in rows[position + 1 :][:1]] not in ([], [row.kind])
        table.add_row(Text(row.label), *cells, end_section=last_of_kind)
    return table


def _cell(value: float | None, spread: Spread | None, best: bool, console: Console) -> Text:
    text = _mark(Text(figure(value)), best, console)
    if value is None or spread is None or spread.std is None:
        return text
    gap = " " if console.width >= _ROOMY else "\n"
    return text.append(f"{gap}±{figure(spread.std)}", style="not bold dim")


def _mark(text: Text, best: bool, console: Console) -> Text:
    if best:
        if console.is_terminal:
            text.stylize("bold")
        else:
            text = Text("*").append_text(text)
    return text


def _best(column: Mapping[str, float | None]) -> set[str]:
    # Compared as printed, with three digits: equal figures must not differ in their mark.
    printed = {name: round(value, 3) for name, value in column.items() if value is not None}
    # The best of one is no distinction.
    if len(printed) < 2:
        return set()
    top = max(printed.values())
    return {name for name, value in printed.items() if value == top}


def _headline(result: RunResult) -> str:
    parts = [
        counted(result.stores, "store"),
        counted(result.customers, "customer"),
        counted(result.rounds, "round"),
        duration(result.seconds),
    ]
    if result.peak_memory_mb is not None:
        parts.append(f"{result.peak_memory_mb:,.0f} MB at most")
    return f"{result.run} ({result.recipe}): {', '.join(parts)}"


def _table(title: str) -> Table:
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        header_style="",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


@contextmanager
def _page(file: IO[str] | None) -> Iterator[Console]:
    """Yield a console for the terminal, or for plain text without trailing blanks."""
    target = file or sys.stdout
    terminal = printing.console(file=target)
    if terminal.is_terminal:
        yield terminal
        return
    text = io.StringIO()
    yield printing.console(file=text, width=PLAIN_WIDTH, plain=True)
    # Rich pads the cells of a table with blanks up to its width.
    for line in text.getvalue().splitlines():
        target.write(line.rstrip() + "\n")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _plain(value: Any) -> str:
    return ABSENT if value is None else str(value)
