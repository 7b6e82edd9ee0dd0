"""The one way to write a file or a folder whole: a crash leaves the old one or the new one.

Everything is written under another name in the same folder, flushed to the disk, and renamed;
POSIX promises that a reader finds one of the two. The names of what is not yet complete end in
`PARTIAL`, so that whoever lists a folder can leave them out.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as temporary:
...     path = Path(temporary) / "head"
...     write_durably(path, "1")
...     write_durably(path, "2")
...     path.read_text(), os.listdir(temporary)
('2', ['head'])
"""

from __future__ import annotations

import fcntl
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
    """Replace a file so that after a crash it holds the old or the new content, never less.

    Args:
        path: The file.
        content: All of it.
        mode: Of the new file; the umask narrows it.
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
    """Open a new file that takes the place of `path` once the block is left without an error.

    Args:
        path: The file to replace.
        mode: Of the new file; the umask narrows it.
        sync: Wait for the disk.
        shared: Several processes may write the file at the same time, as in a cache, so that
            each needs a name of its own. A crash leaves such a name behind for good. The name
            is otherwise always the same, and the next writer removes what a crash left, so
            that nothing of an erased customer stays in a half-written file.

    Raises:
        OSError: The file could not be written; what was there stays.
    """
    partial = path.with_name(_own_name(path) if shared else path.name + PARTIAL)
    # What a crash left may be open to others, and a file that is opened keeps its mode.
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet, as a key is; one that is there is never replaced.

    Args:
        path: The file.
        content: All of it.
        mode: Of the file exactly, whatever the umask.

    Raises:
        FileExistsError: There is such a file; it stays as it is, whoever was first.
        OSError: The file could not be written.
    """
    partial = path.with_name(_own_name(path))
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
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
    """Make a new folder that gets its name once the block is left without an error.

    Args:
        folder: The folder to make; the folder around it is there.
        replace: Remove a folder of that name first. A crash between the two leaves none.

    Yields:
        An empty folder; everything in it is flushed to the disk before it is renamed.

    Raises:
        OSError: It could not be written; or there is such a folder, is not empty, and is not
            to be replaced.
    """
    # The outer folder is open to nobody else; the inner one has the mode that the umask says.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PARTIAL, dir=folder.parent))
    try:
        whole = aside / folder.name
        whole.mkdir()
        yield whole
        for place, _, names in os.walk(whole):
            for name in (*names, "."):
                sync_folder(Path(place, name))
        if replace and folder.exists():
            shutil.rmtree(folder)
        whole.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files that came, went or were renamed.

    Given a file, its content.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone; other processes that ask for it wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _own_name(path: Path) -> str:
    return f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}"
