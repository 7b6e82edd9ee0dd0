"""Heartbeats of a node to the SuperLink.

With Flower's own interval a SuperLink waits a minute before it gives up a silent node, and
refuses a node that was killed until then. Here it is half a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 15.0
"""Seconds announced to the SuperLink, which gives a node up after twice as long without a beat."""
_LAST_BEAT = 1.0
"""Seconds to wait for a beat that is being sent when the block ends."""
_PAUSE = 6.0
"""Seconds between two beats: four in a row may be lost within twice the interval."""


@contextmanager
def beating(beat: Callable[[], object], *, pause: float = _PAUSE) -> Iterator[None]:
    """Call `beat` periodically in a thread until the block ends.

    Args:
        beat: Sends one heartbeat; must not raise, as that would end the thread.
        pause: Seconds between two beats.

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

    # A daemon, so that a call that hangs does not keep the process alive.
    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # A beat on a line that is down takes as long as its call; the thread ends with the process.
        thread.join(timeout=_LAST_BEAT)
