r"""Logs of bounded size: full files get numbers, `.1` for the newest, and the oldest is removed.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     path = Path(folder) / "log.jsonl"
...     for number in range(9):
...         append(path, f"{number}\n", largest=6, earlier=2)
...     [(file.name, file.read_text().split()) for file in files_of(path)]
[('log.jsonl.2', ['0', '1', '2']), ('log.jsonl.1', ['3', '4', '5']), ('log.jsonl', ['6', '7', '8'])]
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from hanse_common.decoding import json_lines

LARGEST = 8 * 2**20
"""Bytes of one file; a SuperLink with five stores writes 14 MB a day."""
EARLIER = 4
"""Full files that are kept."""


def append(path: Path, text: str, *, largest: int = LARGEST, earlier: int = EARLIER) -> None:
    """Write to the end of a log, and begin a new file first if this one is full.

    Args:
        path: The newest file.
        text: Whole lines.
        largest: Bytes of one file.
        earlier: Number of full files that are kept.

    Raises:
        OSError: The file cannot be written.

    Edge cases:
        Two processes that find the file full at the same moment begin two new files, of which one
        is short; no line is lost.
    """
    data = text.encode()
    if path.exists() and path.stat().st_size + len(data) > largest:
        begin_anew(path, earlier=earlier)
    with path.open("ab") as file:
        file.write(data)


def begin_anew(path: Path, *, earlier: int = EARLIER) -> None:
    """Give a log its number, so that the next line begins a new file.

    Raises:
        OSError: The folder cannot be written.
    """
    if path.exists():
        RotatingFileHandler(path, backupCount=earlier, delay=True).doRollover()


def empty_if_full(path: Path, *, largest: int = LARGEST, earlier: int = EARLIER) -> None:
    """Copy a full log to its number and empty it, for a process that has it open as its stderr.

    The process must have opened it for appending. A line that is written between the two steps
    is lost.

    Raises:
        OSError: The folder cannot be written.
    """
    if not path.exists() or path.stat().st_size <= largest:
        return
    handler = RotatingFileHandler(path, backupCount=earlier, delay=True)
    handler.rotator = _copy_and_empty
    handler.doRollover()


def files_of(path: Path, *, earlier: int = EARLIER) -> list[Path]:
    """Return the files of a log that exist, the oldest first."""
    numbered = [path.with_name(f"{path.name}.{number}") for number in range(earlier, 0, -1)]
    return [file for file in (*numbered, path) if file.exists()]


def all_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log with one JSON object per line from all of its files; see `json_lines`.

    Raises:
        OSError: A file cannot be read.
    """
    for file in files_of(path):
        with suppress(FileNotFoundError):  # renamed a moment ago: its next line begins it anew
            yield from json_lines(file)


def _copy_and_empty(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    with Path(source).open("r+b") as file:
        file.truncate(0)
