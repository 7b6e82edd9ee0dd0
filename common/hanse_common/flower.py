"""The environment variables of Flower's programs: no telemetry, and a separate home folder.

>>> environment(Path("/srv/store/flower"), inherited={"PATH": "/bin"})["FLWR_HOME"]
'/srv/store/flower'
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Switches off telemetry, the update check, and the installation of an app's dependencies."""

_POLL_SECONDS = "0.2"
"""Interval at which Flower's SuperExec looks for tasks."""


def environment(home: Path, *, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of one of Flower's programs and of the processes that it starts.

    Args:
        home: Flower's home folder; Flower's own default is in the user's home.
        inherited: The variables to start from.
    """
    # Flower's programs find one another by `PATH`. With this Python's folder first, they are found
    # also where no virtual environment is active.
    programs = str(Path(sys.executable).parent)
    return {
        **inherited,
        **QUIET,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_SECONDS,
        "PATH": os.pathsep.join([programs, inherited.get("PATH", os.defpath)]),
    }
