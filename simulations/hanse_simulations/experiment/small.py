"""From how many stores and customers on does joining pay, and at which ε?

The customers of a finished run are thinned by lot, and its stores are merged into fewer. Every
small federation then trains the private arm at several ε, the federation without privacy, each
store alone, and all customers in one place. Several federations of the same size have different
customers and are evaluated together, since one of 150 customers alone says little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from hanse_client.features.by_customer import lots
from hanse_client.features.histories import Histories
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.paths import SMALL_FOLDER
from hanse_simulations.evaluation.paired_arms import ByStore, Key, compare_arms
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import ARMS, Arm, non_private_terms
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.experiment.runner import Runner, runner
from hanse_simulations.experiment.sweep import fresh_terms
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import SizeFigures

_STORES: Final = (3, 5)
_CUSTOMERS: Final = (150, 600)
EPSILONS: Final = (8.0, 4.0, 2.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Federation:
    """Stores and customers of one small federation."""

    stores: int
    customers: int
    part: int
    """Number of the federation among those of its size."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"stores-{self.stores}-customers-{self.customers}-part-{self.part}"


def small_federations(
    folder: RunFolder,
    *,
    stores: Sequence[int] | None = None,
    customers: Sequence[int] | None = None,
    epsilons: Sequence[float] = EPSILONS,
    federations: int = 3,
    progress: Callable[[str], None] = lambda _: None,
) -> list[SizeFigures]:
    """Train and compare federations of every size, and write them into the run's result.

    What an earlier call has trained in the run's folder is not trained again, and the sizes that
    it has measured stay in the result.

    Args:
        folder: A finished run, which has the stores and the settings.
        stores: Numbers of stores into which the run's stores are merged; 3, 5 and all if unset.
        customers: Numbers of customers of all stores together; 150, 600 and all if unset.
        epsilons: Target epsilons of the private arm.
        federations: Federations of each size, with different customers; fewer where the run has
            too few customers for so many.
        progress: Called with a line before each federation.

    Raises:
        ConfigError: A size is larger than the run, or the run is of another task.
        RunNotFound: The run has not finished.
        HanseError: Privacy or a federation failed.
    """
    result = folder.read_result()
    settings = folder.read_settings()
    if settings.task != "interest":
        raise ConfigError(
            f"small federations are trained for the task 'interest', not {settings.task!r}",
            hint="name a run of `hanse simulate grocery`",
        )
    prepared = ArmRun.opened(folder).stores
    histories = prepared.load()
    everybody = sum(len(store.active()) for store in histories)
    stores = stores or _up_to(_STORES, len(histories))
    customers = customers or _up_to(_CUSTOMERS, everybody)
    for option, given, most in (
        ("stores", max(stores), len(histories)),
        ("customers", max(customers), everybody),
    ):
        if given > most:
            raise ConfigError(
                f"--{option} {given}, and the run {folder.name!r} has {most}",
                hint="name at most as many",
            )
    rows = []
    with runner(settings) as work:
        for count in stores:
            for number in customers:
                parts = min(federations, everybody // number)
                trainings: dict[Key, dict[str, Any]] = {}
                for part in range(parts):
                    one = _Federation(stores=count, customers=number, part=part)
                    progress(f"{count} stores, {number:,} customers, {part + 1} of {parts}")
                    home = folder.path / SMALL_FOLDER / one.name
                    laid_out = _lay_out(one, prepared, histories, everybody, home, settings.seed)
                    share = (number / count) / (everybody / len(histories))
                    for key, figures in _train(work, home, settings, laid_out, share, epsilons):
                        own = trainings.setdefault(key, {})
                        own |= {f"{part}/{name}": found for name, found in figures.items()}
                rows.append(
                    SizeFigures(
                        stores=count,
                        customers=number,
                        federations=parts,
                        intervals=compare_arms(
                            {key: [by_store] for key, by_store in trainings.items()},
                            seed=settings.seed,
                        ),
                    )
                )
    measured = {(row.stores, row.customers) for row in rows}
    others = [row for row in result.sizes if (row.stores, row.customers) not in measured]
    sizes = sorted([*others, *rows], key=lambda row: (row.stores, row.customers))
    folder.write_result(result.model_copy(update={"sizes": sizes}))
    return rows


def _up_to(sizes: Sequence[int], most: int) -> list[int]:
    """The sizes below the largest one, and that."""
    return [*(size for size in sizes if size < most), most]


def _lay_out(
    one: _Federation,
    prepared: Prepared,
    histories: Sequence[Histories],
    everybody: int,
    home: Path,
    seed: int,
) -> Prepared:
    """Thin the customers by lot, merge neighbouring stores, and write their histories."""
    home.mkdir(parents=True, exist_ok=True)
    share = one.customers / everybody
    thinned = []
    for store in histories:
        drawn = lots(store.customers.tolist(), key=f"small/{seed}")
        chosen = (drawn >= one.part * share) & (drawn < (one.part + 1) * share)
        thinned.append(store.only(np.flatnonzero(chosen)))
    names, paths = [], []
    for number, members in enumerate(np.array_split(np.arange(len(thinned)), one.stores), start=1):
        names.append(f"store {number:02d}")
        paths.append(home / f"store-{number:02d}.npz")
        if not paths[-1].exists():
            Histories.pooled([thinned[member] for member in members]).save(paths[-1])
    return replace(prepared, names=tuple(names), histories=tuple(paths))


def _train(
    work: Runner,
    home: Path,
    settings: RunSettings,
    stores: Prepared,
    share: float,
    epsilons: Sequence[float],
) -> Iterator[tuple[Key, ByStore]]:
    """Train all arms of one federation; yields each with its test figures by store.

    Args:
        work: The runner that trains.
        home: The federation's folder.
        settings: The settings of the run.
        stores: The federation's stores.
        share: Size of one of its stores as a share of the run's mean store.
        epsilons: Target epsilons of the private arm.
    """
    expected = settings.training.expected_batch_size
    plain = {
        **fresh_terms(settings),
        # Sums are divided by a public number, which goes with the size of a store.
        "training.expected_batch_size": max(1.0, expected * share),
        "data.min_customers": 2,
    }
    for arm, epsilon in _arms(plain, non_private_terms(settings), epsilons):
        run = work.train(arm, ArmFolder(home / arm.name), settings, stores)
        yield (arm.name.partition("-")[0], epsilon), run.figures()


def _arms(
    plain: dict[str, Any], non_private: dict[str, Any], epsilons: Sequence[float]
) -> Iterator[tuple[Arm, float | None]]:
    for name in ("alone", "centralized", "federated"):
        yield replace(ARMS[name], overrides={**plain, **non_private}), None
    private = ARMS["federated_private"]
    for epsilon in epsilons:
        terms = {**plain, "privacy.mode": "distributed", "privacy.target_epsilon": epsilon}
        yield replace(private, name=f"{private.name}-eps{epsilon:g}", overrides=terms), epsilon
