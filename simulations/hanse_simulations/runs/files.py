"""Write a run's files atomically: a reader sees the old file or the new one, never a part."""

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
    """Write JSON atomically.

    Undefined numbers become null: `NaN` is not JSON.
    """
    with replacing(path) as file:
        text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
        file.write(text.encode() + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
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
    """Open a temporary file next to `path` for writing, which replaces it once complete.

    Raises:
        RunDirectoryError: The folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(durable.replacing(path, shared=True))
        except OSError as error:
            raise unwritable(path, error.strerror or str(error)) from error
        yield file
