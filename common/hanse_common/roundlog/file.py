"""The files of a round log: its records in SQLite, and its last signed checkpoint.

roundlog.sqlite       the records
roundlog.checkpoint   the number of records and the Merkle root, signed
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hanse_common.append_only import FileFormat, as_blob, is_blank
from hanse_common.errors import RoundLogError
from hanse_common.paths import ROUND_LOG_CHECKPOINT_FILE

_HINT = "restore the round log from a backup no older than the last round"

FORMAT = FileFormat(
    what="round log",
    rows="round log records",
    table="record",
    columns="position INTEGER PRIMARY KEY, body BLOB NOT NULL",
    application_id=0x484E5352,  # HNSR
    error=RoundLogError,
    hint=_HINT,
)


def checkpoint_path(path: Path) -> Path:
    """Return the path of the last checkpoint, in the folder of the log at `path`."""
    return path.with_suffix(Path(ROUND_LOG_CHECKPOINT_FILE).suffix)


def read_records(database: sqlite3.Connection, path: Path) -> list[bytes]:
    """Return the encoded records in order.

    Raises:
        RoundLogError: The file is damaged, or a record is missing.
    """
    with FORMAT.named_errors(path):
        if is_blank(database):
            return []
        rows = database.execute("SELECT position, body FROM record ORDER BY position").fetchall()
    # Triggers prevent deletions by SQL, not by an editor of the file: positions have no gaps.
    for expected, (position, _) in enumerate(rows, 1):
        if position != expected:
            raise RoundLogError(f"{path} lacks record {expected}", hint=_HINT)
    return [as_blob(body) for _, body in rows]


def count_records(database: sqlite3.Connection, path: Path) -> int:
    """Return the number of records without reading them.

    Raises:
        RoundLogError: The file is damaged.
    """
    with FORMAT.named_errors(path):
        if is_blank(database):
            return 0
        (count,) = database.execute("SELECT count(*) FROM record").fetchone()
    return int(count)


def insert_record(database: sqlite3.Connection, path: Path, position: int, body: bytes) -> None:
    """Add a record.

    Raises:
        RoundLogError: There is a record at that position, or the disk is full.
    """
    with FORMAT.named_errors(path):
        database.execute("INSERT INTO record VALUES (?, ?)", (position, body))
