"""Health of a long-running command, read from its lock files and its port."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse_common.addresses import to_connect


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Named checks, each with its problem, or an empty text.

    >>> health = Health(checks={"up": "", "certificate": "it ended on 2026-01-01"})
    >>> health.ready, health.row()["checks"]["up"]
    (False, 'ok')
    """

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether no check has a problem."""
        return not any(self.checks.values())

    def row(self) -> dict[str, Any]:
        """Return the checks for JSON."""
        checks = {name: problem or "ok" for name, problem in self.checks.items()}
        return {"ready": self.ready, "checks": checks}


def is_locked(path: Path) -> bool:
    """Return whether a process holds `flock` on a file; the lock ends with its process.

    Edge cases:
        A file that does not exist or cannot be opened is not locked.
    """
    try:
        with path.open("rb") as file:
            try:
                # A shared lock, released at once: only a process that starts at this moment could
                # mistake this one for a holder.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def listens(host: str, port: int, *, seconds: float = 2.0) -> bool:
    """Return whether a process accepts connections at an address of this machine.

    Args:
        host: The address that the process binds.
        port: Its port.
        seconds: Timeout of the attempt to connect.
    """
    try:
        socket.create_connection((to_connect(host), port), timeout=seconds).close()
    except OSError:
        return False
    return True
