"""What is set otherwise than Flower does in the process of its SuperLink."""

from __future__ import annotations

import sqlite3

from flwr.supercore import sql_mixin

from hanse_server.deployment.superlink import wait_for_database


def test_a_locked_database_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)
    wait_for_database()
    with sqlite3.connect(tmp_path / "superlink.db") as connection:
        sql_mixin._set_sqlite_pragmas(connection, None)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
