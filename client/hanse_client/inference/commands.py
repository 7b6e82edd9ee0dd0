"""`hanse model predict | evaluate | audience | card | serve`: use a trained model at a store.

Rows about customers go to files that only their owner can read, never to stdout.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_client.inference.choices import Candidates, Split, When
from hanse_common.formats import Format, FormatOption
from hanse_common.options import ModelArgument, PortOption, ServingStoreOption
from hanse_common.printing import echo
from hanse_common.wording import json_text

if TYPE_CHECKING:
    from hanse_client.inference.load import OpenStore, Trained
    from hanse_common.config import RunSettings

Output = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="A .parquet or .csv file; in CSV, a text like a formula gets an apostrophe.",
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The run's settings, if not in the model's folder."),
]
WhenOption = Annotated[
    When,
    typer.Option(
        "--split", help="Predict from after the last visit, or from the first day of a split."
    ),
]
_CandidatesOption = Annotated[
    Candidates, typer.Option(help="All classes, or only those new to the customer.")
]


def predict(
    model: ModelArgument,
    store: ServingStoreOption,
    top: Annotated[int, typer.Option(min=1, help="Classes for each customer.")] = 10,
    output: Output = Path("predictions.parquet"),
    outlook: Annotated[
        bool, typer.Option("--outlook", help="Also write the chances of rise and fall.")
    ] = False,
    within: Annotated[
        bool,
        typer.Option("--within", help="Also write the chances to buy within 7, 14, 28 days."),
    ] = False,
    demand: Annotated[
        bool, typer.Option("--demand", help="Also write the visits that the shop may expect.")
    ] = False,
    split: WhenOption = When.LATEST,
    candidates: _CandidatesOption = Candidates.ALL,
    settings: SettingsOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Rank what each customer of a store will buy next; the file stays at the store.

    With --outlook, FILE.outlook holds each customer's chances by class, FILE.shop the shop's;
    with --within, FILE.within each customer's chances by class and horizon; with --demand,
    FILE.demand the shop's expected visits by class and horizon.
    """
    # Imported on use: polars, torch, transformers.
    from hanse_client.analytics.demand import demand as demand_of
    from hanse_client.inference.files import check_output, companion_file, write_table
    from hanse_client.inference.predict import ask, known, moment_of
    from hanse_client.inference.provenance import (
        demand_protocol,
        outlook_protocol,
        protocol,
        ranking_protocol,
        within_protocol,
    )
    from hanse_client.inference.tables import (
        demand_table,
        outlook_table,
        ranking_table,
        shop_outlook,
        within_table,
    )

    check_output(output)  # before minutes of work
    trained, opened, run = open_for(model, store, settings)
    moment = moment_of(opened, split, run)
    customers = known(opened, moment)
    about = protocol(trained, opened, when=split, moment=moment, customers=len(customers))
    config = trained.config

    # A generator for each table: answers are [R, C] for all customers, too large to keep.
    def answers() -> Any:
        return ask(trained.model, opened.histories, customers, moment)

    ranking = ranking_table(opened, config, answers(), top=top, candidates=candidates)
    write_table(ranking, output, {**about, **ranking_protocol(candidates, top)})
    files = {"ranking": (output, ranking.height)}
    more: list[tuple[str, Any, dict[str, Any]]] = []
    if outlook:
        chances = outlook_table(opened, config, answers())
        how = outlook_protocol(trained)
        more += [("outlook", chances, how), ("shop", shop_outlook(chances), how)]
    if within:
        more.append(("within", within_table(opened, config, answers()), within_protocol(trained)))
    if demand:
        expected = demand_of(opened.histories, trained.model, moment)
        how = demand_protocol(trained, expected)
        more.append(("demand", demand_table(config, expected), how))
    for name, table, how in more:
        path = companion_file(output, name)
        write_table(table, path, {**about, **how})
        files[name] = (path, table.height)
    say(
        {
            "store": opened.name,
            "customers": len(customers),
            "predicted_from": about["predicted_from"],
            **{name: {"file": str(path), "rows": rows} for name, (path, rows) in files.items()},
        },
        [f"{path}: {rows:,} rows" for path, rows in files.values()],
        format_,
    )


def audience(
    model: ModelArgument,
    store: ServingStoreOption,
    category: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="A class of the model, or a path of several classes, such as GROCERY.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Customers to list.")] = 100,
    output: Output = Path("audience.csv"),
    split: WhenOption = When.LATEST,
    candidates: Annotated[
        Candidates, typer.Option(help="All customers, or only those to whom the category is new.")
    ] = Candidates.ALL,
    settings: SettingsOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """List the customers of a store whose next basket most probably holds a category.

    The list goes to a file that only its owner can read; nothing about customers is printed.
    """
    # Imported on use: polars, torch, transformers.
    from hanse_client.inference.files import check_output, write_table
    from hanse_client.inference.predict import ask, known, moment_of
    from hanse_client.inference.provenance import protocol
    from hanse_client.inference.tables import audience_table, classes_of

    check_output(output)
    trained, opened, run = open_for(model, store, settings)
    classes = classes_of(category, trained.config, opened)
    moment = moment_of(opened, split, run)
    customers = known(opened, moment)
    answers = ask(trained.model, opened.histories, customers, moment)
    table = audience_table(opened, answers, classes, top=top, candidates=candidates)
    names = [trained.config.classes[index] for index in classes]
    about = protocol(trained, opened, when=split, moment=moment, customers=len(customers))
    only = "all customers" if candidates is Candidates.ALL else "customers who never bought of it"
    about |= {
        "category": category,
        "ranked_classes": names,
        "candidates": only,
        "score": "the classes' share of the next visit's basket",
        "top": top,
    }
    write_table(table, output, about)
    say(
        {
            "store": opened.name,
            "category": category,
            "classes": names,
            "predicted_from": about["predicted_from"],
            "file": str(output),
            "rows": table.height,
        },
        [f"{output}: {table.height:,} customers"],
        format_,
    )


def evaluate(
    model: ModelArgument,
    store: Annotated[
        list[Path],
        typer.Option(metavar="PATH", help="A node's folder, or a store.toml; may be repeated."),
    ],
    split: Annotated[Split, typer.Option(help="The split to evaluate on.")] = Split.TEST,
    settings: SettingsOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Evaluate a model on a split of one store's customers, or of several stores' together.

    Every visit of the split is predicted from all visits before it, over all classes.
    """
    # Imported on use: polars, torch, transformers.
    from hanse_client.inference.evaluate import evaluation, print_evaluation

    trained = _trained(model)
    result = evaluation(trained, store, split, settings)
    if format_ is Format.JSON:
        _print_json(result)
    else:
        print_evaluation(result)


def serve(
    model: ModelArgument,
    store: ServingStoreOption,
    port: PortOption = 8765,
    int8: Annotated[
        bool, typer.Option("--int8", help="Multiply in eight bits; see `hanse bench serve`.")
    ] = False,
    settings: SettingsOption = None,
) -> None:
    """Answer POST /predict on this machine alone, until interrupted; prints its address."""
    # Imported on use: polars, torch, transformers, starlette.
    from hanse_client.inference.quantization import to_int8
    from hanse_client.inference.serve import serve as serve_until_interrupted

    trained, opened, _ = open_for(model, store, settings)
    answering = to_int8(trained.model) if int8 else trained.model
    serve_until_interrupted(
        trained, opened, model=answering, port=port, announce=lambda url: echo(url)
    )


def card(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run's folder or a model's.")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; stdout if left out.")
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Write a model's card: its purpose, privacy cost, metrics and limits.

    Its figures are over all customers of a run; none is about a single customer.
    """
    from hanse_client.inference.card import gather, render, write_card  # on use: huggingface_hub

    facts = gather(model)
    if output is not None:
        write_card(facts, output)
    if format_ is Format.JSON:
        _print_json({**facts.plain(), "card": None if output is None else str(output)})
    elif output is None:
        echo(str(render(facts)))
    else:
        echo(str(output))


def _trained(model: Path) -> Trained:
    from transformers.utils.logging import disable_progress_bar

    from hanse_client.inference.load import open_model

    disable_progress_bar()
    return open_model(model)


def open_for(
    model: Path, store: Path, settings: Path | None
) -> tuple[Trained, OpenStore, RunSettings | None]:
    """Read a model, a store, and the settings of the model's run, if there are any."""
    from hanse_client.inference.load import open_store, run_settings

    trained = _trained(model)
    run = run_settings(trained, store, settings)
    return trained, open_store(store, trained, run), run


def say(result: dict[str, Any], lines: list[str], format_: Format) -> None:
    """Print a result as JSON, or as lines for people."""
    if format_ is Format.JSON:
        _print_json(result)
    else:
        echo("\n".join(lines))


def _print_json(value: Any) -> None:
    """Print plain values; NaN and infinity become null."""
    echo(json_text(value))
