"""The main job: a federation of shops on this machine, compared with what it must beat.

The production ServerApp and ClientApp do the work; only the network and the people are
simulated. What is printed and stored here is read from the stores' own folders, which an
analyst who simulates may do and a coordinator cannot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from platformdirs import user_cache_path
from transformers.utils.logging import disable_progress_bar

from hanse_client.features.histories import days, run_split
from hanse_client.inference.card import gather, write_card
from hanse_client.node import list_nodes
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import Figures
from hanse_client.training.train import check_size, load_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, Interrupted
from hanse_common.paths import CARD_FILE, GLOBAL_FILE
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import read_arrays
from hanse_server.strategies import make_strategy
from hanse_simulations.datasets import Stores, make_stores
from hanse_simulations.datasets.complete_journey import FROZEN_STORES
from hanse_simulations.engines import WorkerPool, start_workers
from hanse_simulations.evaluation.baseline_figures import JudgedBaselines
from hanse_simulations.evaluation.group_figures import judge_groups
from hanse_simulations.evaluation.interest_map import interest_map
from hanse_simulations.evaluation.outlook_metrics import instruments
from hanse_simulations.experiment.continuing import check_vocabulary
from hanse_simulations.experiment.figures import (
    arm_rows,
    epsilon_spent,
    figures_by_store,
    pooled_figures,
    spreads,
)
from hanse_simulations.experiment.prepare import Prepared, prepare_stores
from hanse_simulations.experiment.sweep import pooled_stores, run_sweep
from hanse_simulations.experiment.training import Arm, alone, federate
from hanse_simulations.monitoring.peak_memory import PeakMemory
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.monitoring.trackers import make_trackers
from hanse_simulations.report.build import write_report
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import Drawings, MetricRow, RunResult

PRIVATE, OPEN, ALONE = "federated_private", "federated", "alone"
WHOLE, CENTRAL = "federated_transformer", "centralised"


def cache_folder() -> Path:
    """Where prepared shops and text vectors are kept: `$HANSE_CACHE`, or the user's cache."""
    return Path(os.environ.get("HANSE_CACHE") or user_cache_path("hanse"))


def create_run(settings: RunSettings, *, name: str | None = None) -> RunFolder:
    """Make a run's folder.

    Raises:
        ConfigError: The strategy or one of its parameters is unknown.
        RunDirectoryError: It cannot be written, or the name is taken.
    """
    make_strategy(settings)
    folder = RunFolder.create(settings.recipe, name=name)
    folder.write_settings(settings)
    return folder


def simulate(
    folder: RunFolder,
    settings: RunSettings,
    *,
    resume: bool = False,
    quiet: bool = False,
    trackers: Sequence[str] = (),
    command: str | None = None,
) -> RunResult:
    """Run a federation, its comparisons and its baselines; write everything down.

    Args:
        folder: The run's.
        settings: What to run.
        resume: Go on where an earlier process stopped: arms that finished are kept.
        quiet: Show no progress.
        trackers: Names of `hanse_simulations.monitoring.trackers`.
        command: The command line, for the report.

    Raises:
        Interrupted: Ctrl-C.
        HanseError: Data, privacy or the federation failed. The folder can be resumed.
    """
    try:
        return _simulate(folder, settings, resume, quiet, trackers, command)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"stopped; {folder.path} holds the run as of its last whole round",
            hint=f"go on with `hanse simulate --resume {folder.name}`",
        ) from None


def _simulate(
    folder: RunFolder,
    settings: RunSettings,
    resume: bool,
    quiet: bool,
    trackers: Sequence[str],
    command: str | None,
) -> RunResult:
    started = time.monotonic()
    disable_progress_bar()
    with ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        # 1. Workers are forked before anything here starts a thread.
        pool = start_workers(settings.compute) or WorkerPool(settings.compute.workers)
        stack.enter_context(pool)
        memory.start()
        tracker = make_trackers(trackers, folder, settings.model_dump(mode="json"))
        stack.callback(tracker.close)
        progress = stack.enter_context(Progress(quiet=quiet))
        # 2. Shops become stores with prepared histories, by the door that real data takes.
        progress.note("reading the shops")
        stores, settings, prepared = prepare_run(folder.path, settings)
        folder.write_settings(settings)
        histories = prepared.load()
        for name, store in zip(prepared.names, histories, strict=True):
            check_size(name, store, settings)
        customers = {
            name: len(store.active()) for name, store in zip(prepared.names, histories, strict=True)
        }
        sizes = dict(zip(prepared.names, map(len, histories), strict=True))
        # 3. The federation, then what it is compared with.
        rows: list[MetricRow] = []
        arms = _arms(folder, settings)
        for arm in arms:
            progress.arm(arm.name, arm.folder, arm.settings.federation.rounds)
            trained = prepared
            if arm.name == CENTRAL:
                trained = pooled_stores(prepared, histories, arm.folder.path)
            arm.run(trained, pool, resume)
            found = arm_rows(arm.name, arm.folder, customers, sizes, task=settings.task)
            rows += found
            for number in sorted({row["round"] or 0 for row in found}):
                tracker.log([row for row in found if row["round"] == number], number)
        swept = run_sweep(folder, settings, prepared, histories, pool, progress, resume)
        # 4. Simple rules on the same customers, and the model before any training.
        progress.note("judging the simple rules")
        baselines = JudgedBaselines.judge(prepared, histories, settings)
        rows += baselines.metric_rows(customers)
        tracker.log([row for row in rows if row["round"] is None], 0)
        # 5. Whom the models serve worse; the stores' own folders say who is who.
        judged = {**arm_figures(arms, sizes), **baselines.test}
        groups, group_notes = judge_groups(judged, prepared, histories, stores, settings)
        last = f"validate-{settings.federation.rounds:05d}.npz"
        splits = figures_by_store(arms[0].folder, last, sizes), judged[arms[0].name]
        quality, curves = instruments(*(Figures.pooled(list(split.values())) for split in splits))
        # 6. One model, one table, one page.
        progress.note("writing the report")
        main = arms[0]
        model = _save_model(prepared, main)
        until = days(run_split(settings).validate_until)
        plane = interest_map(histories, model, moment=until, seed=settings.seed)
        folder.write_drawings(Drawings(interest_map=plane, curves=curves))
        folder.write_metrics(rows)
        result = _result(folder, settings, rows, main, stores)
        result = result.model_copy(
            update={
                "sweep": [*baselines.comparison(), *swept] if swept else [],
                "groups": groups,
                "group_notes": group_notes,
                "instruments": quality,
                "customers": sum(customers.values()),
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_mb": round(memory.peak_mb),
                "command": command,
            }
        )
        folder.write_result(result)
        write_report(folder)
        write_card(gather(folder.path), folder.model_dir / CARD_FILE)
    return result


def arm_figures(arms: Sequence[Arm], sizes: Mapping[str, int]) -> dict[str, dict[str, Figures]]:
    """Read the arms' test figures, by arm and store."""
    return {
        arm.name: figures_by_store(
            arm.folder, f"test-{arm.settings.federation.rounds:05d}.npz", sizes
        )
        for arm in arms
    }


def _arms(folder: RunFolder, settings: RunSettings) -> list[Arm]:
    """The main arm first; the others only if the settings ask to compare."""
    without = settings.with_changes({"privacy": {"mode": "none"}, "continues": None})
    private = settings.privacy.mode != "none"
    arms = [
        Arm(
            name=PRIVATE if private else OPEN,
            folder=folder,
            settings=settings,
            start=federate,
        )
    ]
    if settings.compare and private:
        arms.append(Arm(name=OPEN, folder=folder.arm(OPEN), settings=without, start=federate))
    if settings.compare and settings.transformer_training is not None:
        whole = {
            "model.trainable": "all",
            "training": settings.transformer_training.model_dump(),
        }
        arms.append(
            Arm(
                name=WHOLE,
                folder=folder.arm(WHOLE),
                settings=without.with_changes(whole),
                start=federate,
            )
        )
    if settings.compare:
        arms += [
            Arm(name=name, folder=folder.arm(name), settings=without, start=alone)
            for name in (CENTRAL, ALONE)
        ]
    return arms


def prepare_run(folder: Path, settings: RunSettings) -> tuple[Stores, RunSettings, Prepared]:
    """Make the stores, fix the split and the noise in the settings, prepare the histories.

    Args:
        folder: The run's; a person's own shops are prepared there, others in the cache.
        settings: What to run.

    Raises:
        ConfigError: The settings' split ends after the data.
        DataError [other-catalogue]: An earlier run's model ranks other classes.
        DataError: A store's data cannot be used.
        PrivacyError: No noise keeps the promise.
    """
    cache = cache_folder()
    stores = make_stores(settings.data, seed=settings.seed, cache=cache)
    split = settings.data.split or stores.split
    own = settings.data.source == "stores"
    if not own and split.test_until > stores.split.test_until:
        raise ConfigError(
            f"data.split.test_until={split.test_until} is later than the data of "
            f"{settings.data.source!r} go: {stores.split.test_until}",
            hint="end the test earlier, or move on by fewer weeks",
        )
    settings = settings.with_changes({"data.split": split.model_dump()})
    plan = PrivacyPlan.from_settings(settings)
    if plan is not None:
        settings = settings.with_changes({"privacy.noise_multiplier": plan.noise_multiplier})
    prepared = prepare_stores(stores.folders, settings, folder if own else cache)
    if settings.continues is not None:
        check_vocabulary(ArmFolder(settings.continues), prepared.base_model)
    return stores, settings, prepared


def _save_model(prepared: Prepared, main: Arm) -> InterestModel:
    model: InterestModel = InterestModel.from_pretrained(prepared.base_model)
    load_arrays(model, read_arrays(main.folder.path / GLOBAL_FILE))
    model.save_pretrained(RunFolder(main.folder.path).model_dir)
    return model


def _result(
    folder: RunFolder,
    settings: RunSettings,
    rows: Sequence[MetricRow],
    main: Arm,
    stores: Stores,
) -> RunResult:
    names = list(dict.fromkeys(row["arm"] for row in rows))
    models = [name for name in names if name in (PRIVATE, OPEN, CENTRAL, WHOLE, ALONE)]
    plan = PrivacyPlan.from_settings(settings)
    return RunResult(
        recipe=settings.recipe,
        run=folder.name,
        run_dir=str(folder.path),
        stores=len(list_nodes(main.folder.stores_dir)),
        rounds=settings.federation.rounds,
        data_note=stores.note,
        metrics=pooled_figures(rows, main.name),
        arms={name: pooled_figures(rows, name) for name in models if name != main.name},
        baselines={name: pooled_figures(rows, name) for name in names if name not in models},
        spread={name: spreads(rows, name) for name in names},
        secure_aggregation=settings.secure,
        epsilon=epsilon_spent(main.folder.stores_dir, plan, settings) if plan else None,
        notes=_notes(settings, stores),
    )


def _notes(settings: RunSettings, stores: Stores) -> list[str]:
    notes = [
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
    if settings.data.source == "complete-journey":
        notes.append(FROZEN_STORES)
    checkpoint = settings.model.checkpoint
    if checkpoint is not None:
        notes.append(
            f"The transformer started from the checkpoint {Path(checkpoint).name!r}: epsilon does "
            "not cover the data that it was trained on, and their terms of use hold here too."
        )
    if settings.model.trainable == "rules" and settings.privacy.mode != "none":
        start = "comes from that checkpoint" if checkpoint else "nothing has pre-trained"
        notes.append(
            "Under privacy only the few hundred parameters that amend the simple rules are "
            f"trained; the transformer, which {start}, stays silent."
        )
    if settings.continues is not None:
        notes.append(
            f"It goes on from run {settings.continues.name}: epsilon is of all runs so far. Who "
            "goes on twice from one run forks its ledgers, as no real store could."
        )
    if settings.data.source != "stores" and settings.data.split != stores.split:
        notes.append(
            "Training ends before the data set's own training weeks do, and customers were given "
            "their stores by those: which store a customer belongs to may rest on a later visit "
            "of their own."
        )
    if settings.data.partition == "visits":
        notes.append(
            "A household is a customer of several shops here: epsilon holds per shop, and a "
            "person's own is that of all their shops composed."
        )
    return notes
