"""Groups of commands that other packages add to: installed entry points, loaded when needed.

    class _Installed(InstalledCommands):
        entry_point_group = "hanse.commands"

    app = typer.Typer(cls=_Installed)

A command of the group's own comes first; an entry point names a `typer.Typer` application.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar

import click
import typer
from typer.core import TyperGroup

from hanse_common.errors import MissingDependency


class InstalledCommands(TyperGroup):
    """A group that also holds what the entry points of a group offer."""

    entry_point_group: ClassVar[str]
    """Name of the group of entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The group's own commands, then those installed."""
        own = super().list_commands(ctx)
        return [*own, *sorted(set(self._installed()) - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; one whose packages are missing says so when it is called."""
        own = super().get_command(ctx, cmd_name)
        entry = self._installed().get(cmd_name)
        if own is not None or entry is None:
            return own
        try:
            command = typer.main.get_command(entry.load())
        except ModuleNotFoundError as error:
            return _not_installed(f"{ctx.command_path} {cmd_name}", cmd_name, error)
        command.name = cmd_name
        return command

    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.entry_point_group)}


def _not_installed(path: str, name: str, error: ModuleNotFoundError) -> click.Command:
    def refuse() -> None:
        raise MissingDependency(
            f"`{path}` needs the package {error.name!r}, which is not installed",
            hint="pip install 'hanse[simulate]', or the extra for this machine's part",
        )

    return click.Command(name, callback=refuse, help="(not installed on this machine)")
