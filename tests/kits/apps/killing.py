"""Children of a process, killed at any moment of their work; for programs that tests run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def forked(work: Callable[[], object], folder: Path) -> int:
    """Fork a process that does the work; return its id. An error goes to `folder/error-<id>`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        (folder / f"error-{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def kills(start: Callable[[int], int], times: int) -> Iterator[tuple[int, bool]]:
    """Start one process after the other, and kill each at random.

    The first one is left alone, to see how long the work takes. How fast the machine is changes
    while others use it: who had ended before the signal shortens the next wait, who had not
    lengthens it, so that about four in five die at their work.

    Yields:
        The number of each that was not, and whether it was killed before it had ended.
    """
    chance = random.Random(times)
    seconds = 0.0
    for number in range(times + 1):
        begun = time.monotonic()
        pid = start(number)
        if number == 0:
            os.waitpid(pid, 0)
            seconds = time.monotonic() - begun
            continue
        time.sleep(chance.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        in_time = os.WIFSIGNALED(status)
        seconds *= 1.1 if in_time else 1 / 1.5
        yield number, in_time
