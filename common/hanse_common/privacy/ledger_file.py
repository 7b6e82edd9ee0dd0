"""The files of a ledger: rows in SQLite, and beside them the head that the store remembers.

    ledger.sqlite   the entries; the only thing that an auditor needs
    ledger.head     how many there are, and the last one's hash
    ledger.salt     32 secret bytes from which the salts of commitments are derived (0600)

Every failure of the disk, of SQLite or of a file's content comes out as a `LedgerError`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hanse_common.codec import DIGEST_SIZE
from hanse_common.durable import sync_folder, write_durably
from hanse_common.errors import LedgerError
from hanse_common.privacy.entry import GENESIS

APPLICATION_ID = 0x484E534C
"""`HNSL`, in the header of the SQLite file."""
SCHEMA_VERSION = 1
SALT_KEY_SIZE = 32

_SCHEMA = (
    "CREATE TABLE entry (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, "
    "hash BLOB NOT NULL, signature BLOB NOT NULL) STRICT",
    "CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry "
    "BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END",
    "CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry "
    "BEGIN SELECT RAISE(ABORT, 'ledger entries are never deleted'); END",
)
_HEAD = "hanse-ledger-head-1"
_BUSY_SECONDS = 60.0
_RESTORE = "nothing was released; restore the ledger from a backup no older than the last round"


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
    return path.with_suffix(".head")


def salt_path(path: Path) -> Path:
    """Where the secret behind a ledger's salts lies."""
    return path.with_suffix(".salt")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger that exists, to look at it; its file is not changed.

    Raises:
        LedgerError: The file is damaged, foreign, of a newer version, or cannot be read.
    """
    with _connection(path) as database:
        with _named_errors(path):
            # One state of the file for all that is read.
            database.execute("BEGIN")
            _check_schema(database, path)
        yield database


@contextmanager
def writing(path: Path, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
    """Hold a ledger's only right to write; what was inserted is durable at the end.

    Makes the file if there is none. After an exception it is as it was before.

    Args:
        path: The file.
        sync: Wait for the disk, so that this holds for a power failure too.

    Raises:
        LedgerError: As `reading`; or the disk is full, or the folder read-only.
    """
    if not path.exists():
        with _named_errors(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if sync:
                sync_folder(path.parent)
    with _connection(path) as database:
        with _named_errors(path):
            # A commit is on the disk, and the end of its journal too, before it returns.
            database.execute(f"PRAGMA synchronous = {'EXTRA' if sync else 'OFF'}")
            database.execute("BEGIN IMMEDIATE")
        try:
            with _named_errors(path):
                if _check_schema(database, path):
                    _make_schema(database)
            yield database
            with _named_errors(path):
                database.execute("COMMIT")
        finally:
            if database.in_transaction:
                with _named_errors(path):
                    database.execute("ROLLBACK")


def read_rows(database: sqlite3.Connection, path: Path, *, start: int = 0) -> list[Row]:
    """Return the rows from a sequence number on, in order.

    Raises:
        LedgerError: The file is damaged.
    """
    with _named_errors(path):
        if _is_blank(database):
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
    with _named_errors(path):
        database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            (row.sequence, row.body, row.hash, row.signature),
        )


def check_pages(database: sqlite3.Connection, path: Path) -> None:
    """Let SQLite look through the whole file.

    Raises:
        LedgerError: It is damaged.
    """
    with _named_errors(path):
        ((found,),) = database.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise LedgerError(f"{path} is damaged: {found.splitlines()[-1]}", hint=_RESTORE)


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
        raise LedgerError(f"{beside} is damaged", hint=_RESTORE) from None
    if kind != _HEAD or head.sequence < 0 or len(head.hash) != DIGEST_SIZE:
        raise LedgerError(f"{beside} is no head of a ledger", hint=_RESTORE)
    return head


def write_head(path: Path, head: Head, *, sync: bool = True) -> None:
    """Remember a head durably; see `writing`.

    Raises:
        LedgerError: The disk is full, or the folder read-only.
    """
    beside = head_path(path)
    with _named_errors(beside):
        write_durably(beside, f"{_HEAD} {head.sequence} {head.hash.hex()}\n", sync=sync)


def salt_key(path: Path, *, make: bool, sync: bool = True) -> bytes | None:
    """Return the secret behind a ledger's salts, a new one if there is none and `make` is set.

    Raises:
        LedgerError: It cannot be read or written, or is something else.
    """
    beside = salt_path(path)
    with _named_errors(beside):
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


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    with _named_errors(path):
        # Writable where it can be, for reading too: what a crash left half done is taken back
        # first. Without "c" no file is made.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        yield database
    finally:
        database.close()


def _is_blank(database: sqlite3.Connection) -> bool:
    """Whether there is nothing in the file: its making was cut short."""
    return bool(database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,))


def _make_schema(database: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_schema(database: sqlite3.Connection, path: Path) -> bool:
    """Check that the file is a ledger of this version; return whether it is blank."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if (application, version) == (0, 0) and _is_blank(database):
        return True
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of something else than a ledger", hint=_RESTORE)
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has version {version}, this is version {SCHEMA_VERSION}",
            hint="a newer version of Hanse wrote it: use that one",
        )
    found = database.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    if version != SCHEMA_VERSION or [sql for (sql,) in found] != list(_SCHEMA):
        raise LedgerError(f"{path} has other tables than a ledger", hint=_RESTORE)
    return False


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerError(f"cannot use {path}: {error}", hint=_RESTORE) from error
    except (sqlite3.Error, UnicodeError) as error:
        raise LedgerError(f"{path} is damaged: {error}", hint=_RESTORE) from error
    except OSError as error:
        raise LedgerError(f"cannot use {path}: {error.strerror}", hint=_RESTORE) from error
