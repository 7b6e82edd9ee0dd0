"""Atomic and durable writes: after a crash there is the old file or folder, or the new one.

Everything is written under another name in the same folder, flushed to the disk, and renamed.
POSIX guarantees that a reader sees one of the two. Incomplete files and folders have names that
end in `PARTIAL`, so that code which lists a folder can skip them.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as temporary:
...     path = Path(temporary) / "head"
...     write_durably(path, "1")
...     write_durably(path, "2")
...     path.read_text(), os.listdir(temporary)
('2', ['head'])
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PARTIAL = ".partial"


def write_durably(
    path: Path, content: str | bytes, *, mode: int = 0o644, sync: bool = True
) -> None:
    """Replace a file atomically: after a crash it holds the old or the new content.

    Args:
        path: The file.
        content: The complete content.
        mode: Permissions of the new file; the umask narrows them.
        sync: Wait for the disk, so that this holds for a power failure too.

    Raises:
        OSError: The file could not be written; what was there stays.
    """
    with replacing(path, mode=mode, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o644, sync: bool = True, shared: bool = False
) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends without an error.

    Args:
        path: The file to replace.
        mode: Permissions of the new file; the umask narrows them.
        sync: Wait for the disk.
        shared: Several processes may write the file at the same time, as in a cache, so that
            each needs a temporary name of its own, and a crash leaves such a file for good. The
            temporary name is otherwise always the same, and the next writer removes what a
            crash left, so that data of an erased customer does not stay in a partial file.

    Raises:
        OSError: The file could not be written; what was there stays.
    """
    partial = path.with_name(_own_name(path) if shared else path.name + PARTIAL)
    # What a crash left may be readable by others, and opening an existing file keeps its mode.
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            # Content before name: renamed first, the file could be empty after a power failure.
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The rename itself is durable only when the folder is on the disk.
    if sync:
        sync_folder(path.parent)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new file, such as a key; an existing file is never replaced.

    Args:
        path: The file.
        content: The complete content.
        mode: Permissions of the file, exactly and regardless of the umask.

    Raises:
        FileExistsError: The file exists; it is unchanged, even if another process made it now.
        OSError: The file could not be written.
    """
    partial = path.with_name(_own_name(path))
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if hasattr(os, "fchmod"):  # Windows has no such permissions
                os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        # A rename would replace what another process has written meanwhile; a link does not.
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a new folder that receives its name when the block ends without an error.

    Args:
        folder: The folder to make; its parent exists.
        replace: Remove a folder of that name first. A crash between the two leaves none.

    Yields:
        An empty folder; everything in it is flushed to the disk before it is renamed.

    Raises:
        OSError: It could not be written; or the folder exists, is not empty, and is not to be
            replaced.
    """
    # `mkdtemp` makes a folder for this user only, and renaming keeps permissions: the inner
    # folder, which is renamed, has those of the umask.
    outer = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PARTIAL, dir=folder.parent))
    try:
        inner = outer / folder.name
        inner.mkdir()
        yield inner
        # Files and folders before the rename, as in `replacing`.
        for place, _, names in os.walk(inner):
            for name in (*names, "."):
                sync_folder(Path(place, name))
        # A rename replaces an empty folder only.
        if replace and folder.exists():
            shutil.rmtree(folder)
        inner.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def is_taken(folder: Path) -> bool:
    """Return whether a new folder would replace something: a file, or a folder that holds any.

    Raises:
        OSError: The folder cannot be listed.
    """
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk; given a file, flush its content.

    Creating, removing or renaming a file is durable only after this.

    Edge cases:
        Windows opens no folders, and writes names to the disk on its own.
    """
    if os.name != "posix" and folder.is_dir():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _own_name(path: Path) -> str:
    return f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}"
