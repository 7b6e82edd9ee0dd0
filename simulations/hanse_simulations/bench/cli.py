"""`hanse bench`: measurements, each compared with a reference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption, say
from hanse_common.options import RunArgument, ServingStoreOption, StoreFolderOption
from hanse_common.printing import console, echo
from hanse_common.wording import json_text
from hanse_simulations.options import RecipeArgument, SetOption, changed_by

if TYPE_CHECKING:
    from hanse_common.config import RunSettings

app = command_group("Benchmarks, each with a reference measured in the same run.")


@app.command("engines")
def bench_engines(
    stores: Annotated[list[int] | None, typer.Option(help="Numbers of stores.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 5,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Seconds to the first round and overhead per round: in-process and Flower on Ray."""
    from hanse_simulations.bench.engines import engines, render

    _print_rows(engines(stores or [10, 100], rounds), render, format_)


@app.command("secagg")
def bench_secagg(
    stores: Annotated[list[int] | None, typer.Option(help="Numbers of stores.")] = None,
    parameters: Annotated[list[int] | None, typer.Option(help="Lengths of the vector.")] = None,
    dropouts: Annotated[
        list[float] | None, typer.Option(help="Fractions of the stores that drop out.")
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """CPU-seconds and bytes of secure aggregation, compared with Flower's SecAgg+."""
    from hanse_simulations.bench.secagg import render, run

    rows = run(
        stores=stores or [10, 50, 100],
        parameters=parameters or [100_000],
        dropouts=dropouts or [0.0, 0.1],
        progress=say,
    )
    _print_rows(rows, render, format_)


@app.command("clipping")
def bench_clipping(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="tied, untied, minilm or minilm-lora.")
    ] = "tied",
    batch: Annotated[int, typer.Option(help="Customers in a step.")] = 64,
    repeats: Annotated[int, typer.Option(help="Processes for each method.")] = 2,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Measure only this method and a plain step; may be repeated."
        ),
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Cost of per-customer clipping: book-keeping, a plain step, and Opacus' methods."""
    from hanse_simulations.bench.clipping import clipping, render

    rows = clipping(
        model,
        batch,
        repeats=repeats,
        methods=method,
        progress=say,
    )
    _print_rows(rows, render, format_)


@app.command("serve")
def bench_serve(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The model's folder, or its run's.")
    ],
    store: ServingStoreOption,
    requests: Annotated[int, typer.Option(min=1, help="Requests, each for one customer.")] = 1_000,
    clients: Annotated[
        int, typer.Option(min=1, help="Clients that send requests at the same time.")
    ] = 8,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Latency and throughput of a store's service in float and in int8, and their agreement."""
    from hanse_simulations.bench.serve import render, serve

    _print_rows(serve(model, store, requests=requests, clients=clients), render, format_)


@app.command("commands")
def bench_commands(
    folder: StoreFolderOption = Path(),
    format_: FormatOption = Format.TABLE,
) -> None:
    """CPU-seconds of `hanse store budget`, `metrics --check` and `doctor` on a store's folder."""
    from hanse_simulations.bench.commands import commands, render

    _print_rows(commands(folder), render, format_)


@app.command("preparing")
def bench_preparing(
    customers: Annotated[int, typer.Option(help="Customers of the made-up store.")] = 100_000,
    visits: Annotated[int, typer.Option(help="Visits of all customers.")] = 1_000_000,
    items: Annotated[float, typer.Option(help="Mean number of rows of a visit.")] = 1.0,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Time and memory of preparing a made-up store, compared with plain polars on its rows."""
    from hanse_simulations.bench.preparing import preparing, render

    rows = preparing(customers=customers, visits=visits, items=items, progress=say)
    _print_rows(rows, render, format_)


@app.command("tasks")
def bench_tasks(
    run: RunArgument,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Downstream tasks solved with a run's model without training, compared with baselines."""
    from hanse_simulations.downstream.run import measure
    from hanse_simulations.downstream.table import render
    from hanse_simulations.runs.folder import RunFolder

    _print_rows(measure(RunFolder.open(run)), render, format_)


@app.command("forgery")
def bench_forgery(
    run: RunArgument,
    norm: Annotated[
        float | None,
        typer.Option(
            help="Norm of the forged vector that is not bounded; by default the sum of all clips."
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="The class to raise; by default the one most often on rank 2.",
        ),
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Effect of one forged vector on a run's model, bounded and not, and of an honest one."""
    from hanse_simulations.bench.forgery import forgery, render
    from hanse_simulations.runs.folder import RunFolder

    _print_rows(forgery(RunFolder.open(run), norm=norm, category=category), render, format_)


@app.command("rolling")
def bench_rolling(
    recipe: RecipeArgument = "grocery",
    windows: Annotated[int, typer.Option(min=2, help="Number of four-week windows.")] = 5,
    new_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds added from one window to the next.")
    ] = 20,
    anew: Annotated[
        bool, typer.Option("--anew", help="Also train from scratch for every window.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, each with other noise.")] = 1,
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Train until a week, evaluate on the next four, continue with new rounds, and repeat."""
    from hanse_simulations.bench.rolling import render, rolling

    rows = rolling(
        _changed(recipe, set_),
        windows=windows,
        new_rounds=new_rounds,
        anew=anew,
        seeds=seeds,
        progress=say,
    )
    _print_rows(rows, render, format_)


@app.command("folds")
def bench_folds(
    recipe: RecipeArgument = "grocery",
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """K-fold cross-validation by customer: held-out customers compared with the others."""
    from hanse_simulations.bench import folds as cross_validation

    rows = cross_validation.folds(_changed(recipe, set_), count=folds, progress=say)
    _print_rows(rows, cross_validation.render, format_)


@app.command("demo")
def bench_demo(
    recipe: RecipeArgument = "grocery",
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Where the time of a simulation goes: every part as a share of the whole run."""
    from hanse_simulations.bench.demo import demo, render

    _print_rows(demo(_changed(recipe, set_)), render, format_)


@app.command("small")
def bench_small(
    run: RunArgument,
    stores: Annotated[
        list[int] | None, typer.Option(min=3, help="Numbers of stores; by default 3, 5 and all.")
    ] = None,
    customers: Annotated[
        list[int] | None,
        typer.Option(min=10, help="Customers of all stores together; by default 150, 600 and all."),
    ] = None,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Target epsilons; by default 8, 4, 2 and 1.")
    ] = None,
    federations: Annotated[
        int, typer.Option(min=1, help="Federations of each size, with other customers.")
    ] = 3,
    chart: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the chart of the report to an SVG file, too."),
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Train small federations of a run's customers: from which size on joining pays, at which ε."""
    from hanse_simulations.experiment import small
    from hanse_simulations.report.build import write_report
    from hanse_simulations.report.small import size_table, write_chart
    from hanse_simulations.runs.folder import RunFolder

    folder = RunFolder.open(run)
    rows = small.small_federations(
        folder,
        stores=stores,
        customers=customers,
        epsilons=epsilon or small.EPSILONS,
        federations=federations,
        progress=say,
    )
    write_report(folder)
    if chart is not None:
        write_chart(folder.read_result().sizes, chart)
    if format_ is Format.JSON:
        echo(json_text({"rows": [row.model_dump(mode="json") for row in rows]}, indent=1))
    else:
        console(width=_width()).print(size_table(rows))


@app.command("deployment")
def bench_deployment(
    stores: Annotated[int, typer.Option(help="Number of stores.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 3,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Time a deployment's private round and a plain Flower round on loopback; takes minutes."""
    from hanse_simulations.bench.deployment import deployment, render

    rows = deployment(stores, rounds, progress=say)
    _print_rows(rows, render, format_)


def _print_rows(rows: list[Any], render: Callable[[Any], Any], format_: Format) -> None:
    """Print a benchmark's rows (dataclasses) as a table or as JSON."""
    from dataclasses import asdict

    if format_ is Format.JSON:
        echo(json_text({"rows": [asdict(row) for row in rows]}, indent=1))
    else:
        console(width=_width()).print(render(rows))


def _width() -> int | None:
    # A pipe has no width: rich would take 80 columns and fold the tables.
    return None if sys.stdout.isatty() else 140


def _changed(recipe: str, changes: list[str] | None) -> RunSettings:
    from hanse_common.run_file import load_recipe

    return load_recipe(recipe, changed_by(changes))
