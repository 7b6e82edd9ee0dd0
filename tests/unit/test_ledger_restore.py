"""A head that is lost for good can be accepted anew; nothing else can be made to pass so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hanse_client.deployment.ledger_cli import accept_head
from hanse_common.audit.evidence import find
from hanse_common.audit.store_checks import verify_store
from hanse_common.identity import StoreKey
from hanse_common.privacy.entry import UNSIGNED
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import Head, head_path, read_head, write_head
from hanse_common.privacy.restore import restore_head
from hanse_common.privacy.verify import verify
from kits.audit import AuditedRun
from kits.errors import raises
from kits.ledger import NOW, as_row, chained, charge, new, put, rows

KEY = StoreKey.generate()
cli = CliRunner()
app = typer.Typer()
app.command()(accept_head)


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """A ledger of two charges that has lost its head."""
    ledger = new(tmp_path, KEY)
    charge(ledger, 2)
    head_path(ledger.path).unlink()
    return ledger.path


def test_a_store_that_lost_its_head_goes_on_after_accepting_the_ledger(headless):
    with raises("ledger-went-back", match="hanse store ledger accept-head"):
        Ledger.open(headless, KEY)
    entry = restore_head(headless, KEY, clock=lambda: NOW + 5)
    assert (entry.kind, entry.sequence, entry.time) == ("recovery", 3, NOW + 5)
    ledger = Ledger.open(headless, KEY)
    assert ledger.head.sequence == read_head(headless).sequence == 3
    last = charge(ledger)
    assert last.epsilon_before == entry.epsilon_after == entry.epsilon_before > 0
    assert verify(headless, KEY.public).fault is None


def test_the_recovery_pays_for_nothing_and_renews_nothing(headless):
    before = [entry for entry in verify(headless).entries if entry.spends]
    restore_head(headless, KEY)
    ledger = Ledger.open(headless, KEY)
    assert [entry for entry in ledger if entry.spends] == before
    assert sum(steps.count for steps in ledger.spent()) == 2


def test_a_damaged_head_counts_as_lost(headless):
    head_path(headless).write_text("hanse")
    restore_head(headless, KEY)
    assert Ledger.open(headless, KEY).head.sequence == 3


@pytest.mark.parametrize("remembers", [1, 9])
def test_a_head_that_can_be_read_is_never_replaced(remembers, headless):
    known = {1: verify(headless).entries[0].hash}
    write_head(headless, Head(remembers, known.get(remembers, bytes(32))))
    with raises("ledger", match=f"{remembers} entries"):
        restore_head(headless, KEY)
    assert read_head(headless).sequence == remembers
    assert len(rows(headless)) == 2


def test_a_head_that_is_out_of_reach_is_not_lost(headless):
    head_path(headless).mkdir()
    with raises("ledger"):
        restore_head(headless, KEY)
    assert len(rows(headless)) == 2


@pytest.mark.parametrize("how", ["altered", "another key", "unsigned", "wrong epsilon", "missing"])
def test_a_ledger_that_does_not_verify_is_not_accepted(how, headless):
    entries = list(verify(headless).entries)
    first, second = (as_row(entry) for entry in entries)
    cheap = [entries[0], replace(entries[1], epsilon_after=entries[0].epsilon_after)]
    put(
        headless,
        {
            "altered": [first, replace(second, hash=bytes(32))],
            "another key": [as_row(e) for e in chained(entries, StoreKey.generate())],
            "unsigned": [as_row(e) for e in chained(entries, None)],
            "wrong epsilon": [as_row(e) for e in chained(cheap, KEY)],
            "missing": [second],
        }[how],
    )
    before = rows(headless)
    with raises("ledger", match=how):
        restore_head(headless, KEY)
    assert rows(headless) == before
    assert not head_path(headless).exists()


def test_a_key_that_the_store_had_before_counts(headless):
    later = StoreKey.generate()
    with raises("ledger", match="another key"):
        restore_head(headless, later)
    entry = restore_head(headless, later, earlier_keys={KEY.public})
    assert entry.signer == later.public


def test_a_signed_ledger_is_not_accepted_without_a_key_and_an_unsigned_one_is(headless, tmp_path):
    with raises("ledger", match="no key"):
        restore_head(headless, None)
    open_node = tmp_path / "open"
    open_node.mkdir()
    ledger = new(open_node)
    charge(ledger)
    head_path(ledger.path).unlink()
    assert restore_head(ledger.path, None).signer == UNSIGNED
    assert verify(ledger.path).fault is None


def test_no_ledger_and_an_empty_one_are_named(tmp_path):
    with raises("ledger", match="no ledger"):
        restore_head(tmp_path / "ledger.sqlite", KEY)
    ledger = new(tmp_path, KEY)
    charge(ledger)
    put(ledger.path, [])
    head_path(ledger.path).unlink()
    with raises("ledger", match="has no entry"):
        restore_head(ledger.path, KEY)


def test_entry_and_head_belong_together_if_a_crash_leaves_the_entry_alone(headless):
    restore_head(headless, KEY)
    head_path(headless).unlink()  # as after a crash between the two
    again = restore_head(headless, KEY)
    assert (again.sequence, again.kind) == (4, "recovery")
    assert Ledger.open(headless, KEY).head.sequence == 4


# As an auditor and an operator see it


@pytest.fixture
def run(tmp_path: Path) -> AuditedRun:
    made = AuditedRun(tmp_path / "run")
    head_path(made.ledger("luebeck")).unlink()
    made.keys["luebeck"].save(made.store("luebeck") / "enrolment" / "store.key")
    return made


def test_an_audit_says_that_the_head_was_lost_and_fails_if_a_later_one_is_remembered(run):
    before = verify_store(find(run.ledger("luebeck"))[0], second_opinion=False)
    done = cli.invoke(app, [str(run.store("luebeck")), "--yes", "--format", "json"])
    found = json.loads(done.stdout)
    assert (found["accepted"], found["entry"]) == (2, 3)
    assert found["epsilon"] == run.entries("luebeck")[-1].epsilon_after
    (evidence,) = find(run.store("luebeck"))
    audit = verify_store(evidence, second_opinion=False, remembered=before.head)
    assert audit.fault is None
    assert any(
        note.startswith("entries taken from the end before entry 3") for note in audit.unverified
    )


def test_entries_that_were_cut_off_with_the_head_are_found_by_who_remembers_them(run):
    before = verify_store(find(run.ledger("luebeck"))[0], second_opinion=False)
    put(run.ledger("luebeck"), rows(run.ledger("luebeck"))[:1])
    restore_head(run.ledger("luebeck"), run.keys["luebeck"])
    (evidence,) = find(run.store("luebeck"))
    audit = verify_store(evidence, second_opinion=False, remembered=before.head)
    assert audit.fault is not None
    assert audit.fault.problem == "another history"


def test_the_operator_is_asked_and_told_what_would_be_accepted(run):
    path = run.ledger("luebeck")
    done = cli.invoke(app, [str(path)], input="n\n")
    assert done.exit_code == 1
    assert "has 2 entries, epsilon " in done.stderr
    assert done.stdout == ""
    assert not head_path(path).exists()
    done = cli.invoke(app, [str(path)], input="y\n")
    assert done.exit_code == 0, done.output
    assert "entry 3 says that 2 entries were accepted" in done.stdout
    assert Ledger.open(path).head.sequence == 3
