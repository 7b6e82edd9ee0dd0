"""The files of a ledger: its entries in SQLite, its head, and the secret of its commitments.

    ledger.sqlite   the entries; the only file that an auditor needs
    ledger.head     the number of entries, and the last one's hash
    ledger.salt     32 secret bytes from which the salts of commitments are derived (0600)

Every failure of the disk, of SQLite or of a file's content is raised as a `LedgerError`.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hanse_common.append_only import FileFormat, as_blob, is_blank
from hanse_common.codec import DIGEST_SIZE
from hanse_common.durable import write_durably
from hanse_common.errors import LedgerError
from hanse_common.paths import LEDGER_HEAD_FILE, LEDGER_SALT_FILE
from hanse_common.privacy.entry import GENESIS

_SALT_KEY_SIZE = 32

_HEAD = "hanse-ledger-head-1"
HEAD_LOST = "a head that is lost for good: hanse store ledger accept-head"
"""The part of a hint that says what to do about it."""
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
    """Number and hash of a ledger's last entry; the hash covers every entry up to it."""

    sequence: int
    hash: bytes


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it is stored in the file, unchecked."""

    sequence: int
    body: bytes
    hash: bytes
    signature: bytes


def head_path(path: Path) -> Path:
    """Return the path of the file that holds a ledger's head."""
    return path.with_suffix(Path(LEDGER_HEAD_FILE).suffix)


def salt_path(path: Path) -> Path:
    """Return the path of the file that holds the secret of a ledger's salts."""
    return path.with_suffix(Path(LEDGER_SALT_FILE).suffix)


def reading(path: Path) -> AbstractContextManager[sqlite3.Connection]:
    """Open an existing ledger for reading; see `append_only.FileFormat.reading`."""
    return _FORMAT.reading(path)


def writing(path: Path, *, sync: bool = True) -> AbstractContextManager[sqlite3.Connection]:
    """Open a ledger under its write lock; see `append_only.FileFormat.writing`."""
    return _FORMAT.writing(path, sync=sync)


def read_rows(database: sqlite3.Connection, path: Path, *, start: int = 0) -> list[Row]:
    """Return the rows from a sequence number on, in order.

    Raises:
        LedgerError: The file is damaged.
    """
    with _FORMAT.named_errors(path):
        if is_blank(database):
            return []
        rows = database.execute(
            "SELECT sequence, body, hash, signature FROM entry "
            "WHERE sequence >= ? ORDER BY sequence",
            (start,),
        ).fetchall()
    return [Row(sequence, *map(as_blob, values)) for sequence, *values in rows]


def insert_row(database: sqlite3.Connection, path: Path, row: Row) -> None:
    """Add a row.

    Raises:
        LedgerError: There is a row of that number, or the disk is full.
    """
    with _FORMAT.named_errors(path):
        database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            (row.sequence, row.body, row.hash, row.signature),
        )


def check_pages(database: sqlite3.Connection, path: Path) -> None:
    """Let SQLite check all pages of the file; see `append_only.FileFormat.check_pages`."""
    _FORMAT.check_pages(database, path)


def read_head(path: Path) -> Head | None:
    """Return the stored head of a ledger; None if there is none.

    Raises:
        LedgerError: The file cannot be read, or does not hold a head.
    """
    head_file = head_path(path)
    try:
        kind, sequence, value = head_file.read_text(encoding="ascii").split()
        head = Head(int(sequence), bytes.fromhex(value))
    except FileNotFoundError:
        return None
    except OSError as error:
        # Chained: `restore` must not take a head that is out of reach for one that is lost.
        raise LedgerError(f"cannot read {head_file}: {error.strerror}", hint=_RESTORE) from error
    except ValueError:
        raise LedgerError(f"{head_file} is damaged", hint=f"{_RESTORE}; {HEAD_LOST}") from None
    if kind != _HEAD or head.sequence < 0 or len(head.hash) != DIGEST_SIZE:
        raise LedgerError(f"{head_file} is not a head of a ledger", hint=f"{_RESTORE}; {HEAD_LOST}")
    return head


def write_head(path: Path, head: Head, *, sync: bool = True) -> None:
    """Store a head durably; hold the ledger's write lock (see `writing`).

    Raises:
        LedgerError: The disk is full, or the folder read-only.
    """
    head_file = head_path(path)
    with _FORMAT.named_errors(head_file):
        write_durably(head_file, f"{_HEAD} {head.sequence} {head.hash.hex()}\n", sync=sync)


def salt_key(path: Path, *, make: bool, sync: bool = True) -> bytes | None:
    """Return the secret of a ledger's salts; a new one if there is none and `make` is set.

    Raises:
        LedgerError: It cannot be read or written, or has the wrong size.
    """
    salt_file = salt_path(path)
    with _FORMAT.named_errors(salt_file):
        if salt_file.exists():
            key = salt_file.read_bytes()
            if len(key) != _SALT_KEY_SIZE:
                raise LedgerError(f"{salt_file} is damaged", hint="restore it from a backup")
            return key
        if not make:
            return None
        # Secret: with the salt, anybody could test guesses of a vector against its commitment.
        key = os.urandom(_SALT_KEY_SIZE)
        write_durably(salt_file, key, mode=0o600, sync=sync)
        return key
