"""`hanse audit attack`: an empirical test that can refute the claimed epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanse_common.commands import single_command
from hanse_common.errors import ClaimRefuted
from hanse_common.formats import Format, FormatOption
from hanse_common.options import QuietOption
from hanse_common.printing import console, echo
from hanse_common.wording import json_text
from hanse_simulations.options import (
    ModeOption,
    RoundsOption,
    SeedOption,
    SetOption,
    StoresOption,
    WorkersOption,
    changed_by,
)
from hanse_simulations.privacy_audit.faults import Fault

app = single_command()


@app.command()
def attack(
    recipe: Annotated[
        str,
        typer.Option(metavar="RECIPE", help="A recipe (`hanse recipes list`), or a .toml file."),
    ] = "attack",
    number: Annotated[
        int, typer.Option(min=8, help="Number of canaries; each is a customer by a fair coin.")
    ] = 1000,
    fault: Annotated[
        Fault, typer.Option(help="Break the stores' noise first: the attack must find it.")
    ] = Fault.NONE,
    mode: ModeOption = None,
    epsilon: Annotated[float | None, typer.Option(help="Target epsilon to claim.")] = None,
    rounds: RoundsOption = None,
    stores: StoresOption = None,
    customers: Annotated[
        int | None, typer.Option(help="Keep N customers per store, not counting canaries.")
    ] = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the run's files there.")
    ] = None,
    format_: FormatOption = Format.TABLE,
    quiet: QuietOption = False,
) -> None:
    """Train with canary customers, guess who was in the data, and bound epsilon from below.

    Ends with an error if the bound exceeds the claim of the stores' ledgers. A bound below
    it proves nothing.
    """
    from hanse_common.run_file import load_recipe

    given: dict[str, object] = {
        "privacy.mode": mode.value if mode else None,
        "privacy.target_epsilon": epsilon,
        "federation.rounds": rounds,
        "data.stores": stores,
        "data.customers": customers,
        "compute.workers": workers,
        "seed": seed,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= changed_by(set_)
    settings = load_recipe(recipe, changes)
    from hanse_simulations.privacy_audit.run import attack as run_attack
    from hanse_simulations.privacy_audit.table import as_row, render

    result = run_attack(settings, canaries=number, fault=fault, folder=keep, quiet=quiet)
    if format_ is Format.JSON:
        echo(json_text(as_row(result), indent=1))
    else:
        console().print(render(result))
    if result.refuted:
        raise ClaimRefuted(
            f"epsilon is at least {result.lower_bound:.2f} with {result.confidence:.0%} "
            f"confidence, and {result.claimed:.2f} is claimed",
            hint="stop training on real customers with this release until the leak is found",
        )
