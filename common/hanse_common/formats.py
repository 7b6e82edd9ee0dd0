"""The option `--format`, and messages on stderr that leave stdout to results."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hanse_common.printing import echo


class Format(StrEnum):
    """Format of a result on stdout."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", help="A table for people, or JSON for programs.")
]


def say(line: str) -> None:
    """Print a message to stderr; stdout is for results."""
    echo(line, err=True)
