"""A small ledger, and the hand that tampers with its rows behind its back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hanse_common.identity import StoreKey
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_common.privacy.entry import GENESIS, UNSIGNED, Entry
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import Row

STEPS = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1)
DELTA = 1e-6
NOW = 1_750_000_000
RELEASE = Release(
    kind="train",
    mode="local",
    max_grad_norm=0.5,
    run=7,
    round=1,
    exchange=3,
    attempt=1,
    manifest_digest=b"M" * 32,
    instructions_digest=b"I" * 32,
    roster_digest=b"R" * 32,
)
CHARGE = Charge(steps=STEPS, target_delta=DELTA, release=RELEASE)
UNNAMED = Charge(steps=STEPS, target_delta=DELTA)


def new(folder: Path, key: StoreKey | None = None, *, now: int = NOW) -> Ledger:
    return Ledger.open(folder / "ledger.sqlite", key, clock=lambda: now)


def charge(ledger: Ledger, count: int = 1, **more) -> Entry:
    for _ in range(count):
        entry = ledger.charge(CHARGE, **more)
    return entry


def steps_in(ledger: Ledger) -> int:
    return sum(steps.count for steps in ledger.spent())


def tampering(path: Path) -> closing[sqlite3.Connection]:
    """A connection that may do everything, and does not wait for the disk."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA journal_mode = MEMORY")
    return closing(database)


TRIGGERS = ("entry_is_never_changed", "entry_is_never_deleted")


def rows(path: Path) -> list[Row]:
    with tampering(path) as database:
        found = database.execute("SELECT * FROM entry ORDER BY sequence").fetchall()
    return [Row(*values) for values in found]


def put(path: Path, changed: list[Row]) -> None:
    """Replace all rows, and leave tables and triggers as they were."""
    with tampering(path) as database:
        made = [
            database.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
            for name in TRIGGERS
        ]
        for name in TRIGGERS:
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DELETE FROM entry")
        for row in changed:
            values = (row.sequence, row.body, row.hash, row.signature)
            database.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", values)
        for statement in made:
            database.execute(statement)


def as_row(entry: Entry) -> Row:
    return Row(entry.sequence, entry.body(), entry.hash, entry.signature)


def chained(entries: list[Entry], key: StoreKey | None) -> list[Entry]:
    """Make entries follow each other again, signed by a key of somebody's."""
    made: list[Entry] = []
    for entry in entries:
        previous = made[-1].hash if made else GENESIS
        signer = UNSIGNED if key is None else key.public
        entry = replace(
            entry, sequence=len(made) + 1, previous=previous, signer=signer, signature=b""
        )
        made.append(entry if key is None else entry.sign(key))
    return made
