"""`progress.json`: where a run is within a round, for `hanse server status`.

Replaced at every step, never read by the run itself. It says which stores were asked, who
answered and who refused and why; nothing in it comes from a store's data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.errors import HanseError
from hanse_common.paths import FAILURE_FILE, PROGRESS_FILE


class Progress:
    """Writes down where a run is.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._table: dict[str, Any] = {}
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)

    def stage(
        self, number: int, kind: str, attempt: int, stage: str, asked: Collection[str]
    ) -> None:
        """Note that stores were asked for a stage's message; refusals stay for the attempt."""
        exchange = {"round": number, "kind": kind, "attempt": attempt}
        same = exchange.items() <= self._table.items()
        self._table = {
            **exchange,
            "stage": stage,
            "waiting": sorted(asked),
            "answered": [],
            "refusals": self._table["refusals"] if same else {},
        }
        self._write()

    def answered(self, store: str, refusal: str | None = None) -> None:
        """Note a store's answer, or why it gave none."""
        if store in self._table.get("waiting", ()):
            self._table["waiting"].remove(store)
        if refusal is None:
            self._table.setdefault("answered", []).append(store)
        else:
            self._table.setdefault("refusals", {})[store] = refusal
        self._write()

    def failed(self, error: HanseError) -> None:
        """Note why the run ends."""
        table = {"code": error.code, "message": error.message, "hint": error.hint}
        with suppress(OSError):  # the folder may be what is wrong
            write_durably(self._run_dir / FAILURE_FILE, json.dumps(table) + "\n")

    def _write(self) -> None:
        self._table["time"] = round(time.time(), 3)
        write_durably(self._run_dir / PROGRESS_FILE, json.dumps(self._table) + "\n", sync=False)


def read_progress(run_dir: Path) -> dict[str, Any]:
    """Read where a run is; empty if it has not asked anybody yet."""
    return json_file(run_dir / PROGRESS_FILE)


def read_failure(run_dir: Path) -> dict[str, Any]:
    """Read why the last process of a run failed; empty if it did not."""
    return json_file(run_dir / FAILURE_FILE)
