"""`hanse store join`: check that the store is ready, then run the node's loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hanse_client.deployment.alerts import watching
from hanse_client.deployment.budget_refresh import BudgetRefresh
from hanse_client.deployment.folder import StoreFolder, load_node_key
from hanse_client.deployment.preparing import Freshness, outdated, prepare_aside
from hanse_client.deployment.stopping import Stop
from hanse_client.deployment.tls_check import note_tls_end
from hanse_common import logs
from hanse_common.errors import Interrupted, StoreNotReady, Unreachable, UntrustedServer
from hanse_common.flower import QUIET
from hanse_common.locks import lock_at_once
from hanse_common.monitoring.service_manager import ServiceManager
from hanse_common.paths import CONFIG_FILE, JOIN_LOCK_FILE

if TYPE_CHECKING:
    from hanse_client.deployment.node_loop import Refresh
    from hanse_client.deployment.worker import Answering

_PREPARING_SECONDS = 6 * 3600.0
"""Longest time that preparing a store's histories takes before the node counts as stuck."""
_WAITING_SECONDS = 300.0
"""Longest time between two signs of the node's loop: a poll, or a try to connect."""


def join(
    folder: StoreFolder, *, patience: float | None = None, report: Callable[[str], None]
) -> None:
    """Take part in the federation until the process is stopped.

    Args:
        folder: The store's folder.
        patience: Seconds to wait for a server that does not answer; for ever if None.
        report: Called with one line for each event.

    Raises:
        StoreNotReady: Something is missing; the hint names the command that provides it.
        HanseError: See `check_ready`, `connected` and `serve`.
    """
    os.environ.update(QUIET)  # before Flower is imported, which reads it then
    manager = ServiceManager.of_environment()
    report = _telling(report, manager)
    with _alone(folder), _stopped_by_signal() as stop:
        logs.set_up(store=folder.node().name)
        manager.expect(_PREPARING_SECONDS)
        check_ready(folder, report, stop=stop)
        if stop.is_set():
            return
        from hanse_client.deployment.fleet_api import Address, connected
        from hanse_client.deployment.node_loop import serve
        from hanse_client.deployment.worker import Answering

        logs.set_up(store=folder.node().name)  # again: Flower's import has installed its handlers
        invitation = folder.invitation()
        address = Address(
            fleet=invitation.fleet,
            root=invitation.ca.encode("ascii"),
            key=load_node_key(folder.node_key),
        )
        answering = Answering(folder.path)
        # Before connecting: heavy imports take seconds, in which a message would wait.
        report("loading the packages that answer messages")
        if not answering.warm(stop):
            return
        # Not only once connected: a coordinator that is away is no fault of this service.
        manager.ready(f"connecting to {address.fleet}")
        manager.expect(_WAITING_SECONDS)
        refresh = _refreshing(folder, answering, manager, stop=stop, report=report)
        try:
            with (
                watching(folder),
                connected(
                    address,
                    stop=stop,
                    patience=patience,
                    report=report,
                    waiting=lambda: manager.expect(_WAITING_SECONDS),
                    certificate_ends=lambda end: note_tls_end(folder.path, end),
                ) as fleet,
            ):
                report(f"connected to {address.fleet} as {folder.node().name!r}")
                serve(
                    fleet,
                    folder.node(),
                    answering,
                    stop=stop,
                    report=report,
                    refresh=refresh,
                    expect=manager.expect,
                )
        except (Unreachable, UntrustedServer, Interrupted):
            # A stop ends retries and waits, so that the last failure is raised; that is no error.
            if not stop.is_set():
                raise
        finally:
            answering.close()
        manager.stopping()
        report("stopped")


def _telling(report: Callable[[str], None], manager: ServiceManager) -> Callable[[str], None]:
    """Report each line to the service manager too."""

    def tell(line: str) -> None:
        report(line)
        manager.status(line)

    return tell


def _refreshing(
    folder: StoreFolder,
    answering: Answering,
    manager: ServiceManager,
    *,
    stop: Stop,
    report: Callable[[str], None],
) -> Refresh:
    """Keep the histories up to date and, while no message waits, the budget and the memory."""
    freshness = Freshness(folder, stop=stop, report=report)
    figures = BudgetRefresh(folder.path)

    def refresh(*, idle: bool) -> None:
        manager.expect(_PREPARING_SECONDS)  # a preparation may be long
        freshness(idle=idle)
        manager.expect(_WAITING_SECONDS)
        if idle:
            figures()
            answering.rest()

    return refresh


def check_ready(folder: StoreFolder, report: Callable[[str], None], *, stop: Stop) -> None:
    """Check that a store can take part, and prepare its histories if they are out of date.

    Args:
        folder: The store's folder.
        report: Called with one line for each event.
        stop: Ends the preparation.

    Raises:
        StoreNotReady: Something is missing.
        KeyFileError: A key is missing, or readable by others.
        ProtocolError [bad-certificate], ExpiredCertificate: The certificate is not valid.
        PolicyViolation: The terms exceed the policy, or do not list this store.
        DataError: The data cannot be used.
    """
    from hanse_client.deployment.enrol import check_membership, check_settings
    from hanse_common.manifest_terms import check_base_model

    check_membership(folder)
    folder.invitation()
    settings = folder.settings()
    check_settings(folder, settings)
    if not (folder.model / CONFIG_FILE).exists():
        raise StoreNotReady(
            "this store has no model to start from",
            hint="`hanse store enrol --model DIR`, with the coordinator's folder",
        )
    check_base_model(folder.model, folder.membership().manifest)
    # However young the rows of a query are: the node may have been restarted for newer ones.
    reason = outdated(folder, query_seconds=0)
    if reason:
        prepare_aside(folder, reason, stop=stop, report=report)


@contextmanager
def _alone(folder: StoreFolder) -> Iterator[None]:
    """Lock the folder: of two processes, each would refuse the attempts that the other began."""
    folder.node()
    path: Path = folder.path / JOIN_LOCK_FILE
    with path.open("w", encoding="ascii") as file:
        if not lock_at_once(file):
            raise StoreNotReady(
                f"another process is joined with {folder.path}", hint="stop it first"
            )
        # The lock ends with the process, however that ends; the file may stay.
        yield


@contextmanager
def _stopped_by_signal() -> Iterator[Stop]:
    """Yield an event that SIGTERM and the first Ctrl-C set; a second Ctrl-C interrupts."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def finish(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.by_signal()

    for number in before:
        signal.signal(number, finish)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
