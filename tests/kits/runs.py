"""A small finished run with every file that a real one leaves, made in milliseconds."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from hanse_common.config import DataSettings, RunSettings
from hanse_simulations.experiment.arms import ALL_STORES, ARMS, metrics_of
from hanse_simulations.runs.folder import ArmFolder, RunFolder
from hanse_simulations.runs.results import (
    GroupFigure,
    MetricRow,
    PairedInterval,
    RunResult,
    Spread,
    SweepRow,
)

BASKET = ("global_popularity", "personal_frequency", "markov")
OUTLOOK = ("mean_reversion", "long_run_rate", "logistic_regression")
MODELS = ("alone", "federated", "federated_private")
LEVEL = {
    "global_popularity": 0.24,
    "personal_frequency": 0.38,
    "markov": 0.29,
    "alone": 0.33,
    "federated": 0.40,
    "federated_private": 0.362,
    "mean_reversion": 0.54,
    "long_run_rate": 0.55,
    "logistic_regression": 0.69,
}
OUTLOOK_LEVEL = {**LEVEL, "alone": 0.63, "federated": 0.72, "federated_private": 0.67}
SCALE = {
    "ndcg@10": 1.0,
    "hr@10": 2.2,
    "recall@10": 0.7,
    "explore_ndcg@10": 0.3,
    "explore_hr@10": 0.8,
    "explore_recall@10": 0.25,
    "rise_auc": 1.0,
    "fall_auc": 1.1,
    "outlook_auc": 1.05,
}
TARGET = 8.0


def write_run(
    root: Path,
    name: str = "grocery-2026-03-01-1405",
    *,
    stores: list[str] | None = None,
    rounds: int = 5,
    private: bool = True,
    seed: int = 7,
    compared: bool = False,
    **changes: Any,
) -> RunFolder:
    """Write a run folder that looks like the outcome of `hanse simulate grocery`.

    With `compared` its result has intervals, groups and a sweep, as after `--compare`.
    """
    chance = random.Random(seed)
    names = stores if stores is not None else [f"Region {k}" for k in range(1, 13)]
    sizes = {store: chance.randint(40, 400) for store in names}
    folder = RunFolder.create("grocery", name=name, root=root)
    settings = RunSettings(
        recipe="grocery", seed=seed, data=DataSettings(source="complete-journey")
    ).with_changes(
        {
            "federation.rounds": rounds,
            "federation.evaluate_every": 1,
            "privacy.mode": "local" if private else "none",
        }
    )
    folder.write_settings(settings.with_changes(changes) if changes else settings)
    models = MODELS if private else MODELS[:2]
    rows = _metric_rows(chance, sizes, rounds, models)
    folder.write_metrics(rows)
    main = models[-1]
    for arm in models:
        write_logs(folder if arm == main else folder.arm(arm), names, rounds, arm == MODELS[-1])
    result = _result(folder, rows, sizes, rounds, main)
    folder.write_result(result.model_copy(update=_comparisons(result)) if compared else result)
    folder.model_dir.mkdir()
    return folder


def _comparisons(result: RunResult) -> dict[str, Any]:
    """Intervals, groups and a sweep that go with a result's figures."""
    intervals, groups, sweep = [], [], []
    arms = {**result.all_arms(), "untrained": result.metrics}
    targets: dict[str, tuple[float | None, ...]] = {"distributed": (8.0, 2.0)}
    arms["distributed"] = result.metrics
    for name, figures in arms.items():
        for target in targets.get(name, (None,)):
            for metric, value in figures.items():
                if value is None:
                    continue
                against = {None: 0.0, "alone": result.arms["alone"].get(metric) or 0.0}
                for reference, other in against.items():
                    intervals.append(
                        PairedInterval(
                            arm=name,
                            epsilon=target,
                            against=reference,
                            metric=metric,
                            customers=900,
                            value=value - other,
                            low=value - other - 0.011,
                            high=value - other + 0.012,
                        )
                    )
            if name in ("alone", "distributed"):
                spreads = {m: Spread(mean=v, std=0.002) for m, v in figures.items()}
                sweep.append(
                    SweepRow(arm=name, label=ARMS[name].label, epsilon=target, figures=spreads)
                )
    for group in ("largest stores", "smallest stores", "gap"):
        for name in ("alone", "joining with privacy"):
            groups.append(
                GroupFigure(
                    grouping="store size",
                    group=group,
                    customers=300,
                    arm=name,
                    metric="rise_auc",
                    value=0.02,
                    low=-0.01,
                    high=0.05,
                )
            )
    return {"intervals": intervals, "groups": groups, "sweep": sweep}


def write_logs(folder: ArmFolder, stores: list[str], rounds: int, private: bool) -> None:
    """Append the logs of whole rounds."""
    for number in range(1, rounds + 1):
        for store in stores:
            for step in range(1, 5):
                append_step(folder, store, number, step, epsilon_at(number) if private else None)
        append_stage(folder, number, "train", len(stores), 1.5)
        append_stage(folder, number, "evaluate", len(stores), 0.5)
    append_stage(folder, rounds, "done", 0, 0.0)


def append_step(
    folder: ArmFolder, store: str, number: int, step: int, epsilon: float | None, steps: int = 4
) -> None:
    """Append one line to a store's own log."""
    log = folder.store_log(store)
    log.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "arm": "federated_private",
        "round": number,
        "step": step,
        "steps": steps,
        "loss": 3.0 / number + 0.01 * step,
        "epsilon": epsilon,
        "time": 1000.0 * number + step,
    }
    with log.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def append_stage(folder: ArmFolder, number: int, stage: str, replies: int, seconds: float) -> None:
    """Append one line to the server's log."""
    folder.path.mkdir(parents=True, exist_ok=True)
    entry = {
        "round": number,
        "stage": stage,
        "split": "validate" if stage == "evaluate" else None,
        "replies": replies,
        "refusals": {},
        "seconds": seconds,
    }
    with folder.rounds_file.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def epsilon_at(number: int, rounds: int = 5) -> float:
    """How a budget of `TARGET` is used up."""
    return TARGET * math.sqrt(min(1.0, number / rounds)) - 0.019


def _metric_rows(
    chance: random.Random, sizes: dict[str, int], rounds: int, models: tuple[str, ...]
) -> list[MetricRow]:
    rows: list[MetricRow] = []

    def add(arm: str, number: int | None, split: str, metric: str, level: float) -> None:
        values = {s: min(0.99, chance.gauss(level, 0.02 + 0.3 / n)) for s, n in sizes.items()}
        if len(values) > 1 and metric == "rise_auc" and split == "test":
            values[next(iter(values))] = math.nan
        known = {store: v for store, v in values.items() if not math.isnan(v)}
        total = sum(sizes[store] for store in known)
        pooled = sum(value * sizes[store] for store, value in known.items()) / total
        for store, value in [*values.items(), (ALL_STORES, pooled)]:
            weight = float(sum(sizes.values()) if store == ALL_STORES else sizes[store])
            rows.append(
                MetricRow(
                    arm=arm,
                    round=number,
                    split=split,
                    store=store,
                    metric=metric,
                    value=value,
                    weight=weight,
                )
            )

    for split in ("validate", "test"):
        for arm in (*BASKET, *OUTLOOK, *models):
            tasks = ("basket",) if arm in BASKET else ("outlook",) if arm in OUTLOOK else None
            levels = OUTLOOK_LEVEL if tasks != ("basket",) else LEVEL
            for task in tasks or ("basket", "outlook"):
                table = LEVEL if task == "basket" else levels
                for metric in metrics_of(task):  # type: ignore[arg-type]
                    top = table[arm] * SCALE[metric.name]
                    if arm not in models:
                        add(arm, None, split, metric.name, top)
                        continue
                    for number in range(1, rounds + 1) if split == "validate" else [rounds]:
                        floor = 0.5 if task == "outlook" else 0.55 * top
                        pace = 1 - math.exp(-2.5 * number / rounds)
                        add(arm, number, split, metric.name, floor + (top - floor) * pace)
    for arm in models:
        for number in range(1, rounds + 1):
            add(arm, number, "train", "loss", 3.0 / number)
    if MODELS[-1] in models:
        for number in range(1, rounds + 1):
            for store, size in sizes.items():
                rows.append(
                    MetricRow(
                        arm=MODELS[-1],
                        round=number,
                        split="train",
                        store=store,
                        metric="epsilon",
                        value=epsilon_at(number, rounds),
                        weight=float(size),
                    )
                )
    return rows


def _result(
    folder: RunFolder, rows: list[MetricRow], sizes: dict[str, int], rounds: int, main: str
) -> RunResult:
    test = [row for row in rows if row["split"] == "test"]
    pooled: dict[str, dict[str, float | None]] = {}
    shops: dict[str, dict[str, list[float]]] = {}
    for row in test:
        value = row["value"]
        if row["store"] == ALL_STORES:
            pooled.setdefault(row["arm"], {})[row["metric"]] = value
        elif value is not None and not math.isnan(value):
            shops.setdefault(row["arm"], {}).setdefault(row["metric"], []).append(value)
    spread = {
        arm: {
            metric: {
                "mean": statistics.fmean(values),
                "std": statistics.pstdev(values),
                "min": min(values),
                "max": max(values),
            }
            for metric, values in metrics.items()
        }
        for arm, metrics in shops.items()
    }
    spent = {
        "max": epsilon_at(rounds, rounds),
        "delta": 1e-6,
        "mode": "local",
        "unit": "customer",
        "relation": "add-or-remove-one",
        "sample_rate": 0.1,
        "noise_multiplier": 0.83,
        "steps": 4 * rounds,
        "per_store": {store: epsilon_at(rounds, rounds) for store in sizes},
    }
    return RunResult.model_validate(
        {
            "recipe": "grocery",
            "run": folder.name,
            "run_dir": str(folder.path),
            "stores": len(sizes),
            "customers": sum(sizes.values()),
            "rounds": rounds,
            "seconds": 402.0,
            "peak_memory_mb": 1830.0,
            "data_note": "Complete Journey (84.51°), 2017, for education and research.",
            "metrics": pooled[main],
            "baselines": {arm: pooled[arm] for arm in (*BASKET, *OUTLOOK)},
            "arms": {arm: pooled[arm] for arm in MODELS if arm in pooled},
            "spread": spread,
            "epsilon": spent if main == MODELS[-1] else None,
            "notes": ["Updates travel in the clear: the coordinator sees each store's."],
        }
    )
