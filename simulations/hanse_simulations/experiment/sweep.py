"""Accuracy by epsilon, for both modes and the arms that they are compared with.

Every point is trained several times, each with other samples and other noise. The two modes are
compared with `centralized_private` (the same steps on all customers in one place, by one trusted
party), `centralized` (all customers in one place without privacy, an upper reference), the
federation without noise, and every store alone. Simple rules and boosted trees on the same
customers come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from hanse_client.tasks.interest.metrics import Figures
from hanse_common.config import RunSettings
from hanse_common.manifest_noise import rate_share
from hanse_common.manifest_terms import planned_manifest
from hanse_common.privacy.plan import unsolved
from hanse_simulations.experiment.arms import ARMS, Arm, non_private_terms
from hanse_simulations.experiment.figures import spread_of
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.experiment.runner import Runner
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.results import Spread, SweepRow

METRICS: Final = (
    "hr@10",
    "recall@10",
    "ndcg@10",
    "explore_ndcg@10",
    "rise_auc",
    "fall_auc",
)


# The arms' former names, from which the draws behind published figures were derived.
_SALTS: Final = {"centralized": "pooled", "centralized_private": "central"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One training of a sweep."""

    arm: Arm
    """The arm of the table, with the point's settings as overrides."""
    epsilon: float | None
    seed: int

    @property
    def name(self) -> str:
        """Name of the point's folder."""
        return self.arm.name + self._suffix

    def named(self) -> Arm:
        """The arm under the point's own name."""
        salt = _SALTS.get(self.arm.name, self.arm.name) + self._suffix
        return replace(self.arm, name=self.name, salt=salt)

    @property
    def _suffix(self) -> str:
        epsilon = "" if self.epsilon is None else f"-eps{self.epsilon:g}"
        return f"{epsilon}-seed{self.seed}"


def run_sweep(
    home: Path, settings: RunSettings, prepared: Prepared, work: Runner
) -> list[tuple[Point, dict[str, Figures]]]:
    """Train every point of the settings' sweep; finished ones are skipped.

    Args:
        home: Folder with a sub-folder for each point.
        settings: The run's settings.
        prepared: The run's stores.
        work: The runner that trains.

    Returns:
        Each point with its test figures by store.

    Raises:
        HanseError: `Runner.train` failed.
    """
    trained = []
    for point in points(settings, len(prepared.names)):
        run = work.train(point.named(), ArmFolder(home / point.name), settings, prepared)
        trained.append((point, run.figures()))
    return trained


def points(settings: RunSettings, stores: int) -> Iterator[Point]:
    """List the points of a sweep.

    Args:
        settings: The run's settings, with `sweep` set.
        stores: Number of stores.
    """
    sweep = settings.sweep
    if sweep is None:
        return
    plain = fresh_terms(settings)
    in_one_place = {
        "federation.secure_aggregation": False,
        "federation.strategy_options": {
            **settings.federation.strategy_options,
            **dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1),
        },
        "training.expected_batch_size": settings.training.expected_batch_size * stores,
    }
    for seed in range(settings.seed, settings.seed + sweep.seeds):
        seeded = {**plain, "seed": seed}
        for name in ("centralized", "federated", "alone"):
            arm = replace(ARMS[name], overrides={**seeded, **non_private_terms(settings)})
            yield Point(arm=arm, epsilon=None, seed=seed)
        for epsilon in sweep.epsilons:
            promised = {**seeded, "privacy.target_epsilon": epsilon}
            shared = {**promised, "privacy.mode": "distributed"}
            rates = _local_rates(settings.with_changes(shared), stores)
            # One store's own noise is all of it; Poisson sampling is the same everywhere.
            local = {**promised, "privacy.mode": "local"}
            for name, terms in (
                ("distributed", shared),
                ("local", {**local, "training.learning_rate": rates.by_itself}),
                (
                    "centralized_private",
                    {**local, **in_one_place, "training.learning_rate": rates.in_one_place},
                ),
            ):
                yield Point(arm=replace(ARMS[name], overrides=terms), epsilon=epsilon, seed=seed)


@dataclass(frozen=True, slots=True)
class _Rates:
    """Learning rates of the arms in mode local, where stores step by themselves."""

    by_itself: float
    in_one_place: float


def _local_rates(shared: RunSettings, stores: int) -> _Rates:
    """Rates that follow the noise as the steps of the federation with shared noise do."""
    rate, reference = shared.training.learning_rate, shared.training.reference_noise
    if reference is None:
        # A store adds all of the noise, the root of the number of stores times its share. With
        # steps of the others' size it comes out far worse (docs/lab-notes.md).
        return _Rates(by_itself=rate / stores**0.5, in_one_place=rate)
    manifest = planned_manifest(shared, 1, stores)
    whole = shared.with_changes({"training.reference_noise": reference / stores**0.5})
    return _Rates(
        by_itself=rate * rate_share(manifest, whole),
        in_one_place=rate * rate_share(manifest, shared),
    )


def fresh_terms(settings: RunSettings) -> dict[str, Any]:
    """Changes to a run's settings for a training of its own, whose noise is solved again."""
    return {
        "sweep": None,
        "continues": None,
        "federation.evaluate_every": settings.federation.rounds,
        "privacy.noise_multiplier": None,
        "phases": [phase.model_dump() for phase in unsolved(settings).phases],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepFigures:
    """Test figures of one training, or of one rule."""

    overall: dict[str, float]
    """All customers together, by metric."""
    over_stores: dict[str, Spread]
    """Spread over the stores, by metric."""

    @classmethod
    def of(cls, by_store: Mapping[str, Figures]) -> SweepFigures:
        """Summarise the stores' figures; stores where a metric is undefined are left out of it."""
        overall = Figures.pooled(list(by_store.values())).metrics()
        stores = [figures.metrics() for figures in by_store.values()]
        known = {m: [f[m] for f in stores if math.isfinite(f[m])] for m in METRICS}
        return cls(
            overall={name: value for name, value in overall.items() if name in METRICS},
            over_stores={m: spread_of(values) for m, values in known.items() if values},
        )


def summarise(trained: Sequence[tuple[Point, SweepFigures]]) -> list[SweepRow]:
    """Join the seeds of every arm and epsilon; in the order of `ARMS`, epsilon falling."""
    groups: dict[tuple[str, float | None], list[SweepFigures]] = {}
    for point, figures in trained:
        groups.setdefault((point.arm.name, point.epsilon), []).append(figures)
    order = list(ARMS)
    ranked = sorted(groups, key=lambda key: (order.index(key[0]), -(key[1] or 0)))
    return [joined(ARMS[name], groups[name, at], epsilon=at) for name, at in ranked]


def joined(
    arm: Arm,
    by_seed: Sequence[SweepFigures],
    *,
    epsilon: float | None = None,
    wanted: Sequence[str] = METRICS,
) -> SweepRow:
    """One row of the comparison, over several seeds.

    Args:
        arm: The arm that was trained.
        by_seed: Figures of each seed.
        epsilon: Target epsilon, if it was private.
        wanted: Metrics that apply to this row.
    """
    names = [name for name in METRICS if name in wanted]
    return SweepRow(
        arm=arm.name,
        label=arm.label,
        epsilon=epsilon,
        seeds=len(by_seed),
        figures={name: spread_of([part.overall[name] for part in by_seed]) for name in names},
        over_stores={
            name: _mean_spread([part.over_stores[name] for part in by_seed])
            for name in names
            if all(name in part.over_stores for part in by_seed)
        },
    )


def _mean_spread(parts: Sequence[Spread]) -> Spread:
    def mean(field: str) -> float:
        return fmean(getattr(part, field) for part in parts)

    return Spread(mean=mean("mean"), std=mean("std"), min=mean("min"), max=mean("max"))
