"""Reads untrusted bytes so that malformed input raises one named error.

Library decoders fail in many ways on malformed bytes: `json` raises RecursionError, `zipfile`
NotImplementedError, `numpy` MemoryError. A block under `decoding` raises one kind of error:

>>> with decoding("x.json", ConfigError, hint="restore a complete copy"):
...     json.loads("[" * 100_000)
Traceback (most recent call last):
    ...
hanse_common.errors.ConfigError: x.json cannot be read: RecursionError (restore a complete copy)
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hanse_common.errors import ConfigError, HanseError
from hanse_common.wording import printable

_MALFORMED: tuple[type[Exception], ...] = (
    ArithmeticError,  # a size beyond what an integer or a float holds
    AssertionError,  # libraries check a file's format with assert
    AttributeError,  # a value of another type than the format has
    EOFError,  # the file is truncated
    LookupError,  # a field or an element is missing
    MemoryError,  # a header announces more data than the file holds
    NotImplementedError,  # an unsupported ZIP compression; a RuntimeError too
    RecursionError,  # nesting too deep for the decoder; a RuntimeError too
    RuntimeError,  # an encrypted ZIP member; torch raises it for any fault of a file
    TypeError,
    ValueError,  # also text that is not UTF-8, JSON or TOML, or that a pydantic model refuses
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_LONGEST = 200
"""Most characters of a library's message that an error quotes."""


@contextmanager
def decoding(
    what: object,
    kind: type[HanseError],
    *also: type[Exception],
    code: str | None = None,
    hint: str = "",
) -> Iterator[None]:
    """Turn every exception that malformed bytes can raise into one named error.

    Use it only around reading and decoding: it would also hide errors of the program itself.

    Args:
        what: Name of the input in the message: a path, or a description.
        kind: Class of the error to raise.
        also: Further exceptions of the library that decodes the input.
        code: One of the codes of that class; its own code by default.
        hint: What the reader of the message can do.

    Raises:
        HanseError: Of class `kind`. A HanseError raised in the block passes through unchanged.
    """
    try:
        yield
    except HanseError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{what} cannot be read: {printable(reason)}"
        raise kind(message, code=code, hint=hint) from error
    except (*_MALFORMED, *also) as error:
        # Only a ValueError's text explains the fault. That of a KeyError is a bare key, and that
        # of other exceptions may be the file's content.
        text = str(error) if isinstance(error, ValueError) else ""
        reason = printable(text.partition("\n")[0])[:_LONGEST] or type(error).__name__
        message = f"{printable(str(what))} cannot be read: {reason}"
        raise kind(message, code=code, hint=hint) from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parse JSON that is one object; for use under `decoding`.

    Raises:
        ValueError, RecursionError: The text is not JSON, or not an object.
    """
    table: Any = json.loads(text)
    if isinstance(table, dict):
        return table
    raise ValueError("it is not a JSON object")


def json_file(path: Path) -> dict[str, Any]:
    """Read a JSON state file; return an empty dict if it is missing or incomplete."""
    try:
        with decoding(path, ConfigError):
            return json_object(path.read_bytes())
    except ConfigError:
        return {}


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log with one JSON object per line.

    Raises:
        OSError: The file cannot be opened.

    Edge cases:
        A line that is not a JSON object is skipped: a crash can leave one half-written.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                yield json_object(line)
            except (ValueError, RecursionError):
                continue


def check_stored(archive: zipfile.ZipFile, size: int, *, most: int) -> None:
    """Check that a ZIP archive unpacks to no more bytes than it has; for use under `decoding`.

    Args:
        archive: Written by `numpy.savez` or by Hanse, neither of which compresses.
        size: Size of the archive in bytes.
        most: Largest number of members.

    Raises:
        ValueError: A member is compressed or encrypted, or the archive has too many members or
            announces more bytes than `size`.
    """
    # All checks read the directory only: a decompression bomb must be refused before unpacking.
    members = archive.infolist()
    if len(members) > most:
        raise ValueError(f"it has {len(members)} members, at most {most}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError("a member is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members announce more bytes than it has")
