"""No text of another party turns a terminal's colours, title, clipboard or direction of text.

The texts come in where they do: in a store's refusal, a run's files, names of files and
classes, an answer of a server. What the real commands print must hold no control character,
and nothing of it may be read as markup.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from flwr.app import Error
from rich.table import Table
from rich.text import Text

from hanse_client.deployment.node_loop import _outcome
from hanse_client.deployment.tables import print_facts
from hanse_client.deployment.templates import store_toml
from hanse_common import logs, printing
from hanse_common.errors import ConfigError, HanseError
from hanse_common.formats import Format, say
from hanse_common.wording import json_text, printable
from hanse_server.store_grid import refusal_reason
from kits.deployment import StoreFiles, found, server, succeed

HOSTILE = {
    "a colour": "\x1b[31mred\x1b[0m",
    "a title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;http://evil.example/\x1b\\here\x1b]8;;\x1b\\",
    "the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "eight-bit control": "\x9b2J",
    "a line taken back": "ok\rforged",
    "a line more": "ok\nhanse: forged",
    "a backspace": "no\b\byes",
    "the other direction": "\u202egnp.exe",
    "an isolate": "\u2066x\u2069",
    "a separator": "one\u2028two",
    "nothing seen": "a\u200bb\ufeff",
    "a surrogate": "\ud800",
}
ALLOWED_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def unseen(text: str) -> list[str]:
    """Characters that no printed line may hold."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ALLOWED_CATEGORIES]


@pytest.mark.parametrize("what", HOSTILE)
def test_what_cannot_be_seen_becomes_an_escape(what):
    text = HOSTILE[what]
    shown = printable(text)
    assert not unseen(shown) and "\n" not in shown
    assert shown.encode("utf-8")
    assert printable("Käse 10 % 牛奶 ½ €") == "Käse 10 % 牛奶 ½ €"


@pytest.mark.parametrize("what", HOSTILE)
def test_a_stores_refusal_is_clean_from_the_moment_it_comes_in(what):
    for words in (
        HOSTILE[what],
        f"[data] {HOSTILE[what]}",
        f"<class 'X'>:<'[data] {HOSTILE[what]}'>",
    ):
        assert not unseen(refusal_reason(Error(2, words)))
        assert "\n" not in refusal_reason(Error(2, words))


@pytest.mark.parametrize("what", HOSTILE)
def test_json_shows_every_character_and_stays_what_it_was(what):
    value = {HOSTILE[what]: [HOSTILE[what], "Käse"]}
    text = json_text(value)
    assert not unseen(text) and "Käse" in text
    assert json.loads(text) == value


@pytest.mark.parametrize("what", HOSTILE)
def test_tables_draw_escapes_and_read_no_markup(what):
    file = io.StringIO()
    screen = printing.console(file=file, width=100)
    table = Table(title=HOSTILE[what])
    table.add_column(HOSTILE[what])
    table.add_row(Text(HOSTILE[what]))
    table.add_row(f"[red]{HOSTILE[what]}[/red] :smile: [link=http://evil.example]x[/link]")
    screen.print(table)
    screen.print(f"[blink]{HOSTILE[what]}")
    printed = file.getvalue()
    assert not unseen(printed)
    assert "[red]" in printed and "[blink]" in printed and ":smile:" in printed


def test_a_terminal_still_gets_its_own_colours(monkeypatch):
    """What rich does by itself passes: only texts are looked at."""
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    screen = printing.console(file=file, width=40)
    screen._force_terminal = True
    screen.print(Text("\x1b[5mtext", style="bold"))
    assert "\\x1b[5mtext" in file.getvalue()


@pytest.mark.parametrize("what", HOSTILE)
def test_what_stores_and_coordinators_say_is_printed_clean(what, capsys):
    print_facts({"store": HOSTILE[what]}, Format.TABLE)
    print_facts({"store": HOSTILE[what]}, Format.JSON)
    say(f"train: {HOSTILE[what]}")
    printed = capsys.readouterr()
    assert not unseen(printed.out + printed.err)


def test_the_line_of_a_message_cannot_forge_another():
    class Reply:
        error = Error(2, "no\nconnected to x\x1b[2J")

        def has_error(self) -> bool:
            return True

    assert _outcome(Reply()) == "no\\nconnected to x\\x1b[2J"


def test_an_error_is_one_line_whatever_it_quotes(tmp_path):
    """A real command, on a real terminal, that quotes a file's name and a value from it."""
    folder = tmp_path / "evil\x1b[31m\u202e[red]"
    folder.mkdir()
    settings = folder / "store.toml"
    settings.write_text('"na\\u009b\\u001b[2Jme" = "[red]"\n' + store_toml("luebeck"))
    for words in (
        ["data", "check", str(settings)],
        ["data", "check", str(folder / "absent.toml")],
        ["store", "doctor", "--folder", str(folder)],
        ["audit", "verify", str(folder)],
    ):
        printed = on_a_terminal(words)
        assert not [c for c in unseen(printed) if c != "\r"], repr(printed)
        assert "\\x1b" in printed
        assert printed.count("hanse: error") == printed.count("\n") == 1, printed


def on_a_terminal(words: list[str]) -> str:
    """What a command prints to a terminal that has no colours."""
    ours, theirs = pty.openpty()
    code = "from hanse_common.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "dumb", "NO_COLOR": "1"},
    ) as process:
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # the other end is closed
            pass
        process.wait()
    os.close(ours)
    return b"".join(parts).decode()


def test_the_status_of_a_run_shows_what_its_files_hold_as_escapes(tmp_path):
    """`progress.json`, `failure.json` and `rounds.jsonl` of a run that another program wrote."""
    folder = tmp_path / "federation"
    found(folder)
    store = StoreFiles(tmp_path / "luebeck", "luebeck")
    succeed(server(folder, "admit", store.request, "--yes"))
    run = folder / "runs" / "one"
    run.mkdir(parents=True)
    evil = "".join(HOSTILE.values()).replace("\ud800", "")
    (run / "settings.json").write_text(json.dumps({"recipe": "x", "data": {"source": "synthetic"}}))
    (run / "failure.json").write_text(json.dumps({"code": "data", "message": evil, "hint": evil}))
    line = {"round": 1, "stage": "train", "split": None, "replies": 1, "attempts": 1}
    line |= {"refusals": {"luebeck": f"[data] {evil} [red]"}, "seconds": 1.0, "time": 1.0}
    (run / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    (run / "progress.json").write_text(
        json.dumps({"round": 2, "kind": "train", "stage": "mask", "refusals": {"luebeck": evil}})
    )
    for form in ("table", "json"):
        done = server(folder, "status", "--format", form)
        assert done.status == 0, done.err
        assert not unseen(done.out + done.err), form


def test_log_lines_are_clean():
    record = logging.LogRecord(
        "hanse_server.x", logging.WARNING, "f", 1, "went on without %s", ("\x9b2J\u202e",), None
    )
    assert not unseen(logs._Formatter("").format(record))


def test_every_error_of_ours_prints_on_one_line(monkeypatch, capsys):
    from hanse_common.cli import guarded

    def fail() -> None:
        raise ConfigError("one\ntwo\x1b[2J", hint="three\r\u202e")

    with pytest.raises(SystemExit):
        guarded(fail)  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and not unseen(err)
    assert issubclass(ConfigError, HanseError)


def test_nothing_is_printed_past_the_one_place():
    """No `typer.echo`, `print` or console of one's own in the product's commands."""
    root = Path(printing.__file__).parents[2]
    past = []
    for package in (
        "common/hanse_common",
        "client/hanse_client",
        "server/hanse_server",
        "simulations/hanse_simulations",
    ):
        for path in (root / package).rglob("*.py"):
            if path == Path(printing.__file__):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    if name in ("typer.echo", "click.echo", "print", "Console", "rich.print"):
                        past.append(f"{path.relative_to(root)}: {name}")
    assert past == ["simulations/hanse_simulations/bench/_clipping_run.py: print"]  # JSON, to us
