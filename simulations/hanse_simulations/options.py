"""Options that several of the analyst's commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Mode(StrEnum):
    """Who adds the noise."""

    distributed = "distributed"
    local = "local"


RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe (`hanse recipes list`), or a .toml file."),
]
ModeOption = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="distributed: stores share the noise; local: each adds all of it.",
    ),
]
RoundsOption = Annotated[int | None, typer.Option("--rounds", help="Rounds of training.")]
StoresOption = Annotated[int | None, typer.Option("--stores", help="Keep N stores.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Worker processes.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes the run repeatable.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. training.anchors=4."),
]


def changed_by(options: list[str] | None) -> dict[str, object]:
    """New values by dotted keys, as the `--set` options give them."""
    return dict(map(_parse_setting, options or []))


def _parse_setting(text: str) -> tuple[str, object]:
    """Parse KEY=VALUE; the value is TOML where it can be, else text."""
    import tomllib

    from hanse_common.errors import ConfigError

    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text!r} is not KEY=VALUE", hint="e.g. --set federation.rounds=5")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
