"""A data set in one place, dealt out to stores, and dealt out under privacy.

The production ServerApp and ClientApp do the work, as in every simulation. Arms:

- `pooled`: all customers in one place, the setting of papers
- `federated`: customers dealt out to stores by lot; no privacy
- `federated_private`, `federated_private_half`: the same stores at the ε asked for and at half
  of it, masked sums with the noise shared among the stores
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from hanse_client.features.by_customer import lots
from hanse_client.node import Node, list_nodes
from hanse_client.tasks.base import Ints, StoreData
from hanse_client.training.train import check_size, load_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.paths import GLOBAL_FILE, OWN_MODEL_FILE
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import read_arrays
from hanse_simulations.engines import WorkerPool, start_workers
from hanse_simulations.experiment.figures import epsilon_spent
from hanse_simulations.experiment.prepare import Prepared
from hanse_simulations.experiment.training import Arm, alone, federate
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import EpsilonSpent, RunResult

MAIN, STRICTER = "federated_private", "federated_private_half"
FEDERATED, POOLED = "federated", "pooled"


class ResearchResult(RunResult):
    """The outcome, with each arm's seconds and epsilon."""

    arm_seconds: dict[str, float] = Field(default_factory=dict)
    arm_epsilon: dict[str, float] = Field(default_factory=dict)


class Divisible(StoreData, Protocol):
    """A data set that can be dealt out."""

    def __len__(self) -> int:
        """How many customers."""
        ...

    def some(self, customers: Ints) -> Divisible:
        """A store of these customers alone."""
        ...

    def save(self, path: Path) -> None:
        """Write to one file."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is learnt from which data, and how in each arm."""

    task: Any
    """A `hanse_client.tasks.base.Task`."""
    data: Any
    """A `Divisible`."""
    base: Callable[[RunSettings], PreTrainedModel]
    """Makes an arm's untrained model."""
    private: Callable[[], RunSettings]
    federated: Callable[[], RunSettings]
    pooled: Callable[[], RunSettings]
    stores: Callable[[RunSettings], Mapping[str, Any]] | None = None
    """An arm's stores by name, where customers have a place; dealt out by lot if left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the arms came to, by name."""

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """The main arm's first."""
    seconds: dict[str, float] = field(default_factory=dict)
    spent: dict[str, EpsilonSpent] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a study runs on, from its first line to its result."""

    pool: WorkerPool
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    def fields(self, folder: RunFolder, settings: RunSettings, found: Found) -> dict[str, Any]:
        """The fields of a result that every study fills alike."""
        first, *rest = found.figures
        return {
            "recipe": settings.recipe,
            "run": folder.name,
            "run_dir": str(folder.path),
            "rounds": settings.federation.rounds,
            "seconds": round(time.monotonic() - self.started, 1),
            "secure_aggregation": settings.secure,
            "metrics": found.figures[first],
            "arms": {name: found.figures[name] for name in rest},
            "arm_seconds": found.seconds,
            "arm_epsilon": {name: one.max for name, one in found.spent.items()},
            "epsilon": found.spent.get(MAIN),
        }


@contextmanager
def working(settings: RunSettings, *, quiet: bool) -> Iterator[Work]:
    """Start the workers and the display, and end them with the block."""
    disable_progress_bar()
    started = time.monotonic()
    with ExitStack() as stack:
        # Workers are forked before anything here starts a thread.
        pool = start_workers(settings.compute) or WorkerPool(settings.compute.workers)
        stack.enter_context(pool)
        progress = stack.enter_context(Progress(quiet=quiet))
        yield Work(pool=pool, progress=progress, started=started)


def data_file(settings: RunSettings, example: str) -> Path:
    """The file that the analyst named.

    Raises:
        ConfigError: None is.
    """
    if settings.data.path is None:
        raise ConfigError(
            f"the recipe {settings.recipe!r} has no data of its own",
            hint=f"name a file: hanse simulate {settings.recipe} --data {example}",
        )
    return settings.data.path


def arms_of(settings: RunSettings, study: Study) -> dict[str, RunSettings]:
    """The settings of every arm, the main one first; without `compare` of that one alone.

    The main one is the private one; without privacy the federation, or if it has one store
    all customers in one place.

    Args:
        settings: The run's, which the main arm has. Where they differ from the recipe the
            others follow, but for the number of stores where all customers are in one place,
            and for terms of privacy where there is none.
        study: Has the recipe.
    """
    recipe = dict(_flat(study.private().model_dump()))
    changes = {
        key: value
        for key, value in _flat(settings.model_dump())
        if key not in recipe or recipe[key] != value
    }
    plain = {key: value for key, value in changes.items() if not key.startswith("privacy.")}
    one = {key: value for key, value in plain.items() if key != "data.stores"}
    stricter = {"privacy.target_epsilon": settings.privacy.target_epsilon / 2}
    arms = {
        MAIN: lambda: settings,
        STRICTER: lambda: settings.with_changes(stricter),
        FEDERATED: lambda: study.federated().with_changes(plain),
        POOLED: lambda: study.pooled().with_changes(one),
    }
    private = settings.privacy.mode != "none"
    wanted = list(arms) if private else [FEDERATED, POOLED]
    if not settings.compare:
        wanted = [MAIN if private else POOLED if settings.data.stores == 1 else FEDERATED]
    return {name: arms[name]() for name in wanted}


def run_arms(
    folder: RunFolder,
    arms: Mapping[str, RunSettings],
    study: Study,
    work: Work,
) -> Found:
    """Train and judge every arm; arms that are done are kept. Saves the first one's model.

    Raises:
        ConfigError: There are too few customers for so many stores.
        HanseError: Privacy or the federation failed.
    """
    found = Found()
    for name, chosen in arms.items():
        plan = PrivacyPlan.from_settings(chosen)
        if plan is not None:
            noise = {"privacy.noise_multiplier": plan.noise_multiplier}
            chosen = chosen.with_changes(noise)
        home = folder.arm(name)
        begun = time.monotonic()
        work.progress.arm(name, home, chosen.federation.rounds)
        _train(name, home, chosen, study, work.pool)
        found.figures[name] = _figures(home, chosen, study)
        found.seconds[name] = round(time.monotonic() - begun, 1)
        if plan is not None:
            found.spent[name] = epsilon_spent(home.stores_dir, plan, chosen)
    home = folder.arm(next(iter(arms)))
    model: Any = study.task.load_model(_base(home))
    load_arrays(model, read_arrays(_trained(home)))
    model.save_pretrained(folder.model_dir)
    return found


def _trained(home: ArmFolder) -> Path:
    """The arm's trained parameters; a single store trains alone, and nothing is aggregated."""
    aggregated = home.path / GLOBAL_FILE
    return aggregated if aggregated.exists() else list_nodes(home.stores_dir)[0] / OWN_MODEL_FILE


def deal_out(data: Divisible, stores: int, *, seed: int) -> list[Divisible]:
    """Deal customers out to stores of about the same size, by lot.

    Guarantees:
        A customer's store depends on their own id, on the number of stores and the seed: no
        other customer moves them, as in shares of exactly the same size they would.
    """
    home = (lots(data.customers.tolist(), key=f"stores/{seed}") * stores).astype(np.int64)
    return [data.some(np.flatnonzero(home == store)) for store in range(stores)]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a table of tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _train(
    name: str, home: ArmFolder, settings: RunSettings, study: Study, pool: WorkerPool
) -> None:
    """Lay out an arm's stores and train, unless that is done."""
    prepared = _prepare(home, settings, study)
    rounds = settings.federation.rounds
    nodes = list_nodes(home.stores_dir) if home.stores_dir.exists() else []
    if nodes and all(Node(node).evaluation("test", rounds).exists() for node in nodes):
        return
    start = alone if len(prepared.names) == 1 else federate
    Arm(name=name, folder=home, settings=settings, start=start).run(prepared, pool, True)


def _prepare(home: ArmFolder, settings: RunSettings, study: Study) -> Prepared:
    folder = home.path / "prepared"
    stores = (study.stores or partial(_by_lot, study.data))(settings)
    histories = tuple(folder / f"{name}.npz" for name in stores)
    for path, (name, store) in zip(histories, stores.items(), strict=True):
        check_size(name, store, settings)
        store.save(path)
    if not _base(home).exists():
        study.base(settings).save_pretrained(_base(home))
    return Prepared(names=tuple(stores), histories=histories, base_model=_base(home), rejects=0)


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


def _base(home: ArmFolder) -> Path:
    return home.path / "prepared" / "base"


def _figures(home: ArmFolder, settings: RunSettings, study: Study) -> dict[str, float]:
    """The test figures of an arm, all stores together."""
    kind, rounds = study.task.figures, settings.federation.rounds
    nodes = [Node(folder) for folder in list_nodes(home.stores_dir)]
    parts = [kind.load(node.evaluation("test", rounds)) for node in nodes]
    figures: dict[str, float] = kind.pooled(parts).metrics()
    return figures
