"""A node says at short intervals that it is still there.

Flower's own sender tells a SuperLink to wait a minute before it gives a silent node up, and a
node that was killed is not let in again before. Both are half of that here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 15.0
"""Seconds, as told to the SuperLink, which gives a node up after two of them without a beat."""
_PAUSE = 6.0
"""Four beats in a row may be lost."""


@contextmanager
def beating(beat: Callable[[], object], *, pause: float = _PAUSE) -> Iterator[None]:
    """Call `beat` now and then, in a thread of its own, until the block ends.

    Args:
        beat: Says that the node is there; does not raise.
        pause: Seconds between two of them.

    Example:
        >>> heard = threading.Event()
        >>> with beating(heard.set, pause=0.01):
        ...     heard.wait(10)
        True
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(pause):
            beat()

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
