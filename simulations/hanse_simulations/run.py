"""Run a federation of shops on this machine and compare it with baselines and other arms.

The production ServerApp and ClientApp do the work; only the network and the people are
simulated. The results are read from the stores' own folders, which an analyst who simulates can
do and a coordinator cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hanse_client.features.histories import days, run_split
from hanse_client.inference.card import gather, write_card
from hanse_client.tasks.interest.metrics import Figures
from hanse_client.training.train import check_size
from hanse_common.config import RunSettings
from hanse_common.errors import Interrupted
from hanse_common.paths import CARD_FILE
from hanse_common.recipes import RECIPES
from hanse_server.strategies import make_strategy
from hanse_simulations.datasets import Stores
from hanse_simulations.datasets.complete_journey import FROZEN_STORES
from hanse_simulations.evaluation.baseline_figures import BaselineFigures
from hanse_simulations.evaluation.boosted_trees import NAME as TREES
from hanse_simulations.evaluation.group_figures import judge_groups
from hanse_simulations.evaluation.interest_map import interest_map
from hanse_simulations.evaluation.outlook_metrics import outlook_metrics
from hanse_simulations.evaluation.paired_arms import compare_arms
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import ARMS, NON_PRIVATE, Arm, main_arm, non_private_terms
from hanse_simulations.experiment.figures import overall_figures, spreads
from hanse_simulations.experiment.prepare import prepare_run
from hanse_simulations.experiment.runner import Runner, runner
from hanse_simulations.experiment.sweep import Point, SweepFigures, run_sweep, summarise
from hanse_simulations.monitoring.peak_memory import PeakMemory
from hanse_simulations.monitoring.trackers import make_trackers
from hanse_simulations.report.build import write_report
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import Drawings, MetricRow, RunResult


def create_run(
    settings: RunSettings, *, name: str | None = None, prefix: str | None = None
) -> RunFolder:
    """Make a run's folder.

    Args:
        settings: The run's settings.
        name: Of the folder.
        prefix: Where it has no name, of which a time is the rest; by default the recipe's name.

    Raises:
        ConfigError: The strategy or one of its parameters is unknown.
        RunDirectoryError: The folder cannot be written, or the name is taken.
    """
    make_strategy(settings)  # a bad strategy fails before a folder is made
    folder = RunFolder.create(prefix or settings.recipe, name=name)
    folder.write_settings(settings)
    return folder


def simulate(
    folder: RunFolder,
    settings: RunSettings,
    *,
    quiet: bool = False,
    trackers: Sequence[str] = (),
    command: str | None = None,
) -> RunResult:
    """Run a federation, its comparisons and its baselines, and write all results.

    Continues where an earlier process stopped: finished arms are not trained again.

    Args:
        folder: The run's folder.
        settings: The run's settings.
        quiet: Show no progress.
        trackers: Names of `hanse_simulations.monitoring.trackers`.
        command: The command line, for the report.

    Raises:
        Interrupted: Ctrl-C.
        HanseError: Data, privacy or the federation failed. The folder can be resumed.
    """
    try:
        return _simulate(folder, settings, quiet, trackers, command)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"stopped; {folder.path} holds the run as of its last complete round",
            hint=f"go on with `hanse simulate --resume {folder.name}`",
        ) from None


def _simulate(
    folder: RunFolder,
    settings: RunSettings,
    quiet: bool,
    trackers: Sequence[str],
    command: str | None,
) -> RunResult:
    with ExitStack() as stack:
        # 1. Workers are forked before anything here starts a thread.
        memory = stack.enter_context(PeakMemory())
        work = stack.enter_context(runner(settings, quiet=quiet))
        memory.start()
        tracker = make_trackers(trackers, folder, settings.model_dump(mode="json"))
        stack.callback(tracker.close)
        # 2. Shops become stores with prepared histories, through the production ingestion.
        with work.part("reading the shops"):
            stores, settings, prepared = prepare_run(folder.path, settings)
            folder.write_settings(settings)
            histories = prepared.load()
        for name, store in zip(prepared.names, histories, strict=True):
            check_size(name, store, settings)
        customers = {
            name: len(store.active()) for name, store in zip(prepared.names, histories, strict=True)
        }
        # 3. The federation, then the arms that it is compared with.
        rows: list[MetricRow] = []
        runs: list[ArmRun] = []
        for arm in arms_of(settings):
            home = folder.arm(arm.name) if runs else folder
            runs.append(work.train(arm, home, settings, prepared))
            of_arm = runs[-1].metric_rows(customers)
            rows += of_arm
            for number in sorted({row["round"] or 0 for row in of_arm}):
                tracker.log([row for row in of_arm if row["round"] == number], number)
        swept = run_sweep(folder.path / "sweep", settings, prepared, work)
        # 4. Simple rules on the same customers, and the model before any training.
        with work.part("judging the simple rules"):
            baselines = BaselineFigures.judge(prepared, histories, settings)
        rows += baselines.metric_rows(customers)
        tracker.log([row for row in rows if row["round"] is None], 0)
        # 5. Metrics by group of customers, whose bands are in the stores' own folders.
        with work.part("comparing the arms"):
            main, figures = runs[0], {run.arm.name: run.figures() for run in runs}
            rows_of_sweep = summarise([(point, SweepFigures.of(found)) for point, found in swept])
            groups, group_notes = judge_groups(
                {**figures, **baselines.test}, prepared, histories, stores, settings
            )
            intervals = compare_arms(
                _trainings(runs, figures, baselines, swept),
                seed=settings.seed,
                wanted=baselines.wanted,
            )
            splits = main.figures("validate"), figures[main.arm.name]
            quality, curves = outlook_metrics(
                *(Figures.pooled(list(split.values())) for split in splits)
            )
        # 6. One model, one table, one page.
        with work.part("writing the report"):
            model = main.model()
            model.save_pretrained(folder.model_dir)
            until = days(run_split(settings).validate_until)
            plane = interest_map(histories, model, moment=until, seed=settings.seed)
            folder.write_drawings(Drawings(interest_map=plane, curves=curves))
            folder.write_metrics(rows)
            result = _result(folder, rows, runs, stores).model_copy(
                update={
                    "sweep": [*baselines.comparison(), *rows_of_sweep] if swept else [],
                    "intervals": intervals,
                    "groups": groups,
                    "group_notes": group_notes,
                    "outlook_metrics": quality,
                    "customers": sum(customers.values()),
                    "command": command,
                }
            )
            # The report is written from it, and counts as well.
            folder.write_result(_timed(result, work, memory))
            write_report(folder)
            write_card(gather(folder.path), folder.model_dir / CARD_FILE)
        result = _timed(result, work, memory)
        folder.write_result(result)
    return result


def arms_of(settings: RunSettings) -> list[Arm]:
    """The arms of a run: the main one first, the others only if the settings ask to compare."""
    arms = [main_arm(settings)]
    if not settings.compare:
        return arms
    centralized = replace(ARMS["centralized"], salt="centralised")
    if settings.model.kind == "categories":
        others = [centralized, ARMS["alone"]]
        if settings.privacy.mode != "none":
            others.insert(0, ARMS["federated"])
        return [*arms, *(replace(arm, overrides=non_private_terms(settings)) for arm in others)]
    if settings.privacy.mode != "none":
        arms.append(ARMS["federated"])
    if settings.transformer_training is not None:
        training = settings.transformer_training.model_dump()
        transformer = {**NON_PRIVATE, "model.trainable": "all", "training": training}
        arms.append(replace(ARMS["federated_transformer"], overrides=transformer))
    return [*arms, centralized, ARMS["alone"]]


def _timed(result: RunResult, work: Runner, memory: PeakMemory) -> RunResult:
    """A run's result with its time and memory up to now."""
    used = {"seconds": work.seconds, "peak_memory_mb": round(memory.peak_mb)}
    return result.model_copy(update={**used, "parts": dict(work.watch.parts)})


def _trainings(
    runs: Sequence[ArmRun],
    figures: Mapping[str, dict[str, Figures]],
    baselines: BaselineFigures,
    swept: Sequence[tuple[Point, dict[str, Figures]]],
) -> dict[tuple[str, float | None], list[dict[str, Figures]]]:
    """Test figures of every arm, by arm and target epsilon: one training a seed.

    With a sweep, its seeds stand for the run's own training of the same arm.
    """
    trainings: dict[tuple[str, float | None], list[dict[str, Figures]]] = {
        (name, None): [by_store] for name, by_store in baselines.test.items()
    }
    trainings[TREES, None] = baselines.tree_seeds
    for run in runs:
        terms = run.settings.privacy
        target = None if terms.mode == "none" else terms.target_epsilon
        trainings[run.arm.name, target] = [figures[run.arm.name]]
    by_point: dict[tuple[str, float | None], list[dict[str, Figures]]] = {}
    for point, by_store in swept:
        by_point.setdefault((point.arm.name, point.epsilon), []).append(by_store)
    return {**trainings, **by_point}


def _result(
    folder: RunFolder, rows: Sequence[MetricRow], runs: Sequence[ArmRun], stores: Stores
) -> RunResult:
    main, *others = runs
    names = list(dict.fromkeys(row["arm"] for row in rows))
    trained = {run.arm.name for run in runs}
    return RunResult(
        recipe=main.settings.recipe,
        run=folder.name,
        run_dir=str(folder.path),
        stores=len(main.nodes),
        rounds=main.rounds,
        data_note=stores.note,
        metrics=overall_figures(rows, main.arm.name),
        arms={run.arm.name: overall_figures(rows, run.arm.name) for run in others},
        baselines={name: overall_figures(rows, name) for name in names if name not in trained},
        spread={name: spreads(rows, name) for name in names},
        secure_aggregation=main.settings.secure,
        epsilon=main.epsilon(),
        notes=_notes(main.settings, stores),
    )


def _notes(settings: RunSettings, stores: Stores) -> list[str]:
    notes = [
        "Sampling and noise are seeded, so that the run can be repeated: a simulation, not a "
        "release.",
    ]
    if settings.data.source == "complete-journey":
        notes.append(FROZEN_STORES)
    if settings.data.source == "stores" and settings.recipe in RECIPES:
        notes.append(
            f"Settings that the run's file leaves out are those of the recipe {settings.recipe!r}."
        )
    checkpoint = settings.model.checkpoint
    if checkpoint is not None:
        notes.append(
            f"The transformer started from the checkpoint {Path(checkpoint).name!r}: epsilon does "
            "not cover the data that it was trained on, and their terms of use hold here too."
        )
    silent = settings.model.kind == "visits" and settings.model.trainable == "rules"
    if silent and settings.privacy.mode != "none":
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
