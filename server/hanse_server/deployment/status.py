"""The state of a federation as its coordinator sees it: members, their activity, the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from hanse_common.errors import BadManifest, HanseError, SuperLinkDown
from hanse_common.identity import fingerprint
from hanse_common.versions import other_protocol, own_version
from hanse_server.blame import Blame
from hanse_server.blame_record import Record
from hanse_server.deployment import tls
from hanse_server.deployment.admit import Member, members, revoked_ids
from hanse_server.deployment.alerts import certificate_events, crash_events
from hanse_server.deployment.control import Control, RegisteredNode
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.node_versions import NodeVersions
from hanse_server.deployment.run_state import RunState, all_runs, state_of
from hanse_server.deployment.sign import signed_manifest
from hanse_server.deployment.up import running
from hanse_server.stage_log import CONNECT, read_progress, read_stages

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreRow:
    """The state of one store as the coordinator sees it."""

    store: str
    standing: str
    """`admitted`, `expired` or `revoked`."""
    in_manifest: bool
    valid_until: str | None
    connection: str
    """`online`, `offline`, `never` (not seen yet), `shut out`, `unknown`, or `other version`: its
    node speaks another version of the protocol, and the gateway refuses it."""
    last_seen: str | None
    release: str | None
    """Release that its node named last; empty for one too old to name it, None before any."""
    protocol: int | None
    """Version of the protocol that its node speaks."""
    stage: str | None
    """The message that it is asked for, or has answered, in the current exchange."""
    refusal: str | None
    """The reason why it took no part in the last exchange for which it was asked."""
    refused_round: int | None
    upgrade: str | None = None
    """Whom to upgrade, if the store's node speaks another version of the protocol."""
    blamed: str | None = None
    """The reason why rounds leave it out, or do not wait for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Everything that `hanse server status` shows."""

    federation: str
    release: str
    """Of the coordinator's installation."""
    protocol: int
    """Version of the protocol that it speaks."""
    authority: str
    up: bool
    pid: int | None
    address: str
    tls_until: str | None
    """None if the TLS certificate cannot be read."""
    manifest: str | None
    """Digest of the signed terms."""
    stores: tuple[StoreRow, ...]
    run: RunState | None
    progress: dict[str, Any]
    searches: dict[str, str] = field(default_factory=dict)
    """The state of each search for a store that breaks sums, by kind of exchange and fault."""
    warnings: tuple[str, ...] = ()
    """Certificates that end soon, and processes that crashed lately, with the next command."""
    unreadable: tuple[str, ...] = ()
    """Files that cannot be read, so that something is missing here, and what to do about them."""

    def row(self) -> dict[str, Any]:
        """Return the status as plain JSON."""
        return asdict(self)


def read_status(folder: FederationFolder) -> Status:
    """Read a federation's folder, and ask its SuperLink if that is up.

    Raises:
        ConfigError: The folder holds no federation.
        HanseError: A member's certificate or request, or the run's folder, cannot be read.

    Edge cases:
        A damaged `blame.json` or TLS file is named in `unreadable`: the rest is what an operator
        needs to see then.
    """
    unreadable: list[str] = []
    file = folder.file
    runs = all_runs(folder)
    run = state_of(folder, runs[-1]) if runs else None
    progress = read_progress(runs[-1]) if run and run.state == "underway" else {}
    refusals = _refusals(folder)
    try:
        manifest = signed_manifest(folder)
    except BadManifest:
        manifest = None  # none is signed yet: members are shown all the same
    nodes, versions = _nodes(folder), NodeVersions(folder.state)
    listed = manifest.stores if manifest else ()
    rows = [
        _row(member, nodes, versions, listed, progress, refusals.get(member.store_id))
        for member in members(folder)
    ]
    rows += [
        StoreRow(
            store=store_id,
            standing="revoked",
            in_manifest=store_id in listed,
            valid_until=None,
            connection="shut out",
            last_seen=None,
            release=None,
            protocol=None,
            stage=None,
            refusal=(refusals.get(store_id) or (None, None))[1],
            refused_round=(refusals.get(store_id) or (None, None))[0],
        )
        for store_id in revoked_ids(folder)
    ]
    blame = _unless_damaged(lambda: Blame(folder.path).record, Record(), unreadable)
    blamed = {row["store"]: f"{row['standing']}: {row['why']}" for row in blame.rows()}
    rows = [replace(row, blamed=blamed.get(row.store)) for row in rows]
    pid = running(folder)
    return Status(
        federation=file.name,
        release=own_version().release,
        protocol=own_version().protocol,
        authority=fingerprint(folder.authority),
        up=pid is not None,
        pid=pid,
        address=file.fleet.address,
        tls_until=_unless_damaged(
            lambda: tls.expires(folder.resolve(file.fleet.certificate)).isoformat(),
            None,
            unreadable,
        ),
        manifest=manifest.digest().hex() if manifest else None,
        stores=tuple(sorted(rows, key=lambda row: row.store)),
        run=run,
        progress=progress,
        searches=dict(sorted(blame.notes.items())),
        warnings=tuple(
            f"{event.subject}: {event.message}; next: `{event.command}`"
            for event in (*certificate_events(folder), *crash_events(folder))
        ),
        unreadable=tuple(unreadable),
    )


def _unless_damaged(read: Callable[[], _T], otherwise: _T, unreadable: list[str]) -> _T:
    """Read something; if that fails, add the error's words to a list."""
    try:
        return read()
    except HanseError as error:
        unreadable.append(str(error))
        return otherwise


def _row(
    member: Member,
    nodes: dict[bytes, RegisteredNode] | None,
    versions: NodeVersions,
    listed: tuple[str, ...],
    progress: dict[str, Any],
    refused: tuple[int, str] | None,
) -> StoreRow:
    store_id, until = member.store_id, member.certificate.valid_until
    # By key, not by name: a node under an old key of the store is not this member.
    node = None if nodes is None else nodes.get(member.request.node_key.encode())
    if nodes is None:
        connection = "unknown"
    elif node is None:
        connection = "shut out"
    else:
        connection = {"registered": "never"}.get(node.status, node.status)
    seen = node.last_seen if node else None
    version, upgrade = versions.of(member.request.node_key.encode()), None
    if version is not None and version.protocol != own_version().protocol:
        # What it named last: it may have been upgraded since, and not have connected yet.
        upgrade = str(other_protocol(version, they=store_id, we="this coordinator"))
        connection = "other version" if node is not None else connection
    return StoreRow(
        store=store_id,
        standing="admitted" if time.time() < until else "expired",
        in_manifest=store_id in listed,
        valid_until=datetime.fromtimestamp(until, UTC).isoformat(),
        connection=connection,
        last_seen=seen.isoformat(timespec="seconds") if seen else None,
        release=None if version is None else version.release,
        protocol=None if version is None else version.protocol,
        upgrade=upgrade,
        stage=_stage(store_id, progress),
        refusal=refused[1] if refused else None,
        refused_round=refused[0] if refused else None,
    )


def _stage(store_id: str, progress: dict[str, Any]) -> str | None:
    stage = progress.get("stage")
    if store_id in progress.get("waiting", ()):
        return "waited for" if stage == CONNECT else f"asked for {stage}"
    if store_id in progress.get("answered", ()):
        return f"answered {stage}"
    if store_id in progress.get("refusals", {}):
        return f"refused {stage}"
    return None


def _refusals(folder: FederationFolder) -> dict[str, tuple[int, str]]:
    """The round and reason of each store that took no part in the latest stage."""
    refusals: dict[str, tuple[int, str]] = {}
    for run_dir in all_runs(folder)[-1:]:
        for line in read_stages(run_dir):
            if line["stage"] == "done":
                continue
            # A stage without replies was lost, and clears no earlier reason.
            refusals = {} if line["replies"] else refusals
            refusals |= {store: (line["round"], why) for store, why in line["refusals"].items()}
        progress = read_progress(run_dir)
        for store, why in progress.get("refusals", {}).items():
            refusals[store] = (progress["round"], why)
    return refusals


def _nodes(folder: FederationFolder) -> dict[bytes, RegisteredNode] | None:
    try:
        with Control(folder) as control:
            return {node.public_key: node for node in control.nodes()}
    except SuperLinkDown:
        return None
