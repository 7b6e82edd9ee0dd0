"""The measurement of a store's daily commands: every one ran, beside its reference."""

from __future__ import annotations

import json

from hanse_common.paths import BUDGET_FILE
from kits.aged_store import aged_store
from kits.commands import hanse
from kits.deployment import succeed


def test_each_command_is_measured_beside_the_reference(tmp_path):
    store = aged_store(tmp_path, manifests=2, charges=6)
    done = succeed(hanse("bench", "commands", "--folder", store.path, "--format", "json"))
    rows = json.loads(done.out)["rows"]
    assert [row["command"] for row in rows] == [
        "python -c 'import hanse_common'",
        "hanse store budget, first",
        "hanse store budget",
        "hanse store metrics --check",
        "hanse store doctor",
    ]
    assert [row["status"] for row in rows[:3]] == [0, 0, 0]
    assert all(row["status"] > 0 for row in rows[3:]), "this store is not joined, and has no data"
    assert all(row["cpu_seconds"] > 0 and row["peak_megabytes"] > 0 for row in rows)
    assert (store.path / BUDGET_FILE).exists()
