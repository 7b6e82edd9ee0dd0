"""From the figures in the stores' folders to one table and one result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hanse_client.node import Node, list_nodes
from hanse_client.tasks import task_of
from hanse_client.tasks.base import Figures
from hanse_client.tasks.interest.metrics import Figures as InterestFigures
from hanse_common.config import RunSettings
from hanse_common.paths import EVALUATIONS_FOLDER, STORE_LOG_FILE
from hanse_common.privacy.accounting import NEIGHBOURS, epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.experiment.arms import POOLED
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.results import EpsilonSpent, MetricRow, Spread

EVERYBODY = "all"
"""Name of the one node of an arm that trains on all customers in one place."""

_EVALUATION = re.compile(r"(validate|test)-(\d+)\.npz")


def metric_rows(
    arm: str,
    figures: Mapping[str, Figures],
    customers: Mapping[str, int],
    *,
    split: str,
    number: int | None,
    wanted: Sequence[str] | None = None,
) -> list[MetricRow]:
    """One row per store and metric, and one per metric for all customers together.

    Args:
        arm: Whose figures they are.
        figures: By store.
        customers: By store; the weights.
        split: validate or test.
        number: The round; None for a baseline.
        wanted: Metrics that this arm has anything to say about; all if unset.
    """
    pooled = {POOLED: next(iter(figures.values())).pooled(list(figures.values()))}
    weights = {**customers, POOLED: sum(customers.values())}
    return [
        MetricRow(
            arm=arm,
            round=number,
            split=split,
            store=store,
            metric=metric,
            value=value,
            weight=weights[store],
        )
        for store, found in {**figures, **pooled}.items()
        for metric, value in found.metrics().items()
        if wanted is None or metric in wanted
    ]


def figures_by_store(
    folder: ArmFolder, evaluation: str, sizes: Mapping[str, int]
) -> dict[str, InterestFigures]:
    """Read what every store of an arm found in one evaluation of the task `interest`.

    Args:
        folder: The arm's.
        evaluation: Name of the file, such as `test-00080.npz`.
        sizes: How many customers each store's histories hold, in the order of the stores. An
            arm that trains on all customers in one place has one node for all of them; its
            figures are cut into the stores'.
    """
    nodes = [Node(path) for path in list_nodes(folder.stores_dir)]
    files = {node.name: node.folder / EVALUATIONS_FOLDER / evaluation for node in nodes}
    found = {name: InterestFigures.load(path) for name, path in files.items() if path.exists()}
    together = found.pop(EVERYBODY, None) if len(nodes) == 1 else None
    if together is None:
        return found
    bounds = np.concatenate([[0], np.cumsum(list(sizes.values()))])
    parts = zip(sizes, bounds[:-1], bounds[1:], strict=True)
    return {name: together.of(np.arange(a, b)).shifted(-int(a)) for name, a, b in parts}


def arm_rows(
    arm: str,
    folder: ArmFolder,
    customers: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    task: str,
) -> list[MetricRow]:
    """Read what every store found in every evaluation of an arm, and its epsilon by round.

    Args:
        arm: Its name.
        folder: Its folder.
        customers: By store; the weights.
        sizes: As for `figures_by_store`.
        task: What was learnt.
    """
    kind = task_of(task).figures
    nodes = [Node(path) for path in list_nodes(folder.stores_dir)]
    evaluations = sorted(
        {path.name for node in nodes for path in (node.folder / EVALUATIONS_FOLDER).glob("*.npz")}
    )
    rows: list[MetricRow] = []
    for name in evaluations:
        match = _EVALUATION.fullmatch(name)
        if match is None:
            continue
        figures: Mapping[str, Figures]
        if kind is InterestFigures:
            figures = figures_by_store(folder, name, sizes)
        else:
            files = {node.name: node.folder / EVALUATIONS_FOLDER / name for node in nodes}
            figures = {store: kind.load(path) for store, path in files.items() if path.exists()}
        rows += metric_rows(arm, figures, customers, split=match[1], number=int(match[2]))
    return rows + list(_log_rows(arm, nodes, customers))


def _log_rows(arm: str, nodes: Iterable[Node], customers: Mapping[str, int]) -> Iterable[MetricRow]:
    """Loss and epsilon by round, from each store's own log."""
    for node in nodes:
        path = node.folder / STORE_LOG_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        by_round: dict[int, list[dict[str, float]]] = {}
        for line in map(json.loads, lines):
            if "round" in line:
                by_round.setdefault(int(line["round"]), []).append(line)
        for number, entries in sorted(by_round.items()):
            losses = [entry["loss"] for entry in entries if entry.get("loss") is not None]
            spent = [entry["epsilon"] for entry in entries if entry.get("epsilon") is not None]
            for metric, value in (
                ("loss", sum(losses) / len(losses) if losses else None),
                ("epsilon", spent[-1] if spent else None),
            ):
                if value is not None:
                    yield MetricRow(
                        arm=arm,
                        round=number,
                        split="train",
                        store=node.name if node.name in customers else POOLED,
                        metric=metric,
                        value=value,
                        weight=customers.get(node.name, sum(customers.values())),
                    )


def pooled_figures(rows: Sequence[MetricRow], arm: str) -> dict[str, float | None]:
    """An arm's test figures over all customers together."""
    return {
        row["metric"]: row["value"]
        for row in rows
        if row["arm"] == arm and row["split"] == "test" and row["store"] == POOLED
    }


def spreads(rows: Sequence[MetricRow], arm: str) -> dict[str, Spread]:
    """How an arm's test figures differ from store to store; stores without one are left out."""
    by_metric: dict[str, list[float]] = {}
    for row in rows:
        value = row["value"]
        if (row["arm"], row["split"]) != (arm, "test") or row["store"] == POOLED:
            continue
        if value is not None and np.isfinite(value):
            by_metric.setdefault(row["metric"], []).append(value)
    return {metric: spread_of(values) for metric, values in by_metric.items()}


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and extremes of at least one figure."""
    return Spread(
        mean=float(np.mean(values)),
        std=float(np.std(values)),
        min=min(values),
        max=max(values),
    )


def epsilon_spent(stores_dir: Path, plan: PrivacyPlan, settings: RunSettings) -> EpsilonSpent:
    """What every store's own ledger says was spent, over all rounds and restarts."""
    per_store, most = {}, 0
    for folder in list_nodes(stores_dir):
        node = Node(folder)
        spent = node.spent()
        per_store[node.name] = epsilon(spent, target_delta=plan.target_delta)
        most = max(most, sum(steps.count for steps in spent))
    return EpsilonSpent(
        max=max(per_store.values()),
        delta=plan.target_delta,
        mode=settings.privacy.mode,
        relation=NEIGHBOURS,
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=most,
        per_store=per_store,
    )
