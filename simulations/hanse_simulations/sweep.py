"""Accuracy against epsilon: both modes beside what they have to be better than.

Every point is trained several times with other samples and other noise. Beside the two modes
stand `central` (the same steps on all customers in one place, by one trusted party), `pooled`
(the same without noise), the federation without noise, and every store by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Final

from hanse_client.evaluate import Figures
from hanse_client.histories import Histories
from hanse_client.node import Node, list_nodes
from hanse_common.config import RunSettings
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.arm_folder import ArmFolder
from hanse_simulations.engines import WorkerPool
from hanse_simulations.prepare import Prepared
from hanse_simulations.progress import Progress
from hanse_simulations.results import Spread, SweepRow
from hanse_simulations.runs import RunFolder
from hanse_simulations.training import Arm, alone, federate

LABELS: Final = {
    "pooled": "All customers in one place, no privacy",
    "central": "All customers in one place, private",
    "federated": "Federation, no privacy",
    "distributed": "Federation, noise shared under masks",
    "alone": "Each store alone, no privacy",
    "local": "Federation, each store adds its own noise",
}
_DONE = "done"
METRICS: Final = ("ndcg@10", "explore_ndcg@10", "rise_auc", "fall_auc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One training of a sweep."""

    trainer: str
    epsilon: float | None
    seed: int
    settings: RunSettings

    @property
    def name(self) -> str:
        """Of the point's folder."""
        epsilon = "" if self.epsilon is None else f"-eps{self.epsilon:g}"
        return f"{self.trainer}{epsilon}-seed{self.seed}"

    @property
    def pooled(self) -> bool:
        """Whether all customers are in one place."""
        return self.trainer in ("pooled", "central")


def run_sweep(
    folder: RunFolder,
    settings: RunSettings,
    prepared: Prepared,
    histories: Sequence[Histories],
    pool: WorkerPool,
    progress: Progress,
    resume: bool,
) -> list[SweepRow]:
    """Train every point of the sweep that the settings ask for; finished ones are kept.

    Raises:
        HanseError: As `Arm.run` does.
    """
    found, home = [], folder.path / "sweep"
    for point in points(settings, len(prepared.names)):
        plan = PrivacyPlan.from_settings(point.settings)
        noise = None if plan is None else plan.noise_multiplier
        arm = Arm(
            name=point.name,
            folder=ArmFolder(home / point.name),
            settings=point.settings.with_changes({"privacy.noise_multiplier": noise}),
            start=alone if point.trainer in ("alone", "pooled") else federate,
        )
        stores = pooled_stores(prepared, histories, home) if point.pooled else prepared
        rounds = settings.federation.rounds
        progress.arm(point.name, arm.folder, rounds)
        if not (arm.folder.path / _DONE).exists():
            arm.run(stores, pool, resume)
            (arm.folder.path / _DONE).touch()
        found.append((point, point_figures(arm.folder.stores_dir, rounds)))
    return summarise(found)


def points(settings: RunSettings, stores: int) -> Iterator[Point]:
    """List what a sweep trains.

    Args:
        settings: The run's, with `sweep` set.
        stores: How many stores there are.
    """
    sweep = settings.sweep
    if sweep is None:
        return
    plain = settings.with_changes(
        {
            "sweep": None,
            "federation.evaluate_every": settings.federation.rounds,
            "privacy.noise_multiplier": None,
        }
    )
    # A store's own noise is larger than its share by the root of the number of stores, and
    # the steps are smaller by as much: with the others' steps it would come out far worse.
    by_itself = {
        "privacy.mode": "local",
        "training.learning_rate": settings.training.learning_rate / stores**0.5,
    }
    in_one_place = {
        "federation.secure_aggregation": False,
        "federation.strategy_options": {
            **settings.federation.strategy_options,
            **dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1),
        },
        "training.expected_batch_size": settings.training.expected_batch_size * stores,
        # One store's own noise is all of it; Poisson sampling is the same everywhere.
        "privacy.mode": "local",
    }
    for seed in range(settings.seed, settings.seed + sweep.seeds):
        seeded = plain.with_changes({"seed": seed})
        without = seeded.with_changes({"privacy": {"mode": "none"}})
        for trainer in ("pooled", "federated", "alone"):
            yield Point(trainer=trainer, epsilon=None, seed=seed, settings=without)
        for epsilon in sweep.epsilons:
            at = seeded.with_changes({"privacy.target_epsilon": epsilon})
            for trainer, changes in (
                ("distributed", {"privacy.mode": "distributed"}),
                ("local", by_itself),
                ("central", in_one_place),
            ):
                chosen = at.with_changes(changes)
                yield Point(trainer=trainer, epsilon=epsilon, seed=seed, settings=chosen)


def pooled_stores(prepared: Prepared, histories: Sequence[Histories], folder: Path) -> Prepared:
    """Put all stores' customers into one store.

    Args:
        prepared: The stores.
        histories: Theirs, in the same order.
        folder: Where the joint histories are written.
    """
    path = folder / "pooled.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Histories.pooled(list(histories)).save(path)
    return replace(prepared, names=("all",), histories=(path,))


def point_figures(stores_dir: Path, rounds: int) -> dict[str, float]:
    """The test figures of a finished point, over all customers together."""
    nodes = [Node(folder) for folder in list_nodes(stores_dir)]
    found = Figures.pooled([Figures.load(node.evaluation("test", rounds)) for node in nodes])
    return {name: value for name, value in found.metrics().items() if name in METRICS}


def summarise(found: Sequence[tuple[Point, dict[str, float]]]) -> list[SweepRow]:
    """Join the seeds of every trainer and epsilon; in the order of `LABELS`, epsilon falling."""
    groups: dict[tuple[str, float | None], list[dict[str, float]]] = {}
    for point, figures in found:
        groups.setdefault((point.trainer, point.epsilon), []).append(figures)
    order = list(LABELS)
    ranked = sorted(groups, key=lambda key: (order.index(key[0]), -(key[1] or 0)))
    return [
        SweepRow(
            trainer=trainer,
            label=LABELS[trainer],
            epsilon=epsilon,
            seeds=len(groups[trainer, epsilon]),
            figures={
                name: _spread([figures[name] for figures in groups[trainer, epsilon]])
                for name in METRICS
            },
        )
        for trainer, epsilon in ranked
    ]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=fmean(values), std=pstdev(values), min=min(values), max=max(values))
