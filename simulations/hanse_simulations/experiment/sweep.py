"""Accuracy against epsilon: both modes beside what they have to be better than.

Every point is trained several times with other samples and other noise. Beside the two modes
stand `central` (the same steps on all customers in one place, by one trusted party), `pooled`
(the same without noise: what a federation could reach), the federation without noise, and
every store by itself. Simple rules and boosted trees on the same customers come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest.metrics import Figures
from hanse_common.config import RunSettings
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.engines import WorkerPool
from hanse_simulations.experiment.figures import EVERYBODY, figures_by_store, spread_of
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.experiment.training import Arm, alone, federate
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import Spread, SweepRow

LABELS: Final = {
    "alone": "Each store alone, no privacy",
    "local": "Federation, each store's own noise",
    "distributed": "Federation, noise shared under masks",
    "federated": "Federation, no privacy",
    "central": "All in one place, private",
    "pooled": "All in one place, no privacy",
}
_DONE = "done"
METRICS: Final = (
    "hr@10",
    "recall@10",
    "ndcg@10",
    "explore_ndcg@10",
    "rise_auc",
    "fall_auc",
)


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
    sizes = dict(zip(prepared.names, map(len, histories), strict=True))
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
        by_store = figures_by_store(arm.folder, f"test-{rounds:05d}.npz", sizes)
        found.append((point, Found.of(by_store)))
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
            "continues": None,
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
    return replace(prepared, names=(EVERYBODY,), histories=(path,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Test figures of one training, or of one rule."""

    pooled: dict[str, float]
    """By metric, all customers together."""
    over_stores: dict[str, Spread]
    """By metric, how it differs from store to store."""

    @classmethod
    def of(cls, by_store: Mapping[str, Figures]) -> Found:
        """Sum up what the stores found; a store that cannot tell a figure does not count."""
        pooled = Figures.pooled(list(by_store.values())).metrics()
        stores = [figures.metrics() for figures in by_store.values()]
        known = {m: [f[m] for f in stores if math.isfinite(f[m])] for m in METRICS}
        return cls(
            pooled={name: value for name, value in pooled.items() if name in METRICS},
            over_stores={m: spread_of(values) for m, values in known.items() if values},
        )


def summarise(found: Sequence[tuple[Point, Found]]) -> list[SweepRow]:
    """Join the seeds of every trainer and epsilon; in the order of `LABELS`, epsilon falling."""
    groups: dict[tuple[str, float | None], list[Found]] = {}
    for point, figures in found:
        groups.setdefault((point.trainer, point.epsilon), []).append(figures)
    order = list(LABELS)
    ranked = sorted(groups, key=lambda key: (order.index(key[0]), -(key[1] or 0)))
    return [
        joined(trainer, LABELS[trainer], groups[trainer, epsilon], epsilon=epsilon)
        for trainer, epsilon in ranked
    ]


def joined(
    trainer: str,
    label: str,
    found: Sequence[Found],
    *,
    epsilon: float | None = None,
    wanted: Sequence[str] = METRICS,
) -> SweepRow:
    """One row of the comparison, of what several seeds found.

    Args:
        trainer: Who trained.
        label: For people.
        found: One a seed.
        epsilon: What was promised, if anything.
        wanted: Metrics that this row has anything to say about.
    """
    names = [name for name in METRICS if name in wanted]
    return SweepRow(
        trainer=trainer,
        label=label,
        epsilon=epsilon,
        seeds=len(found),
        figures={name: spread_of([part.pooled[name] for part in found]) for name in names},
        over_stores={
            name: _mean_spread([part.over_stores[name] for part in found])
            for name in names
            if all(name in part.over_stores for part in found)
        },
    )


def _mean_spread(parts: Sequence[Spread]) -> Spread:
    def mean(field: str) -> float:
        return fmean(getattr(part, field) for part in parts)

    return Spread(mean=mean("mean"), std=mean("std"), min=mean("min"), max=mean("max"))
