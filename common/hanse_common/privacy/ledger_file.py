"""The files of a ledger: rows in SQLite, and beside them the head that the store remembers.

    ledger.sqlite   the entries; the only thing that an auditor needs
    ledger.head     how many there are, and the last one's hash
    ledger.salt     32 secret bytes from which the salts of commitments are derived (0600)

Every failure of the disk, of SQLite or of a file's content comes out as a `LedgerError`.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hanse_common.append_only import FileFormat, is_blank
from hanse_common.codec import DIGEST_SIZE
from hanse_common.durable import write_durably
from hanse_common.errors import LedgerError
from hanse_common.paths import LEDGER_HEAD_FILE, LEDGER_SALT_FILE
from hanse_common.privacy.entry import GENESIS

SALT_KEY_SIZE = 32

_HEAD = "hanse-ledger-head-1"
HEAD_LOST = "a head that is lost for good: hanse store ledger accept-head"
"""What to do about it, in a hint."""
_RESTORE = "nothing was released; restore the ledger from a backup no older than the last round"
_FORMAT = FileFormat(
    what="ledger",
    rows="ledger entries",
    table="entry",
    columns="sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, "
    "hash BLOB NOT NULL, signature BLOB NOT NULL",
    application_id=0x484E534C,  # HNSL
    error=LedgerError,
    hint=_RESTORE,
)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a ledger goes; the hash stands for every entry up to there."""

    sequence: int
    hash: bytes


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it lies in the file, unchecked."""

    sequence: int
    body: bytes
    hash: bytes
    signature: bytes


def head_path(path: Path) -> Path:
    """Where the head of a ledger is remembered."""
    return path.with_suffix(Path(LEDGER_HEAD_FILE).suffix)


def salt_path(path: Path) -> Path:
    """Where the secret behind a ledger's salts lies."""
    return path.with_suffix(Path(LEDGER_SALT_FILE).suffix)


def reading(path: Path) -> AbstractContextManager[sqlite3.Connection]:
    """Open a ledger that exists, to look at it; see `append_only.FileFormat.reading`."""
    return _FORMAT.reading(path)


def writing(path: Path, *, sync: bool = True) -> AbstractContextManager[sqlite3.Connection]:
    """Hold a ledger's only right to write; see `append_only.FileFormat.writing`."""
    return _FORMAT.writing(path, sync=sync)


def read_rows(database: sqlite3.Connection, path: Path, *, start: int = 0) -> list[Row]:
    """Return the rows from a sequence number on, in order.

    Raises:
        LedgerError: The file is damaged.
    """
    with _FORMAT.named_errors(path):
        if is_blank(database):
            return []
        found = database.execute(
            "SELECT sequence, body, hash, signature FROM entry "
            "WHERE sequence >= ? ORDER BY sequence",
            (start,),
        ).fetchall()
    return [Row(*values) for values in found]


def insert_row(database: sqlite3.Connection, path: Path, row: Row) -> None:
    """Add a row.

    Raises:
        LedgerError: There is one of that number, or the disk is full.
    """
    with _FORMAT.named_errors(path):
        database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            (row.sequence, row.body, row.hash, row.signature),
        )


def check_pages(database: sqlite3.Connection, path: Path) -> None:
    """Let SQLite look through the whole file; see `append_only.FileFormat.check_pages`."""
    _FORMAT.check_pages(database, path)


def read_head(path: Path) -> Head | None:
    """Return the head that is remembered for a ledger; None if none is.

    Raises:
        LedgerError: It cannot be read, or is something else.
    """
    beside = head_path(path)
    try:
        kind, sequence, value = beside.read_text(encoding="ascii").split()
        head = Head(int(sequence), bytes.fromhex(value))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"cannot read {beside}: {error.strerror}", hint=_RESTORE) from error
    except ValueError:
        raise LedgerError(f"{beside} is damaged", hint=f"{_RESTORE}; {HEAD_LOST}") from None
    if kind != _HEAD or head.sequence < 0 or len(head.hash) != DIGEST_SIZE:
        raise LedgerError(f"{beside} is no head of a ledger", hint=f"{_RESTORE}; {HEAD_LOST}")
    return head


def write_head(path: Path, head: Head, *, sync: bool = True) -> None:
    """Remember a head durably; see `writing`.

    Raises:
        LedgerError: The disk is full, or the folder read-only.
    """
    beside = head_path(path)
    with _FORMAT.named_errors(beside):
        write_durably(beside, f"{_HEAD} {head.sequence} {head.hash.hex()}\n", sync=sync)


def salt_key(path: Path, *, make: bool, sync: bool = True) -> bytes | None:
    """Return the secret behind a ledger's salts, a new one if there is none and `make` is set.

    Raises:
        LedgerError: It cannot be read or written, or is something else.
    """
    beside = salt_path(path)
    with _FORMAT.named_errors(beside):
        if beside.exists():
            key = beside.read_bytes()
            if len(key) != SALT_KEY_SIZE:
                raise LedgerError(f"{beside} is damaged", hint="restore it from a backup")
            return key
        if not make:
            return None
        key = os.urandom(SALT_KEY_SIZE)
        write_durably(beside, key, mode=0o600, sync=sync)
        return key
