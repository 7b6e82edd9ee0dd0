"""Result tables as files: written atomically, readable by their owner only, with a protocol.

The protocol says how a table was made. It is in the Parquet metadata under `hanse`, and for
both formats in `<file>.json`. In CSV files, texts that a spreadsheet would take for a formula
begin with an apostrophe; see `hanse_common.spreadsheets`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError
from hanse_common.spreadsheets import as_texts

SUFFIXES = (".parquet", ".csv")
_KEY = b"hanse"
_PRIVATE = 0o600


def check_output(path: Path) -> None:
    """Check, before any work, that an output file can be written.

    Raises:
        ConfigError: The suffix is unknown, or the folder does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--output {path} has an unknown suffix", hint=f"known suffixes: {', '.join(SUFFIXES)}"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"--output {path} cannot be written", hint="name a file in a folder that exists"
        )


def companion_file(path: Path, what: str) -> Path:
    """The file of a further table: `ranking.parquet` -> `ranking.outlook.parquet`."""
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def write_table(table: pl.DataFrame, path: Path, protocol: Mapping[str, Any]) -> None:
    """Write a table about customers, readable by its owner alone (0600).

    Args:
        table: The table.
        path: The file, Parquet or CSV by its suffix; an existing one is replaced atomically.
        protocol: Plain values that say how the table was made.

    Raises:
        ConfigError: The file cannot be written.
    """
    note = json.dumps(protocol, indent=2, ensure_ascii=False)
    try:
        write_private(path, _encode(table, path, note))
        write_private(path.with_name(path.name + ".json"), (note + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _encode(table: pl.DataFrame, path: Path, note: str) -> bytes:
    if path.suffix.lower() == ".csv":
        return as_texts(table).write_csv().encode()
    import pyarrow.parquet

    arrow = table.to_arrow()
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _KEY: note})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow, buffer)
    return buffer.getvalue()


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically; its new content is never readable by others (0600)."""
    write_durably(path, content, mode=_PRIVATE)
