"""SQLite files to which rows are added and never changed, the same for every record we keep.

Every failure of the disk, of SQLite or of a file's content comes out as the record's own
error, with the path in it.

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

_BUSY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """A kind of file with one table that only grows.

    Args:
        what: What such a file is called in errors.
        rows: What its rows are called.
        table: Name of the table.
        columns: Their definitions, as SQL; the first is the row's number.
        application_id: In the header of the SQLite file, to tell kinds apart.
        version: Of the tables.
        error: Raised for everything that goes wrong.
        hint: What to do then.
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
        """The statements that make the tables of a new file."""
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
        """Open a file that exists, to look at it; it is not changed.

        Raises:
            HanseError: It is damaged, foreign, of a newer version, or cannot be read.
        """
        with self._connection(path) as database:
            with self.named_errors(path):
                # One state of the file for all that is read.
                database.execute("BEGIN")
                self._check_schema(database, path)
            yield database

    @contextmanager
    def writing(self, path: Path, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
        """Hold a file's only right to write; what was inserted is durable at the end.

        Makes the file if there is none. After an exception it is as it was before.

        Args:
            path: The file.
            sync: Wait for the disk, so that this holds for a power failure too.

        Raises:
            HanseError: As `reading`; or the disk is full, or the folder read-only.
        """
        if not path.exists():
            with self.named_errors(path):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                if sync:
                    sync_folder(path.parent)
        with self._connection(path) as database:
            with self.named_errors(path):
                # A commit is on the disk, and the end of its journal too, before it returns.
                database.execute(f"PRAGMA synchronous = {'EXTRA' if sync else 'OFF'}")
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
        """Let SQLite look through the whole file.

        Raises:
            HanseError: It is damaged.
        """
        with self.named_errors(path):
            ((found,),) = database.execute("PRAGMA integrity_check(1)").fetchall()
        if found != "ok":
            raise self.error(f"{path} is damaged: {found.splitlines()[-1]}", hint=self.hint)

    @contextmanager
    def named_errors(self, path: Path) -> Iterator[None]:
        """Turn errors of the disk and of SQLite into this kind's own."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise self.error(f"cannot use {path}: {error}", hint=self.hint) from error
        except (sqlite3.Error, UnicodeError) as error:
            raise self.error(f"{path} is damaged: {error}", hint=self.hint) from error
        except OSError as error:
            raise self.error(f"cannot use {path}: {error.strerror}", hint=self.hint) from error

    @contextmanager
    def _connection(self, path: Path) -> Iterator[sqlite3.Connection]:
        with self.named_errors(path):
            # Writable where it can be, for reading too: what a crash left half done is taken
            # back first. Without "c" no file is made.
            uri = f"{path.absolute().as_uri()}?mode=rw"
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
            raise self.error(
                f"{path} is a database of something else than a {self.what}", hint=self.hint
            )
        if version > self.version:
            raise self.error(
                f"{path} has version {version}, this is version {self.version}",
                hint="a newer version of Hanse wrote it: use that one",
            )
        found = database.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
        if version != self.version or [sql for (sql,) in found] != list(self.schema):
            raise self.error(f"{path} has other tables than a {self.what}", hint=self.hint)
        return False


def is_blank(database: sqlite3.Connection) -> bool:
    """Whether there is nothing in a file: its making was cut short."""
    return bool(database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,))
