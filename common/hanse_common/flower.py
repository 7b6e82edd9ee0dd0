"""The environment in which Flower's programs run: quiet, with a home of their own.

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
"""What Flower must not do here: call home, or install what an app names."""

_POLL_SECONDS = "0.2"


def environment(home: Path, *, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of one of Flower's programs, and of everything that it starts.

    Flower's programs find one another by `PATH`, so the folder of this Python's programs comes
    first in it: a virtual environment need not be active.

    Args:
        home: Where Flower keeps what it keeps; its default is the user's own folder.
        inherited: The variables to start from.
    """
    programs = str(Path(sys.executable).parent)
    return {
        **inherited,
        **QUIET,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_SECONDS,
        "PATH": os.pathsep.join([programs, inherited.get("PATH", os.defpath)]),
    }
