"""`hanse simulate sequences`: pooled, federated and private, beside what papers report.

The production ServerApp and ClientApp do the work, as in every simulation. Arms:

- `pooled`: all customers in one place, the setting of the papers
- `federated`: customers dealt out to stores by lot; no privacy
- `federated_private`, `federated_private_half`: the same stores at the ε asked for and at half
  of it, masked sums with the noise shared among the stores
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from transformers.utils.logging import disable_progress_bar

from hanse_client.node import Node, list_nodes
from hanse_client.ranks import Ranks
from hanse_client.sequences import Sequences
from hanse_client.tasks.next_item import NextItemTask, next_item
from hanse_client.train import check_size, load_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.model.config import SequenceConfig
from hanse_common.model.sequence import SequenceModel
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import read_arrays
from hanse_server.rounds import GLOBAL
from hanse_simulations.arm_folder import ArmFolder
from hanse_simulations.engines import WorkerPool, start_workers
from hanse_simulations.outcome import epsilon_spent
from hanse_simulations.prepare import Prepared
from hanse_simulations.progress import Progress
from hanse_simulations.recipes import sequences, sequences_federated, sequences_pooled
from hanse_simulations.results import EpsilonSpent, RunResult
from hanse_simulations.runs import RunFolder
from hanse_simulations.sequences.baselines import markov, popularity
from hanse_simulations.sequences.files import read_sequences
from hanse_simulations.sequences.published import published
from hanse_simulations.training import Arm, alone, federate

MAIN, FEDERATED, POOLED = "federated_private", "federated", "pooled"
STRICTER = "federated_private_half"
_TASK = NextItemTask()


class SequencesResult(RunResult):
    """The outcome, with the papers' figures where the data set is one that they use."""

    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    arm_seconds: dict[str, float] = Field(default_factory=dict)
    arm_epsilon: dict[str, float] = Field(default_factory=dict)


def arms_of(settings: RunSettings) -> dict[str, RunSettings]:
    """The settings of every arm, the main one first.

    Args:
        settings: The run's, which the main arm has. Where they differ from the recipe the
            others follow, but for the number of stores where all customers are in one place,
            and for terms of privacy where there is none.
    """
    recipe = dict(_flat(sequences().model_dump()))
    changes = {
        key: value
        for key, value in _flat(settings.model_dump())
        if key not in recipe or recipe[key] != value
    }
    if settings.privacy.mode == "none":
        main = {}
    else:
        stricter = {"privacy.target_epsilon": settings.privacy.target_epsilon / 2}
        main = {MAIN: settings}
        if settings.compare:
            main[STRICTER] = settings.with_changes(stricter)
    if not settings.compare and main:
        return main
    plain = {key: value for key, value in changes.items() if not key.startswith("privacy.")}
    one = {key: value for key, value in plain.items() if key != "data.stores"}
    return {
        **main,
        FEDERATED: sequences_federated().with_changes(plain),
        POOLED: sequences_pooled().with_changes(one),
    }


def simulate_sequences(
    folder: RunFolder, settings: RunSettings, *, quiet: bool = False
) -> SequencesResult:
    """Train and judge every arm; arms that are done are kept.

    Args:
        folder: The run's.
        settings: The main arm's.
        quiet: Show no progress.

    Raises:
        ConfigError: No data set is named.
        DataError: It cannot be read.
        HanseError: Privacy or the federation failed.
    """
    path = settings.data.path
    if path is None:
        raise ConfigError(
            "the recipe 'sequences' has no data of its own",
            hint="name a file: hanse simulate sequences --data Beauty.txt",
        )
    started = time.monotonic()
    disable_progress_bar()
    with ExitStack() as stack:
        pool = start_workers(settings.compute) or WorkerPool(settings.compute.workers)
        stack.enter_context(pool)
        progress = stack.enter_context(Progress(quiet=quiet))
        progress.note(f"reading {path}")
        read = read_sequences(path, min_count=next_item(settings).min_count)
        figures: dict[str, dict[str, float]] = {}
        seconds: dict[str, float] = {}
        spent: dict[str, EpsilonSpent] = {}
        arms = arms_of(settings)
        for name, chosen in arms.items():
            plan = PrivacyPlan.from_settings(chosen)
            if plan is not None:
                noise = {"privacy.noise_multiplier": plan.noise_multiplier}
                chosen = chosen.with_changes(noise)
            home = folder.arm(name)
            begun = time.monotonic()
            progress.arm(name, home, chosen.federation.rounds)
            _train(name, home, chosen, read.sequences, pool)
            figures[name] = _figures(home, chosen).metrics()
            seconds[name] = round(time.monotonic() - begun, 1)
            if plan is not None:
                spent[name] = epsilon_spent(home.stores_dir, plan, chosen)
        progress.note("judging popularity and the Markov chain")
        known = _TASK.training_data(read.sequences, settings)
        baselines = {
            "global_popularity": popularity(known, read.sequences, "test").metrics(),
            "markov": markov(known, read.sequences, "test").metrics(),
        }
        first = next(iter(arms))
        _save_model(folder, folder.arm(first))
        result = SequencesResult(
            recipe=settings.recipe,
            run=folder.name,
            run_dir=str(folder.path),
            stores=settings.data.stores or 1,
            customers=len(read.sequences),
            rounds=settings.federation.rounds,
            seconds=round(time.monotonic() - started, 1),
            data_note=f"{path.name}: {read.note}",
            metrics=figures.pop(first),
            arms=figures,
            baselines=baselines,
            secure_aggregation=settings.secure,
            published=published(len(read.sequences), read.sequences.items, read.interactions),
            arm_seconds=seconds,
            epsilon=spent.get(MAIN),
            arm_epsilon={name: one.max for name, one in spent.items()},
            notes=_notes(settings),
        )
        folder.write_result(result)
        return result


def deal_out(data: Sequences, stores: int, *, seed: int) -> list[Sequences]:
    """Deal customers out to stores of nearly the same size, by lot."""
    order = np.random.default_rng(seed).permutation(len(data))
    return [data.some(np.sort(part)) for part in np.array_split(order, stores)]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a table of tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _train(
    name: str, home: ArmFolder, settings: RunSettings, data: Sequences, pool: WorkerPool
) -> None:
    """Lay out an arm's stores and train, unless that is done."""
    stores = settings.data.stores or 1
    if len(data) < stores * settings.data.min_customers:
        raise ConfigError(
            f"data.stores={stores} with {len(data)} customers and data.min_customers="
            f"{settings.data.min_customers}",
            hint="ask for fewer stores: --stores 5",
        )
    prepared = _prepare(
        home.path / "prepared", settings, deal_out(data, stores, seed=settings.seed)
    )
    rounds = settings.federation.rounds
    nodes = list_nodes(home.stores_dir) if home.stores_dir.exists() else []
    if nodes and all(Node(node).evaluation("test", rounds).exists() for node in nodes):
        return
    start = alone if stores == 1 else federate
    Arm(name=name, folder=home, settings=settings, start=start).run(prepared, pool, True)


def _prepare(folder: Path, settings: RunSettings, stores: list[Sequences]) -> Prepared:
    names = tuple(f"store {number:03d}" for number in range(1, len(stores) + 1))
    histories = tuple(folder / f"{name}.npz" for name in names)
    for name, path, store in zip(names, histories, stores, strict=True):
        check_size(name, store, settings)
        store.save(path)
    base = folder / "base"
    if not base.exists():
        model = SequenceModel.fresh(
            SequenceConfig(
                items=stores[0].items,
                n_layer=settings.model.n_layer,
                n_head=settings.model.n_head,
                n_embd=settings.model.n_embd,
                max_steps=settings.model.max_steps,
                dropout=next_item(settings).dropout,
            ),
            seed=settings.seed,
        )
        model.save_pretrained(base)
    return Prepared(names=names, histories=histories, base_model=base, rejects=0)


def _figures(home: ArmFolder, settings: RunSettings) -> Ranks:
    """The test figures of an arm, all stores together."""
    rounds = settings.federation.rounds
    nodes = [Node(folder) for folder in list_nodes(home.stores_dir)]
    return Ranks.pooled([Ranks.load(node.evaluation("test", rounds)) for node in nodes])


def _save_model(folder: RunFolder, home: ArmFolder) -> None:
    model = _TASK.load_model(home.path / "prepared" / "base")
    load_arrays(model, read_arrays(home.path / GLOBAL))
    model.save_pretrained(folder.model_dir)


def _notes(settings: RunSettings) -> list[str]:
    through = next_item(settings).train_through_validation
    return [
        "Leave-one-out: the last item is the test, the one before it the validation; training "
        + ("goes through the validation item." if through else "ends before the validation item."),
        "Full ranking of all items that the customer had not taken before, as S3-Rec and the "
        "papers after it rank; all_… lets everything rank.",
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
