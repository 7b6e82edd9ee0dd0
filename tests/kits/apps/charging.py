"""Processes that charge a ledger, and are killed while they do; run as a program by tests.

    python charging.py killed KEY FOLDER TIMES    prints one JSON line per kill
    python charging.py together KEY FOLDER COUNT  two processes, COUNT charges each

Charges and uploads are made by children of this process, which has imported everything and
computed every epsilon before it forks, so that kills fall into charging and not into imports.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from killing import forked, kills

from hanse_common.identity import StoreKey
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.charge import Charge
from hanse_common.privacy.ledger import Ledger

STEPS = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1)
DELTA = 1e-6
IN_A_ROW, KILLS_OF_ONE = 4, 5


def warm(count: int) -> None:
    for k in range(1, count + 1):
        steps = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=k)
        epsilon([steps], target_delta=DELTA)


def upload_some(ledger: Ledger, uploads: Path, count: int) -> None:
    """What a store does: the charge, then the upload."""
    for k in range(count):
        ledger.charge(Charge(steps=STEPS, target_delta=DELTA), vector=b"vector")
        (uploads / f"{os.getpid()}-{k}").touch()


def child(folder: Path, key: StoreKey, count: int) -> int:
    """Fork a process that opens the ledger and uploads; return its id."""
    return forked(
        lambda: upload_some(Ledger.open(folder / "ledger.sqlite", key), folder / "uploads", count),
        folder,
    )


def killed(folder: Path, key: StoreKey, times: int) -> None:
    warm(IN_A_ROW * KILLS_OF_ONE)

    def place_of(number: int) -> Path:
        place = folder / f"{number // KILLS_OF_ONE:03}"
        (place / "uploads").mkdir(parents=True, exist_ok=True)
        return place

    for number, was_killed in kills(lambda n: child(place_of(n), key, IN_A_ROW), times):
        place = place_of(number)
        uploads = len(list((place / "uploads").iterdir()))
        line = {"folder": place.name, "killed": was_killed, "uploads": uploads}
        # As after a restart: the next process finds what the killed one left.
        line["charged"] = sum(s.count for s in Ledger.open(place / "ledger.sqlite", key).spent())
        print(json.dumps(line), flush=True)


def together(folder: Path, key: StoreKey, count: int) -> None:
    warm(2 * count)
    (folder / "uploads").mkdir()
    for pid in [child(folder, key, count) for _ in range(2)]:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    mode, key_path, target, number = sys.argv[1:]
    act = {"killed": killed, "together": together}[mode]
    act(Path(target), StoreKey.load(Path(key_path)), int(number))
