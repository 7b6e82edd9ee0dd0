"""Dataclasses of arrays on disk: one `.npz` file each, written atomically, without pickles.

A large file is not read but mapped: the arrays are pages of the file, which the system reads
when they are used and takes back when memory is short. Members are stored without compression
and begin at multiples of 64 bytes, so that mapped arrays are as fast as arrays in memory.
`numpy.load` reads the files too.

>>> from tempfile import TemporaryDirectory
>>> @dataclass(frozen=True)
... class Two:
...     days: npt.NDArray[np.float64]
...     count: int
>>> with TemporaryDirectory() as folder:
...     save_npz(Two(np.arange(3.0), 7), Path(folder, "two.npz"))
...     load_npz(Two, Path(folder, "two.npz"), hint="prepare the store again")
Two(days=array([0., 1., 2.]), count=7)
"""

from __future__ import annotations

import math
import mmap
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from hanse_common.decoding import check_stored, decoding
from hanse_common.durable import replacing
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    RecordT = TypeVar("RecordT", bound=DataclassInstance)

IN_MEMORY = 64 << 20
"""Most bytes of arrays that are held in memory; larger ones stay on the disk and are mapped.
Some 600,000 visits of a model of categories."""

# The largest dataclass has a dozen fields; a file that lists thousands is not one of ours.
_MOST_MEMBERS = 64
_ALIGNMENT = 64
"""Bytes: a line of the processor's cache, and what numpy aligns its own headers to."""
_BLOCK = 4 << 20
"""Bytes that are written or checked at a time."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first time of a ZIP archive: equal arrays make equal files."""

# Of the ZIP format (APPNOTE 6.3.10): the local header before each member, the size of the field
# that holds 64-bit sizes there, and the two-byte id of a field that readers skip.
_LOCAL_HEADER = struct.Struct("<26xHH")
_ZIP64_FIELD, _FIELD_HEADER, _PADDING_ID = 20, struct.Struct("<HH"), 0xD935


def save_npz(record: DataclassInstance, path: Path) -> None:
    """Write all fields of a dataclass atomically: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for field in fields(record):
            _write_member(archive, file, field.name, np.asanyarray(getattr(record, field.name)))


def load_npz(kind: type[RecordT], path: Path, *, hint: str) -> RecordT:
    """Read what `save_npz` wrote; the arrays of a file above `IN_MEMORY` are mapped.

    Mapped arrays cannot be written to. They show the file as it was when it was opened, also
    after it has been replaced.

    Raises:
        DataError: The file is missing, damaged, short, or of another kind; with the hint.
    """
    # numpy takes a header that it cannot read for one of Python 2, and hands it to `tokenize`.
    with decoding(path, DataError, TokenError, hint=hint), path.open("rb") as file:
        size = path.stat().st_size
        with zipfile.ZipFile(file) as archive:
            # Before numpy reads it, which would inflate a compressed member of any size.
            check_stored(archive, size, most=_MOST_MEMBERS)
            names = [field.name for field in fields(kind)]
            if size > IN_MEMORY:
                loaded = _mapped(file, archive, names)
            else:
                loaded = {name: _read_member(archive, name) for name in names}
    # numpy stores a scalar field as an array of no dimensions; turn it back into a number.
    values: dict[str, Any] = {k: v if v.ndim else v.item() for k, v in loaded.items()}
    return kind(**values)


def concatenated(kind: type[RecordT], parts: Sequence[RecordT]) -> RecordT:
    """Concatenate the arrays of one or more records, field by field, along the first axis."""
    return kind(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(kind)
        }
    )


def total_bytes(record: DataclassInstance) -> int:
    """Bytes of the arrays of a dataclass, whether they are in memory or mapped."""
    return sum(np.asanyarray(getattr(record, field.name)).nbytes for field in fields(record))


class GrowingArray:
    """An array that rows are appended to: in memory while it is small, then in a file.

    The file has no name and is readable by its owner only; it is gone with the array. So what
    is larger than memory is built a part at a time.

    Args:
        row: An array of no rows, `[0, ...]`, of the type and shape of those to come.
        folder: Where the file is made.

    Example:
        >>> days = GrowingArray(np.zeros(0), folder=Path("."))
        >>> days.append(np.array([1.0, 2.0])); days.append(np.array([3.0]))
        >>> days.whole()
        array([1., 2., 3.])
    """

    def __init__(self, row: npt.NDArray[Any], *, folder: Path) -> None:
        self._empty = row[:0]
        self._folder = folder
        self._parts: list[npt.NDArray[Any]] = []
        self._held = 0
        self._file: IO[bytes] | None = None

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows `[n, ...]`.

        Raises:
            TypeError: They are of another type or shape.
        """
        if rows.dtype != self._empty.dtype or rows.shape[1:] != self._empty.shape[1:]:
            raise TypeError(f"rows are {rows.dtype}{rows.shape[1:]}, not {self._empty.dtype}")
        if self._file is not None:
            _write(self._file, rows)
            return
        self._parts.append(rows)
        self._held += rows.nbytes
        if self._held > _BLOCK:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Closed by the garbage collector, or by the mapping that outlives this object.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            for part in self._parts:
                _write(self._file, part)
            self._parts = []

    def whole(self) -> npt.NDArray[Any]:
        """All rows; mapped where they are in a file, and then not to be written to."""
        if self._file is None:
            return np.concatenate([self._empty, *self._parts])
        self._file.flush()
        mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file.close()
        flat = np.frombuffer(mapping, dtype=self._empty.dtype)
        return flat.reshape(-1, *self._empty.shape[1:])


def _write_member(
    archive: zipfile.ZipFile, file: IO[bytes], name: str, array: npt.NDArray[Any]
) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    begin = file.tell() + 30 + len(info.filename) + _FIELD_HEADER.size + _ZIP64_FIELD
    padding = -begin % _ALIGNMENT
    info.extra = _FIELD_HEADER.pack(_PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as member:
        if array.nbytes <= _BLOCK or not array.ndim:
            np.lib.format.write_array(member, array, allow_pickle=False)
            return
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which only a pickle could store")
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(member, header | {"fortran_order": False})
        for part in _blocks(array):
            _write(member, part)
            _forget(array)


def _write(file: IO[bytes], rows: npt.NDArray[Any]) -> None:
    """Write numbers or text as bytes, without a copy of rows that are in their order."""
    file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def _blocks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The rows of an array, some `_BLOCK` bytes at a time."""
    rows = max(_BLOCK // max(array[:1].nbytes, 1), 1)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _forget(array: npt.NDArray[Any]) -> None:
    """Give the pages of a mapped array back, so that reading all of it needs little memory."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    # They are read-only, so that nothing is lost: the next use reads them from the file.
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)  # a pickle runs foreign code
        # At the end of the member zipfile compares its checksum.
        if member.read(1):
            raise ValueError(f"{name} is longer than it says")
    return np.asarray(array)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """What is said of a mapped array before its numbers."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    begin: int
    """Position of its first number in the file."""


def _mapped(
    file: IO[bytes], archive: zipfile.ZipFile, names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """The members of an archive as arrays that are pages of the file."""
    headers = {name: _checked(file, archive, name) for name in names}
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, header in headers.items():
        count = math.prod(header.shape)
        flat = (
            np.frombuffer(mapping, header.dtype, count, header.begin)
            if count
            else np.zeros(0, header.dtype)
        )
        # An array of a few bytes, or at an odd place as numpy's own `savez` puts it, is copied.
        if flat.nbytes <= _BLOCK or not flat.flags.aligned:
            flat = flat.copy()
        arrays[name] = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    return arrays


def _checked(file: IO[bytes], archive: zipfile.ZipFile, name: str) -> _Header:
    """Read a member's header, and compare all of its bytes with its checksum.

    Raises:
        ValueError, zipfile.BadZipFile: It is damaged, or holds fewer numbers than it says.
    """
    info = archive.getinfo(f"{name}.npy")
    file.seek(info.header_offset)
    name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    begin = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read(member)
        length = member.tell()
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError(f"{name} is no array of numbers or text")
        if length + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"{name} has another number of rows than it says")
        # A file that was cut or changed is found here and not in the middle of training.
        while member.read(_BLOCK):
            pass
    return _Header(shape=shape, fortran_order=fortran_order, dtype=dtype, begin=begin + length)
