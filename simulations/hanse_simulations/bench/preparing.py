"""Time and memory of preparing a store, compared with polars on the same rows.

The store is made up: visits at random times of a year, with items of a catalogue of which a few
are bought often. The reference reads its files, sorts the rows by customer and time, and groups
them by visit, all in memory. Every row is a process of its own; times leave out its imports, its
peak of memory does not.

    rows = preparing(customers=100_000, visits=1_000_000, items=1.0)
    rich.print(render(rows))
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from rich.table import Table

from hanse_client.model.config import InterestConfig
from hanse_common.config import Split
from hanse_common.errors import ConfigError, DataError
from hanse_common.paths import SETTINGS_FILE, STORE_FILE
from hanse_common.recipes import grocery
from hanse_simulations.bench._preparing_run import BEGUN, EVENTS, MODEL_FOLDER
from hanse_simulations.runs.files import write_json

STAGES: Final = {
    "polars": "polars: read, sort, group",
    "reading": "read and check the rows",
    "checking": "check them: hanse data check",
    "arranging": "arrange and write them",
    "preparing": "all of it: hanse store data prepare",
    "batch": "read a batch of 256 customers",
}
"""What is measured, in this order; the first is the reference."""
SPLIT: Final = Split(
    train_until="2017-11-01T00:00:00",
    validate_until="2017-12-01T00:00:00",
    test_until="2018-01-01T00:00:00",
)
_ITEMS, _CATEGORIES = 5_000, 200
_DAYS = 365
_VISITS_AT_ONCE = 500_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparingRow:
    """One stage on one store."""

    stage: str
    events: int
    """Rows of the store's files."""
    seconds: float
    cpu_seconds: float
    cpu_over_polars: float
    peak_mb: float
    """Peak of the process' resident memory in MiB, imports included."""
    memory_over_polars: float


def preparing(
    *,
    customers: int,
    visits: int,
    items: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[PreparingRow]:
    """Measure the stages of preparing a made-up store.

    Args:
        customers: Number of customers.
        visits: Number of visits of all of them.
        items: Mean number of rows of a visit, at least 1.
        progress: Called with a line before each measurement.

    Raises:
        ConfigError: There are fewer visits than customers, or less than an item a visit.
        DataError: A measuring process failed.
    """
    if customers < 1 or visits < customers or not 1 <= items < 1000:
        raise ConfigError(
            f"customers={customers}, visits={visits}, items={items:g}: take at least 1 customer, "
            "a visit of each, and from 1 to 1,000 items a visit"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        progress(f"making up {visits:,} visits of {customers:,} customers")
        events = make_store(folder, customers=customers, visits=visits, items=items)
        measured: dict[str, dict[str, float]] = {}
        for stage, words in STAGES.items():
            progress(words)
            measured[stage] = _measure(folder, stage)
    reference = measured["polars"]
    return [
        PreparingRow(
            stage=stage,
            events=events,
            seconds=round(figures["seconds"], 2),
            cpu_seconds=round(figures["cpu_seconds"], 2),
            cpu_over_polars=round(figures["cpu_seconds"] / reference["cpu_seconds"], 2),
            peak_mb=round(figures["peak_mb"], 1),
            memory_over_polars=round(figures["peak_mb"] / reference["peak_mb"], 2),
        )
        for stage, figures in measured.items()
    ]


def make_store(folder: Path, *, customers: int, visits: int, items: float) -> int:
    """Write a made-up store, its model's vocabulary and the settings of a run.

    Args:
        folder: An empty folder.
        customers: Number of customers.
        visits: Number of visits of all of them.
        items: Mean number of rows of a visit.

    Returns:
        Number of rows of events.
    """
    rng = np.random.default_rng(7)
    ids = np.array([f"{index:06d}" for index in range(_ITEMS)])
    paths = [f"D{c % 20:02d}/C{c:03d}" for c in np.arange(_ITEMS) % _CATEGORIES]
    goods = {"item_id": ids, "text": [f"item {name}" for name in ids], "category": paths}
    pl.DataFrame(goods).write_parquet(folder / "items.parquet")
    rows = 0
    # In order of time, as a till writes them, and in several files, as a year's export has.
    parts = range(0, visits, _VISITS_AT_ONCE)
    for number, first in enumerate(parts):
        count = min(_VISITS_AT_ONCE, visits - first)
        share = _DAYS * 86_400_000_000 / visits
        begun = np.sort(rng.uniform(first * share, (first + count) * share, count))
        sizes = 1 + rng.poisson(items - 1, count)
        visit = np.repeat(np.arange(count), sizes)
        # Popularities fall like those of words: a tenth of the items is nine tenths of sales.
        bought = (_ITEMS ** rng.random(len(visit))).astype(np.int64) % _ITEMS
        owner = rng.integers(0, customers, count)
        begins = np.datetime64(BEGUN, "us") + begun.astype("timedelta64[us]")
        pl.DataFrame(
            {
                "user_id": pl.Series(owner[visit] + 1).cast(pl.String).str.zfill(9),
                "item_id": ids[bought],
                "timestamp": begins[visit],
                "basket_id": pl.Series(first + visit).cast(pl.String),
                "quantity": np.ones(len(visit)),
                "price": rng.integers(1, 1000, len(visit)) / 100,
            }
        ).write_parquet(folder / EVENTS.replace("*", f"{number:04d}"))
        rows += len(visit)
    (folder / STORE_FILE).write_text(
        f'name = "made-up"\nobserved_from = {BEGUN:%Y-%m-%d}\n[events]\npath = "{EVENTS}"\n'
        '[catalogue]\npath = "items.parquet"\n',
        encoding="utf-8",
    )
    classes = sorted(set(paths))
    InterestConfig(kind="categories", classes=classes).save_pretrained(folder / MODEL_FOLDER)
    settings = grocery().with_changes({"data.split": SPLIT.model_dump()})
    write_json(folder / SETTINGS_FILE, settings.model_dump(mode="json"))
    return rows


def render(rows: Sequence[PreparingRow]) -> Table:
    """Lay the rows out as a table for people."""
    table = Table(title=f"Preparing {rows[0].events:,} rows of a store")
    table.add_column("")
    for heading in ("seconds", "CPU-s", "/ polars", "peak", "/ polars"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            STAGES[row.stage],
            f"{row.seconds:.1f}",
            f"{row.cpu_seconds:.1f}",
            f"{row.cpu_over_polars:.2f}x",
            f"{row.peak_mb:,.0f} MB",
            f"{row.memory_over_polars:.2f}x",
        )
    return table


def _measure(folder: Path, stage: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "hanse_simulations.bench._preparing_run", str(folder), stage],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode == 0:
        figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return figures
    if done.returncode < 0:
        reason = f"killed by signal {-done.returncode}; out of memory?"
    else:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise DataError(f"{STAGES[stage]!r} failed: {reason}", hint="take fewer visits")
