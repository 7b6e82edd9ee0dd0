"""Health of a long-running command, and whether it listens at its port."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
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
