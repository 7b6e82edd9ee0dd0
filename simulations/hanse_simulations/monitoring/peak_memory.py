"""Peak memory of a run and its worker processes."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Samples the proportional memory of this process and its children once a second."""

    def __init__(self, interval: float = 1.0) -> None:
        self.peak_mb = 0.0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Begin to sample, in a thread; call it after workers are forked."""
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_mb = max(self.peak_mb, _held_mb())
            self._stop.wait(self._interval)


def _held_mb() -> float:
    """Proportional memory of this process and its children, in MiB.

    Pages shared with forked workers count once, by each process's share of them (PSS).
    """
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.Error:  # the process has ended since it was listed
            continue
    return total / 2**20
