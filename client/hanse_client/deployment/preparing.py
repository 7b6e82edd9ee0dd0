"""Preparation of a store's data: whether what was prepared is out of date, and preparing again.

A node prepares in a process of its own: reading months of sales needs some 600 MB, which the
process returns when it ends.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Event

from hanse_client.deployment.folder import StoreFolder
from hanse_client.features.prepare import QUERY_SECONDS, Preparation, prepare_store
from hanse_client.ingest.store_config import load_store
from hanse_common.errors import DataError, HanseError
from hanse_common.paths import TEXTS_FOLDER

_IDLE_SECONDS = 60.0
"""Seconds from one comparison to the next while no message arrives."""
_RETRY_SECONDS = 300.0
"""Seconds until a preparation that failed is repeated for the same reason: it may take long."""
_SAY_SECONDS = 60.0
"""Seconds between two lines about a step that takes long."""
_STOP_SECONDS = 0.5
"""Seconds after which a preparation notices that the node is stopped."""


def outdated(folder: StoreFolder, *, query_seconds: float = QUERY_SECONDS) -> str:
    """Say why the store's data have to be prepared; empty if what was prepared can be used.

    Args:
        folder: The store's folder.
        query_seconds: Age from which data of a query are out of date.

    Raises:
        StoreNotReady: Model or settings are missing.
        ConfigError: `store.toml` or the model cannot be read.
        DataError: A source file cannot be read.
    """
    store, settings = load_store(folder.store_toml), folder.settings()
    done = Preparation.load(folder.histories)
    if done is None:
        return "not prepared yet"
    return done.outdated(folder.model, store, settings, query_seconds=query_seconds)


def prepare(folder: StoreFolder, *, report: Callable[[str], None] = lambda _: None) -> Preparation:
    """Prepare what the run's task trains on from the store's current data, in this process.

    Args:
        folder: The store's folder.
        report: Called with a line before each step.

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
        report=report,
    )


def prepare_aside(
    folder: StoreFolder, reason: str, *, stop: Event, report: Callable[[str], None]
) -> None:
    """Prepare the store's data in a process of its own.

    Args:
        folder: The store's folder.
        reason: Why, in words; reported.
        stop: Ends the preparation, and leaves the prepared data as they are.
        report: Called with a line at the beginning, before each step, once a minute in a step,
            and at the end.

    Raises:
        HanseError: As `prepare` does.
        DataError: The process died.
    """
    report(f"preparing the store's data: {reason}")
    begun = time.monotonic()
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe(duplex=False)
    child = processes.Process(target=_prepare, args=(theirs, folder), daemon=True)
    try:
        child.start()
        theirs.close()  # while this copy is open, `recv` would not notice the child's end
        result = _result(ours, stop, report)
    except EOFError:
        child.join()
        raise DataError(
            f"the process that prepares the data ended with status {child.exitcode}",
            hint="it may have run out of memory: `hanse store data prepare` shows more",
        ) from None
    finally:
        ours.close()
        if child.is_alive() and stop.is_set():
            child.kill()
        child.join()
    if result is None:
        return
    if isinstance(result, HanseError):
        raise result
    report(f"prepared {result} customers in {time.monotonic() - begun:.0f} s")


class Freshness:
    """Keeps a running node's data up to date; call it before messages and while idle."""

    def __init__(self, folder: StoreFolder, *, stop: Event, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._stop = stop
        self._report = report
        self._next = 0.0
        self._failed: tuple[str, float] = ("", 0.0)
        self._said = ""

    def __call__(self, *, idle: bool) -> None:
        """Compare the data with what was prepared, and prepare again if they have changed.

        A failure is reported, and the same one only once. The node goes on, and refuses to train
        (`check_prepared`) until a later preparation succeeds: a source that was away is read
        again at the next comparison.

        Args:
            idle: Whether no message waits; then the data are compared once a minute.
        """
        now = time.monotonic()
        if idle and now < self._next:
            return
        self._next = now + _IDLE_SECONDS
        reason = ""
        try:
            reason = outdated(self._folder)
            if reason and reason == self._failed[0] and now < self._failed[1]:
                return
            if reason:
                prepare_aside(self._folder, reason, stop=self._stop, report=self._report)
            self._failed, self._said = ("", 0.0), ""
        except HanseError as error:
            if reason:
                self._failed = (reason, time.monotonic() + _RETRY_SECONDS)
            words = f"not prepared: {error} [{error.code}]"
            if words != self._said:
                self._report(words)
            self._said = words


def _result(
    conn: Connection, stop: Event, report: Callable[[str], None]
) -> int | HanseError | None:
    """Report the steps of a child process until it sends its result; None if it is stopped."""
    step, begun = "starting", time.monotonic()
    said = begun
    while not stop.is_set():
        if conn.poll(_STOP_SECONDS):
            received: str | int | HanseError = conn.recv()
            if not isinstance(received, str):
                return received
            step, begun = received, time.monotonic()
        elif time.monotonic() - said < _SAY_SECONDS:
            continue
        said = time.monotonic()
        waited = f", for {said - begun:.0f} s" if said - begun >= 1 else ""
        report(f"preparing: {step}{waited}")
    return None


def _prepare(conn: Connection, folder: StoreFolder) -> None:
    """Prepare, and send each step and the number of customers or the error; in the child."""
    result: int | HanseError
    try:
        result = prepare(folder, report=conn.send).customers
    except HanseError as error:
        result = error
    conn.send(result)
    conn.close()
