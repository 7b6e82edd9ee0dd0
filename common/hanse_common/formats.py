"""How commands print: a result as a table for people or JSON for programs, words on stderr."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hanse_common.printing import echo


class Format(StrEnum):
    """How a result is printed to stdout."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", help="A table for people, or JSON for programs.")
]


def say(line: str) -> None:
    """Say something to the person at the terminal; stdout is for results."""
    echo(line, err=True)
