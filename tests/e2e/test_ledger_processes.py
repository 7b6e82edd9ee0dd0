"""Real processes on one ledger: killed at any point, or at work at the same time."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hanse_common.identity import StoreKey
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.verify import verify
from kits.ledger import steps_in

PROGRAM = Path(__file__).parent.parent / "kits" / "apps" / "charging.py"


@pytest.fixture
def key(tmp_path):
    key = StoreKey.generate()
    key.save(tmp_path / "store.key")
    return key


def run(tmp_path, mode, number):
    folder = tmp_path / mode
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), mode, str(tmp_path / "store.key"), str(folder)]
    done = subprocess.run([*command, str(number)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors = [path.read_text() for path in folder.rglob("error-*")]
    assert errors == []
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("times", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_a_store_killed_anywhere_never_has_charged_less_than_it_uploaded(times, tmp_path, key):
    folder, kills = run(tmp_path, "killed", times)
    assert len(kills) == times
    hit = Counter()
    for kill in kills:
        hit[kill["folder"]] += kill["killed"]
        assert kill["uploads"] <= kill["charged"] <= kill["uploads"] + hit[kill["folder"]]
    # On a busy machine many a store has finished before the signal comes.
    assert sum(hit.values()) >= times / 5
    for place in sorted(folder.iterdir()):
        found = verify(place / "ledger.sqlite", key.public)
        assert found.fault is None
        assert found.unsigned == 0


def test_two_processes_at_once_lose_no_entry(tmp_path, key):
    folder, _ = run(tmp_path, "together", 12)
    ledger = Ledger.open(folder / "ledger.sqlite", key)
    assert steps_in(ledger) == len(list((folder / "uploads").iterdir())) == 24
    found = verify(ledger.path, key.public)
    assert (found.fault, found.compared, found.head) == (None, 24, ledger.head)
