"""Starts and stops Flower's SuperLink, on loopback only and bound to this process's life.

The defaults of Flower 1.41, and what is set here instead:

- All APIs share one `--host` and `--port`, and no flag separates them. The SuperLink gets the
  loopback address, and `tls_gateway.py` is the only way to it from outside.
- Nodes may register themselves unless `--enable-supernode-auth` is set.
- Telemetry and update checks are on; apps' dependencies are installed when a run starts.
- Its home is the user's home folder; here it is `state/flower`.
- It starts `flower-superexec`, which looks for work once a second and starts one
  `flwr-serverapp` per run; both are found by `PATH`, and inherit the environment.
- A SuperLink outlives its parent, and keeps the port. `python -m` of this module watches the
  parent and ends with it; its own children do the same.

A restarted SuperLink still knows its nodes (SQLite) but not the processes of its runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hanse_common.errors import DeploymentError, SuperLinkDown
from hanse_common.flower import environment as flower_environment
from hanse_common.paths import (
    FLOWER_FOLDER,
    LOOPBACK_CERTIFICATE_FILE,
    LOOPBACK_KEY_FILE,
    LOOPBACK_ROOT_FILE,
    SUPERLINK_DATABASE_FILE,
    SUPERLINK_LOG_FILE,
)
from hanse_server.deployment.control import Control
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.rotating_log import RotatingLog

# Each of them would open another port or another way to log in than the flags below say.
_UNSET = ("FLWR_INTERNAL_GRPC_CONTROL_API", "FLWR_INTERNAL_GRPC_FLEET_API", "FLWR_OIDC_ENABLED")
_LAST_LINES = 5
_FLUSH_SECONDS = 2.0


def environment(folder: FederationFolder) -> dict[str, str]:
    """The environment variables of the SuperLink and its child processes."""
    inherited = {name: value for name, value in os.environ.items() if name not in _UNSET}
    flower = flower_environment(folder.state / FLOWER_FOLDER, inherited=inherited)
    # Unbuffered: the log's last lines explain why a process ended.
    return flower | {"PYTHONUNBUFFERED": "1"}


def arguments(folder: FederationFolder) -> list[str]:
    """The command-line flags of `flower-superlink`."""
    tls = folder.tls
    return [
        *("--host", "127.0.0.1"),
        *("--port", str(folder.file.superlink.port)),
        *("--ssl-certfile", str(tls / LOOPBACK_CERTIFICATE_FILE)),
        *("--ssl-keyfile", str(tls / LOOPBACK_KEY_FILE)),
        *("--ssl-ca-certfile", str(tls / LOOPBACK_ROOT_FILE)),
        "--enable-supernode-auth",
        *("--database", str(folder.state / SUPERLINK_DATABASE_FILE)),
        *("--isolation", "subprocess"),
        "--disable-runtime-dependency-installation",
    ]


class SuperLink:
    """A SuperLink process.

    Args:
        folder: The federation's folder.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self.log = folder.state / SUPERLINK_LOG_FILE
        (folder.state / FLOWER_FOLDER).mkdir(parents=True, exist_ok=True)
        self._output = RotatingLog(self.log)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid()), *arguments(folder)],
                env=environment(folder),
                cwd=folder.state,
                stdin=subprocess.DEVNULL,
                stdout=self._output.writing,
                stderr=self._output.writing,
                start_new_session=True,  # Ctrl-C reaches this process only, which then calls `stop`
            )
        finally:
            self._output.handed_over()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until the SuperLink answers.

        Raises:
            DeploymentError [superlink-failed]: It ended, or took too long.
        """
        limit = self._folder.file.superlink.start_seconds
        deadline = time.monotonic() + limit
        with Control(self._folder) as control:
            while True:
                if not self.running:
                    raise self.failure()
                try:
                    control.nodes()
                    return
                except SuperLinkDown:
                    if time.monotonic() > deadline:
                        raise DeploymentError(
                            f"the SuperLink did not answer within {limit:g} s",
                            code="superlink-failed",
                            hint=f"see {self.log}, or raise superlink.start_seconds",
                        ) from None
                    time.sleep(0.1)

    def failure(self) -> DeploymentError:
        """The error to raise when the SuperLink has ended by itself."""
        self._output.flush(_FLUSH_SECONDS)
        return DeploymentError(
            f"the SuperLink ended with status {self._process.poll()}: {last_lines(self.log)}",
            code="superlink-failed",
            hint=f"see {self.log}",
        )

    def stop(self) -> None:
        """End the SuperLink and its child processes."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            # Its children watch their parent and end by themselves.
            self._process.kill()
            self._process.wait()
        self._output.flush(_FLUSH_SECONDS)


def last_lines(path: Path) -> str:
    """The end of a log on one line, for an error's message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    return " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())


def _main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    from hanse_server.flower_internals import flower_superlink, start_parent_process_monitor

    parent, *flags = arguments
    start_parent_process_monitor(int(parent))
    sys.argv = ["flower-superlink", *flags]
    flower_superlink()


if __name__ == "__main__":
    _main(sys.argv[1:])
