"""The `hanse` command, whose sub-commands come from the entry points `hanse.commands`.

A sub-command is imported only when it is called or listed, so that `hanse` starts at once
and a store's machine needs none of the coordinator's or analyst's packages. An entry point
names a `typer.Typer` application that `hanse_common.commands` has made.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from hanse_common.commands import command_group, missing_dependency
from hanse_common.errors import HanseError, Interrupted
from hanse_common.printing import echo
from hanse_common.wording import printable

READERS = {
    "Operators of a store or of the coordinator": ("store", "data", "model", "server"),
    "Analysts": ("simulate", "recipes", "runs", "plan", "bench"),
    "Auditors": ("audit",),
}
"""Panels of the help page: each group of users with its commands, in the order shown."""


def _print_version(requested: bool) -> None:
    if requested:
        echo(f"hanse {version('hanse')}")
        raise typer.Exit


app = command_group(
    "Federated, private training of one model of shopper interest across shops.",
    entry_points="hanse.commands",
    panels=READERS,
    root=True,
)


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Run a sub-command."""


def main() -> None:
    """Run `hanse`."""
    guarded(app)


def guarded(command: typer.Typer) -> None:
    """Run a command; print a `HanseError` on one line of stderr and exit with its status."""
    try:
        command()
    except ImportError as error:
        # Outside of a command's own code, as while its arguments are read.
        missing = missing_dependency("hanse", error)
        if missing is None:
            raise
        _fail(missing)
    except HanseError as error:
        _fail(error)
    except KeyboardInterrupt:
        echo("hanse: interrupted", err=True)
        sys.exit(Interrupted.exit_status)


def _fail(error: HanseError) -> NoReturn:
    # An error may quote a file or another party's text, which could hold escape sequences.
    echo(f"hanse: error: {printable(str(error))} [{error.code}]", err=True)
    sys.exit(error.exit_status)
