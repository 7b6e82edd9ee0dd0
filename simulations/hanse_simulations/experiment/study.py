"""Run a study: one data set trained centralized, federated, and federated with privacy.

The production ServerApp and ClientApp do the work, as in every simulation. Arms:

- `centralized`: all customers in one place without privacy, the setting of papers
- `federated`: customers assigned to stores by lot; no privacy
- `federated_private`, `federated_private_half`: the same stores at the target ε and at half
  of it, masked sums with the noise shared among the stores
- `alone`, with `--compare`: each store trains its own model without privacy

All arms are compared with intervals over the same customers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field
from transformers import PreTrainedModel

from hanse_client.features.by_customer import lots
from hanse_client.tasks.base import Ints, StoreData
from hanse_client.training.train import check_size
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_simulations.evaluation.paired_arms import compare_arms
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import ARMS, Arm
from hanse_simulations.experiment.exchange_notes import exchange_notes
from hanse_simulations.experiment.prepare import ONE_PLACE, Prepared
from hanse_simulations.experiment.runner import runner
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import PairedInterval, RunResult


class StudyResult(RunResult):
    """The outcome of a study."""

    main: str = "federated_private"
    """Name of the arm whose model is kept."""
    arm_seconds: dict[str, float] = Field(default_factory=dict)
    arm_epsilon: dict[str, float] = Field(default_factory=dict)
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Published metrics, where papers use the data set."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Rows of the data that could not be used, by reason."""

    @property
    def main_arm(self) -> str:
        """The arm whose model is kept."""
        return self.main


class Divisible(StoreData, Protocol):
    """A data set that can be split into stores."""

    def __len__(self) -> int:
        """Number of customers."""
        ...

    def select(self, customers: Ints) -> Divisible:
        """The data of these customers alone."""
        ...

    def save(self, path: Path) -> None:
        """Write to one file."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study's data, model, and recipe for each arm."""

    data: Any
    """A `Divisible`."""
    base: Callable[[RunSettings], PreTrainedModel]
    """Makes an arm's untrained model."""
    private: Callable[[], RunSettings]
    federated: Callable[[], RunSettings]
    centralized: Callable[[], RunSettings]
    stores: Callable[[RunSettings], Mapping[str, Any]] | None = None
    """An arm's stores by name, where customers belong to stores; assigned by lot if None."""
    data_note: str = ""
    baselines: Callable[[], Mapping[str, Any]] = dict
    """Fits and evaluates the baselines: by baseline its test figures, whose customers are indices
    into `data`, or else its metrics, which cannot be compared with intervals."""
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


ReadStudy = Callable[[RunSettings, Progress], Study]
"""Reads the data of a study."""


def run_study(
    folder: RunFolder, settings: RunSettings, read: ReadStudy, *, quiet: bool = False
) -> StudyResult:
    """Train and evaluate every arm, skipping those that are done; save the main arm's model.

    Args:
        folder: The run's folder.
        settings: The main arm's settings.
        read: Reads the data.
        quiet: Show no progress.

    Raises:
        ConfigError: No data are named, or there are too few customers for the stores.
        DataError: The data cannot be used.
        HanseError: Privacy or the federation failed.
    """
    seconds: dict[str, float] = {}
    runs = []
    with runner(settings, quiet=quiet) as work:
        study = read(settings, work.progress)
        for arm in arms_of(settings, study):
            begun = time.monotonic()
            home = folder.arm(arm.name)
            stores = _prepare(home, arm.settings(settings), study)
            # With one store there is nothing to average: it trains without rounds.
            if len(stores.names) == 1 and arm.trainer == "federated":
                arm = replace(arm, trainer="alone")
            runs.append(work.train(arm, home, settings, stores))
            seconds[arm.name] = round(time.monotonic() - begun, 1)
        runs[0].model().save_pretrained(folder.model_dir)
        work.progress.note("judging the baselines")
        baselines = study.baselines()
        figures = {run.arm.name: run.overall() for run in runs}
        spent = {run.arm.name: one for run in runs if (one := run.epsilon()) is not None}
        main = runs[0].arm.name
        result = StudyResult(
            recipe=settings.recipe,
            run=folder.name,
            run_dir=str(folder.path),
            stores=len(runs[0].stores.names),
            customers=len(study.data),
            rounds=settings.federation.rounds,
            data_note=study.data_note,
            main=main,
            metrics=figures.pop(main),
            arms=figures,
            baselines={name: _metrics(one) for name, one in baselines.items()},
            intervals=_intervals(study, runs, baselines),
            secure_aggregation=settings.secure,
            epsilon=spent.get("federated_private"),
            notes=[*study.notes, *exchange_notes(runs[0])],
            arm_seconds=seconds,
            arm_epsilon={name: one.max for name, one in spent.items()},
            published=study.published,
            left_out=study.left_out,
            seconds=work.seconds,
        )
    folder.write_result(result)
    return result


def data_file(settings: RunSettings, example: str) -> Path:
    """The data file that the settings name.

    Raises:
        ConfigError: They name none.
    """
    if settings.data.path is None:
        raise ConfigError(
            f"the recipe {settings.recipe!r} has no data of its own",
            hint=f"name a file: hanse simulate {settings.recipe} --data {example}",
        )
    return settings.data.path


def arms_of(settings: RunSettings, study: Study) -> list[Arm]:
    """List the arms of a study, the main one first; without `compare` only that one.

    The main arm is the private one; without privacy it is the federation, or, with one store,
    the centralized arm.

    Args:
        settings: The run's settings, which are the main arm's. The other arms get their
            differences from the recipe, except the number of stores for the centralized arm
            and terms of privacy for arms without it.
        study: The study, with the recipes.
    """
    recipe = dict(_flat(study.private().model_dump(exclude={"sweep"})))
    changes = {
        key: value
        for key, value in _flat(settings.model_dump(exclude={"sweep"}))
        if key not in recipe or recipe[key] != value
    }
    plain = {key: value for key, value in changes.items() if not key.startswith("privacy.")}
    one = {key: value for key, value in plain.items() if key != "data.stores"}
    main, half, federated = (
        ARMS[name] for name in ("federated_private", "federated_private_half", "federated")
    )
    federated = replace(federated, overrides=study.federated().with_changes(plain).model_dump())
    centralized = replace(
        ARMS["centralized"],
        overrides=study.centralized().with_changes(one).model_dump(),
        salt="pooled",  # the arm's former name, which its published draws were derived from
    )
    if settings.privacy.mode != "none":
        stricter = {"privacy.target_epsilon": settings.privacy.target_epsilon / 2}
        arms = [main, replace(half, overrides=stricter), federated, centralized]
        return [*arms, *_alone(settings, study, centralized)] if settings.compare else [main]
    if settings.compare:
        return [federated, centralized, *_alone(settings, study, centralized)]
    return [centralized if settings.data.stores == 1 else federated]


def _alone(settings: RunSettings, study: Study, centralized: Arm) -> list[Arm]:
    """The arm of stores that train by themselves, which takes long and is for `--compare`.

    Each store makes as many passes over its own customers as the centralized arm over all.
    """
    if settings.sweep is None:
        return []
    stores = len(_stores_of(study, settings))
    if stores == 1:
        return []
    terms = centralized.settings(settings)
    changes = {
        "data.stores": settings.data.stores,
        "training.sample_rate": min(1.0, terms.training.sample_rate * stores),
        "training.local_steps": max(1, round(terms.training.local_steps / stores)),
    }
    return [replace(ARMS["alone"], overrides=terms.with_changes(changes).model_dump())]


def deal_out(data: Divisible, stores: int, *, seed: int) -> list[Divisible]:
    """Assign customers by lot to stores of about the same size.

    Guarantees:
        A customer's store depends on their own id, the number of stores and the seed. In
        stores of exactly the same size, one customer less would move others.
    """
    home = (lots(data.customers.tolist(), key=f"stores/{seed}") * stores).astype(np.int64)
    return [data.select(np.flatnonzero(home == store)) for store in range(stores)]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a table of tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _metrics(figures: Any) -> dict[str, Any]:
    """Metrics of a baseline that is given by its figures or by its metrics."""
    return dict(figures) if isinstance(figures, Mapping) else figures.metrics()


def _intervals(
    study: Study, runs: Sequence[ArmRun], baselines: Mapping[str, Any]
) -> list[PairedInterval]:
    """Compare all arms and baselines on the same customers."""
    places = {customer: i for i, customer in enumerate(study.data.customers.tolist())}
    trainings: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    known = {name: one for name, one in baselines.items() if not isinstance(one, Mapping)}
    for name, figures in known.items():
        trainings[name, None] = [{ONE_PLACE: figures}]
    for run in runs:
        terms = run.settings.privacy
        target = None if terms.mode == "none" else terms.target_epsilon
        stores = _stores_of(study, run.settings)
        # An arm's stores are not another's: customers are numbered by the data set.
        parts = [
            replace(figures, customers=_placed(stores[name].customers, places)[figures.customers])
            for name, figures in run.figures().items()
        ]
        if parts:
            trainings[run.arm.name, target] = [{ONE_PLACE: type(parts[0]).pooled(parts)}]
    strongest = max(known, key=lambda name: next(iter(_metrics(known[name]).values())), default="")
    return compare_arms(
        trainings, seed=runs[0].settings.seed, references=("alone", strongest, "federated")
    )


def _placed(customers: Any, places: Mapping[Any, int]) -> Ints:
    return np.array([places[customer] for customer in customers.tolist()], dtype=np.int64)


def _stores_of(study: Study, settings: RunSettings) -> Mapping[str, Any]:
    """An arm's stores by name."""
    return (study.stores or partial(_by_lot, study.data))(settings)


def _prepare(home: ArmFolder, settings: RunSettings, study: Study) -> Prepared:
    """Write the prepared stores and the untrained model of an arm."""
    folder = home.path / "prepared"
    stores = _stores_of(study, settings)
    histories = tuple(folder / f"{name}.npz" for name in stores)
    for path, (name, store) in zip(histories, stores.items(), strict=True):
        check_size(name, store, settings)
        store.save(path)
    base = folder / "base"
    if not base.exists():
        study.base(settings).save_pretrained(base)
    return Prepared(names=tuple(stores), histories=histories, base_model=base, rejects=0)


def _by_lot(data: Divisible, settings: RunSettings) -> dict[str, Divisible]:
    count = settings.data.stores or 1
    if len(data) < count * settings.data.min_customers:
        raise ConfigError(
            f"data.stores={count} with {len(data)} customers and data.min_customers="
            f"{settings.data.min_customers}",
            hint="ask for fewer stores: --stores 5",
        )
    dealt = deal_out(data, count, seed=settings.seed)
    return {f"store {number:03d}": store for number, store in enumerate(dealt, start=1)}
