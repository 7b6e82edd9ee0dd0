"""The hand that tampers with a round log's records behind the coordinator's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hanse_common.identity import CoordinatorKey
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import checkpoint_path
from hanse_common.roundlog.merkle import Tree
from hanse_common.roundlog.records import Published

TRIGGERS = ("record_is_never_changed", "record_is_never_deleted")


def published(number: int) -> Published:
    """A small record."""
    return Published(run=7, round=number, model_digest=bytes([number]) * 32)


def bodies(path: Path) -> list[bytes]:
    """A log's records as they lie there."""
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT body FROM record ORDER BY position").fetchall()
    return [body for (body,) in found]


def put(path: Path, records: Sequence[bytes], positions: Sequence[int] | None = None) -> None:
    """Replace all records, and leave tables, triggers and the checkpoint as they were."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = MEMORY")
        made = [
            database.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
            for name in TRIGGERS
        ]
        for name in TRIGGERS:
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DELETE FROM record")
        numbers = range(1, len(records) + 1) if positions is None else positions
        rows = zip(numbers, records, strict=True)
        database.executemany("INSERT INTO record VALUES (?, ?)", rows)
        for statement in made:
            database.execute(statement)


def checkpoint_of(records: Sequence[bytes], key: CoordinatorKey) -> Checkpoint:
    """What a coordinator signs of some records."""
    unsigned = Checkpoint(log_key=key.public, size=len(records), root=Tree(records).root())
    return unsigned.sign(key)


def rewrite(path: Path, records: Sequence[bytes], key: CoordinatorKey) -> None:
    """Replace all records, and sign them anew, as the holder of the key can."""
    put(path, records)
    checkpoint_path(path).write_text(checkpoint_of(records, key).line())
