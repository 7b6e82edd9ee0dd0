"""Evidence that a hostile store or coordinator made: an audit says so, and never breaks.

Files are replaced by everything that a decoder may stumble over, and entries are signed, by the
key's holder, with terms that no accountant can compute. An audit ends with its verdict, or with
a named error, in bounded time and memory.
"""

from __future__ import annotations

import csv
import io
import math
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.audit.evidence import find, is_there
from hanse_common.errors import AuditFailed, HanseError
from hanse_common.privacy.accounting import MOST_STEPS, MOST_STORES, SampledGaussianSteps, epsilon
from hanse_common.privacy.ledger_file import head_path
from kits.audit import AuditedRun
from kits.errors import raises

cli = CliRunner()
STORE = "luebeck"
COMMANDS = ("verify", "report", "rounds", "budget", "export")
ESCAPES = "\x1b[2J\x9b31m\u202e\x7f\r\n"
FILES = {
    "ledger.sqlite": "ledger.sqlite",
    "ledger.head": "ledger.head",
    "node.json": "node.json",
    "checkpoint": "checkpoints/0123456789abcdef",
    "certificate": "enrolment/certificate",
    "earlier certificate": "enrolment/certificate.2025",
    "policy": "enrolment/policy.toml",
    "manifest": "enrolment/manifest.json",
    "earlier manifest": "enrolment/manifest.2025.json",
}
CONTENTS = {
    "nothing": b"",
    "nested arrays": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "nested TOML": b"authority = " + b"[" * 200_000,
    "no UTF-8": b"\xff\xfe\x00\x80",
    "zeros": bytes(100),
    "a number without end": b"9" * 6000,
    "a TOML number without end": b"authority = " + b"9" * 6000,
    "a head without end": b"hanse-ledger-head-1 " + b"9" * 6000 + b" " + b"ab" * 32,
    "a head of a large number": b"hanse-ledger-head-1 " + b"9" * 4000 + b" " + b"ab" * 32,
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a manifest of nothing": b'{"manifest": {}, "signature": "\xc3\xa4"}',
    "a place with a zero": b'{"enrolment": "a\\u0000b"}',
    "a place without end": b'{"enrolment": "' + b"a" * 5000 + b'"}',
    "a place that is no text": b'{"enrolment": "\\ud800"}',
    "controls": ESCAPES.encode(),
}


@pytest.fixture
def run(tmp_path: Path) -> AuditedRun:
    made = AuditedRun(tmp_path / "run", rounds=1)
    for name, source in (
        ("node.json", None),
        ("checkpoints/0123456789abcdef", None),
        ("enrolment/certificate.2025", "enrolment/certificate"),
        ("enrolment/manifest.2025.json", "enrolment/manifest.json"),
    ):
        target = made.store(STORE) / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"{}" if source is None else (made.store(STORE) / source).read_bytes())
    return made


def audit(run: AuditedRun, *commands: str) -> dict[str, str]:
    """What every command prints; one that fails must fail in a named error."""
    shown = {}
    for command in commands or COMMANDS:
        more = ["--no-second-opinion"] if command in ("verify", "report") else []
        page = ["--output", str(run.folder.parent / "page.html")] if command == "report" else []
        done = cli.invoke(app, [command, str(run.folder), *more, *page])
        assert done.exception is None or isinstance(done.exception, HanseError), (
            command,
            done.exception,
        )
        shown[command] = done.output
    return shown


def visible(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


# Files


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_anything_gives_a_verdict_or_a_named_error(name, content, run):
    (run.store(STORE) / FILES[name]).write_bytes(CONTENTS[content])
    assert "bremen" in audit(run)["verify"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_changed_bytes_gives_a_verdict_or_a_named_error(name, run):
    path = run.store(STORE) / FILES[name]
    good = path.read_bytes()
    for seed in range(8):
        chance, data = random.Random(seed), bytearray(good)
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if seed == 7 else data)
        assert "bremen" in audit(run, "verify", "rounds", "export")["verify"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "large"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "ledger.sqlite"])
def test_what_is_no_plain_file_is_not_read(name, kind, run):
    path = run.store(STORE) / FILES[name]
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with raises("ledger"):
        is_there(path)
    assert "bremen" in audit(run)["verify"]


def test_a_ledger_that_is_a_pipe_is_named(run):
    run.ledger(STORE).unlink()
    os.mkfifo(run.ledger(STORE))
    done = cli.invoke(app, ["verify", str(run.folder), "--no-second-opinion"])
    assert isinstance(done.exception, AuditFailed)
    assert str(done.exception).startswith(f"{STORE}: the ledger cannot be read")


# Entries that the holder of the key signed


def steps(**changes):
    return lambda entry: replace(entry, steps=replace(entry.steps, **changes))


def field(**changes):
    return lambda entry: replace(entry, **changes)


def release(**changes):
    return lambda entry: replace(entry, release=replace(entry.release, **changes))


MOST = 2**64 - 1
HOSTILE = {
    "least noise": steps(noise_multiplier=5e-324),
    "most noise": steps(noise_multiplier=1e308),
    "least rate": steps(sample_rate=5e-324),
    "no steps": steps(count=0),
    "a million steps": steps(count=10**6),
    "a billion steps": steps(count=10**9),
    "most steps": steps(count=MOST),
    "many stores": steps(stores=10**4),
    "most stores": steps(stores=2**32 - 1),
    "least delta": field(target_delta=5e-324),
    "most delta": field(target_delta=1 - 1e-16),
    "delta above one": field(target_delta=2.0),
    "epsilon without bound": field(epsilon_after=math.inf),
    "no limit": field(max_epsilon=math.inf),
    "latest time": field(time=MOST),
    "latest renewal": field(kind="renewal", steps=None, renews=MOST),
    "largest numbers": release(run=MOST, round=MOST, exchange=MOST, attempt=255),
    "clip without bound": release(max_grad_norm=math.inf),
    "controls": lambda entry: replace(
        entry,
        note=ESCAPES,
        accountant=ESCAPES,
        release=replace(entry.release, kind=ESCAPES, mode=ESCAPES),
    ),
}


@pytest.mark.parametrize("terms", [True, False], ids=["with terms", "without"])
@pytest.mark.parametrize("name", HOSTILE)
def test_entries_of_any_terms_give_a_verdict_or_a_named_error(name, terms, run):
    if not terms:
        for path in run.folder.rglob("manifest*.json"):
            path.unlink()
    run.forge(STORE, lambda entries: [*entries, HOSTILE[name](entries[0])])
    shown = audit(run)
    assert "bremen" in shown["verify"]
    assert all(visible(text) for text in shown.values())


@pytest.mark.parametrize(
    "terms",
    [
        {"count": MOST_STEPS + 1},
        {"stores": MOST_STORES + 1},
        {"count": 10**6, "sample_rate": 1.0},
        {"noise_multiplier": 0.01},
    ],
)
def test_what_is_not_computed_has_no_bound_and_is_within_no_promise(terms):
    known = {"noise_multiplier": 4.0, "sample_rate": 0.001, "count": 1, **terms}
    assert epsilon([SampledGaussianSteps(**known)], target_delta=1e-6) == math.inf


@pytest.mark.parametrize(("noise", "rate"), [(1e300, 0.5), (4.0, 1e-300)])
def test_terms_that_are_read_as_others_cost_no_less(noise, rate):
    found = epsilon(
        [SampledGaussianSteps(noise_multiplier=noise, sample_rate=rate, count=9)], target_delta=1e-6
    )
    assert 0.0 <= found < 1e-6


# Names


@pytest.mark.parametrize("name", [b"lu\xff", ESCAPES.strip().encode(), b"a\nb", b"=1+1"])
def test_folders_of_any_name_are_shown_and_obeyed_by_nothing(name, run):
    target = os.path.join(os.fsencode(run.folder / "stores"), name)  # noqa: PTH118
    os.rename(os.fsencode(run.store(STORE)), target)  # noqa: PTH104
    shown = audit(run)
    assert all(visible(text) for text in shown.values())
    rows = list(csv.DictReader(io.StringIO(shown["export"])))
    assert not any(value.startswith("=") for row in rows for value in row.values())
    page = (run.folder.parent / "page.html").read_text(encoding="utf-8")
    assert visible(page.replace("\t", ""))


def test_one_hostile_store_does_not_keep_the_others_from_being_audited(run):
    shutil.rmtree(run.store(STORE) / "enrolment")
    run.ledger(STORE).write_bytes(b"no database")
    head_path(run.ledger(STORE)).write_bytes(b"\xff")
    done = cli.invoke(app, ["verify", str(run.folder), "--no-second-opinion"])
    lines = [line.split() for line in done.stdout.splitlines()]
    assert next(line for line in lines if line[:1] == ["bremen"])[-1] == "ok"
    assert len(find(run.folder)) == 2
