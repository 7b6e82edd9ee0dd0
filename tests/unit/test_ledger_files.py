"""A ledger's files, when they are old, broken, or on a disk that cannot hold them."""

import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hanse_common.identity import StoreKey
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import head_path
from hanse_common.privacy.verify import verify
from kits.disk import as_nobody, no_file_above, small_disk
from kits.errors import raises
from kits.ledger import (
    CHARGE,
    DELTA,
    STEPS,
    UNNAMED,
    as_row,
    charge,
    new,
    put,
    rows,
    steps_in,
)

KEY = StoreKey.generate()
TWO_STEPS = Budget(max_epsilon=epsilon([replace(STEPS, count=2)], target_delta=DELTA))


# Older and broken files


@contextmanager
def older(path, *suffixes):
    """Bring back the named files as they were at the beginning."""
    kept = {suffix: path.with_suffix(suffix).read_bytes() for suffix in suffixes}
    yield
    for suffix, data in kept.items():
        path.with_suffix(suffix).write_bytes(data)


def refused_everywhere(folder, codes, match):
    for use in (
        lambda ledger: ledger.spent(),
        lambda ledger: ledger.check_affordable(UNNAMED, budget=TWO_STEPS),
        lambda ledger: charge(ledger),
    ):
        with raises(*codes, match=match):
            use(new(folder))


def test_a_restored_older_ledger_is_refused_and_a_spent_budget_stays_spent(tmp_path):
    ledger = new(tmp_path, KEY)
    charge(ledger, budget=TWO_STEPS)
    with older(ledger.path, ".sqlite"):
        charge(ledger, budget=TWO_STEPS)
    refused_everywhere(tmp_path, ["ledger-went-back"], "entry 2 is cut off")
    with raises("ledger-went-back", match="entry 2"):
        charge(ledger)  # also by who had it open
    assert verify(ledger.path, KEY.public).fault.problem == "cut off"


def test_a_ledger_that_took_another_way_is_refused(tmp_path):
    ledger = new(tmp_path)
    charge(ledger)
    with older(ledger.path, ".head"), older(ledger.path, ".sqlite"):
        charge(ledger)
        mine = head_path(ledger.path).read_bytes()
    new(tmp_path).refuse(UNNAMED, note="another second entry")
    head_path(ledger.path).write_bytes(mine)
    refused_everywhere(tmp_path, ["ledger-went-back"], "entry 2 is another history")


def test_a_ledger_that_is_gone_or_lost_its_head_is_refused(tmp_path):
    ledger = new(tmp_path)
    charge(ledger)
    with older(ledger.path, ".sqlite"):
        ledger.path.unlink()
        refused_everywhere(tmp_path, ["ledger-went-back"], "the file is gone")
        with raises("ledger-went-back"):
            charge(ledger)
        assert not ledger.path.exists()
    head_path(ledger.path).unlink()
    refused_everywhere(tmp_path, ["ledger-went-back"], r"ledger.head is gone")


def test_both_files_restored_together_are_found_only_by_a_head_kept_elsewhere(tmp_path):
    """Nothing at the store can tell; a head that was shown to others can."""
    ledger = new(tmp_path, KEY)
    charge(ledger)
    with older(ledger.path, ".sqlite", ".head"):
        charge(ledger)
        elsewhere = ledger.head
    assert steps_in(new(tmp_path)) == 1
    assert verify(ledger.path, KEY.public).fault is None
    assert verify(ledger.path, KEY.public, head=elsewhere).fault.sequence == 2


def test_a_crash_between_entry_and_head_is_no_alarm(tmp_path):
    ledger = new(tmp_path)
    charge(ledger)
    with older(ledger.path, ".head"):
        charge(ledger)
    assert steps_in(new(tmp_path)) == 2
    charge(new(tmp_path))
    assert verify(ledger.path).compared == 3


@pytest.mark.parametrize("content", [b"", b"\0"])
def test_an_empty_file_is_the_beginning_of_a_ledger_only_if_none_was_there(content, tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"")
    ledger = new(tmp_path)
    assert ledger.spent() == []
    charge(ledger)
    path.write_bytes(content)
    codes = ("ledger", "ledger-went-back")
    refused_everywhere(tmp_path, codes, "cut off|damaged|cannot use")


BROKEN = {
    "cut in the middle": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "ledger"),
    "noise": (lambda path: path.write_bytes(b"noise" * 1000), "is damaged: file is not a database"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot use"),
    "a database of something else": (
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE a (b)")),
        "is a database, but not a",
    ),
    "a newer version": (
        lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 2"),
        "has version 2, this is version 1",
    ),
    "other tables": (
        lambda path: sqlite3.connect(path).execute("DROP TRIGGER entry_is_never_changed"),
        "has other tables",
    ),
    "an altered entry": (
        lambda path: put(path, [replace(rows(path)[0], hash=bytes(32)), *rows(path)[1:]]),
        "entry 1 is altered: its hash is not that of its content",
    ),
    "a newer entry": (
        lambda path: put(path, [replace(rows(path)[0], body=b"\0\2" + rows(path)[0].body[2:])]),
        "ledger entry has version 2, this is version 1",
    ),
    "a damaged head": (lambda path: head_path(path).write_text("hanse"), "ledger.head is damaged"),
    "another file's head": (
        lambda path: head_path(path).write_text(f"other 1 {'00' * 32}"),
        "is not a head of a ledger",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_whole_ledger_is_a_named_error_and_stays_as_it_is(how, tmp_path):
    ledger = new(tmp_path)
    charge(ledger, 2)
    breaks, words = BROKEN[how]
    breaks(ledger.path)
    before = None if ledger.path.is_dir() else ledger.path.read_bytes()
    code = "ledger-went-back" if how == "cut in the middle" else "ledger"
    refused_everywhere(tmp_path, [code], words)
    assert before is None or ledger.path.read_bytes() == before


def test_a_ledger_does_not_change_or_lose_an_entry_by_accident(tmp_path):
    ledger = new(tmp_path)
    charge(ledger)
    with sqlite3.connect(ledger.path) as database:
        for statement in ("DELETE FROM entry", "UPDATE entry SET hash = body"):
            with pytest.raises(sqlite3.IntegrityError, match="ledger entries are never"):
                database.execute(statement)
    again = as_row(next(iter(ledger)))
    with raises("ledger", match="UNIQUE"), ledger_file.writing(ledger.path) as database:
        ledger_file.insert_row(database, ledger.path, again)
    assert steps_in(new(tmp_path)) == 1


# Disks


def charge_until_it_fails(ledger):
    done = 0
    with raises("ledger"):
        while done < 1000:
            ledger.charge(CHARGE)
            done += 1
    return done


def test_a_full_disk_releases_nothing_and_loses_nothing(tmp_path):
    with small_disk(64) as folder:
        ledger = new(folder, KEY)
        charge(ledger)
        filler = folder / "filler"
        free = shutil.disk_usage(folder).free
        filler.write_bytes(bytes(max(free - 16_384, 0)))
        done = 1 + charge_until_it_fails(ledger)
        assert done <= steps_in(new(folder)) <= done + 1
        # Once more, with not a byte left.
        with raises("ledger"):
            charge(new(folder, KEY))
        filler.unlink()
        before = steps_in(new(folder))
        charge(new(folder, KEY))
        assert steps_in(new(folder)) == before + 1
        assert verify(ledger.path, KEY.public).fault is None


def test_a_file_that_may_not_grow_releases_nothing_and_loses_nothing(tmp_path):
    ledger = new(tmp_path, KEY)
    charge(ledger)
    with no_file_above(ledger.path.stat().st_size + 4096):
        done = 1 + charge_until_it_fails(ledger)
    assert done <= steps_in(new(tmp_path)) <= done + 1
    charge(new(tmp_path, KEY))
    assert verify(ledger.path, KEY.public).fault is None


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_is_a_named_error_and_can_be_read(begun):
    folder = Path(tempfile.mkdtemp())
    try:
        ledger = new(folder)
        if begun:
            charge(ledger)
            for path in folder.iterdir():
                path.chmod(0o444)
        with as_nobody(folder):
            again = new(folder)
            assert steps_in(again) == begun
            with raises("ledger", match=r"ledger\.sqlite") as raised:
                charge(again)
            assert "nothing was released" in raised.value.hint
            if begun:
                assert verify(ledger.path).fault is None
        assert steps_in(new(folder)) == begun
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(("sync", "level"), [(True, 3), (False, 0)])
def test_a_ledger_waits_for_the_disk_unless_it_is_a_simulations(sync, level, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("hanse_common.durable.os.fsync", waited.append)
    ledger = Ledger.open(tmp_path / "ledger.sqlite", sync=sync)
    charge(ledger, vector=b"vector")
    assert bool(waited) == sync
    with ledger_file.writing(ledger.path, sync=sync) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (level,)
