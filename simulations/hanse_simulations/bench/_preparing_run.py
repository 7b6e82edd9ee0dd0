"""Measure one stage of preparing a store in a process of its own: FOLDER STAGE.

Prints one JSON object: seconds and CPU-seconds after the imports, and the peak of memory. A stage
imports no more than it needs, so that the peak is what such a process would take.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from hanse_common.config import RunSettings
from hanse_common.paths import CONFIG_FILE, HISTORIES_FILE, SETTINGS_FILE, STORE_FILE
from hanse_common.printing import echo
from hanse_common.settings_files import read_json
from hanse_simulations.bench._memory import peak

BEGUN: Final = datetime(2017, 1, 1)
"""First day of the made-up records."""
MODEL_FOLDER, CACHE_FOLDER = "model", "cache"
EVENTS = "events-*.parquet"
_READ_EVENTS, _READ_ITEMS = "read-events.parquet", "read-items.parquet"
_CUSTOMERS = 256


def _polars(folder: Path) -> Callable[[], object]:
    def work() -> None:
        events = pl.read_parquet(folder / EVENTS).sort("user_id", "timestamp")
        spent = pl.col("price") * pl.col("quantity")
        events.group_by("user_id", "basket_id", maintain_order=True).agg(
            pl.col("timestamp").min(), pl.len(), spent.sum()
        )

    return work


def _reading(folder: Path) -> Callable[[], object]:
    from hanse_client.ingest.pipeline import ingest
    from hanse_client.ingest.store_config import load_store

    return lambda: ingest(load_store(folder / STORE_FILE))


def _checking(folder: Path) -> Callable[[], object]:
    from hanse_client.ingest.check import StoreTables
    from hanse_client.ingest.store_config import load_store

    return lambda: StoreTables.read(load_store(folder / STORE_FILE)).summary()


def _arranging(folder: Path) -> Callable[[], object]:
    from hanse_client.features.histories import prepare
    from hanse_client.features.visits import COLUMNS
    from hanse_client.ingest.pipeline import Ingested

    vocabulary = read_json(folder / MODEL_FOLDER / CONFIG_FILE)
    read = Ingested(
        rows=pl.read_parquet(folder / _READ_EVENTS, columns=list(COLUMNS)),
        catalogue=pl.read_parquet(folder / _READ_ITEMS),
        rejects={},
        rows_read=0,
        catalogue_rejects={},
        catalogue_rows_read=0,
    )

    def work() -> None:
        histories = prepare(
            read,
            classes=vocabulary["classes"],
            level=vocabulary["level"],
            observed_from=BEGUN,
            folder=folder / CACHE_FOLDER,
        )
        histories.save(folder / HISTORIES_FILE)

    return work


def _preparing(folder: Path) -> Callable[[], object]:
    from hanse_client.features.prepare import prepare_store
    from hanse_client.ingest.store_config import load_store
    from hanse_client.tasks import task_of

    task_of("interest")
    return lambda: prepare_store(
        load_store(folder / STORE_FILE),
        _settings(folder),
        model=folder / MODEL_FOLDER,
        target=folder / HISTORIES_FILE,
        cache=folder / CACHE_FOLDER,
    )


def _batch(folder: Path) -> Callable[[], object]:
    import numpy as np

    from hanse_client.features.histories import Histories
    from hanse_client.tasks import task_of
    from hanse_client.tasks.interest.past_moments import past_moments
    from hanse_client.tasks.interest.token_batch import token_batch

    def work() -> None:
        settings = _settings(folder)
        store = Histories.load(folder / HISTORIES_FILE)
        data: Any = task_of("interest").training_data(store, settings)
        split = settings.data.split
        if split is None:
            raise ValueError("the settings have no split")
        histories = data.select(np.random.default_rng(0).choice(data.active(), _CUSTOMERS))
        moments = past_moments(histories, until=split.train_until.timestamp() / 86_400)
        token_batch(
            histories,
            np.arange(_CUSTOMERS),
            np.tile(moments, (_CUSTOMERS, 1)),
            targets=True,
        )

    return work


def _settings(folder: Path) -> RunSettings:
    return RunSettings.from_json((folder / SETTINGS_FILE).read_text(encoding="utf-8"))


_STAGES: dict[str, Callable[[Path], Callable[[], object]]] = {
    "polars": _polars,
    "reading": _reading,
    "checking": _checking,
    "arranging": _arranging,
    "preparing": _preparing,
    "batch": _batch,
}


def main(folder: Path, stage: str) -> None:
    """Measure and print."""
    work = _STAGES[stage](folder)
    begun, cpu = time.perf_counter(), time.process_time()
    result: Any = work()
    figures = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak() / 2**20,
    }
    if stage == "reading":  # what the next stage begins with
        result.events.write_parquet(folder / _READ_EVENTS)
        result.catalogue.write_parquet(folder / _READ_ITEMS)
    echo(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
