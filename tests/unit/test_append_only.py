"""Columns whose type a flipped byte has changed: an error of their entry, and no crash."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hanse_common.privacy.chain import Fault, follow
from hanse_common.privacy.ledger_file import read_rows
from hanse_common.roundlog.file import read_records
from hanse_common.roundlog.records import decode
from kits.errors import raises

VALUES = [7, -1, 1 << 62, 0.5, "text", None]
"""What SQLite can hand out where a header byte of a STRICT table's blob was flipped."""


def holding(table: str, *values: object) -> closing[sqlite3.Connection]:
    """A database without the product's type checks, with one row."""
    database = sqlite3.connect(":memory:")
    columns = {"entry": "sequence, body, hash, signature", "record": "position, body"}[table]
    database.execute(f"CREATE TABLE {table} ({columns})")
    marks = ", ".join("?" * (len(values) + 1))
    database.execute(f"INSERT INTO {table} VALUES ({marks})", (1, *values))
    return closing(database)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("column", range(3))
def test_an_entry_with_a_column_of_another_type_is_named_as_altered(column, value):
    values = [b"body", b"hash", b"signature"]
    values[column] = value
    with holding("entry", *values) as database:
        (row,) = read_rows(database, Path("ledger.sqlite"))
    fault = follow([], row)
    assert isinstance(fault, Fault) and (fault.sequence, fault.problem) == (1, "altered")


@pytest.mark.parametrize("value", VALUES)
def test_a_record_of_another_type_is_refused_and_costs_no_memory(value):
    with holding("record", value) as database:
        (record,) = read_records(database, Path("roundlog.sqlite"))
    assert record == b""
    with raises("round-log"):
        decode(record)
