"""`hanse store join`: everything that must be in place, then the node's loop."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hanse_client.deployment.folder import StoreFolder, load_node_key
from hanse_client.features.prepare import Preparation, prepare_store
from hanse_client.ingest.store_config import load_store
from hanse_common import logs
from hanse_common.errors import StoreNotReady, Unreachable
from hanse_common.flower import QUIET
from hanse_common.paths import CONFIG_FILE, JOIN_LOCK_FILE, TEXTS_FOLDER


def join(
    folder: StoreFolder, *, patience: float | None = None, told: Callable[[str], None]
) -> None:
    """Take part in the federation until somebody stops the process.

    Args:
        folder: The store's.
        patience: Seconds to wait for a server that does not answer; without an end if None.
        told: Hears what happens, in a line each.

    Raises:
        StoreNotReady: Something is missing; says which command brings it.
        HanseError: As `check_ready`, `connected` and `serve` do.
    """
    os.environ.update(QUIET)  # before Flower is imported
    with _alone(folder), _stopped_by_signal() as stop:
        logs.set_up(store=folder.node().name)
        check_ready(folder, told)
        from hanse_client.deployment.fleet_api import Address, connected
        from hanse_client.deployment.node_loop import serve
        from hanse_client.deployment.worker import Answering

        logs.set_up(store=folder.node().name)  # once more: Flower has set up its own by now
        invitation = folder.invitation()
        address = Address(
            fleet=invitation.fleet,
            root=invitation.ca.encode("ascii"),
            key=load_node_key(folder.node_key),
        )
        answering = Answering(folder.path)
        answering.warm()
        try:
            with connected(address, stop=stop, patience=patience) as fleet:
                told(f"connected to {address.fleet} as {folder.node().name!r}")
                serve(fleet, folder.node(), answering, stop=stop, told=told)
        except Unreachable:
            if not stop.is_set():
                raise
        told("stopped")


def check_ready(folder: StoreFolder, told: Callable[[str], None]) -> None:
    """Check what must be in place before a store is of use to its federation.

    Prepares the store's histories if they are not there, or are another model's.

    Raises:
        StoreNotReady: Something is missing.
        KeyFileError: A key is missing, or readable by others.
        ProtocolError [bad-certificate], ExpiredCertificate: The certificate does not hold.
        PolicyViolation: The terms go beyond the policy, or are not about this store.
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
    store = load_store(folder.store_toml)
    done = Preparation.load(folder.histories)
    if done is None or not done.fits(folder.model, store, settings):
        told("preparing the store's histories")
        prepare(folder)


def prepare(folder: StoreFolder) -> Preparation:
    """Prepare the store's histories from its data, as they are now.

    Raises:
        StoreNotReady: Model or settings are missing.
        DataError: The data cannot be used.
    """
    return prepare_store(
        load_store(folder.store_toml),
        folder.settings(),
        model=folder.model,
        target=folder.histories,
        cache=folder.path / TEXTS_FOLDER,
    )


@contextmanager
def _alone(folder: StoreFolder) -> Iterator[None]:
    """One process a store: two would refuse each other's attempts."""
    folder.node()
    path: Path = folder.path / JOIN_LOCK_FILE
    with path.open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreNotReady(
                f"another process is joined with {folder.path}", hint="stop it first"
            ) from None
        yield


@contextmanager
def _stopped_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set; a second Ctrl-C interrupts."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def finish(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, finish)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
