"""The events that a store's operator is told of, decided from the store's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.tls_check import read_tls_end
from hanse_client.ingest.store_config import load_store
from hanse_common.alerting.delivery import ways
from hanse_common.alerting.events import Event, expiring
from hanse_common.alerting.settings import NotifySettings
from hanse_common.alerting.watcher import Watcher, Way
from hanse_common.audit.evidence import Evidence
from hanse_common.decoding import json_object
from hanse_common.identity import Certificate
from hanse_common.monitoring.codes import OTHER, code_in
from hanse_common.paths import LEDGER_FILE, STORE_LOG_FILE, TOLD_FILE
from hanse_common.policy import StorePolicy
from hanse_common.rotation import files_of

_TAIL_BYTES = 256 * 1024
"""Bytes at the end of the store's log that are looked at."""
_NOT_REFUSED = frozenset({"run-over", "out-of-turn", "wrong-header", "store-left"})
"""Codes of errors that are no sign of a fault at this store."""


def notify_settings(folder: StoreFolder) -> NotifySettings:
    """The table `[notify]` of the store's `store.toml`.

    Raises:
        ConfigError: The file cannot be read, or holds an unknown or malformed setting.
    """
    return load_store(folder.store_toml).notify


def store_ways(folder: StoreFolder) -> dict[str, Way]:
    """The ways by which the store's operator is told.

    Raises:
        ConfigError: See `notify_settings`.
    """
    return ways(notify_settings(folder), source=folder.node().name, folder=folder.path)


@contextmanager
def watching(folder: StoreFolder) -> Iterator[None]:
    """Tell of events while the node runs.

    Raises:
        ConfigError: See `notify_settings`.
    """
    settings = notify_settings(folder)
    with Watcher(
        lambda: store_events(folder, settings),
        told=folder.path / TOLD_FILE,
        ways=store_ways(folder),
    ):
        yield


def store_events(
    folder: StoreFolder, settings: NotifySettings, *, now: float | None = None
) -> Iterator[Event]:
    """Yield every event that holds now.

    Args:
        folder: The store's folder.
        settings: From when on somebody is told.
        now: Unix seconds; the current time if unset.

    Raises:
        HanseError: A file of the store cannot be read.
    """
    now = time.time() if now is None else now
    if folder.certificate.exists():
        end = float(Certificate.load(folder.certificate).valid_until)
        yield from expiring("certificate-near-end", "this store's certificate", end, now=now)
    tls_end = read_tls_end(folder.path)
    if tls_end is not None:
        about = "the coordinator's TLS certificate"
        yield from expiring("tls-near-end", about, tls_end, now=now)
    yield from _refusals(folder, settings.lost_rounds)
    yield from _budget(folder, settings.budget_share)


def _refusals(folder: StoreFolder, rounds: int) -> Iterator[Event]:
    """Yield the event of a store that did nothing but refuse for some rounds."""
    lines = _last_lines(folder.path / STORE_LOG_FILE)
    last = list(takewhile(lambda line: "error" in line, reversed(lines)))
    codes = [code_in(str(line["error"])) or OTHER for line in last]
    codes = [code for code in codes if code not in _NOT_REFUSED]
    if len(codes) >= rounds:
        yield Event(
            kind="rounds-refused",
            subject=folder.node().name,
            message=f"it refused the last {rounds} messages or more [{codes[0]}]",
        )


def _budget(folder: StoreFolder, share: float) -> Iterator[Event]:
    """Yield the event of a budget of which a share is spent.

    The ledger's own figures are read, which takes no accountant. Since the last renewal at least
    the difference was spent: epsilon of two parts together is at most the sum of theirs.
    """
    if not folder.policy.exists():
        return
    policy = StorePolicy.from_toml(folder.policy)
    if policy.max_epsilon is None:
        return
    spent = _spent(folder, _stamp(folder.path / LEDGER_FILE))
    if spent >= share * policy.max_epsilon:
        yield Event(
            kind="budget-near-end",
            subject=folder.node().name,
            # Not the figure itself: epsilon derives from what the store computed.
            message=f"{share:.0%} or more of the policy's max_epsilon is spent",
        )


@lru_cache(maxsize=4)
def _spent(folder: StoreFolder, stamp: tuple[int, ...]) -> float:
    """Epsilon that is spent at least; `stamp` says when the ledger has to be read again."""
    if not stamp:
        return 0.0
    entries = Evidence(
        store=folder.node().name,
        ledger=folder.path / LEDGER_FILE,
        enrolment=folder.enrolment,
        simulated=False,
    ).entries()
    renewed = [entry.epsilon_before for entry in entries if entry.kind == "renewal"]
    return entries[-1].epsilon_after - (renewed[-1] if renewed else 0.0) if entries else 0.0


def _stamp(ledger: Path) -> tuple[int, ...]:
    """What changes with a ledger, whose newest pages SQLite may keep in a file beside it."""
    stamps: list[int] = []
    for path in (ledger, ledger.with_name(ledger.name + "-wal")):
        with suppress(OSError):
            status = path.stat()
            stamps += [status.st_mtime_ns, status.st_size]
    return tuple(stamps)


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The last lines of a log that may be long; a half line is skipped."""
    text = b""
    for file in files_of(path)[-2:]:  # the newest may have begun a moment ago
        with suppress(OSError), file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            text += log.read() + b"\n"
    found = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            found.append(json_object(line))
    return found
