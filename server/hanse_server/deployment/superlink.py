"""Starts and stops Flower's SuperLink and SuperExec, on loopback only, bound to this process.

The defaults of Flower 1.41, and what is set here instead:

- All APIs share one `--host` and `--port`, and no flag separates them. The SuperLink gets the
  loopback address, and `tls_gateway.py` is the only way to it from outside.
- Nodes may register themselves unless `--enable-supernode-auth` is set.
- Telemetry and update checks are on; apps' dependencies are installed when a run starts.
- Its home is the user's home folder; here it is `state/flower`.
- It starts `flower-superexec`, which looks for runs and starts one `flwr-serverapp` for each, and
  does not notice if that process ends: then runs stay `pending` for ever. So it is started here
  (`--isolation process`), beside the SuperLink, and if one of the two ends both are started again.
- A SuperLink outlives its parent, and keeps the port. `python -m` of this module watches the
  parent and ends with it; SuperExec watches the SuperLink, and the process of a run SuperExec.

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
_END_SECONDS = 10.0
_BUSY_MILLISECONDS = "60000"
"""Seen with twelve stores on two cores at load 17: a call that waited 5 s in vain."""


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
        *("--isolation", "process"),
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(folder: FederationFolder, parent: int) -> list[str]:
    """The command line of the SuperExec that starts the runs of a SuperLink.

    Args:
        folder: The federation's folder.
        parent: Process id of the SuperLink, with which it ends.
    """
    return [
        "flower-superexec",
        *("--root-certificates", str(folder.tls / LOOPBACK_ROOT_FILE)),
        *("--runtime-api-address", f"127.0.0.1:{folder.file.superlink.port}"),
        *("--parent-pid", str(parent)),
    ]


class SuperLink:
    """The processes of Flower's SuperLink and of its SuperExec, which starts the runs.

    Args:
        folder: The federation's folder.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self.log = folder.state / SUPERLINK_LOG_FILE
        (folder.state / FLOWER_FOLDER).mkdir(parents=True, exist_ok=True)
        self._output = RotatingLog(self.log)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            serving = [sys.executable, "-m", __name__, str(os.getpid()), *arguments(folder)]
            self._start("the SuperLink", serving)
            self._start("the SuperExec, which starts runs,", superexec_command(folder, self.pid))
        except OSError as error:
            self.stop()
            raise DeploymentError(
                f"cannot start Flower's programs: {error.strerror}: {error.filename}",
                code="superlink-failed",
                hint="they come with hanse[server]: install it again",
            ) from error
        finally:
            self._output.handed_over()

    def _start(self, name: str, command: Sequence[str]) -> None:
        self._processes[name] = subprocess.Popen(
            command,
            env=environment(self._folder),
            cwd=self._folder.state,
            stdin=subprocess.DEVNULL,
            stdout=self._output.writing,
            stderr=self._output.writing,
            start_new_session=True,  # Ctrl-C reaches this process only, which then calls `stop`
        )

    @property
    def pid(self) -> int:
        """The SuperLink's process id."""
        return next(iter(self._processes.values())).pid

    @property
    def ended(self) -> str:
        """Which of the processes has ended, and with which status; empty if none has."""
        statuses = {name: process.poll() for name, process in self._processes.items()}
        # SuperExec ends with the SuperLink, so the first of those that ended is the cause.
        return next(
            (f"{name} ended with status {s}" for name, s in statuses.items() if s is not None), ""
        )

    @property
    def running(self) -> bool:
        """Whether none of its processes has ended."""
        return not self.ended

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
        """The error to raise when one of its processes has ended by itself."""
        self._output.flush(_FLUSH_SECONDS)
        return DeploymentError(
            f"{self.ended}: {last_lines(self.log)}",
            code="superlink-failed",
            hint=f"see {self.log}",
        )

    def stop(self) -> None:
        """End the SuperLink and its child processes."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + _END_SECONDS
        for process in self._processes.values():
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # The processes of runs watch their parent and end by themselves.
                process.kill()
                process.wait()
        self._output.flush(_FLUSH_SECONDS)


def last_lines(path: Path) -> str:
    """The end of a log on one line, for an error's message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    return " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())


def wait_for_database() -> None:
    """Let this SuperLink's calls wait longer for its SQLite database than Flower's 5 s.

    On a busy machine the thread that holds the lock may not run for so long; the call of a run's
    process then fails with "database is locked", and a round with it.
    """
    from hanse_server.flower_internals import sql_mixin

    # The module reads its own copy of Flower's constant with every new connection.
    pragmas = dict(sql_mixin.SQLITE_PRAGMAS)  # type: ignore[attr-defined]
    pragmas["busy_timeout"] = _BUSY_MILLISECONDS
    sql_mixin.SQLITE_PRAGMAS = tuple(pragmas.items())  # type: ignore[attr-defined, assignment]


def _main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    from hanse_server.flower_internals import flower_superlink, start_parent_process_monitor

    parent, *flags = arguments
    start_parent_process_monitor(int(parent))
    wait_for_database()
    sys.argv = ["flower-superlink", *flags]
    flower_superlink()


if __name__ == "__main__":
    _main(sys.argv[1:])
