"""`hanse simulate` and `hanse recipes`; heavy imports happen when a command runs."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanse_common.commands import command_group, single_command
from hanse_common.errors import ContradictingOptions
from hanse_common.formats import Format, FormatOption
from hanse_common.options import QuietOption, RunNameOption
from hanse_common.printing import echo
from hanse_common.wording import json_text
from hanse_simulations.options import (
    ModeOption,
    RecipeArgument,
    RoundsOption,
    SeedOption,
    SetOption,
    StoresOption,
    WorkersOption,
    changed_by,
)

if TYPE_CHECKING:
    from hanse_common.config import RunSettings
    from hanse_simulations.runs.folder import RunFolder


class Engine(StrEnum):
    """The engine that runs the stores."""

    in_process = "in-process"
    ray = "ray"


simulate = single_command()
recipes = command_group("Configurations to run.")


@simulate.command()
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="grocery, grocery-shops, grocery-visits, smoke, synthetic, sequences, reviews, "
            "conversion, or a .toml file.",
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    continue_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Start from a finished run's model; its ledgers go on."),
    ] = None,
    weeks: Annotated[
        int | None, typer.Option(min=1, help="With --continue-from: how many weeks are new.")
    ] = None,
    name: RunNameOption = None,
    rounds: RoundsOption = None,
    stores: StoresOption = None,
    customers: Annotated[int | None, typer.Option(help="Keep about N customers per store.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recipes sequences and reviews: the file to learn from."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Recipe sequences: public texts or vectors of the items, such as items.tsv.",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the basket head ranks: category, type, product."),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Any Flower strategy by name.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Target epsilon per customer and store, all rounds and runs."),
    ] = None,
    mode: ModeOption = None,
    no_privacy: Annotated[
        bool, typer.Option("--no-privacy", help="Train without clip and noise; recorded.")
    ] = False,
    no_secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--no-secure-aggregation",
            help="Let the coordinator see each store's update; printed and recorded.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also train at epsilon 8, 4, 2, 1 in both modes, three seeds each; in other tasks,"
            " each store alone.",
        ),
    ] = False,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Train the main federation only.")
    ] = False,
    engine: Annotated[Engine | None, typer.Option(help="in-process, or Flower's on Ray.")] = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="tensorboard or mlflow; may be repeated."),
    ] = None,
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
    quiet: QuietOption = False,
) -> None:
    """Run a federation of shops, compare it with what it must beat, and write a report."""
    if compare and (no_compare or no_privacy):
        other = "--no-compare" if no_compare else "--no-privacy"
        raise ContradictingOptions(
            f"--compare contradicts {other}", hint="leave one of the two out"
        )
    if no_privacy and mode:
        raise ContradictingOptions(
            f"--no-privacy contradicts --mode {mode.value}", hint="leave one of the two out"
        )
    if (continue_from is None) != (weeks is None):
        raise ContradictingOptions(
            "--continue-from and --weeks go together", hint="say which run, and how many new weeks"
        )
    given: dict[str, object] = {
        "federation.rounds": rounds,
        "data.stores": stores,
        "data.customers": customers,
        "data.path": data,
        "data.catalogue": catalogue,
        "data.level": level,
        "federation.strategy": strategy,
        "privacy.target_epsilon": epsilon,
        "privacy.mode": "none" if no_privacy else mode.value if mode else None,
        "federation.secure_aggregation": False if no_secure_aggregation else None,
        "compare": False if no_compare else None,
        "sweep": {} if compare else None,  # an empty table is the default sweep
        "compute.engine": engine.value if engine else None,
        "compute.workers": workers,
        "seed": seed,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= changed_by(set_)
    if continue_from is not None and weeks is not None:
        if recipe or "recipe" in changes or resume or compare or no_privacy or mode:
            raise ContradictingOptions(
                "--continue-from keeps recipe, mode and comparison of the run it goes on from",
                hint="leave the recipe, --resume, --compare, --no-privacy and --mode out",
            )
        _continue(continue_from, weeks, name, changes, tracker or [], format_, quiet)
        return
    _simulate(recipe, resume, name, changes, tracker or [], format_, quiet)


def _simulate(
    recipe: str | None,
    resume: str | None,
    name: str | None,
    changes: dict[str, object],
    trackers: list[str],
    format_: Format,
    quiet: bool,
) -> None:
    from hanse_common.run_file import completion, load_recipe
    from hanse_simulations.runs.folder import RunFolder

    if resume is not None and (recipe or name or "recipe" in changes):
        other = recipe or changes.get("recipe")
        given = f"the recipe {other!r}" if other else f"--name {name}"
        raise ContradictingOptions(
            f"--resume {resume} contradicts {given}: a resumed run keeps its own",
            hint="leave one of the two out",
        )
    if resume is None and recipe is None:
        raise ContradictingOptions(
            "neither a recipe nor --resume is given", hint="try `hanse simulate smoke`"
        )
    if resume is not None:
        folder = RunFolder.open(resume)
        settings = folder.read_settings().with_changes(changes)
    else:
        # A catalogue changes what is trained, so that another recipe holds its settings.
        by_texts = recipe == "sequences" and "data.catalogue" in changes
        settings = load_recipe("sequences-texts" if by_texts else str(recipe), changes)
    from hanse_simulations.run import create_run

    if resume is None:
        file = Path(str(recipe))
        completed = file.suffix == ".toml"
        folder = create_run(settings, name=name, prefix=file.stem if completed else None)
        if completed and not quiet:
            echo(f"{file}{completion(settings)}", err=True)
    _run(folder, settings, trackers, format_, quiet)


def _continue(
    run: str,
    weeks: int,
    name: str | None,
    changes: dict[str, object],
    trackers: list[str],
    format_: Format,
    quiet: bool,
) -> None:
    from hanse_simulations.experiment.continuing import continued_settings
    from hanse_simulations.run import create_run
    from hanse_simulations.runs.folder import RunFolder

    settings = continued_settings(RunFolder.open(run), weeks=weeks, changes=changes)
    _run(create_run(settings, name=name), settings, trackers, format_, quiet)


def _run(
    folder: RunFolder,
    settings: RunSettings,
    trackers: list[str],
    format_: Format,
    quiet: bool,
) -> None:
    if settings.task != "interest":
        _study(folder, settings, format_, quiet)
        return
    from hanse_simulations.report.tables import print_result
    from hanse_simulations.run import simulate

    if settings.privacy.mode != "none" and not settings.secure:
        # To stderr, as stdout holds the table or the JSON object alone.
        echo("secure aggregation is off: the coordinator sees each store's own update", err=True)
    result = simulate(
        folder,
        settings,
        quiet=quiet,
        trackers=trackers,
        command=shlex.join(["hanse", *sys.argv[1:]]),
    )
    if format_ is Format.JSON:
        echo(json_text(result.model_dump(mode="json"), indent=1))
    else:
        print_result(result)
        echo(f"report: {folder.report_file}", err=True)


def _study(folder: RunFolder, settings: RunSettings, format_: Format, quiet: bool) -> None:
    """Run a task with an evaluation of its own."""
    from hanse_simulations.experiment.studies import STUDIES
    from hanse_simulations.experiment.study import run_study
    from hanse_simulations.report.study_table import print_study

    result = run_study(folder, settings, STUDIES[settings.task], quiet=quiet)
    if format_ is Format.JSON:
        echo(json_text(result.model_dump(mode="json"), indent=1))
    else:
        print_study(result, settings.task)


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes."""
    from hanse_common.recipes import RECIPES

    for name, make in RECIPES.items():
        first = (make.__doc__ or "").splitlines()[0]
        echo(f"{name:16} {first}")


@recipes.command("show")
def show_recipe(recipe: RecipeArgument) -> None:
    """Print a recipe's complete configuration as JSON."""
    from hanse_common.run_file import load_recipe

    echo(load_recipe(recipe).model_dump_json(indent=1, exclude_none=True))
