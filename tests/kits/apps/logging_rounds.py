"""Processes that append to a round log, and are killed while they do; run as a program by tests.

    python logging_rounds.py killed KEY FOLDER TIMES    prints one JSON line per kill
    python logging_rounds.py waits KEY FOLDER COUNT     opens the log, and appends when told to

What was acknowledged is written down as its checkpoint, one line each, in FOLDER/seen-PID.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from killing import forked, kills

from hanse_common.errors import RoundLogError
from hanse_common.identity import CoordinatorKey
from hanse_common.paths import ROUND_LOG_FILE
from hanse_common.roundlog.records import Published
from hanse_server.roundlog import RoundLog

IN_A_ROW, KILLS_OF_ONE = 8, 5


def append_some(log: RoundLog, folder: Path, count: int) -> None:
    """What a coordinator does: the record, its checkpoint, and only then something with it."""
    with (folder / f"seen-{os.getpid()}").open("a") as seen:
        for _ in range(count):
            record = Published(run=os.getpid(), round=len(log.records), model_digest=bytes(32))
            seen.write(log.append(record).line())
            seen.flush()


def killed(folder: Path, key: CoordinatorKey, times: int) -> None:
    def place_of(number: int) -> Path:
        place = folder / f"{number // KILLS_OF_ONE:03}"
        place.mkdir(exist_ok=True)
        return place

    def start(number: int) -> int:
        place = place_of(number)
        return forked(
            lambda: append_some(RoundLog.open(place / ROUND_LOG_FILE, key), place, IN_A_ROW), place
        )

    for number, was_killed in kills(start, times):
        place = place_of(number)
        # As after a restart: the next process finds what the killed one left.
        log = RoundLog.open(place / ROUND_LOG_FILE, key)
        line = {"folder": place.name, "killed": was_killed, "size": log.checkpoint.size}
        print(json.dumps(line), flush=True)


def waits(folder: Path, key: CoordinatorKey, count: int) -> None:
    log = RoundLog.open(folder / ROUND_LOG_FILE, key)
    print("open", flush=True)
    sys.stdin.readline()
    try:
        append_some(log, folder, count)
    except RoundLogError as error:
        print(error, flush=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    mode, key_path, target, number = sys.argv[1:]
    act = {"killed": killed, "waits": waits}[mode]
    act(Path(target), CoordinatorKey.load(Path(key_path)), int(number))
