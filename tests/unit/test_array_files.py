"""Arrays on disk: what was written is read, in memory or mapped, or the file is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from hanse_client.features import array_files
from hanse_client.features.array_files import GrowingArray, load_npz, save_npz
from kits.errors import raises

HINT = "prepare the store again"


@dataclass(frozen=True, kw_only=True)
class Record:
    names: np.ndarray
    days: np.ndarray
    classes: np.ndarray
    empty: np.ndarray
    turned: np.ndarray
    count: int


def record() -> Record:
    rng = np.random.default_rng(0)
    return Record(
        names=np.array(["ada", "Åsa", ""] * 50),
        days=rng.random((300, 3)),
        classes=np.arange(299, dtype=np.int32),
        empty=np.zeros((7, 0), dtype=np.float16),
        turned=np.asfortranarray(rng.random((20, 30))),
        count=7,
    )


@pytest.fixture(params=["in memory", "mapped"])
def reading(request, monkeypatch):
    """Small files are read as large ones are."""
    if request.param == "mapped":
        monkeypatch.setattr(array_files, "IN_MEMORY", 0)
        monkeypatch.setattr(array_files, "_BLOCK", 256)
    return request.param


def same(first: Record, second: Record) -> None:
    for field in fields(Record):
        one, other = (np.asarray(getattr(part, field.name)) for part in (first, second))
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def test_what_was_written_is_read(reading, tmp_path: Path):
    save_npz(record(), tmp_path / "one.npz")
    found = load_npz(Record, tmp_path / "one.npz", hint=HINT)
    same(found, record())
    assert found.count == 7 and isinstance(found.count, int)
    assert found.days.flags.writeable == (reading == "in memory")
    assert found.days.flags.aligned and found.days.ctypes.data % 8 == 0
    with np.load(tmp_path / "one.npz") as plain:
        assert {name: plain[name].tolist() for name in plain.files} == {
            field.name: np.asarray(getattr(record(), field.name)).tolist()
            for field in fields(Record)
        }


def test_equal_arrays_make_equal_files(reading, tmp_path: Path):
    for name in ("one", "two"):
        save_npz(record(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_of_numpy_is_read_too(reading, tmp_path: Path):
    parts = {field.name: getattr(record(), field.name) for field in fields(Record)}
    np.savez(tmp_path / "one.npz", **parts)
    same(load_npz(Record, tmp_path / "one.npz", hint=HINT), record())


def test_a_file_that_was_cut_is_refused_wherever_it_ends(reading, tmp_path: Path):
    path = tmp_path / "one.npz"
    save_npz(record(), path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with raises("data", match=HINT):
            load_npz(Record, path, hint=HINT)


def test_a_changed_byte_is_refused_or_changes_no_array(reading, tmp_path: Path):
    path = tmp_path / "one.npz"
    save_npz(record(), path)
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 53):
        changed = bytearray(content)
        changed[place] ^= 0x40
        path.write_bytes(changed)
        try:
            found = load_npz(Record, path, hint=HINT)
        except array_files.DataError as error:
            refused += 1
            assert error.hint == HINT
        else:
            same(found, record())
    assert refused > 0.9 * len(content) / 53


def test_rows_fewer_or_more_than_the_header_says_are_refused(reading, tmp_path: Path):
    import zipfile

    path = tmp_path / "one.npz"
    save_npz(record(), path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for change in (lambda body: body[:-4], lambda body: body + bytes(4)):
        with zipfile.ZipFile(path, "w") as archive:
            for name, body in members.items():
                archive.writestr(name, change(body) if name == "classes.npy" else body)
        with raises("data", match=HINT):
            load_npz(Record, path, hint=HINT)


def test_arrays_that_need_a_pickle_are_neither_written_nor_read(reading, tmp_path: Path):
    objects = Record(**{**record().__dict__, "names": np.array([{}] * 500, dtype=object)})
    with pytest.raises(ValueError, match=r"pickle|Object"):
        save_npz(objects, tmp_path / "one.npz")
    np.savez(tmp_path / "one.npz", **objects.__dict__)
    with raises("data"):
        load_npz(Record, tmp_path / "one.npz", hint=HINT)


def test_a_mapped_file_that_is_replaced_shows_what_it_was(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(array_files, "IN_MEMORY", 0)
    monkeypatch.setattr(array_files, "_BLOCK", 256)
    path = tmp_path / "one.npz"
    save_npz(record(), path)
    found = load_npz(Record, path, hint=HINT)
    other = {**record().__dict__, "days": np.zeros((900, 3))}
    save_npz(Record(**other), path)
    same(found, record())
    # And what is mapped can be written to its own place.
    save_npz(found, path)
    same(load_npz(Record, path, hint=HINT), record())


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_an_array_grows_the_same_in_memory_and_in_a_file(block, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(array_files, "_BLOCK", block)
    rng = np.random.default_rng(1)
    for row in (np.zeros((0, 3)), np.zeros((0, 0), np.float16), np.zeros(0, "<U5")):
        parts = [np.resize(np.arange(97), (size, *row.shape[1:])) for size in rng.integers(0, 9, 9)]
        parts = [part.astype(row.dtype) for part in parts]
        grown = GrowingArray(row, folder=tmp_path / "new")
        for part in parts:
            grown.append(part)
        whole = grown.whole()
        expected = np.concatenate(parts)
        assert (whole.dtype, whole.shape) == (expected.dtype, expected.shape)
        assert whole.tobytes() == expected.tobytes()
    # The files have no names, so that a crash leaves nothing of a customer.
    assert not list(tmp_path.glob("new/*"))


def test_rows_of_another_kind_do_not_grow_an_array(tmp_path: Path):
    grown = GrowingArray(np.zeros((0, 3)), folder=tmp_path)
    for rows in (np.zeros((1, 2)), np.zeros((1, 3), np.float32)):
        with pytest.raises(TypeError, match="rows are"):
            grown.append(rows)
