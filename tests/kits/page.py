"""The commands that a page of the documentation shows, in the order in which they stand there."""

from __future__ import annotations

import re
from functools import cache

import click
from typer.main import get_command

from hanse_common.cli import app
from kits.packages import ROOT

PROGRAMS = (
    *("hanse", "pip", "make", "python", "ssh", "curl", "ulimit"),
    *("systemctl", "journalctl", "kubectl", "helm", "docker", "podman", "sudo"),
)
"""A line in a block without a language, or a code in a sentence, is a command if it begins so."""
_CODE = re.compile(
    r"^ *```(?P<language>\w*)\n(?P<block>.*?)^ *```|`(?P<code>[^`\n]+)`", re.S | re.M
)


def operators_page() -> str:
    """The text of docs/operators.md."""
    return (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    return {
        part.partition("\n")[0].strip(): part.partition("\n")[2]
        for part in re.split(r"(?m)^## ", text)[1:]
    }


def commands(text: str) -> list[str]:
    """The commands of a text, those in blocks and those in sentences, in its order."""
    found = []
    for match in _CODE.finditer(text):
        if match["code"] is not None:
            lines = [match["code"]]
        elif match["language"] in ("", "console", "sh", "bash"):
            lines = match["block"].splitlines()
        else:  # a file's content
            continue
        found += [
            line.strip() for line in lines if line.split()[:1] and line.split()[0] in PROGRAMS
        ]
    return found


@cache
def _hanse() -> click.Command:
    return get_command(app)


def resolve(line: str) -> tuple[list[str], click.Command]:
    """A line's words after the command of `hanse` that it names, and that command."""
    words = re.sub(r"[\[\]…]", " ", line).split()[1:]
    command = _hanse()
    context = click.Context(command, info_name="hanse")
    while isinstance(command, click.Group) and words:
        below = command.get_command(context, words[0])
        assert below is not None, f"there is no command {words[0]!r} in `{line}`"
        context = click.Context(below, parent=context, info_name=words.pop(0))
        command = below
    return words, command


@cache
def name_of(line: str) -> str:
    """The command that a line runs, without its arguments: `hanse server up`."""
    if not line.startswith("hanse "):
        return line
    words, _ = resolve(line)
    return " ".join(line.split()[: len(line.split()) - len(words)])
