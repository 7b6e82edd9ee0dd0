"""`hanse server up`: runs the SuperLink and the gateway before it until this process ends.

state/up.pid          the id of this process, which holds a lock on the file
state/superlink.log   output of the SuperLink and of its runs; `.1` to `.4` are the lines before
state/up.log          output of this process, if it is detached; `.1` to `.4` as above
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hanse_common.addresses import family_of, join_address, listening
from hanse_common.errors import AlreadyThere, DeploymentError, SuperLinkDown
from hanse_common.locks import is_locked, lock_at_once
from hanse_common.monitoring.health import listens
from hanse_common.monitoring.service_manager import ServiceManager
from hanse_common.paths import LOOPBACK_ROOT_FILE, UP_LOG_FILE, UP_PID_FILE
from hanse_common.rotation import begin_anew, empty_if_full
from hanse_server.deployment import tls
from hanse_server.deployment.admit import members
from hanse_server.deployment.control import Control
from hanse_server.deployment.crashes import remember
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.superlink import SuperLink, last_lines
from hanse_server.deployment.tls_renewal import Reload, renew_loopback

_LOOK_SECONDS = 0.2
_STUCK_SECONDS = 30.0
"""Seconds after which a gateway that answers nothing is started anew by the service manager."""
_BACKLOG = 256
"""Connections that the operating system queues until the gateway accepts them."""
_OTHER_FILES = 256
"""Open files other than connections."""


MOST_CRASHES, _CRASH_SECONDS = 5, 600.0
"""Processes that ended by themselves are started again, so often within so many seconds."""


class _SuperLinkCrashed(Exception):
    """The SuperLink or its SuperExec ended by itself after both had been ready."""

    def __init__(self, superlink: SuperLink) -> None:
        super().__init__(superlink.ended)
        self.ended, self.failure = superlink.ended, superlink.failure()


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """The changes at the SuperLink after which it admits exactly the federation's members."""

    admitted: tuple[str, ...]
    registered: tuple[str, ...]
    shut_out: tuple[str, ...]
    refused: dict[str, str]
    """The reason for each store whose node key the SuperLink does not accept."""


def serve(folder: FederationFolder, *, tell: Callable[[str], None]) -> None:
    """Run the SuperLink and the gateway until a signal (Ctrl-C, SIGTERM) ends them.

    Args:
        folder: The federation's folder.
        tell: Receives lines for the operator.

    Raises:
        AlreadyThere: The federation is up already.
        DeploymentError [tls]: Stores would refuse the gateway's certificate.
        DeploymentError: A port is taken.
        DeploymentError [superlink-failed]: The SuperLink did not start, or ended by itself again
            and again.
    """
    # Imported on use: the state of a run needs Flower.
    from hanse_server.deployment.alerts import watching

    file = folder.file
    fleet = file.fleet
    certificate, key, ca = (folder.resolve(p) for p in (fleet.certificate, fleet.key, fleet.ca))
    with _alone(folder), suppress(KeyboardInterrupt):
        # SIGTERM raises KeyboardInterrupt too: by default it would skip the `finally` below.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        manager = ServiceManager.of_environment()
        tls.check_server(certificate, key, ca, fleet.host)
        if renew_loopback(folder):
            tell("the certificate for connections within this machine was renewed")
        _check_free(fleet.bind, fleet.port, "fleet.listen")
        _check_free("127.0.0.1", file.superlink.port, "superlink.port")
        # Behind the checks above: one of their refusals leaves no process behind.
        try:
            with watching(folder):
                _serve_until_stopped(folder, manager, tell)
        finally:
            manager.stopping()


def _serve_until_stopped(
    folder: FederationFolder, manager: ServiceManager, tell: Callable[[str], None]
) -> None:
    """Run SuperLink and gateway, and start all again after one of Flower's processes crashed."""
    # Imported on use: it starts runs, and so needs Flower.
    from hanse_server.deployment.recovery import looking_after_runs

    fleet, crashes = folder.file.fleet, list[float]()
    while True:
        manager.expect(folder.file.superlink.start_seconds + _STUCK_SECONDS)
        superlink = SuperLink(folder)
        try:
            superlink.wait_until_ready()
            registration = register(folder)
            _stop_lost_runs(folder)
            for store_id, reason in registration.refused.items():
                tell(f"{store_id}: {reason}")
            tell(
                f"up: {len(registration.admitted)} stores admitted; they connect to "
                f"{fleet.address}, which is {join_address(fleet.bind, fleet.port)} here"
            )
            # The gateway last: stores find a SuperLink that is ready.
            with looking_after_runs(folder):
                asyncio.run(_serve_gateway(folder, superlink, manager))
            return
        except _SuperLinkCrashed as crash:
            crashes = [then for then in crashes if time.monotonic() - then < _CRASH_SECONDS]
            crashes.append(time.monotonic())
            if len(crashes) > MOST_CRASHES:
                raise crash.failure from None
            remember(folder.state, crash.ended)
            tell(f"{crash.failure.message}; starting it again")
        finally:
            superlink.stop()


def register(folder: FederationFolder) -> Registration:
    """Make the SuperLink admit the nodes of the federation's members, and no others.

    Raises:
        SuperLinkDown: The SuperLink does not answer.
    """
    admitted = members(folder)
    keys = {member.request.node_key.encode(): member.store_id for member in admitted}
    new, out, refused = [], [], {}
    with Control(folder) as control:
        known = control.nodes()
        # First those to shut out: a store with a new key must not have two nodes meanwhile.
        for node in known:
            if keys.get(node.public_key) != node.store_id:
                control.unregister(node.node_id)
                out.append(node.store_id)
        there = {(node.store_id, node.public_key) for node in known}
        for key, store_id in keys.items():
            if (store_id, key) in there:
                continue
            try:
                control.register(store_id, key.decode())
                new.append(store_id)
            except DeploymentError as error:
                # One store's key must not keep the federation from coming up.
                if error.code != "superlink-failed":
                    raise
                refused[store_id] = (
                    f"its node cannot connect: {error.message}; a node key that was shut out "
                    "cannot come back, so ask the store for a new one"
                )
    return Registration(
        admitted=tuple(member.store_id for member in admitted),
        registered=tuple(new),
        shut_out=tuple(out),
        refused=refused,
    )


def detach(folder: FederationFolder) -> int:
    """Start `up` in the background, and wait until stores can connect.

    Returns:
        The process id of `up`.

    Raises:
        AlreadyThere: The federation is up already.
        DeploymentError: It ended, with the last lines of its log in the message.
    """
    folder.state.mkdir(parents=True, exist_ok=True)
    if (pid := running(folder)) is not None:
        raise _up_already(folder, pid)
    fleet, log = folder.file.fleet, folder.state / UP_LOG_FILE
    begin_anew(log)  # its last lines explain a failure, so they must be of this start
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hanse_server", "up", "--folder", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # it outlives this terminal
        )
    # Ten seconds beyond what the SuperLink may take: `up` reports that failure itself.
    deadline = time.monotonic() + folder.file.superlink.start_seconds + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DeploymentError(
                f"`hanse server up` ended with status {process.returncode}: {last_lines(log)}",
                hint=f"see {log}",
            )
        if listens(fleet.bind, fleet.port):  # the gateway starts last
            return process.pid
        time.sleep(_LOOK_SECONDS)
    process.terminate()
    raise DeploymentError("`hanse server up` took too long to start", hint=f"see {log}")


def take_down(folder: FederationFolder) -> int:
    """End a federation's `up`, and with it a run that is underway.

    Returns:
        The process id of `up`.

    Raises:
        SuperLinkDown: The federation is not up.
    """
    pid = running(folder)
    if pid is None:
        raise SuperLinkDown(
            f"the federation in {folder.path} is not up", hint="`hanse server up` starts it"
        )
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while running(folder) is not None:
        if time.monotonic() > deadline:
            raise DeploymentError(f"process {pid} does not end", hint=f"kill -9 {pid}")
        time.sleep(_LOOK_SECONDS)
    return pid


def running(folder: FederationFolder) -> int | None:
    """Return the process id of a federation's `up`, or None if it is not up."""
    path = folder.state / UP_PID_FILE
    return int(path.read_text(encoding="ascii") or 0) if is_locked(path) else None


@contextmanager
def _alone(folder: FederationFolder) -> Iterator[None]:
    """Hold the lock that marks a federation as up; the system releases it with the process."""
    folder.state.mkdir(parents=True, exist_ok=True)
    # "a+" and not "w": opening must not erase the id of a process that holds the lock.
    with (folder.state / UP_PID_FILE).open("a+", encoding="ascii") as file:
        if not lock_at_once(file):
            file.seek(0)
            raise _up_already(folder, int(file.read() or 0))
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _up_already(folder: FederationFolder, pid: int) -> AlreadyThere:
    return AlreadyThere(
        f"the federation in {folder.path} is up already, as process {pid}",
        hint="`hanse server status` shows it, `hanse server down` ends it",
    )


async def _serve_gateway(
    folder: FederationFolder, superlink: SuperLink, manager: ServiceManager
) -> None:
    from hanse_server.deployment.connections import Limits
    from hanse_server.deployment.node_signature import AdmittedNodes
    from hanse_server.deployment.node_versions import NodeVersions
    from hanse_server.deployment.tls_gateway import BEHIND, gate

    fleet, limits = folder.file.fleet, Limits()
    certificate, key = folder.resolve(fleet.certificate), folder.resolve(fleet.key)
    _allow_open_files(limits.known + limits.waiting + BEHIND + _OTHER_FILES)
    server = gate(
        f"https://127.0.0.1:{folder.file.superlink.port}",
        folder.tls / LOOPBACK_ROOT_FILE,
        certificate=certificate,
        key=key,
        nodes=AdmittedNodes(folder),
        versions=NodeVersions(folder.state),
        largest_request=fleet.largest_request,
        limits=limits,
    )
    listener = listening(fleet.bind, fleet.port, backlog=_BACKLOG)

    # Without a SuperLink the gateway would answer every call with 503: end both instead.
    async def watch() -> None:
        while superlink.running:
            manager.expect(_STUCK_SECONDS)
            with suppress(OSError):  # a full disk must not end the federation
                empty_if_full(folder.state / UP_LOG_FILE)
            await asyncio.sleep(_LOOK_SECONDS)
        server.should_exit = True

    reload = Reload(
        certificate,
        key,
        check=lambda: tls.check_server(certificate, key, folder.resolve(fleet.ca), fleet.host),
        install=lambda: server.use_certificate(certificate, key),
    )
    watching = [asyncio.create_task(task) for task in (watch(), reload.keep_looking())]
    manager.ready(f"stores connect to {fleet.address}")
    try:
        await server.serve([listener])  # after a signal, uvicorn raises it again for the caller
    finally:
        for task in watching:
            task.cancel()
    if not superlink.running:
        raise _SuperLinkCrashed(superlink)


def _stop_lost_runs(folder: FederationFolder) -> None:
    """Stop runs that an earlier SuperLink left open; their processes ended with it."""
    with Control(folder) as control:
        for run in control.runs():
            if run.status != "finished":
                control.stop(run.run_id)


def _allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files, as far as the system allows it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    # Only the soft limit: raising the hard one takes privileges.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _check_free(host: str, port: int, setting: str) -> None:
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
        # As servers set it: a port of a process that ended a moment ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeploymentError(
                f"cannot listen on {join_address(host, port)}: {error.strerror}",
                hint=f"end what listens there, or change {setting} in federation.toml",
            ) from error
