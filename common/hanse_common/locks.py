"""Locks between processes; the system releases them with the process, however that ends.

On Linux and macOS they are those of `flock`, on Windows of the file system, by portalocker.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     path = Path(folder) / "join.lock"
...     with path.open("w") as file:
...         lock_at_once(file), is_locked(path)
...     is_locked(path)
(True, True)
False
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import portalocker
from portalocker import LockFlags

_FOLDERS_CAN_BE_OPENED = os.name == "posix"
_FOLDER_LOCK = ".lock"
"""The file that is locked instead of its folder where a folder cannot be opened."""


def lock_at_once(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; returns whether no other process holds the lock."""
    try:
        portalocker.lock(file, LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock on a file.

    Edge cases:
        A file that does not exist or cannot be opened is not locked.
    """
    try:
        with path.open("rb") as file:
            try:
                # A shared lock, released at once: only a process that starts at this moment could
                # mistake this one for a holder.
                portalocker.lock(file, LockFlags.SHARED | LockFlags.NON_BLOCKING)
            except portalocker.AlreadyLocked:
                return True
    except (OSError, portalocker.LockException):
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; other processes that lock it wait."""
    if _FOLDERS_CAN_BE_OPENED:
        handle = os.open(folder, os.O_RDONLY)
    else:
        handle = os.open(folder / _FOLDER_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        portalocker.lock(handle, LockFlags.EXCLUSIVE)
        yield
    finally:
        # Closing releases the lock, and the system closes for a process that crashes.
        os.close(handle)
