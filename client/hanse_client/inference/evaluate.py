"""Metrics of a model on a split, for each store and over all their customers together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hanse_client.analytics.purchase_chances import Foresight, first_day, foresee
from hanse_client.inference.choices import Split
from hanse_client.inference.load import Trained, open_store, run_settings
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_common.errors import ConfigError, EmptyStore
from hanse_common.printing import console
from hanse_common.wording import ABSENT, finite

_ALL_CUSTOMERS = "all customers"
_WITHIN = {"auc": "AUC", "average_precision": "AP", "calibration_error": "ECE"}


def evaluation(
    trained: Trained, stores: Sequence[Path], split: Split, settings: Path | None = None
) -> dict[str, Any]:
    """Evaluate a model on a split of one or more stores.

    Args:
        trained: The model.
        stores: Nodes' folders or `store.toml` files.
        split: The split.
        settings: The run's settings, which fix the days of the split.

    Returns:
        Plain values: the evaluation protocol, and `stores`, one row each: `store`, `customers`
        with a visit in the split, `baskets`, `interests`, `metrics`, and `within`, the figures of
        `Foresight.judged` from the split's first day. With several stores, the last row is over
        all their customers together.

    Raises:
        ConfigError: No settings fix the days of the split.
        EmptyStore: A store has no visit in the split.
    """
    rows: list[dict[str, Any]] = []
    parts: list[Figures] = []
    seen: list[Foresight] = []
    for path in stores:
        run = run_settings(trained, path, settings)
        if run is None or run.data.split is None:
            raise ConfigError(
                f"no settings fix the days of the split {split.value!r}",
                hint="name the settings of the model's run with --settings",
            )
        store = open_store(path, trained, run)
        figures = evaluate_histories(store.histories, trained.model, run, split.value)
        if not len(figures.customers):
            raise EmptyStore(
                f"no customer of store {store.name!r} has a visit in the split {split.value!r}",
                hint="are these the settings of a run on this store's data?",
            )
        parts.append(figures)
        seen.append(foresee(store.histories, trained.model, first_day(run, split.value)))
        rows.append(_row(store.name, [figures], seen[-1:]))
    if len(parts) > 1:
        rows.append(_row(_ALL_CUSTOMERS, parts, seen))
    return {
        "model_sha256": trained.digest,
        "split": split.value,
        "ranking": "full, no sampled candidates; every visit from all visits before it",
        "candidates": f"all {len(trained.config.classes)} classes; "
        "explore: those that the customer never bought before",
        "stores": rows,
    }


def _row(name: str, parts: list[Figures], seen: list[Foresight]) -> dict[str, Any]:
    pooled = Figures.pooled(parts)
    return {
        "store": name,
        "customers": sum(len(set(part.customers.tolist())) for part in parts),
        "baskets": len(pooled.hr),
        "interests": len(pooled.outcomes),
        "metrics": finite(pooled.metrics()),
        "within": finite(Foresight.pooled(seen).judged()),
    }


def print_evaluation(result: dict[str, Any]) -> None:
    """Print the result of `evaluation` as a table with one column a store."""
    rows = result["stores"]
    table = Table(title=f"{result['split']}: {result['candidates']}")
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_column(row["store"], justify="right")
    for count in ("customers", "baskets", "interests"):
        table.add_row(count, *(f"{row[count]:,}" for row in rows))
    table.add_section()
    for name in rows[0]["metrics"]:
        values = (row["metrics"][name] for row in rows)
        table.add_row(name, *(ABSENT if value is None else f"{value:.3f}" for value in values))
    table.add_section()
    for index, one in enumerate(rows[0]["within"]):
        for figure, short in _WITHIN.items():
            name = f"{one['horizon_days']:.0f} days, {one['classes']}: {short}"
            values = (row["within"][index][figure] for row in rows)
            table.add_row(name, *(ABSENT if v is None else f"{v:.3f}" for v in values))
    # A pipe has no width; rich would fold the columns at 80 characters.
    console(width=None if sys.stdout.isatty() else 140).print(table)
