"""What comes from outside is read in one of two ways: to a value, or to an error with a name.

Decoders of libraries fail in many ways on bytes that nobody expected: `json` by RecursionError,
`zipfile` by NotImplementedError, `numpy` by MemoryError. A block under `decoding` fails in
one:

>>> with decoding("x.json", ConfigError, hint="bring back a whole copy"):
...     json.loads("[" * 100_000)
Traceback (most recent call last):
    ...
hanse_common.errors.ConfigError: x.json cannot be read: RecursionError (bring back a whole copy)
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
    AssertionError,  # libraries state what they expect of a file in this way
    AttributeError,  # a value of another type than the format's
    EOFError,
    LookupError,  # a field or an element that is not there
    MemoryError,  # a header that announces more than there is
    NotImplementedError,  # a ZIP method that nobody uses; a RuntimeError too
    RecursionError,  # nesting without end; a RuntimeError too
    RuntimeError,  # an encrypted ZIP member; torch's for everything
    TypeError,
    ValueError,  # also text that is not UTF-8, JSON, TOML or what a pydantic model asks for
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_LONGEST = 200


@contextmanager
def decoding(
    what: object,
    kind: type[HanseError],
    *also: type[Exception],
    code: str | None = None,
    hint: str = "",
) -> Iterator[None]:
    """Turn everything that malformed bytes can raise into one named error.

    Only for a block that reads and decodes: an error of the program itself would be hidden.

    Args:
        what: What is read, for the message: a path, or words.
        kind: The error to raise.
        also: Errors of the library that reads it, beyond Python's own.
        code: One of the codes of its family, by default the family's own.
        hint: What to do.

    Raises:
        HanseError: Of that kind; one that is raised inside passes through as it is.
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
        # Of a RecursionError or a KeyError the text says nothing, of others it may be the file.
        text = str(error) if isinstance(error, ValueError) else ""
        reason = printable(text.partition("\n")[0])[:_LONGEST] or type(error).__name__
        message = f"{printable(str(what))} cannot be read: {reason}"
        raise kind(message, code=code, hint=hint) from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """Read JSON that is one object; for a block under `decoding`.

    Raises:
        ValueError, RecursionError: It is something else.
    """
    table: Any = json.loads(text)
    if isinstance(table, dict):
        return table
    raise ValueError("it is not a JSON object")


def json_file(path: Path) -> dict[str, Any]:
    """Read a state file that may be missing or half-written; empty if it cannot be read."""
    try:
        with decoding(path, ConfigError):
            return json_object(path.read_bytes())
    except ConfigError:
        return {}


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log of one JSON object a line; what is no object, as after a crash, is left out.

    Raises:
        OSError: There is no such file.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                yield json_object(line)
            except (ValueError, RecursionError):
                continue


def check_stored(archive: zipfile.ZipFile, size: int, *, most: int) -> None:
    """Check that a ZIP archive unpacks to no more than it is itself; for a block under `decoding`.

    Args:
        archive: Made by `numpy.savez` or by Hanse, neither of which compresses.
        size: Its bytes.
        most: Largest number of members.

    Raises:
        ValueError: It is compressed, encrypted, has more members, or announces more bytes.
    """
    members = archive.infolist()
    if len(members) > most:
        raise ValueError(f"it has {len(members)} members, at most {most}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError("a member is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members announce more bytes than it has")
