"""The `hanse` command: mounts what the `hanse.commands` entry points offer.

Sub-commands are imported only when they are called or listed, so that `hanse` starts
at once and a store's machine needs none of the coordinator's or analyst's packages.
An entry point names a `typer.Typer` application.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from hanse_common.errors import HanseError, Interrupted, MissingDependency

GROUP = "hanse.commands"


class _InstalledCommands(TyperGroup):
    """A group whose commands are the installed entry points, loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _entry_points().get(cmd_name)
        if entry is None:
            return None
        try:
            command = typer.main.get_command(entry.load())
        except ModuleNotFoundError as error:
            return _not_installed(cmd_name, error)
        command.name = cmd_name
        return command


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _not_installed(name: str, error: ModuleNotFoundError) -> click.Command:
    def refuse() -> None:
        raise MissingDependency(
            f"`hanse {name}` needs the package {error.name!r}, which is not installed",
            hint="pip install 'hanse[simulate]', or the extra for this machine's part",
        )

    return click.Command(name, callback=refuse, help="(not installed on this machine)")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hanse {version('hanse')}")
        raise typer.Exit


app = typer.Typer(
    cls=_InstalledCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # A pretty traceback would print local variables: customer frames and keys among them.
    pretty_exceptions_enable=False,
    help="Federated, private training of one model of shopper interest across shops.",
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
    except HanseError as error:
        typer.echo(f"hanse: error: {error} [{error.code}]", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        typer.echo("hanse: interrupted", err=True)
        sys.exit(Interrupted.exit_status)
