"""Where the time of `hanse simulate` goes: every part of a run, as a share of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from hanse_common.config import RunSettings
from hanse_simulations.experiment.arms import ARMS
from hanse_simulations.run import create_run, simulate


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One part of a run.

    Args:
        part: An arm, or what is done before and after.
        seconds: On the clock.
        cpu_seconds: User and system time of all processes.
        share: Of the CPU-seconds of the whole run.
    """

    part: str
    seconds: float
    cpu_seconds: float
    share: float


def demo(settings: RunSettings) -> list[Row]:
    """Run a simulation and time its parts; the last row is the whole run.

    Args:
        settings: The run's settings.

    Raises:
        HanseError: See `simulate`.
    """
    result = simulate(create_run(settings, prefix="demo"), settings, quiet=True)
    parts = {
        ARMS[name].label if name in ARMS else name: part for name, part in result.parts.items()
    }
    whole = sum(part.cpu_seconds for part in parts.values())
    rows = [
        Row(
            part=name,
            seconds=part.seconds,
            cpu_seconds=part.cpu_seconds,
            share=part.cpu_seconds / max(whole, 1e-9),
        )
        for name, part in parts.items()
    ]
    seconds = sum(row.seconds for row in rows)
    return [*rows, Row(part="all", seconds=seconds, cpu_seconds=whole, share=1.0)]


def render(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("part", "seconds", "CPU-s", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        table.add_row(row.part, f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.share:.0%}")
    return table
