"""Whether a long-running command is up, as its files and its port say."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Named checks, each with what is wrong, or nothing.

    >>> health = Health(checks={"up": "", "certificate": "it ended on 2026-01-01"})
    >>> health.ready, health.row()["checks"]["up"]
    (False, 'ok')
    """

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.checks.values())

    def row(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = {name: wrong or "ok" for name, wrong in self.checks.items()}
        return {"ready": self.ready, "checks": found}


def is_locked(path: Path) -> bool:
    """Whether some process holds `flock` on a file; the system drops a lock with its process.

    Edge cases:
        A file that does not exist, or cannot be opened, is not locked.
    """
    try:
        with path.open("rb") as file:
            try:
                # Shared, and let go at once: only a process that starts in this very moment
                # could mistake it for another holder.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def listens(host: str, port: int, *, seconds: float = 2.0) -> bool:
    """Whether something accepts connections at an address of this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        socket.create_connection((reached, port), timeout=seconds).close()
    except OSError:
        return False
    return True
