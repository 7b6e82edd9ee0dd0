"""The table of a study: rules, arms and papers, one a row."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from rich import box
from rich.table import Table

from hanse_common.printing import console
from hanse_simulations.experiment.study import (
    FEDERATED,
    MAIN,
    POOLED,
    STRICTER,
    ResearchResult,
)
from hanse_simulations.report.tables import PLAIN_WIDTH
from hanse_simulations.report.wording import ABSENT

_ARMS = {
    POOLED: "All customers in one place",
    FEDERATED: "Federated",
    MAIN: "Federated, private",
    STRICTER: "Federated, private",
}


def print_research(
    result: ResearchResult,
    *,
    columns: Sequence[str],
    labels: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    file: IO[str] | None = None,
) -> None:
    """Print papers, rules and arms, and how to read them.

    Args:
        result: The run's outcome.
        columns: Which figures, in order.
        labels: What rules are called.
        published: Figures of papers, by their name.
        file: Where to print; stdout by default.
    """
    file = file or sys.stdout
    screen = console(file=file, width=None if file.isatty() else PLAIN_WIDTH)
    screen.print(f"{result.run}: {result.data_note}", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    for label, figures, seconds in _rows(result, labels, published or {}):
        table.add_row(label, *(_cell(figures.get(name)) for name in columns), seconds)
    screen.print(table)
    for note in result.notes:
        screen.print(note, highlight=False, soft_wrap=True)


def _cell(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.4f}"


def _rows(
    result: ResearchResult,
    labels: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[str, Mapping[str, float | None], str]]:
    for label, figures in published.items():
        yield label, dict(figures), ""
    for name, found in result.all_arms().items():
        label = {**_ARMS, **labels}.get(name, name)
        if name in result.arm_epsilon:
            label += f", ε = {result.arm_epsilon[name]:.2f}"
        seconds = result.arm_seconds.get(name)
        yield label, found, "" if seconds is None else f"{seconds:.0f}"
