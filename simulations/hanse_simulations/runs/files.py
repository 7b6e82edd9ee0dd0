"""Writing the files of a run so that a reader never meets half of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from hanse_common import durable
from hanse_common.errors import RunDirectoryError
from hanse_common.wording import finite


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a half.

    Undefined numbers become null: `NaN` is not JSON.
    """
    with replacing(path) as file:
        text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
        file.write(text.encode() + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one, never a half."""
    with replacing(path) as file:
        file.write(text.encode())


def unwritable(path: Path, reason: str) -> RunDirectoryError:
    """Return the error for a run's folder that cannot be written."""
    return RunDirectoryError(
        f"cannot write the run's folder {path}: {reason}",
        hint="set HANSE_RUNS to a folder that you may write",
    )


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a neighbour of `path` for writing, which takes its place once it is complete.

    Raises:
        RunDirectoryError: The folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(durable.replacing(path, shared=True))
        except OSError as error:
            raise unwritable(path, error.strerror or str(error)) from error
        yield file
