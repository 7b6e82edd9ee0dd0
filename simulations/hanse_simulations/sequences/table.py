"""The table of `hanse simulate sequences`: rules, arms and papers, one a row."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

from hanse_simulations.sequences.run import SequencesResult
from hanse_simulations.table import PLAIN_WIDTH
from hanse_simulations.wording import ABSENT

_COLUMNS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10", "mrr", "all_hr@10")
_LABELS = {
    "global_popularity": "Popularity",
    "markov": "Markov chain",
    "pooled": "All customers in one place",
    "federated": "Federated",
    "federated_private": "Federated, private",
    "federated_private_half": "Federated, private",
}


def print_sequences(result: SequencesResult, *, file: IO[str] | None = None) -> None:
    """Print rules, arms and papers, and how to read them.

    Args:
        result: The run's outcome.
        file: Where to print; stdout by default.
    """
    file = file or sys.stdout
    console = Console(file=file, width=None if file.isatty() else PLAIN_WIDTH)
    console.print(f"{result.run}: {result.data_note}", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    for label, figures, seconds in _rows(result):
        cells = (f"{figures[name]:.4f}" if name in figures else ABSENT for name in _COLUMNS)
        table.add_row(label, *cells, seconds)
    console.print(table)
    for note in result.notes:
        console.print(note, highlight=False, soft_wrap=True)


def _rows(result: SequencesResult) -> Iterator[tuple[str, Mapping[str, float], str]]:
    for label, figures in result.published.items():
        yield label, figures, ""
    for name, found in result.all_arms().items():
        label = _LABELS.get(name, name)
        if name in result.arm_epsilon:
            label += f", ε = {result.arm_epsilon[name]:.2f}"
        known = {key: value for key, value in found.items() if value is not None}
        seconds = result.arm_seconds.get(name)
        yield label, known, "" if seconds is None else f"{seconds:.0f}"
