"""Print the table of a study: a row for each paper, baseline and arm."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import IO

from rich import box
from rich.table import Table

from hanse_common.printing import console
from hanse_simulations.experiment.arms import arm
from hanse_simulations.experiment.study import StudyResult
from hanse_simulations.report.tables import PLAIN_WIDTH, print_differences
from hanse_simulations.report.wording import ABSENT

_COLUMNS = {
    "next-item": ("hr@5", "ndcg@5", "hr@10", "ndcg@10", "mrr", "all_hr@10"),
    "review": ("accuracy", "auc", "f1", "mae"),
    "conversion": ("auc", "auc_within", "ap", "ece", "mean_predicted", "observed"),
}


def print_study(result: StudyResult, task: str, *, file: IO[str] | None = None) -> None:
    """Print papers, baselines and arms, and notes on how to read them.

    Args:
        result: The study's result.
        task: The setting `task`.
        file: Where to print; stdout by default.
    """
    file = file or sys.stdout
    screen = console(file=file, width=None if file.isatty() else PLAIN_WIDTH)
    screen.print(f"{result.run}: {result.data_note}", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in _COLUMNS[task]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    for label, figures, seconds in _rows(result):
        table.add_row(label, *(_cell(figures.get(name)) for name in _COLUMNS[task]), seconds)
    screen.print(table)
    print_differences(result, screen)
    for note in result.notes:
        screen.print(note, highlight=False, soft_wrap=True)


def _cell(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.4f}"


def _rows(result: StudyResult) -> Iterator[tuple[str, Mapping[str, float | None], str]]:
    for label, figures in result.published.items():
        yield label, dict(figures), ""
    for name, figures_of_arm in result.all_arms().items():
        label = arm(name).label
        if name in result.arm_epsilon:
            label += f", ε = {result.arm_epsilon[name]:.2f}"
        seconds = result.arm_seconds.get(name)
        yield label, figures_of_arm, "" if seconds is None else f"{seconds:.0f}"
