"""Compare the engines' own cost: time to the first round and overhead per round.

Each measurement is a fresh process that runs a federation through the real round loop (naming
the stores, sampling, aggregation, checkpoints) with stores that do almost no work, so that the
engine's cost remains. Both engines run the same apps and must end with the same model.

    rows = engines(stores=[10, 100], rounds=10)
    rich.print(render(rows))
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from hanse_common.errors import ConfigError, FederationError
from hanse_common.flower import QUIET
from hanse_common.paths import RESULT_FILE

# Imported here too, so that a missing package is named before any process starts.
from hanse_simulations.bench import _engine_run

ENGINES = ("in-process", "ray")
REFERENCE = "ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRow:
    """Times of one engine with one number of stores."""

    engine: str
    stores: int
    first_round_seconds: float
    """From the launch of the process to the end of the first round."""
    round_seconds: float
    """Median of the later rounds' training stages."""
    first_round_speedup: float
    """The reference's time divided by this engine's."""
    round_speedup: float


def engines(stores: Sequence[int] = (10, 100), rounds: int = 10) -> list[EngineRow]:
    """Measure both engines, each in a process of its own.

    Args:
        stores: Numbers of stores to measure with.
        rounds: Rounds of each run; at least 2.

    Returns:
        A row per number of stores and engine, in-process first.

    Raises:
        ConfigError: There are too few rounds or stores.
        FederationError: A run failed, or the engines' models differ.
        ModuleNotFoundError: Flower's simulation, which brings Ray, is not installed.
    """
    if find_spec("ray") is None:  # Flower's, and so in no list of ours
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
    if rounds < 2:
        raise ConfigError(f"rounds={rounds}: the first is measured apart, so take at least 2")
    if min(stores, default=0) < 2:
        raise ConfigError(f"stores={list(stores)}: a federation has at least 2")
    return [row for count in stores for row in _compare(count, rounds)]


def _compare(stores: int, rounds: int) -> Iterator[EngineRow]:
    measured = {engine: _measure(engine, stores, rounds) for engine in ENGINES}
    reference = measured[REFERENCE]
    if len({figures["model"] for figures in measured.values()}) > 1:
        raise FederationError(f"the engines end with different models for {stores} stores")
    for engine, figures in measured.items():
        first, later = figures["first_round_seconds"], figures["round_seconds"]
        yield EngineRow(
            engine=engine,
            stores=stores,
            first_round_seconds=round(first, 3),
            round_seconds=round(later, 4),
            first_round_speedup=round(reference["first_round_seconds"] / first, 1),
            round_speedup=round(reference["round_seconds"] / later, 1),
        )


def _measure(engine: str, stores: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
        arguments = [engine, str(stores), str(rounds), folder, repr(time.time())]
        done = subprocess.run(
            [sys.executable, "-m", _engine_run.__name__, *arguments],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise FederationError(f"the {engine} run with {stores} stores failed: {last}")
        figures: dict[str, Any] = json.loads(
            (Path(folder) / RESULT_FILE).read_text(encoding="utf-8")
        )
        return figures


def render(rows: Sequence[EngineRow]) -> Table:
    """Lay the rows out as a table for people."""
    table = Table(title="Engines: seconds, and how many times sooner than Flower on Ray")
    table.add_column("stores", justify="right")
    table.add_column("engine")
    for heading in ("first round", "sooner", "later rounds", "sooner"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.stores),
            "Flower on Ray" if row.engine == "ray" else row.engine,
            f"{row.first_round_seconds:.2f} s",
            f"{row.first_round_speedup:.1f}x",
            f"{row.round_seconds * 1000:.0f} ms",
            f"{row.round_speedup:.1f}x",
        )
    return table
