"""Where a run's time goes: seconds of each part, and CPU-seconds of all its processes.

watch = Stopwatch()
with watch.part("reading the shops"):
    ...
watch.parts["reading the shops"].cpu_seconds
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from hanse_simulations.runs.results import PartTime


class Stopwatch:
    """Times the parts of a run; a part that comes again adds to its time."""

    def __init__(self) -> None:
        self.parts: dict[str, PartTime] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block.

        Args:
            name: Of the part.
        """
        began, used = time.monotonic(), _cpu_seconds()
        try:
            yield
        finally:
            before = self.parts.get(name, PartTime(seconds=0.0, cpu_seconds=0.0))
            self.parts[name] = PartTime(
                seconds=round(before.seconds + time.monotonic() - began, 2),
                cpu_seconds=round(before.cpu_seconds + _cpu_seconds() - used, 2),
            )


def _cpu_seconds() -> float:
    """User and system time of this process and its living children."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # the process has ended since it was listed
            continue
        total += times.user + times.system
    return total
