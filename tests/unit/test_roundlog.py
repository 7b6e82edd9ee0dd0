"""A round log's files: what is on the disk when, and what opening them finds."""

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hanse_common.errors import RoundLogError
from hanse_common.identity import CoordinatorKey
from hanse_common.paths import ROUND_LOG_FILE
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import FORMAT, checkpoint_path, read_records
from hanse_common.roundlog.merkle import Tree
from hanse_server.roundlog import RoundLog, Witnesses
from kits.disk import as_nobody, no_file_above, small_disk
from kits.errors import raises
from kits.roundlog import bodies, checkpoint_of, published, put, rewrite

KEY, OTHER_KEY = CoordinatorKey.generate(), CoordinatorKey.generate()
PROGRAM = Path(__file__).parent.parent / "kits" / "apps" / "logging_rounds.py"


def opened(folder):
    return RoundLog.open(folder / ROUND_LOG_FILE, KEY)


def filled(folder, count=3):
    log = opened(folder)
    for number in range(count):
        log.append(published(number))
    return log


def on_disk(folder):
    """Number of records, and the checkpoint beside them."""
    path = folder / ROUND_LOG_FILE
    with FORMAT.reading(path) as database:
        count = len(read_records(database, path))
    return count, Checkpoint.load(checkpoint_path(path))


def refused(folder, words):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with raises("round-log", match=words):
        opened(folder)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


# Order of writes, and crashes between them


def test_a_record_is_durable_before_the_checkpoint_that_covers_it(tmp_path, monkeypatch):
    from hanse_server import roundlog

    real, counts = roundlog.write_durably, []

    def spy(path, content):
        counts.append(on_disk(tmp_path)[0])
        real(path, content)

    monkeypatch.setattr(roundlog, "write_durably", spy)
    filled(tmp_path)
    assert counts == [1, 2, 3]
    assert on_disk(tmp_path) == (3, opened(tmp_path).checkpoint)


def test_a_log_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("hanse_common.durable.os.fsync", waited.append)
    log = opened(tmp_path)
    for number in (1, 2):
        del waited[:]
        log.append(published(number))
        assert len(waited) >= 2  # the checkpoint's file, and its name


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_crash_between_record_and_checkpoint_is_made_good_by_opening(count, tmp_path):
    beside = checkpoint_path(tmp_path / ROUND_LOG_FILE)
    log = filled(tmp_path, count - 1)
    older = beside.read_bytes() if beside.exists() else None
    log.append(published(count))
    whole = beside.read_bytes()
    beside.unlink() if older is None else beside.write_bytes(older)
    again = opened(tmp_path)
    assert beside.read_bytes() == whole
    assert again.records == log.records
    assert again.append(published(9)).size == count + 1


def test_a_half_written_checkpoint_is_never_read(tmp_path):
    log = filled(tmp_path)
    beside = checkpoint_path(tmp_path / ROUND_LOG_FILE)
    beside.with_name(beside.name + ".partial").write_text("hanse-check")
    assert opened(tmp_path).checkpoint == log.checkpoint


def test_more_records_than_one_crash_leaves_are_not_signed(tmp_path):
    filled(tmp_path)
    path = tmp_path / ROUND_LOG_FILE
    beside = checkpoint_path(path).read_bytes()
    log = opened(tmp_path)
    log.append(published(4))
    log.append(published(5))
    checkpoint_path(path).write_bytes(beside)
    refused(tmp_path, "has 2 records that roundlog.checkpoint does not cover")


def test_opening_nothing_makes_nothing(tmp_path):
    assert opened(tmp_path).checkpoint.size == 0
    assert list(tmp_path.iterdir()) == []


# Older, broken and foreign files


def test_a_log_that_lost_records_is_refused(tmp_path):
    filled(tmp_path)
    path = tmp_path / ROUND_LOG_FILE
    whole = bodies(path)
    for kept in ([], whole[:1], whole[:2]):
        put(path, kept)
        refused(tmp_path, "is not the log of 3 records that roundlog.checkpoint names")
    path.unlink()
    with raises("round-log", match="3 records"):
        opened(tmp_path)
    assert not path.exists()


def test_a_log_with_another_record_is_refused(tmp_path):
    filled(tmp_path)
    path = tmp_path / ROUND_LOG_FILE
    whole = bodies(path)
    put(path, [whole[0], published(9).encode(), whole[2]])
    refused(tmp_path, "is not the log of 3 records")


def test_a_log_of_another_key_is_refused(tmp_path):
    filled(tmp_path)
    with raises("round-log", match="not signed") as raised:
        RoundLog.open(tmp_path / ROUND_LOG_FILE, OTHER_KEY)
    assert "use the key that the log was begun with" in raised.value.hint


def test_a_checkpoint_with_anothers_signature_is_refused(tmp_path):
    log = filled(tmp_path)
    forged = log.checkpoint.sign(OTHER_KEY)
    checkpoint_path(tmp_path / ROUND_LOG_FILE).write_text(forged.line())
    refused(tmp_path, "is not signed by this coordinator")


def test_a_log_without_its_checkpoint_is_refused(tmp_path):
    filled(tmp_path)
    checkpoint_path(tmp_path / ROUND_LOG_FILE).unlink()
    refused(tmp_path, "has 3 records, and there is no roundlog.checkpoint")


def test_a_record_that_is_none_is_named_by_its_number(tmp_path):
    filled(tmp_path)
    path = tmp_path / ROUND_LOG_FILE
    rewrite(path, [*bodies(path), b"\0\1\3short"], KEY)
    refused(tmp_path, r"record 4 of .*roundlog.sqlite is damaged: round log record ends at byte")
    rewrite(path, [*bodies(path)[:3], b"\0\2" + published(1).encode()[2:]], KEY)
    with raises("round-log", match="record 4 .* version 2") as raised:
        opened(tmp_path)
    assert "a newer version of Hanse wrote it" in raised.value.hint


def beside(change):
    """Change the checkpoint's text."""

    def act(path):
        file = checkpoint_path(path)
        file.write_bytes(change(file.read_bytes()))

    return act


BROKEN = {
    "cut in the middle": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "roundlog"),
    "noise": (lambda path: path.write_bytes(b"noise" * 1000), "is damaged: file is not a database"),
    "empty": (lambda path: path.write_bytes(b""), "is not the log of 3 records"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot use"),
    "a database of something else": (
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE a (b)")),
        "is a database, but not a round log",
    ),
    "a newer version": (
        lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 2"),
        "has version 2, this is version 1",
    ),
    "other tables": (
        lambda path: sqlite3.connect(path).execute("DROP TRIGGER record_is_never_changed"),
        "has other tables than a round log",
    ),
    "a record missing in the middle": (
        lambda path: put(path, bodies(path)[:2], positions=[1, 3]),
        "lacks record 2",
    ),
    "an empty checkpoint": (beside(lambda _: b""), "roundlog.checkpoint is damaged"),
    "a cut checkpoint": (beside(lambda text: text[:-9]), "roundlog.checkpoint is damaged"),
    "a checkpoint that is no text": (beside(lambda _: b"\xff\0"), "checkpoint is damaged"),
    "a checkpoint in capitals": (
        beside(lambda text: text[:19] + text[19:].upper()),
        "is damaged: it is not as it was written",
    ),
    "a checkpoint with another line's end": (
        beside(lambda text: text.replace(b"\n", b"\r\n")),
        "is damaged: it is not as it was written",
    ),
    "a checkpoint of another version": (
        beside(lambda text: text.replace(b" 0001", b" 0002")),
        "is damaged: checkpoint has version 2",
    ),
    "another kind of file": (
        beside(lambda text: text.replace(b"checkpoint", b"certificate")),
        "is not a checkpoint of a round log",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_whole_log_is_a_named_error_and_stays_as_it_is(how, tmp_path):
    filled(tmp_path)
    breaks, words = BROKEN[how]
    breaks(tmp_path / ROUND_LOG_FILE)
    refused(tmp_path, words)


def test_a_log_does_not_change_or_lose_a_record_by_accident(tmp_path):
    filled(tmp_path)
    with sqlite3.connect(tmp_path / ROUND_LOG_FILE) as database:
        for statement in ("DELETE FROM record", "UPDATE record SET body = x'00'"):
            with pytest.raises(sqlite3.IntegrityError, match="round log records are never"):
                database.execute(statement)
    assert len(opened(tmp_path).records) == 3


# Several processes, and processes that are killed


def program(mode, tmp_path, folder, number, **more):
    key_file = tmp_path / "coordinator.key"
    if not key_file.exists():
        KEY.save(key_file)
    command = [sys.executable, str(PROGRAM), mode, str(key_file), str(folder), str(number)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **more)


def test_a_second_coordinator_on_one_log_is_stopped_by_name_and_the_log_stays_whole(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    filled(folder)
    with program("waits", tmp_path, folder, 2, stdin=subprocess.PIPE) as other:
        assert other.stdout.readline() == "open\n"
        mine = opened(folder).append(published(4))
        said, _ = other.communicate("\n", timeout=60)
    assert other.returncode == RoundLogError.exit_status
    assert "another process has written to" in said
    assert "run one coordinator at a time on a round log" in said
    assert on_disk(folder) == (4, mine)
    assert opened(folder).append(published(5)).size == 5


@pytest.mark.parametrize("times", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_a_coordinator_killed_anywhere_loses_no_record_that_it_checkpointed(times, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    with program("killed", tmp_path, folder, times) as killer:
        lines = [json.loads(line) for line in killer.stdout]
    assert killer.returncode == 0
    assert [path.read_text() for path in folder.rglob("error-*")] == []
    assert len(lines) == times
    # On a busy machine many a coordinator has finished before the signal comes.
    assert sum(line["killed"] for line in lines) >= times / 5
    acknowledged = 0
    for place in sorted(folder.iterdir()):
        log = opened(place)
        tree = Tree(bodies(place / ROUND_LOG_FILE))
        seen = []
        for file in place.glob("seen-*"):
            for line in file.read_text().splitlines():
                copy = tmp_path / "one"
                copy.write_text(line + "\n")
                seen.append(Checkpoint.load(copy))
        for checkpoint in seen:
            checkpoint.check_signature()
            assert tree.root(checkpoint.size) == checkpoint.root
        assert on_disk(place) == (len(tree), log.checkpoint)
        acknowledged += len(seen)
    # All killed in one place may have died before their first record, but not all of all places.
    assert acknowledged > times


# Disks


def append_until_it_fails(log):
    done = 0
    with raises("round-log"):
        while done < 10_000:
            log.append(published(done % 200))
            done += 1
    return done


def nothing_is_lost(folder, done):
    """What was acknowledged is there, and one that was not may be."""
    log = opened(folder)
    assert done <= len(log.records) <= done + 1
    assert on_disk(folder) == (len(log.records), log.checkpoint)


def test_a_full_disk_loses_nothing_and_is_a_named_error(tmp_path):
    with small_disk(128) as folder:
        log = filled(folder)
        filler = folder / "filler"
        free = shutil.disk_usage(folder).free
        filler.write_bytes(bytes(max(free - 20_480, 0)))
        done = 3 + append_until_it_fails(log)
        with raises("round-log"):
            log.append(published(1))  # once more, by who knows
        filler.unlink()
        nothing_is_lost(folder, done)
        before = len(opened(folder).records)
        assert opened(folder).append(published(5)).size == before + 1


def test_a_checkpoint_that_cannot_be_written_is_written_before_the_next_record(tmp_path):
    log = filled(tmp_path)
    partial = tmp_path / "roundlog.checkpoint.partial"
    partial.mkdir()
    for _ in range(3):
        with raises("round-log", match=r"roundlog\.checkpoint"):
            log.append(published(4))
    count, last = on_disk(tmp_path)
    assert (count, last.size) == (4, 3)
    partial.rmdir()
    assert log.append(published(5)).size == 5
    assert on_disk(tmp_path) == (5, opened(tmp_path).checkpoint)


def test_a_file_that_may_not_grow_loses_nothing_and_is_a_named_error(tmp_path):
    log = filled(tmp_path)
    with no_file_above((tmp_path / ROUND_LOG_FILE).stat().st_size + 4096):
        done = 3 + append_until_it_fails(log)
    nothing_is_lost(tmp_path, done)


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_is_a_named_error_and_can_be_read(begun):
    folder = Path(tempfile.mkdtemp())
    try:
        if begun:
            filled(folder)
            for path in folder.iterdir():
                path.chmod(0o444)
        with as_nobody(folder):
            log = opened(folder)
            assert len(log.records) == 3 * begun
            with raises("round-log", match=r"roundlog\.sqlite"):
                log.append(published(4))
        assert len(opened(folder).records) == 3 * begun
    finally:
        shutil.rmtree(folder)


# What is announced, published and proven


def test_a_model_is_published_once_however_often_a_run_goes_on_from_it(tmp_path):
    for run in (1, 2):
        log = opened(tmp_path)
        log.publish(run=run, number=0, digest=b"a" * 32)
    log.publish(run=2, number=1, digest=b"a" * 32)
    log.publish(run=2, number=1, digest=b"b" * 32)
    assert [(r.run, r.round) for r in log.records] == [(1, 0), (2, 1), (2, 1)]


def test_only_sizes_that_the_log_had_are_proven(tmp_path):
    log = filled(tmp_path)
    assert set(log.proofs([-1, 0, 1, 2, 3, 4, 10**9]).consistency) == {1, 2}


def test_a_node_may_remember_what_it_was_shown_since_it_cosigned(tmp_path):
    log = filled(tmp_path)
    witnesses, said = Witnesses(log), {1: 2, 2: 0}
    assert witnesses.shown({1: "bremen", 2: "riga"}, said) == {2, 0}
    log.append(published(4))
    assert witnesses.shown({1: "bremen", 2: "riga"}, said) == {0, 2, 3}
    witnesses.cosigned(1, 4)
    log.append(published(5))
    assert witnesses.shown({1: "bremen"}, said) == {4}
    # What the log says of one that has said nothing: it was never asked.
    assert witnesses.shown({3: "visby"}, said) == set()
    log.append(published(6))
    assert witnesses.shown({3: "visby"}, said) == {5}


def test_a_node_that_is_silent_for_long_does_not_make_proofs_grow_without_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("hanse_server.roundlog._MOST_SIZES", 3)
    log = filled(tmp_path)
    witnesses = Witnesses(log)
    for number in range(10):
        before = witnesses.shown({1: "bremen"}, {1: 2})
        log.append(published(number))
    assert before == {2, 9, 10, 11}


def test_a_log_rewritten_with_its_own_key_is_not_this_files_to_notice(tmp_path):
    """Stores and auditors notice: `RoundLog` protects its owner from accidents."""
    filled(tmp_path)
    path = tmp_path / ROUND_LOG_FILE
    records = [published(9).encode(), *bodies(path)[1:]]
    rewrite(path, records, KEY)
    assert opened(tmp_path).checkpoint == checkpoint_of(records, KEY)
