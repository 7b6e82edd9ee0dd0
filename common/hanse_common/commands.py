"""The one place where commands of `hanse` are made: groups, single commands, and their help.

    app = command_group("Check stores' ledgers.", entry_points="hanse.audit.commands")

    @app.command()
    def verify(path: EvidenceArgument, output: FormatOption = Format.TABLE) -> None: ...

    simulate = single_command()

    @simulate.command()
    def run(recipe: RecipeArgument = None) -> None: ...

All of them print the same help: panels with every argument and option, what it means, and its
default. Options that several commands have are in `hanse_common.options`, with the words that
may stand for a value in a help page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ArgumentInfo, CommandFunctionType
from typer.utils import get_params_from_function

from hanse_common.errors import MissingDependency

WHOLE_NUMBER = "N"
NUMBER = "X"
OTHERS = "Other commands"
"""Panel of the commands that no panel of a group names."""


class Command(TyperCommand):
    """A command whose help page is drawn in panels, and whose errors are plain lines."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        self.help = _paragraphs(self.help)
        _restore_argument_help(self)
        _name_values(self)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the help page."""
        _print_help(self, ctx)


class Group(TyperGroup):
    """A group of commands, and of those that installed packages add to it.

    A command of the group's own comes before one of the same name that a package adds. An
    entry point names a `typer.Typer` application, which is imported when it is called or
    listed and not before.
    """

    entry_point_group: ClassVar[str | None] = None
    """Name of the group of entry points; none if no package may add anything."""
    panels: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Title of a panel of the help page -> names of its commands, in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the panels, then those of no panel: own ones come first."""
        own = super().list_commands(ctx)
        names = [*own, *sorted(set(self._installed()) - set(own))]
        placed = [name for names in self.panels.values() for name in names]
        return sorted(names, key=lambda name: placed.index(name) if name in placed else len(placed))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; one whose packages are missing says so when it is called."""
        own = super().get_command(ctx, cmd_name)
        entry = self._installed().get(cmd_name)
        if own is not None or entry is None:
            return own
        command: click.Command
        try:
            command = typer.main.get_command(entry.load())
        except ModuleNotFoundError as error:
            command = _not_installed(f"{ctx.command_path} {cmd_name}", cmd_name, error)
        command.name = cmd_name
        if isinstance(command, TyperCommand | TyperGroup) and self.panels:
            command.rich_help_panel = self._panel(cmd_name)
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the help page."""
        _print_help(self, ctx)

    def _installed(self) -> dict[str, EntryPoint]:
        if self.entry_point_group is None:
            return {}
        return {entry.name: entry for entry in entry_points(group=self.entry_point_group)}

    def _panel(self, name: str) -> str:
        return next((title for title, names in self.panels.items() if name in names), OTHERS)


class _App(typer.Typer):
    """An application all of whose commands are `Command`s."""

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As `typer.Typer.command`."""
        return super().command(name, cls=Command, **options)


def command_group(
    text: str,
    *,
    entry_points: str | None = None,
    panels: Mapping[str, tuple[str, ...]] | None = None,
    root: bool = False,
) -> typer.Typer:
    """Make a group of commands.

    Args:
        text: What the group is for, as its help page says it.
        entry_points: Group of entry points by which other packages add commands.
        panels: Titles of the help page's panels, each with the names of its commands.
        root: This is `hanse` itself: it has the options that install shell completion, which
            a group below it must not have.
    """

    class _Group(Group):
        """The group as it was asked for."""

        entry_point_group = entry_points

    _Group.panels = panels or {}
    return _App(
        cls=_Group,
        help=text,
        # With a callback a group stays one, even while it has one command only.
        callback=None if root else _nothing,
        no_args_is_help=True,
        **_same_for_all(completion=root),
    )


def single_command() -> typer.Typer:
    """Make an application that is one command, for an entry point to name."""
    return _App(**_same_for_all(completion=False))


def _same_for_all(*, completion: bool) -> dict[str, Any]:
    return {
        "add_completion": completion,
        # This is how errors are printed; `_print_help` draws the panels. An error in a box
        # could be neither searched for nor copied, since its line is broken.
        "rich_markup_mode": None,
        # A pretty traceback would print local variables: customer frames and keys among them.
        "pretty_exceptions_enable": False,
    }


def _nothing() -> None:
    """A group does nothing before its command."""


def _print_help(command: Command | Group, ctx: click.Context) -> None:
    from typer.rich_utils import rich_format_help  # imported on use: it takes rich's tables

    rich_format_help(obj=command, ctx=ctx, markup_mode="rich")


def _paragraphs(text: str | None) -> str | None:
    """A docstring whose lines are not broken: a terminal breaks them by its own width."""
    return text and "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _restore_argument_help(command: Command) -> None:
    """Give arguments the help that their annotations hold.

    Typer sets an argument's help before it calls click's constructor. From click 8.5 on,
    arguments have a help of their own, and that constructor sets it to None.
    """
    function = getattr(command.callback, "__wrapped__", None)
    if function is None:
        return
    declared = get_params_from_function(function)
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and parameter.name and not parameter.help:
            info = declared[parameter.name].default
            parameter.help = info.help if isinstance(info, ArgumentInfo) else None


def _name_values(command: Command) -> None:
    """Let a value be called the same on every page.

    Click calls a number INTEGER RANGE. Typer prints the type of an argument, such as TEXT,
    whose word is its own name in capitals; so the type takes that name.
    """
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            if parameter.metavar is not None:
                parameter.type = copy(parameter.type)
                parameter.type.name = parameter.metavar.lower()
        elif parameter.metavar is None:
            if isinstance(parameter.type, click.types.IntParamType):
                parameter.metavar = WHOLE_NUMBER
            elif isinstance(parameter.type, click.types.FloatParamType):
                parameter.metavar = NUMBER


def _not_installed(path: str, name: str, error: ModuleNotFoundError) -> click.Command:
    def refuse() -> None:
        raise MissingDependency(
            f"`{path}` needs the package {error.name!r}, which is not installed",
            hint="pip install 'hanse[simulate]', or the extra for this machine's part",
        )

    return Command(name, callback=refuse, help="(not installed on this machine)")
