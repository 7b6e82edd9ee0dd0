"""An arm in its folder: its settings and stores, and the results of its training.

Metrics, epsilon and losses are read from the stores' own folders, which an analyst who
simulates has and a coordinator does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hanse_client.node import Node, list_nodes
from hanse_client.tasks import task_of
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings
from hanse_common.decoding import json_lines
from hanse_common.paths import EVALUATIONS_FOLDER, GLOBAL_FILE, OWN_MODEL_FILE, STORE_LOG_FILE
from hanse_common.privacy.accounting import NEIGHBOURS, epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import read_arrays
from hanse_simulations.experiment.arms import ALL_STORES, Arm, main_arm
from hanse_simulations.experiment.figures import metric_rows
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import EpsilonSpent, MetricRow

_EVALUATION = re.compile(r"(validate|test)-(\d+)\.npz")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRun:
    """One arm in a folder, which may have been trained."""

    arm: Arm
    folder: ArmFolder
    settings: RunSettings
    """The arm's own settings, with the noise solved."""
    stores: Prepared
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Customers of each store, where this arm holds the customers of all stores in one node."""

    @classmethod
    def opened(cls, folder: RunFolder) -> ArmRun:
        """Open the main arm of a run, with the run's prepared stores.

        Raises:
            ConfigError: The run's settings cannot be read.
            DataError: The run has no stores.
        """
        settings = folder.read_settings()
        nodes = [Node(path) for path in list_nodes(folder.stores_dir)]
        stores = Prepared(
            names=tuple(node.name for node in nodes),
            histories=tuple(node.settings.histories for node in nodes),
            base_model=nodes[0].settings.base_model,
            rejects=0,
        )
        return cls(arm=main_arm(settings), folder=folder, settings=settings, stores=stores)

    @property
    def rounds(self) -> int:
        """Rounds of training."""
        return self.settings.federation.rounds

    @property
    def by_itself(self) -> bool:
        """Whether each node trains its own model, without rounds or masks.

        So does the one node of a centralized arm, unless it takes the steps of a private
        federation.
        """
        non_private = self.settings.privacy.mode == "none"
        return self.arm.trainer == "alone" or (self.arm.trainer == "centralized" and non_private)

    @property
    def nodes(self) -> list[Node]:
        """The stores' nodes."""
        return [Node(path) for path in list_nodes(self.folder.stores_dir)]

    def model(self) -> Any:
        """The trained model, in evaluation mode; undefined for several stores that train alone.

        Raises:
            RunDirectoryError: The arm's folder holds no model.
        """
        trained = self.folder.path / GLOBAL_FILE
        if self.by_itself and len(self.nodes) == 1:  # nothing was aggregated
            trained = self.nodes[0].folder / OWN_MODEL_FILE
        model = task_of(self.settings.task).load_model(self.stores.base_model)
        load_arrays(model, read_arrays(trained))
        model.train(False)
        return model

    def figures(
        self, split: Literal["validate", "test"] = "test", number: int | None = None
    ) -> dict[str, Any]:
        """Each store's figures of one evaluation; stores that did not evaluate are left out.

        Args:
            split: The weeks or customers of the evaluation.
            number: Round after which it took place; the last by default.

        Returns:
            Figures of the arm's task, by store. Those of one node that holds the customers of
            all stores are split into the stores'.
        """
        kind: Any = task_of(self.settings.task).figures
        number = self.rounds if number is None else number
        files = {node.name: node.evaluation(split, number) for node in self.nodes}
        figures = {name: kind.load(path) for name, path in files.items() if path.exists()}
        if not self.sizes or not figures:
            return figures
        (together,) = figures.values()
        # Pooling kept the stores' order, so each store is one range of customer indices.
        bounds = np.concatenate([[0], np.cumsum(list(self.sizes.values()))])
        parts = zip(self.sizes, bounds[:-1], bounds[1:], strict=True)
        return {name: together.of(np.arange(a, b)).shifted(-int(a)) for name, a, b in parts}

    def overall(self) -> dict[str, float]:
        """The test figures of the customers of all stores together."""
        kind: Any = task_of(self.settings.task).figures
        metrics: dict[str, float] = kind.pooled(list(self.figures().values())).metrics()
        return metrics

    def epsilon(self) -> EpsilonSpent | None:
        """Epsilon spent according to each store's ledger, over all rounds and restarts.

        Returns:
            None where the arm is not private.
        """
        plan = PrivacyPlan.from_settings(self.settings)
        if plan is None:
            return None
        spent = {node.name: node.spent() for node in self.nodes}
        per_store = {n: epsilon(s, target_delta=plan.target_delta) for n, s in spent.items()}
        return EpsilonSpent(
            max=max(per_store.values()),
            delta=plan.target_delta,
            mode=self.settings.privacy.mode,
            relation=NEIGHBOURS,
            sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            steps=max(sum(steps.count for steps in one) for one in spent.values()),
            per_store=per_store,
        )

    def metric_rows(self, customers: Mapping[str, int]) -> list[MetricRow]:
        """Rows of all evaluations, and of each store's loss and epsilon by round.

        Args:
            customers: Number of customers by store, the rows' weights.
        """
        folders = (node.folder / EVALUATIONS_FOLDER for node in self.nodes)
        names = {path.name for folder in folders for path in folder.glob("*.npz")}
        rows: list[MetricRow] = []
        for match in filter(None, map(_EVALUATION.fullmatch, sorted(names))):
            split: Any = match[1]
            number = int(match[2])
            figures = self.figures(split, number)
            rows += metric_rows(self.arm.name, figures, customers, split=split, number=number)
        for node in self.nodes:
            rows += self._log_rows(node, customers)
        return rows

    def _log_rows(self, node: Node, customers: Mapping[str, int]) -> Iterator[MetricRow]:
        """Loss and epsilon by round, from a store's own log."""
        by_round: dict[int, list[dict[str, float]]] = {}
        log = node.folder / STORE_LOG_FILE
        for line in json_lines(log) if log.exists() else ():
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
                        arm=self.arm.name,
                        round=number,
                        split="train",
                        store=node.name if node.name in customers else ALL_STORES,
                        metric=metric,
                        value=value,
                        weight=customers.get(node.name, sum(customers.values())),
                    )
