"""Help pages: every command explains itself, in the same words as all the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from hanse_common.cli import READERS, app
from hanse_common.commands import OTHERS, Command, Group
from hanse_common.formats import Format
from hanse_common.options import METAVARS

WIDTH = 80
PROGRAM = "import sys; sys.argv[0] = 'hanse'; from hanse_common.cli import main; main()"
SEVERAL_METAVARS = {
    "--customers": {"N", "N[,N...]"},  # of every store, or of each of them
    "--output": {"FILE", "FOLDER"},  # what is written is one file, or a folder of them
    "--model": {"MODEL", "NAME"},  # a benchmark's models are not on disk
    "--name": {"NAME", "RUN"},  # a run's new name, and the run to go on with
}


def tree() -> dict[tuple[str, ...], tuple[click.Command, click.Context]]:
    """Every group and command of `hanse`, by its words."""

    def walk(command: click.Command, context: click.Context, words: tuple[str, ...]) -> Iterator:
        yield words, (command, context)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                inner = click.Context(below, parent=context, info_name=name)
                yield from walk(below, inner, (*words, name))

    root = get_command(app)
    return dict(walk(root, click.Context(root, info_name="hanse"), ("hanse",)))


TREE = tree()
PAGES = [" ".join(words) for words in TREE]


def page(words: str) -> str:
    """A command's help page, as a terminal of eighty columns shows it."""
    done = CliRunner().invoke(
        app, [*words.split()[1:], "--help"], prog_name="hanse", env={"COLUMNS": str(WIDTH)}
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def parameters(words: str) -> list[click.Parameter]:
    command, context = TREE[tuple(words.split())]
    return command.get_params(context)


def help_of(parameter: click.Parameter) -> str:
    return getattr(parameter, "help", None) or ""


def test_the_tree_holds_the_commands_of_all_packages():
    assert {"hanse store enrol", "hanse audit attack", "hanse plan", "hanse bench tasks"} <= set(
        PAGES
    )
    assert len(PAGES) > 50


@pytest.mark.parametrize("words", PAGES)
def test_every_command_is_made_by_the_factory(words):
    command, _ = TREE[tuple(words.split())]
    assert isinstance(command, Command | Group)


@pytest.mark.parametrize("words", PAGES)
def test_every_command_argument_and_option_has_a_help_of_plain_text(words):
    command, _ = TREE[tuple(words.split())]
    texts = {words: command.help or ""}
    texts |= {str(parameter.name): help_of(parameter) for parameter in parameters(words)}
    for name, text in texts.items():
        assert text.strip(), f"{name} of `{words}` has no help"
        # What is read as markup is not shown.
        assert Text.from_markup(text).plain == text, name
        assert "\\" not in text
        assert "\n" not in text.replace("\n\n", ""), "a line is broken for another width"


@pytest.mark.parametrize("words", PAGES)
def test_every_value_is_named_by_a_word_of_the_table(words):
    for parameter in parameters(words):
        if getattr(parameter, "is_flag", False):
            continue
        given = parameter.metavar
        if given is None:
            assert isinstance(parameter.type, click.Choice), f"{parameter.name} of `{words}`"
            continue
        assert set(given.removesuffix("...").split("|")) <= set(METAVARS), given


def test_an_option_has_one_word_for_its_value_in_all_commands():
    found = defaultdict(set)
    for words in PAGES:
        for parameter in parameters(words):
            if isinstance(parameter, click.Option) and parameter.metavar:
                found[max(parameter.opts, key=len)].add(parameter.metavar)
    several = {option: words for option, words in found.items() if len(words) > 1}
    assert several == SEVERAL_METAVARS


def test_the_format_is_chosen_in_the_same_words_everywhere():
    found = {
        (help_of(parameter), tuple(parameter.type.choices), parameter.default)
        for words in PAGES
        for parameter in parameters(words)
        if "--format" in parameter.opts and isinstance(parameter.type, click.Choice)
    }
    ((text, choices, default),) = found
    assert [str(choice) for choice in choices] == [str(choice) for choice in Format]
    assert (text, default) == ("A table for people, or JSON for programs.", "table")


def test_what_asks_can_be_told_not_to_in_the_same_words():
    found = {
        help_of(parameter)
        for words in PAGES
        for parameter in parameters(words)
        if "--yes" in parameter.opts
    }
    assert len(found) == 1


@pytest.mark.parametrize("words", PAGES)
def test_a_page_fits_eighty_columns_and_shows_every_word(words):
    shown = page(words)
    assert "\\" not in shown
    assert "…" not in shown, "something is cut"
    assert max(len(line) for line in shown.splitlines()) <= WIDTH
    on_page = set(shown.split())
    for parameter in parameters(words):
        assert set(help_of(parameter).split()) <= on_page, parameter.name
        assert set(parameter.opts) <= on_page


def test_required_and_default_values_are_shown():
    shown = page("hanse audit verify")
    assert "[required]" in shown and "[default: table]" in shown


def test_the_argument_of_simulate_is_explained():
    from hanse_common.recipes import RECIPES

    shown = page("hanse simulate")
    assert "conversion, or a" in shown
    recipe = next(p for p in parameters("hanse simulate") if p.name == "recipe")
    named = set(help_of(recipe).replace(",", "").split())
    assert {name for name in RECIPES if name in named} >= {"grocery", "smoke", "conversion"}


def test_alone_it_lists_the_commands_by_who_uses_them():
    done = CliRunner().invoke(app, [], prog_name="hanse", env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 2
    titles = [
        line.split("─ ")[1].split(" ─")[0] for line in done.stdout.splitlines() if "╭" in line
    ]
    assert titles == ["Options", *READERS]
    listed = {name for _, names in READERS.items() for name in names}
    assert {words[1] for words in TREE if len(words) == 2} == listed
    assert OTHERS not in done.stdout


def test_help_starts_without_the_heavy_packages():
    program = (
        "import sys; sys.argv = ['hanse', '--help']\n"
        "from hanse_common.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'opacus', 'polars', 'pandera', 'flwr', 'pyarrow',\n"
        "         'numpy', 'scipy', 'sklearn', 'matplotlib', 'dp_accounting', 'ray', 'httpx',\n"
        "         'sqlalchemy', 'starlette', 'pydantic', 'cryptography'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stderr.strip(), done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("hanse sim", ["simulate"]),
        ("hanse store en", ["enrol"]),
        ("hanse audit a", ["attack"]),
        ("hanse simulate --no-s", ["--no-secure-aggregation"]),
        ("hanse simulate --mode l", ["local"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed, offered):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ
        | {
            "_HANSE_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == offered


def test_completion_is_installed_by_hanse_itself_and_by_nothing_below_it():
    assert "--show-completion" in page("hanse")
    for words in PAGES[1:]:
        assert not any("completion" in option for p in parameters(words) for option in p.opts)
