r"""Opens files of text: compressed or not, in whatever encoding they are.

The encoding is what the settings say; else what a byte order mark says; else UTF-8 where the whole
file is; else what `charset_normalizer` takes its first bytes to be. It is never taken for granted:
the summary of a check names it.

>>> sniff_encoding("Käse\n".encode()), sniff_encoding("Käse\n".encode("utf-16"))
('utf-8', 'utf-16')
>>> sniff_encoding(b"\xef\xbb\xbfid\n"), sniff_encoding("id\n".encode("utf-16-le"))
('utf-8-sig', 'utf-16-le')
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from hanse_common.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPRESSED = (".gz", ".zip", ".zst", ".bz2", ".xz")
"""Suffixes of compressed files, which follow the one of the format: `sales.csv.gz`."""

BLOCK = 1 << 22
"""Bytes that are read at once."""
_SNIFFED = 1 << 18
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FALLBACK = "cp1252"


def format_of(path: str) -> str:
    """The suffix that tells a file's format, without that of a compression; lower case.

    >>> format_of("sales/2024-*.CSV.gz"), format_of("sales.zip")
    ('.csv', '')
    """
    name = PurePath(path.lower())
    return PurePath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file's content, decompressed.

    Raises:
        DataError: It cannot be opened, or is damaged.
    """
    try:
        with path.open("rb") as raw:
            suffix = path.suffix.lower()
            if suffix == ".gz":
                with gzip.open(raw) as plain:
                    yield plain  # type: ignore[misc]
            elif suffix == ".bz2":
                with bz2.open(raw) as plain:
                    yield plain
            elif suffix == ".xz":
                with lzma.open(raw) as plain:
                    yield plain
            elif suffix == ".zst":
                import pyarrow as pa

                with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") as plain:
                    yield plain
            elif suffix == ".zip":
                archive = zipfile.ZipFile(raw)
                with archive, archive.open(_only_member(archive, path)) as plain:
                    yield plain
            else:
                yield raw
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile):
        raise DataError(
            f"{path.name} is damaged or cut short: it cannot be decompressed",
            hint="export or copy it again",
        ) from None
    except RuntimeError:  # what zipfile raises for a password
        raise DataError(
            f"{path.name} is encrypted", hint="decompress it, and name the plain file"
        ) from None
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise DataError(f"cannot read {path}: {reason}") from None


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The one file of an archive; what macOS and folders add does not count."""
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise DataError(
            f"{path.name} holds {len(members)} files, not one",
            hint="decompress it, and name the files by a pattern",
        )
    return members[0]


def sniff_encoding(start: bytes) -> str:
    """The encoding that the first bytes of a text suggest; `utf-8` if they do not tell."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if (wide := _without_mark(start)) is not None:
        return wide
    try:
        # The last bytes may be the first half of a character.
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return _guessed(start)
    return "utf-8"


def _without_mark(start: bytes) -> str | None:
    """UTF-16 of mostly Latin letters, every other byte of which is zero, without a mark."""
    half = len(start) // 2
    zeros = start[::2].count(0), start[1::2].count(0)
    if max(zeros) <= half // 2 or min(zeros) > half // 20:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _guessed(start: bytes) -> str:
    import charset_normalizer  # imported on use: seldom needed

    best = charset_normalizer.from_bytes(start).best()
    # Eight-bit encodings of western Europe differ in a few signs only, and Windows' is the
    # commonest of them.
    if best is None or best.encoding in ("latin_1", "iso8859_15", "ascii", "cp1250", "hp_roman8"):
        return _FALLBACK
    return best.encoding


def encoding_of(path: Path, said: str | None) -> str:
    """The encoding of a file of text: what was said, or what the whole of it suggests.

    Args:
        path: The file.
        said: The setting, if there is one.

    Raises:
        DataError: The file cannot be read, or is not in the encoding that was said.
    """
    name = None if said is None else codecs.lookup(said).name
    if name not in (None, "utf-8"):
        return name
    with opened(path) as stream:
        start = stream.read(_SNIFFED)
        encoding = sniff_encoding(start)
        if encoding != "utf-8" and not (name and encoding != "utf-8-sig"):
            return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        before = b""
        block = start
        ended = False
        while not ended:
            ended = not block
            try:
                # Most files are ASCII, which is seen ten times as fast as it is decoded.
                if ended or decoder.getstate()[0] or not block.isascii():
                    decoder.decode(block, final=ended)
            except UnicodeDecodeError as error:
                if name is not None:
                    raise _not_in(name, path.name) from None
                # What is around the first such byte tells most.
                around = max(error.start - _SNIFFED // 2, 0)
                return _guessed((before + block)[around : around + _SNIFFED])
            before, block = block[-64:], stream.read(BLOCK)
    return "utf-8"


@contextmanager
def as_utf8(path: Path, encoding: str) -> Iterator[IO[bytes]]:
    """Open a file of text, decompressed, as UTF-8 without a byte order mark.

    Raises:
        DataError: It cannot be opened, is damaged, or is not in that encoding.
    """
    with opened(path) as stream:
        if encoding == "utf-8":
            yield stream
        else:
            yield _Recoded(stream, encoding, path.name)  # type: ignore[misc]


def as_text(stream: IO[bytes]) -> io.TextIOWrapper:
    """Read a stream of UTF-8 as text, with its line ends as they are."""
    return io.TextIOWrapper(io.BufferedReader(_Readable(stream), BLOCK), "utf-8", newline="")


def _not_in(encoding: str, label: str) -> DataError:
    return DataError(
        f"{label} is not in the encoding {encoding}",
        hint='name its encoding, e.g. encoding = "cp1252", in that table of store.toml',
    )


class _Readable(io.RawIOBase):
    """What `io.TextIOWrapper` takes, which streams of pyarrow and our own are not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


class _Recoded:
    """A stream of bytes in one encoding, read as UTF-8."""

    def __init__(self, stream: IO[bytes], encoding: str, label: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._label, self._encoding = label, encoding
        self._ready = b""
        self._ended = False
        self.closed = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._ready) < size):
            block = self._stream.read(BLOCK)
            self._ended = not block
            try:
                text = self._decoder.decode(block, final=self._ended)
            except UnicodeDecodeError:
                raise _not_in(self._encoding, self._label) from None
            self._ready += text.encode()
        size = len(self._ready) if size < 0 else size
        block, self._ready = self._ready[:size], self._ready[size:]
        return block

    def close(self) -> None:
        self.closed = True
