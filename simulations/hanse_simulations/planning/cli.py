"""`hanse plan`: what a federation can afford, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_common.commands import single_command
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.formats import Format, FormatOption
from hanse_common.printing import echo
from hanse_common.wording import json_text
from hanse_simulations.options import ModeOption, RoundsOption
from hanse_simulations.planning.advice import SIGNAL_TO_NOISE
from hanse_simulations.planning.unknown import Unknown

if TYPE_CHECKING:
    from hanse_simulations.planning.forecast import Forecast, Population
    from hanse_simulations.planning.joining import Joining
    from hanse_simulations.planning.ledgers import LedgerRow
    from hanse_simulations.planning.solve import Solved


app = single_command()


@app.command()
def plan(
    settings: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|RUN",
            help="A recipe, a .toml file of settings, or a run; terms if none is given.",
        ),
    ] = None,
    customers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N[,N...]", help="Customers per store: one number for all, or one for each."
        ),
    ] = None,
    stores: Annotated[int | None, typer.Option(min=1, help="How many stores.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What is trained: a number of parameters, rules, heads, all, full, top:K, "
            "lora:R or adapters:R; may be repeated.",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Count parameters on this model.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Count parameters on a model with this many classes.")
    ] = None,
    rounds: RoundsOption = None,
    sample_rate: Annotated[
        float | None,
        typer.Option("--sample-rate", "-q", help="Chance of a customer to be in a step."),
    ] = None,
    local_steps: Annotated[int | None, typer.Option(help="Steps a round, in mode local.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Target epsilon of all rounds.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta at which epsilon is read; by default below 1/N^1.1.")
    ] = None,
    mode: ModeOption = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of one person's gradient.")
    ] = None,
    minimum_survivors: Annotated[
        int | None, typer.Option(help="Fewest stores in a sum; nine tenths if unset.")
    ] = None,
    colluders: Annotated[int | None, typer.Option(help="Stores that may collude.")] = None,
    max_stores_per_customer: Annotated[
        int | None, typer.Option(help="At how many stores one person may be a customer.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Sigma; solved from the target if unset.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHASE=SHARE",
            help="Share of the budget of a phase; one of a new name is a sum of statistics. "
            "Shares add up to 1.",
        ),
    ] = None,
    at_stores: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Epsilon of a person who shops at this many stores; 1 and 2 if unset."
        ),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Rounds left under this ledger, or under those in a folder."
        ),
    ] = None,
    signal_to_noise: Annotated[
        float,
        typer.Option(min=0.01, help="Least signal-to-noise of a variant that is recommended."),
    ] = SIGNAL_TO_NOISE,
    solve: Annotated[
        Unknown | None,
        typer.Option(
            metavar="TERM", help="Find rounds, epsilon, customers or q from the other terms."
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say what a federation can afford: noise, signal, rounds, and what to train.

    Looks at no customer and spends nothing. Examples:

    hanse plan --customers 300 --stores 10 --rounds 80 --epsilon 4 --variant 400 --variant 6000

    hanse plan grocery --epsilon 2

    hanse plan grocery --solve rounds

    hanse plan --customers 300 --stores 10 --variant 400 --share pairs=.2 --share train=.8
    """
    from hanse_simulations.planning.feasible import solved_plan
    from hanse_simulations.planning.forecast import Population, forecast
    from hanse_simulations.planning.joining import expected_joining
    from hanse_simulations.planning.ledgers import ledger_rows
    from hanse_simulations.planning.solve import solve as find_unknown
    from hanse_simulations.planning.sources import Sources

    given: dict[str, object] = {
        "federation.rounds": rounds,
        "training.sample_rate": sample_rate,
        "training.local_steps": local_steps,
        "privacy.target_epsilon": epsilon,
        "privacy.target_delta": delta,
        "privacy.mode": mode and mode.value,
        "privacy.max_grad_norm": clip,
        "federation.minimum_survivors": minimum_survivors,
        "federation.colluders": colluders,
        "privacy.max_stores_per_customer": max_stores_per_customer,
        "privacy.noise_multiplier": noise_multiplier,
    }
    _check_left_out(solve, given, customers)
    if model is not None and classes is not None:
        raise ContradictingOptions("--model contradicts --classes", hint="leave one of them out")
    sources = Sources.read(
        settings, {key: value for key, value in given.items() if value is not None}
    )
    sources = sources.with_shares(share or ())
    # The number of stores counts even where customers are solved for; their number does not.
    if solve is Unknown.CUSTOMERS:
        people = Population((1,) * (stores or len(sources.population().customers)))
    elif customers is not None or stores is not None:
        people = _population(customers, stores)
    else:
        people = sources.population()
    own_delta = settings is None and delta is None
    terms = sources.settings
    if own_delta:
        # Delta must stay below 1/N (docs/privacy.md), and N is known only here.
        terms = terms.with_changes({"privacy.target_delta": people.delta})
    variants = sources.variants(variant, model=model, classes=classes, only_one=solve is not None)
    solved = None
    if solve is not None:
        solved = find_unknown(
            solve,
            terms,
            people,
            variants[0],
            threshold=signal_to_noise,
            own_delta=own_delta,
        )
        terms, people = solved.settings, solved.population
    planned = forecast(
        terms, people, variants, threshold=signal_to_noise, stores=tuple(at_stores or (1, 2))
    )
    # Plain numbers name no model: the study's own recipe is then as good a guess as any.
    comparable = not sources.named or terms.model.kind == "categories"
    joining = expected_joining(terms, people) if comparable else None
    ledgers = [] if ledger is None else ledger_rows(ledger, solved_plan(terms))
    for warning in planned.warnings:
        echo(f"warning: {warning}", err=True)
    if output is Format.JSON:
        _print_json(planned, ledgers, solved, joining)
    else:
        from hanse_simulations.planning.tables import print_forecast

        print_forecast(planned, ledgers, solved, joining)


def _check_left_out(
    solve: Unknown | None, given: dict[str, object], customers: list[str] | None
) -> None:
    """Check that the term to solve for is not given as well.

    Raises:
        ContradictingOptions: Both are given.
    """
    if solve is None:
        return
    options = {
        Unknown.ROUNDS: ("--rounds", given["federation.rounds"]),
        Unknown.EPSILON: ("--epsilon", given["privacy.target_epsilon"]),
        Unknown.Q: ("--sample-rate", given["training.sample_rate"]),
        Unknown.CUSTOMERS: ("--customers", customers),
    }
    option, value = options[solve]
    if value is not None:
        raise ContradictingOptions(
            f"--solve {solve.value} contradicts {option}", hint="leave one of the two out"
        )


def _population(customers: list[str] | None, stores: int | None) -> Population:
    """Stores and customers as the options give them.

    Raises:
        ConfigError: There is no number of customers, or it is not a whole number.
        ContradictingOptions: --stores and --customers give different numbers of stores.
    """
    from hanse_simulations.planning.forecast import Population

    if customers is None:
        raise ConfigError(
            "--stores is given without --customers, and the signal depends on both",
            hint="give --customers N, or one number a store: --customers 300,250,40",
        )
    words = [word.strip() for each in customers for word in each.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(
            f"--customers {','.join(words)!r} is not a list of whole numbers",
            hint="e.g. --customers 300 --stores 10, or --customers 300,250,40",
        )
    counts = tuple(int(word) for word in words)
    if len(counts) == 1 and stores is not None:
        counts *= stores
    if stores not in (None, len(counts)):
        raise ContradictingOptions(
            f"--stores {stores} contradicts --customers, which names {len(counts)}",
            hint="leave --stores out",
        )
    return Population(counts)


def _print_json(
    planned: Forecast, ledgers: list[LedgerRow], solved: Solved | None, joining: Joining | None
) -> None:
    from dataclasses import asdict

    table: dict[str, Any] = asdict(planned)
    table["ledgers"] = [asdict(row) for row in ledgers]
    table["solved"] = (
        None if solved is None else {"unknown": solved.unknown.value, "value": solved.value}
    )
    table["joining"] = None if joining is None else joining.record()
    # JSON has no infinity: an epsilon without bound is null there.
    echo(json_text(table))
