"""A log file of another program's output, of bounded size.

The SuperLink and the processes of its runs write to one pipe. A thread of `hanse server up` copies
it to the file, and begins a new one when that is full:

    state/superlink.log      the newest lines
    state/superlink.log.1    the lines before, and so on
"""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread

from hanse_common.rotation import EARLIER, LARGEST

_LONGEST_LINE = 64 * 1024


class RotatingLog:
    """A pipe whose other end is copied to files until all writers have closed it.

    Args:
        path: The newest file.
        largest: Bytes of one file.
        earlier: Number of full files that are kept.
    """

    def __init__(self, path: Path, *, largest: int = LARGEST, earlier: int = EARLIER) -> None:
        self._handler = RotatingFileHandler(path, maxBytes=largest, backupCount=earlier)
        # A full disk loses lines, and nothing else: the inherited method prints a traceback.
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]
        reading, self.writing = os.pipe()
        """The descriptor to give a child process as its stdout and stderr; see `handed_over`."""
        self._thread = Thread(target=self._copy, args=(reading,), name="log", daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """Close this process's copy of the pipe, so that it ends with the child's."""
        os.close(self.writing)

    def flush(self, seconds: float) -> None:
        """Wait until all that was written is in the file, after the writers have ended.

        Args:
            seconds: The longest wait: a process that inherited the pipe may live on.
        """
        self._thread.join(seconds)

    def _copy(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as pipe:
            # Lines of bounded length: a program that writes none must not fill the memory.
            while line := pipe.readline(_LONGEST_LINE):
                text = line.decode("utf-8", "backslashreplace").rstrip("\n")
                self._handler.emit(logging.makeLogRecord({"msg": text}))
        self._handler.close()
