"""Keeps the figures of a running store's budget up to date, in a process of its own.

A node calls it while no message arrives. It computes nothing during a run, where the ledger
changes every few seconds: only a ledger that has changed, and then not for a minute.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from hanse_client.node import Node
from hanse_common.errors import HanseError
from hanse_common.paths import LEDGER_HEAD_FILE

_QUIET_SECONDS = 60.0
_LOWER_PRIORITY = 10


class BudgetRefresh:
    """Computes the budget of a store's folder when its ledger has come to rest.

    Args:
        folder: The store's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0
        self._seen = self._computed = b""
        self._process: BaseProcess | None = None

    def __call__(self, *, now: float | None = None) -> bool:
        """Compare the ledger with that of the last call, at most once a minute.

        Args:
            now: Seconds of a clock that never goes back; the system's if unset.

        Returns:
            Whether a computation was started.
        """
        now = time.monotonic() if now is None else now
        if now < self._next or (self._process is not None and self._process.is_alive()):
            return False
        self._next = now + _QUIET_SECONDS
        try:
            head = (self._folder / LEDGER_HEAD_FILE).read_bytes()
        except OSError:
            return False  # nothing was ever charged
        quiet, self._seen = head == self._seen, head
        if not quiet or head == self._computed:
            return False
        self._computed = head
        processes = multiprocessing.get_context("spawn")
        # A daemon: it ends with the node, and is not waited for.
        self._process = processes.Process(target=compute, args=(self._folder,), daemon=True)
        self._process.start()
        return True

    def wait(self) -> None:
        """Wait until a computation that was started has ended."""
        if self._process is not None:
            self._process.join()


def compute(folder: Path) -> None:
    """Compute the figures of a store's budget, and keep them in its folder."""
    from hanse_client.deployment.budget import budget_row, evidence_of

    os.nice(_LOWER_PRIORITY)
    with suppress(HanseError):  # the commands that show the budget say what is wrong
        budget_row(evidence_of(Node(folder)))
