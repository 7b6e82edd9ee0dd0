"""Files and folders that a crash, or another process, finds whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from hanse_common.durable import (
    PARTIAL,
    replacing,
    replacing_folder,
    write_durably,
    write_new,
)


class Crash(BaseException):
    """What nothing of ours catches."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_an_interrupted_writer_leaves_the_old_file_alone(tmp_path, shared):
    path = tmp_path / "head"
    write_durably(path, "old")
    with pytest.raises(Crash), replacing(path, shared=shared) as file:
        file.write(b"half")
        raise Crash
    assert (path.read_text(), names(tmp_path)) == ("old", ["head"])


def test_what_a_crash_left_open_to_others_does_not_show_what_is_written_next(tmp_path):
    path = tmp_path / "state"
    left = tmp_path / ("state" + PARTIAL)
    left.write_text("half")
    left.chmod(0o666)
    with left.open() as watching:
        write_durably(path, "secret", mode=0o600)
        assert watching.read() == "half"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["state"]


def test_processes_that_write_one_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "vectors"
    with replacing(path, shared=True) as first:
        first.write(b"first")
        with replacing(path, shared=True) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["vectors"])


def test_the_file_and_its_name_are_flushed_in_this_order(tmp_path, monkeypatch):
    done = []

    def flushed(handle):
        done.append(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(os, "fsync", flushed)
    write_durably(tmp_path / "head", "1")
    assert done == [tmp_path / ("head" + PARTIAL), tmp_path]
    write_durably(tmp_path / "head", "2", sync=False)
    assert len(done) == 2


def test_a_key_is_written_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "customer.key"
    before = os.umask(0)
    try:
        write_new(path, b"first")
    finally:
        os.umask(before)
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"first", 0o600)
    assert names(tmp_path) == ["customer.key"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(Crash), replacing_folder(folder) as aside:
        (aside / "config.json").write_text("{}")
        raise Crash
    assert names(tmp_path) == []
    with replacing_folder(folder) as aside:
        (aside / "config.json").write_text("{}")
        assert not folder.exists()
    assert (names(tmp_path), names(folder)) == (["model"], ["config.json"])


def test_a_folder_that_is_there_is_replaced_only_if_asked(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError), replacing_folder(folder) as aside:
        (aside / "new").touch()
    assert (names(tmp_path), names(folder)) == (["model"], ["old"])
    with replacing_folder(folder, replace=True) as aside:
        (aside / "new").touch()
    assert names(folder) == ["new"]
