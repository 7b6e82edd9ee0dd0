"""The stop of a node by a signal: after the message that is being answered, or at once.

A call to a coordinator on a line that is down lasts until its timeout, whatever a signal sets:
Python goes on with it when the signal's handler has returned. So the handler raises, but only
where nothing is lost by it.

>>> stop = Stop()
>>> try:
...     with stop.interrupts():
...         stop.by_signal()
... except Interrupted as error:
...     stop.is_set(), error.code
(True, 'interrupted')
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from hanse_common.errors import Interrupted


class Stop(Event):
    """An event that ends a node."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupts = self._signalled = False

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Let a signal end the block at once.

        Raises:
            Interrupted: `by_signal` was called during the block, or before it.
        """
        self._interrupts = True
        try:
            # A signal just before the block found nothing to interrupt.
            self._raise_if_signalled()
            yield
        finally:
            self._interrupts = False

    def by_signal(self) -> None:
        """Set the event; called in a signal's handler, in the main thread.

        Raises:
            Interrupted: The main thread is in a block that may be interrupted.
        """
        self._signalled = True
        self.set()
        if self._interrupts:
            self._interrupts = False  # once: what cleans up after it is not interrupted again
            self._raise_if_signalled()

    def _raise_if_signalled(self) -> None:
        if self._signalled:
            raise Interrupted("the node was stopped")
