"""Processes of the coordinator that ended by themselves and were started again.

`hanse server up` remembers the last of them in `state/crashes.json`, so that `status`, `watch`
and `[notify]` say for a day what its own output says once.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     remember(Path(folder), "the SuperExec ended with status -9", now=1_800_000_000.0)
...     [crash.what for crash in recent(Path(folder), now=1_800_000_060.0)]
['the SuperExec ended with status -9']
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.paths import CRASHES_FILE

SHOWN_SECONDS = 86_400.0
"""Seconds for which a crash is shown: an operator who looks once a day sees each of them."""
_MOST = 20
"""Crashes that are kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crash:
    """A process that ended by itself, and was started again."""

    time: float
    """Unix seconds."""
    what: str
    """Which process, and with which status it ended."""


def remember(state: Path, what: str, *, now: float | None = None) -> None:
    """Add a crash to those that are shown.

    Args:
        state: The folder for files of running processes.
        what: Which process ended, and how; without lines of its log, since others are told of it.
        now: Unix seconds; the current time if unset.

    Edge cases:
        A full disk loses the entry: it must not keep the process from being started again.
    """
    crash = Crash(time=time.time() if now is None else now, what=what)
    kept = [*_read(state), crash][-_MOST:]
    try:
        write_durably(state / CRASHES_FILE, json.dumps({"crashes": [asdict(c) for c in kept]}))
    except OSError as error:
        _log.warning("cannot write %s: %s", state / CRASHES_FILE, error.strerror)


def recent(state: Path, *, now: float | None = None) -> list[Crash]:
    """Return the crashes of the last day, the oldest first; none if the file cannot be read."""
    since = (time.time() if now is None else now) - SHOWN_SECONDS
    return [crash for crash in _read(state) if crash.time > since]


def _read(state: Path) -> list[Crash]:
    rows = json_file(state / CRASHES_FILE).get("crashes")
    return [
        Crash(time=float(row["time"]), what=str(row["what"]))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
        and isinstance(row.get("time"), int | float)
        and isinstance(row.get("what"), str)
    ]
