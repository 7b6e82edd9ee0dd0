"""Runs commands of Hanse as on a machine with some of its extras only, in this one's environment.

    python -m kits.lacking client audit < commands

Each line of standard input is a command as a JSON list. Each line of output is its exit status and
what it wrote to stderr, as JSON; an exception that no command may raise has the status `null`.
Without standard input, every command is run with `--help`, and then with made-up arguments.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from typing import Any

from packaging.utils import canonicalize_name

from release.packages import PROJECT, closure, extras

TESTERS = ("packaging", "setuptools")


class Absent:
    """Finds modules and metadata like the import system, but not those an installation lacks."""

    def __init__(self, parts: list[str]) -> None:
        self._present = {*closure(extras(*parts)), PROJECT["name"], *TESTERS}
        self._absent = {
            module
            for module, names in packages_distributions().items()
            if not {canonicalize_name(name) for name in names} & self._present
            and not module.startswith(("hanse_", "_"))
            and module not in sys.stdlib_module_names
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Find a module on the import path."""
        if name.partition(".")[0] in self._absent:
            return None
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Iterator[Any]:
        """Find the metadata of packages."""
        for found in PathFinder.find_distributions(context):
            if canonicalize_name(found.metadata["Name"]) in self._present:
                yield found

    def invalidate_caches(self) -> None:
        """Forget what folders held."""
        PathFinder.invalidate_caches()


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
    place = sys.meta_path.index(PathFinder)
    sys.meta_path[place] = Absent(sys.argv[1:])  # type: ignore[call-overload]
    asked = [json.loads(line) for line in sys.stdin]
    if not asked:
        import typer

        from hanse_common.cli import app

        folder = tempfile.mkdtemp()
        os.chdir(folder)  # some commands make what they are asked for
        for path, command in leaves(typer.main.get_command(app)):
            asked += [[*path, "--help"], [*path, *made_up(command, folder)]]
        asked.append(["simulate", "smoke"])  # without a recipe it shows its help
    out = sys.stdout
    for words in asked:
        status, errors = run(words)
        print(json.dumps([words, status, errors]), file=out, flush=True)


if __name__ == "__main__":
    main()
