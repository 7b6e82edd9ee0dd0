"""What the store's page knows of the node, read once for all parts of an update.

The functions are those of `hanse store budget`, `join --dry-run`, `doctor` and `metrics`. Slow
results are kept until one of the files that they follow from changes.

Nothing here derives from customers but epsilon: no count, no loss, and of an error its code only,
because its text may quote data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hanse_client.deployment.budget import spending
from hanse_client.deployment.dry_run import Preview, preview
from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.leave import Leaving, leaving
from hanse_client.deployment.preparing import outdated
from hanse_client.deployment.tls_check import read_tls_end
from hanse_client.features.prepare import Preparation
from hanse_client.ingest.source_settings import Source
from hanse_client.ingest.store_config import load_store
from hanse_common.audit.evidence import Evidence
from hanse_common.errors import HanseError
from hanse_common.locks import is_locked
from hanse_common.manifest import Manifest
from hanse_common.monitoring.codes import OTHER, code_in
from hanse_common.paths import (
    JOIN_LOCK_FILE,
    LEDGER_FILE,
    LEDGER_HEAD_FILE,
    SETTINGS_FILE,
    STORE_FILE,
    STORE_LOG_FILE,
)
from hanse_common.privacy.entry import Entry
from hanse_common.rotation import all_json_lines

MOST_EVENTS = 50
"""Charges and refusals on the page."""
_DAY = 86_400
_COMPARE_SECONDS = 30
"""Seconds for which a comparison of the data with the histories counts; it reads small files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A charge, a refusal or another entry in the store's records.

    Args:
        time: ISO 8601.
        what: `charged`, `refused`, `renewed` or `recovered`.
        kind: The kind of exchange, such as `train`; empty if unknown.
        round: The training round; None if unknown.
        attempt: Number of the attempt; 0 if unknown.
        epsilon: Epsilon of everything charged so far; None if nothing was charged.
        code: The error code of a refusal.
    """

    time: str
    what: str
    kind: str = ""
    round: int | None = None
    attempt: int = 0
    epsilon: float | None = None
    code: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The store's prepared histories.

    Args:
        sources: Where each table comes from: the name of its files, or a query; by table.
        read: When the data were read, ISO 8601; None if they never were.
        observed_from: First day of the records.
        reason: Why they have to be prepared again; empty if they are up to date.
    """

    sources: dict[str, str]
    read: str | None
    observed_from: str | None
    reason: str


class StoreState:
    """One reading of a store's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = StoreFolder(path.absolute())

    @cached_property
    def name(self) -> str:
        """The store's id."""
        return self.folder.node().name

    @cached_property
    def joined(self) -> bool:
        """Whether the node runs."""
        return is_locked(self.folder.path / JOIN_LOCK_FILE)

    @cached_property
    def budget(self) -> dict[str, Any]:
        """What `hanse store budget` shows."""
        return _spending(self.folder, self._stamp)

    @cached_property
    def round(self) -> Preview:
        """What `hanse store join --dry-run` shows."""
        return _preview(self.folder, self._stamp)

    @cached_property
    def manifest(self) -> Manifest:
        """The terms."""
        return self.folder.membership().manifest

    @cached_property
    def entries(self) -> list[Entry]:
        """The ledger's entries."""
        return _entries(self.folder.path / LEDGER_FILE, self.name, self._stamp)

    @cached_property
    def leaving(self) -> Leaving | None:
        """The decision to leave."""
        return leaving(self.folder.path)

    @cached_property
    def certificate_until(self) -> float | None:
        """When the certificate ends, in Unix seconds; None without one."""
        if not self.folder.certificate.exists():
            return None
        return float(self.folder.membership().certificate.valid_until)

    @cached_property
    def tls_until(self) -> str | None:
        """When the coordinator's TLS certificate ends, as the node last saw it."""
        end = read_tls_end(self.folder.path)
        return None if end is None else instant(end)

    @property
    def certificate_days(self) -> float | None:
        """Days until the certificate ends."""
        until = self.certificate_until
        return None if until is None else (until - time.time()) / _DAY

    @cached_property
    def prepared(self) -> Prepared:
        """The state of the prepared data."""
        return _prepared(self.folder, self._stamp, int(time.time() / _COMPARE_SECONDS))

    @cached_property
    def events(self) -> list[Event]:
        """The last charges and refusals, the newest first."""
        found = [*map(_of_entry, self.entries), *_refusals(self.folder.path)]
        return sorted(found, key=lambda one: one.time, reverse=True)[:MOST_EVENTS]

    @property
    def refused_today(self) -> list[Event]:
        """The refusals of the last 24 hours."""
        since = instant(time.time() - _DAY)
        return [one for one in self.events if one.what == "refused" and one.time >= since]

    @property
    def _stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes with every file from which slow results follow."""
        path, stamps = self.folder.path, []
        names = (LEDGER_FILE, LEDGER_HEAD_FILE, SETTINGS_FILE, STORE_FILE)
        files = [*(path / name for name in names), *sorted(self.folder.enrolment.glob("*"))]
        for file in (*files, self.folder.histories):
            try:
                status = file.stat()
            except OSError:
                continue
            stamps.append((file.name, status.st_size, status.st_mtime_ns))
        return tuple(stamps)


_Stamp = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=2)
def _spending(folder: StoreFolder, _: _Stamp) -> dict[str, Any]:
    return spending(folder)


@lru_cache(maxsize=2)
def _preview(folder: StoreFolder, _: _Stamp) -> Preview:
    return preview(folder)


@lru_cache(maxsize=2)
def _entries(ledger: Path, name: str, _: _Stamp) -> list[Entry]:
    return Evidence(store=name, ledger=ledger, enrolment=None, simulated=False).entries()


@lru_cache(maxsize=2)
def _prepared(folder: StoreFolder, _: _Stamp, __: int) -> Prepared:
    store = load_store(folder.store_toml)
    done = Preparation.load(folder.histories)
    try:
        reason = outdated(folder)
    except HanseError as error:
        reason = f"they cannot be compared: {error.message}"
    return Prepared(
        sources={source.TABLE: _source(source) for source in store.sources},
        read=None if done is None else instant(done.read),
        observed_from=None if done is None else done.observed_from[:10],
        reason=reason,
    )


def _source(source: Source) -> str:
    # The name only: a query may hold values, and its URL a password.
    return "a query of a database" if source.sql is not None else source.label


def _of_entry(entry: Entry) -> Event:
    words = {"charge": "charged", "refusal": "refused", "renewal": "renewed"}
    release = entry.release
    return Event(
        time=instant(entry.time),
        what=words.get(entry.kind, "recovered"),
        kind=release.kind,
        round=release.round if release.kind else None,
        attempt=release.attempt,
        epsilon=entry.epsilon_after,
        code="budget-spent" if entry.kind == "refusal" else "",
    )


def _refusals(path: Path) -> Iterator[Event]:
    for line in all_json_lines(path / STORE_LOG_FILE):
        at = line.get("time")
        if "error" not in line or not isinstance(at, float):
            continue
        number = line.get("round")
        code = code_in(str(line["error"])) or OTHER
        # The ledger has these itself, with what they would have cost.
        if code != "budget-spent":
            yield Event(
                time=instant(at),
                what="refused",
                round=number if isinstance(number, int) else None,
                code=code,
            )


def instant(seconds: float) -> str:
    """Return Unix seconds as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
