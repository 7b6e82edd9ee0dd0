"""Factories of all commands of `hanse`: groups, single commands, and their help pages.

    app = command_group("Check stores' ledgers.", entry_points="hanse.audit.commands")

    @app.command()
    def verify(path: EvidenceArgument, output: FormatOption = Format.TABLE) -> None: ...

    simulate = single_command()

    @simulate.command()
    def run(recipe: RecipeArgument = None) -> None: ...

All help pages look alike: panels with every argument and option, its meaning, and its default.
Options that several commands share are in `hanse_common.options`, with the metavars of help
pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from importlib.metadata import EntryPoint, entry_points, requires
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ArgumentInfo, CommandFunctionType
from typer.utils import get_params_from_function

from hanse_common.errors import MissingDependency

WHOLE_NUMBER = "N"
NUMBER = "X"
_OWN = "hanse_"
"""Beginning of the names of our own packages; one that is missing is a defect, not an extra."""
_EXTRA = re.compile(r"(?P<name>[\w.-]+).*;.*extra == ['\"](?P<extra>[\w-]+)")
OTHERS = "Other commands"
"""Title of the panel for commands that are in no other panel of a group."""


class Command(TyperCommand):
    """A command whose help page has panels and whose errors are plain lines."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        self.help = _paragraphs(self.help)
        _restore_argument_help(self)
        _name_values(self)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the help page."""
        _print_help(self, ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a package that is not installed on this machine is named."""
        try:
            return super().invoke(ctx)
        # Commands import heavy packages on use, and each part's machine lacks those of the others.
        except ImportError as error:
            missing = missing_dependency(ctx.command_path, error)
            if missing is None:
                raise
            raise missing from error


class Group(TyperGroup):
    """A group of commands to which installed packages can add more by entry points.

    The group's own command wins over an added one of the same name. An entry point names a
    `typer.Typer` application, which is imported only when it is called or listed.
    """

    entry_point_group: ClassVar[str | None] = None
    """Name of the group of entry points; None if packages cannot add commands."""
    panels: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Titles of the help page's panels, each with the names of its commands in order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the panels, then the others, own commands first."""
        own = super().list_commands(ctx)
        names = [*own, *sorted(set(self._installed()) - set(own))]
        placed = [name for names in self.panels.values() for name in names]
        return sorted(names, key=lambda name: placed.index(name) if name in placed else len(placed))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or one that reports a missing package when called."""
        own = super().get_command(ctx, cmd_name)
        entry = self._installed().get(cmd_name)
        if own is not None or entry is None:
            return own
        command: click.Command
        try:
            command = typer.main.get_command(entry.load())
        # Listing a group must not fail because one of its commands lacks an optional package.
        except ImportError as error:
            missing = missing_dependency(f"{ctx.command_path} {cmd_name}", error)
            if missing is None:
                raise
            command = _not_installed(cmd_name, missing)
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
    """A Typer application that makes every command a `Command`."""

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a function, as `typer.Typer.command` does."""
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
        text: The group's description on its help page.
        entry_points: Group of entry points by which other packages add commands.
        panels: Titles of the help page's panels, each with the names of its commands.
        root: Whether this is `hanse` itself, the only group with the options that install shell
            completion.
    """

    class _Group(Group):
        """`Group` with the entry points and panels of this call."""

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
    """Make an application with a single command, for an entry point to name."""
    return _App(**_same_for_all(completion=False))


def _same_for_all(*, completion: bool) -> dict[str, Any]:
    return {
        "add_completion": completion,
        # None makes errors plain lines: in a box, a long error is broken into several lines and can
        # be neither searched for nor copied. `_print_help` draws the help's panels all the same.
        "rich_markup_mode": None,
        # A pretty traceback prints local variables, among them customers' data and keys.
        "pretty_exceptions_enable": False,
    }


def _nothing() -> None:
    """Do nothing before the group's command."""


def _print_help(command: Command | Group, ctx: click.Context) -> None:
    from typer.rich_utils import rich_format_help  # imported on use: it takes rich's tables

    rich_format_help(obj=command, ctx=ctx, markup_mode="rich")


def _paragraphs(text: str | None) -> str | None:
    """Join the lines of each paragraph; the terminal wraps them to its own width."""
    return text and "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _restore_argument_help(command: Command) -> None:
    """Set the help of arguments from their annotations.

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
    """Use the same metavars on every help page.

    Click shows a bounded integer as INTEGER RANGE. Typer shows the type of an argument instead
    of its metavar, so the type is renamed to the metavar.
    """
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            if parameter.metavar is not None:
                # A copy, since click shares one object per type between all parameters.
                parameter.type = copy(parameter.type)
                parameter.type.name = parameter.metavar.lower()
        elif parameter.metavar is None:
            if isinstance(parameter.type, click.types.IntParamType):
                parameter.metavar = WHOLE_NUMBER
            elif isinstance(parameter.type, click.types.FloatParamType):
                parameter.metavar = NUMBER


def missing_dependency(path: str, error: ImportError) -> MissingDependency | None:
    """Return the error about a package that is not installed here, or None if none is missing.

    Args:
        path: The command, with its groups.
        error: What an import raised. Libraries that import their own parts on use, such as
            transformers, raise an error without a name, whose cause has it.

    Edge cases:
        A module of our own that is missing is a defect, and no package is named for it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            own = cause.name.split(".")[0].startswith(_OWN)
            return None if own else _missing(path, cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _not_installed(name: str, missing: MissingDependency) -> click.Command:
    def refuse() -> None:
        raise missing

    return Command(name, callback=refuse, help="(not installed on this machine)")


def _missing(path: str, error: ModuleNotFoundError) -> MissingDependency:
    """Return the error that names a package and the extra of `hanse` that installs it."""
    package = (error.name or "").split(".")[0]
    # Lines such as `torch<2.14,>=2.9; extra == "client"`.
    # An installer lists `dev`, which holds all others, among those that have a package.
    parts = (_EXTRA.match(line) for line in requires("hanse") or ())
    extras = [
        part["extra"]
        for part in parts
        if part and part["name"].replace("-", "_") == package and part["extra"] != "dev"
    ]
    return MissingDependency(
        f"`{path}` needs the package {error.name!r}, which is not installed here",
        hint=f"pip install 'hanse[{extras[0] if extras else 'simulate'}]', or run it on a machine "
        "that has it",
    )
