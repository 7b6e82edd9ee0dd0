"""Append-only SQLite files: one table, whose rows are added and never changed.

The ledger and the round log are such files. Every failure of the disk, of SQLite or of a file's
content is raised as the format's own error, with the path in the message.

>>> from tempfile import TemporaryDirectory
>>> from hanse_common.errors import DataError
>>> notes = FileFormat(what="notebook", rows="notes", table="note",
...                columns="number INTEGER PRIMARY KEY", application_id=1, error=DataError)
>>> folder = TemporaryDirectory()
>>> path = Path(folder.name) / "notes.sqlite"
>>> with notes.writing(path) as database:
...     _ = database.execute("INSERT INTO note VALUES (1)")
>>> with notes.writing(path) as database, notes.named_errors(path):  # doctest: +ELLIPSIS
...     _ = database.execute("DELETE FROM note")
Traceback (most recent call last):
    ...
hanse_common.errors.DataError: .../notes.sqlite is damaged: notes are never deleted
>>> folder.cleanup()
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hanse_common.durable import sync_folder
from hanse_common.errors import HanseError

_BUSY_SECONDS = 60.0  # writers take turns, and each accounts and commits under the lock


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """A kind of file with one table that only grows.

    Args:
        what: Name of such a file in errors.
        rows: Name of its rows in errors, in the plural.
        table: Name of the table.
        columns: Definitions of the columns, as SQL; the first is the row's number.
        application_id: Number in the header of the SQLite file that distinguishes the kinds.
        version: Version of the tables.
        error: Class of the errors to raise.
        hint: Hint of those errors.
    """

    what: str
    rows: str
    table: str
    columns: str
    application_id: int
    version: int = 1
    error: type[HanseError]
    hint: str = ""

    @property
    def schema(self) -> tuple[str, ...]:
        """The SQL statements that create the tables of a new file."""
        table, rows = self.table, self.rows
        return (
            f"CREATE TABLE {table} ({self.columns}) STRICT",
            f"CREATE TRIGGER {table}_is_never_changed BEFORE UPDATE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{rows} are never changed'); END",
            f"CREATE TRIGGER {table}_is_never_deleted BEFORE DELETE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{rows} are never deleted'); END",
        )

    @contextmanager
    def reading(self, path: Path) -> Iterator[sqlite3.Connection]:
        """Open an existing file for reading; its rows do not change.

        Raises:
            HanseError: It is damaged, foreign, of a newer version, or cannot be read.
        """
        with self._connection(path) as database:
            with self.named_errors(path):
                # One transaction: everything that is read belongs to one state of the file.
                database.execute("BEGIN")
                self._check_schema(database, path)
            yield database

    @contextmanager
    def writing(self, path: Path, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
        """Open a file under its write lock; inserted rows are durable at the end of the block.

        The file is created if there is none. After an exception it is unchanged.

        Args:
            path: The file.
            sync: Wait for the disk, so that this holds for a power failure too.

        Raises:
            HanseError: As `reading`; or the disk is full, or the folder read-only.
        """
        if not path.exists():
            with self.named_errors(path):
                # Not by SQLite, which would make the file readable by others.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                if sync:
                    sync_folder(path.parent)
        with self._connection(path) as database:
            with self.named_errors(path):
                # EXTRA: when a commit returns, it is on the disk, and so is the removal of its
                # journal, which would otherwise undo it after a power failure.
                database.execute(f"PRAGMA synchronous = {'EXTRA' if sync else 'OFF'}")
                # The lock now, not at the first insert: what is read first must not change.
                database.execute("BEGIN IMMEDIATE")
            try:
                with self.named_errors(path):
                    if self._check_schema(database, path):
                        self._make_schema(database)
                yield database
                with self.named_errors(path):
                    database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    with self.named_errors(path):
                        database.execute("ROLLBACK")

    def check_pages(self, database: sqlite3.Connection, path: Path) -> None:
        """Let SQLite check all pages of the file.

        Raises:
            HanseError: It is damaged.
        """
        with self.named_errors(path):
            # 1: stop at the first problem, since a damaged file may have any number of them.
            ((report,),) = database.execute("PRAGMA integrity_check(1)").fetchall()
        if report != "ok":
            raise self.error(f"{path} is damaged: {report.splitlines()[-1]}", hint=self.hint)

    @contextmanager
    def named_errors(self, path: Path) -> Iterator[None]:
        """Convert errors of the disk and of SQLite to this kind's own error."""
        try:
            yield
        # Locked, read-only or full: the file may be intact. Other errors of SQLite mean damage.
        except sqlite3.OperationalError as error:
            raise self.error(f"cannot use {path}: {error}", hint=self.hint) from error
        except (sqlite3.Error, UnicodeError) as error:
            raise self.error(f"{path} is damaged: {error}", hint=self.hint) from error
        except OSError as error:
            raise self.error(f"cannot use {path}: {error.strerror}", hint=self.hint) from error

    @contextmanager
    def _connection(self, path: Path) -> Iterator[sqlite3.Connection]:
        with self.named_errors(path):
            # Writable for reading too, where permissions allow it: SQLite first rolls back what
            # a crash left half done. Unlike "rwc", "rw" creates no file.
            uri = f"{path.absolute().as_uri()}?mode=rw"
            # No isolation level: otherwise Python begins transactions of its own.
            database = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            yield database
        finally:
            database.close()

    def _make_schema(self, database: sqlite3.Connection) -> None:
        for statement in self.schema:
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {self.application_id}")
        database.execute(f"PRAGMA user_version = {self.version}")

    def _check_schema(self, database: sqlite3.Connection, path: Path) -> bool:
        """Check that the file is of this kind and version; return whether it is blank."""
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if (application, version) == (0, 0) and is_blank(database):
            return True
        if application != self.application_id:
            raise self.error(f"{path} is a database, but not a {self.what}", hint=self.hint)
        if version > self.version:
            raise self.error(
                f"{path} has version {version}, this is version {self.version}",
                hint="a newer version of Hanse wrote it: use that one",
            )
        # The statements are compared word for word: a file without its triggers is refused.
        tables = database.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
        if version != self.version or [sql for (sql,) in tables] != list(self.schema):
            raise self.error(f"{path} has other tables than a {self.what}", hint=self.hint)
        return False


def as_blob(value: object) -> bytes:
    """Return the bytes of a column, and none where the column holds another type.

    SQLite keeps a type with every value, so one flipped byte can make a blob a number: its
    `bytes` would be as many zeros. Without bytes, the value is refused like any other damage.
    """
    return value if isinstance(value, bytes) else b""


def is_blank(database: sqlite3.Connection) -> bool:
    """Whether a file has no tables, because its creation was interrupted."""
    return bool(database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,))
