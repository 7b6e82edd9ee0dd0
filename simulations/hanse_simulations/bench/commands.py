"""CPU-seconds of the commands that a store's operator and monitoring run again and again.

Every command is a process of its own, as at a store, beside the one that only starts Python and
imports `hanse_common`. The first one finds no figures of the budget, and composes them; the
others read what it kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from hanse_client.deployment.folder import StoreFolder
from hanse_common.paths import BUDGET_FILE

_PROGRAM = ("-c", "from hanse_common.cli import main; main()")
_REFERENCE = ("-c", "import hanse_common")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One command.

    Args:
        command: Its words.
        cpu_seconds: User and system time of its process.
        peak_megabytes: Its largest resident memory.
        times_reference: Its CPU-seconds, as a multiple of the reference's.
        status: Its exit status; a check that fails has one too.
    """

    command: str
    cpu_seconds: float
    peak_megabytes: float
    times_reference: float
    status: int


def commands(folder: Path) -> list[Row]:
    """Measure the commands on a store's folder, after the reference.

    Args:
        folder: A store's folder. Its kept figures of the budget are deleted, and computed again.

    Raises:
        StoreNotReady: There is no store in the folder.
    """
    store = StoreFolder(folder).node().folder
    (store / BUDGET_FILE).unlink(missing_ok=True)
    reference = _measure("python -c 'import hanse_common'", _REFERENCE, None)
    rows = [reference]
    for words in (
        ("budget",),
        ("budget",),
        ("metrics", "--check"),
        ("doctor",),
    ):
        program = (*_PROGRAM, "store", *words, "--folder", str(store))
        name = f"hanse store {' '.join(words)}"
        first = len(rows) == 1
        rows.append(_measure(name + ", first" * first, program, reference))
    return rows


def render(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("command", "CPU-s", "peak MB", "times reference", "status"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for row in rows:
        table.add_row(
            row.command,
            f"{row.cpu_seconds:.2f}",
            f"{row.peak_megabytes:.0f}",
            f"{row.times_reference:.0f}",
            str(row.status),
        )
    return table


def _measure(name: str, words: Sequence[str], reference: Row | None) -> Row:
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The usage of this child alone, and not of all that this process has had.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return Row(
        command=name,
        cpu_seconds=seconds,
        peak_megabytes=usage.ru_maxrss / 1024,
        times_reference=1.0 if reference is None else seconds / reference.cpu_seconds,
        status=process.returncode,
    )
