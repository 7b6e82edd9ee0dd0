"""Runs commands of Hanse as on a machine with some of its extras only, in this one's environment.

    python -m kits.lacking client audit < commands

Each line of standard input is a command as a JSON list. Each line of output is its exit status and
what it wrote to stderr, as JSON; an exception that no command may raise has the status `null`.
Without standard input, every command is run with `--help`, and then with made-up arguments.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions

from packaging.utils import canonicalize_name

from release.packages import PROJECT, closure, extras

TESTERS = ("pytest", "hypothesis", "packaging", "kits", "release")


class Absent(MetaPathFinder):
    """Finds no module of the distributions that an installation lacks."""

    def __init__(self, parts: list[str]) -> None:
        present = {*closure(extras(*parts)), PROJECT["name"], "pip", "setuptools"}
        self._absent = {
            module
            for module, names in packages_distributions().items()
            if not {canonicalize_name(name) for name in names} & present
            and not module.startswith(("hanse_", "_"))
            and module not in TESTERS
            and module not in sys.stdlib_module_names
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse a module as the import system does."""
        if name.partition(".")[0] in self._absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def leaves(command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command without sub-commands, with its words."""
    import click

    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command, info_name="hanse")
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*path, name))


def made_up(command, folder: str) -> list[str]:
    """Values for everything that a command requires: a file that is not there, or a number."""
    words = []
    for parameter in command.params:
        if parameter.required:
            options = [name for name in parameter.opts if name.startswith("-")][:1]
            choices = list(getattr(parameter.type, "choices", ()))
            number = type(parameter.type).__name__.startswith(("Int", "Float"))
            value = str(choices[0]) if choices else "1" if number else f"{folder}/absent"
            words += [*options, value]
    return words


def run(words: list[str]) -> tuple[int | None, str]:
    """Run one command; returns its status and its stderr."""
    from hanse_common.cli import main

    errors, sys.argv = io.StringIO(), ["hanse", *words]
    status: int | None = 0
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:
            status = None
            traceback.print_exc(file=errors)
    return status, errors.getvalue()


def main() -> None:
    """Print the outcome of every command."""
    sys.meta_path.insert(0, Absent(sys.argv[1:]))
    asked = [json.loads(line) for line in sys.stdin]
    if not asked:
        import typer

        from hanse_common.cli import app

        folder = tempfile.mkdtemp()
        for path, command in leaves(typer.main.get_command(app)):
            asked += [[*path, "--help"], [*path, *made_up(command, folder)]]
    out = sys.stdout
    for words in asked:
        status, errors = run(words)
        print(json.dumps([words, status, errors]), file=out, flush=True)


if __name__ == "__main__":
    main()
