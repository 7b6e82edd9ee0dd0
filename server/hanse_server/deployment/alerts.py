"""The events that a coordinator's operator is told of, decided from the federation's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from hanse_common.alerting.delivery import ways
from hanse_common.alerting.events import Event, expiring
from hanse_common.alerting.watcher import Watcher
from hanse_common.errors import BadManifest, HanseError, RoundFailed
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.paths import MANIFEST_FILE, TOLD_FILE
from hanse_common.phases import EVALUATE
from hanse_server.deployment.admit import members
from hanse_server.deployment.crashes import recent
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run_state import RunState, all_runs, state_of
from hanse_server.deployment.sign import signed_manifest
from hanse_server.metrics import tls_end, tls_files
from hanse_server.stage_log import code_of, read_stages

LEAST_NOISE_SHARE = 0.95
"""Measured over promised variance of the noise below which a store adds too little of it."""
_NOISE_CODES = ("noise-missing", "round-noise-missing")
_BUDGET_CODE = "budget-spent"


@contextmanager
def watching(folder: FederationFolder) -> Iterator[None]:
    """Tell of events while the federation is up, and of its end if that is an error."""
    name = folder.file.name
    watcher = Watcher(
        lambda: coordinator_events(folder),
        told=folder.state / TOLD_FILE,
        ways=ways(folder.file.notify, source=name, folder=folder.path),
    )
    try:
        with watcher:
            yield
    except HanseError as error:
        watcher.last(
            Event(kind="coordinator-stopped", subject=name, message=f"it ended [{error.code}]")
        )
        raise


def certificate_events(folder: FederationFolder, *, now: float | None = None) -> Iterator[Event]:
    """Yield the events of certificates that end soon: the TLS files, and those of stores.

    Raises:
        KeyFileError, ProtocolError: A store's certificate cannot be read.
    """
    now = time.time() if now is None else now
    for name, path in tls_files(folder.path).items():
        end = tls_end(path)
        if end is not None:
            yield from expiring("tls-near-end", f"the TLS {name} certificate", end, now=now)
    for member in members(folder):
        end = member.certificate.valid_until
        yield from expiring(
            "certificate-near-end", f"the certificate of {member.store_id}", end, now=now
        )


def crash_events(folder: FederationFolder, *, now: float | None = None) -> Iterator[Event]:
    """Yield the event of processes that ended by themselves and were started again, for a day."""
    crashes = recent(folder.state, now=now)
    if crashes:
        at = datetime.fromtimestamp(crashes[-1].time, UTC)
        often = f", {len(crashes)} crashes in a day" if len(crashes) > 1 else ""
        yield Event(
            kind="process-crashed",
            subject=folder.file.name,
            message=f"{crashes[-1].what} on {at:%Y-%m-%d at %H:%M} UTC{often}",
            step=len(crashes),
        )


def coordinator_events(folder: FederationFolder, *, now: float | None = None) -> Iterator[Event]:
    """Yield every event that holds now.

    Args:
        folder: The federation's folder.
        now: Unix seconds; the current time if unset.

    Raises:
        HanseError: A file of the federation cannot be read.
    """
    yield from certificate_events(folder, now=now)
    yield from crash_events(folder, now=now)
    runs = all_runs(folder)
    if not runs:
        return
    state = state_of(folder, runs[-1])
    stages = read_stages(runs[-1])
    trained = [line for line in stages if line["stage"] == "train"]
    yield from _failed(state)
    yield from _lost(trained, folder.file.notify.lost_rounds)
    yield from _noise(state, trained)
    yield from _grant(folder, state)


def _failed(state: RunState) -> Iterator[Event]:
    code = state.failure.get("code", "error")
    # Other recoveries take seconds; this one waits for people to start their nodes.
    waits = state.state == "recovering" and code == RoundFailed.code
    if waits or state.state in ("failed", "ended early"):
        ended = "waits for stores" if waits else state.state
        yield Event(
            kind="run-failed",
            subject=state.name,
            # Not the message: it may quote what a store wrote.
            message=f"it {ended} after round {state.round} of {state.rounds} [{code}]",
        )


def _lost(trained: Sequence[Mapping[str, Any]], rounds: int) -> Iterator[Event]:
    """Yield stores that were in none of the last rounds."""
    last = trained[-rounds:]
    if len(last) < rounds:
        return
    for store in sorted(set.intersection(*(set(line["refusals"]) for line in last))):
        code = code_of(last[-1]["refusals"][store]) or "no reply"
        yield Event(
            kind="store-lost",
            subject=store,
            message=f"it was in none of the last {rounds} rounds [{code}]",
        )


def _noise(state: RunState, trained: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    if not trained:
        return
    line = trained[-1]
    share = line.get("noise_share")
    low = share is not None and share < LEAST_NOISE_SHARE
    if low or line["outcome"] in _NOISE_CODES or state.failure.get("code") in _NOISE_CODES:
        said = f"{share:.0%} of what" if share is not None else "less than"
        yield Event(
            kind="noise-missing",
            subject=state.name,
            message=f"in round {line['round']} the sum has {said} the terms promise",
        )


def _grant(folder: FederationFolder, state: RunState) -> Iterator[Event]:
    """Yield the event of a run that will end early, as repeated attempts have used its spare."""
    if state.state not in ("underway", "recovering", "failed", "stopped"):
        return
    try:
        terms = signed_manifest(folder)
    except BadManifest:
        return
    # Upload attempts count, since every store is charged for each.
    used = sum(
        line.get("attempts", 1)
        for run in all_runs(folder)
        if _is_under(folder, terms, run.name)
        for line in read_stages(run)
        if line["stage"] == "train"
    )
    granted = sum(terms.granted(kind) for kind in terms.kinds if kind != EVALUATE)
    left, needed = granted - used, state.rounds - state.round
    if left < needed:
        yield Event(
            kind="grant-near-end",
            subject=state.name,
            message=f"{max(left, 0)} exchanges are granted for {needed} rounds",
        )


def _is_under(folder: FederationFolder, terms: Manifest, run: str) -> bool:
    try:
        own = SignedManifest.load(folder.run(run) / MANIFEST_FILE).unchecked
    except BadManifest:
        return False
    return own.digest() == terms.digest()
