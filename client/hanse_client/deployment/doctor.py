"""`hanse store doctor`: checks of everything that a round needs, each with its repair.

The checks do what a round would do: they read the data, load the keys and connect to the server.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hanse_client.deployment.budget import budget_row, evidence_of
from hanse_client.deployment.folder import StoreFolder, load_node_key
from hanse_client.deployment.node_headers import signed_headers
from hanse_client.deployment.tls_check import LARGEST_AHEAD, Handshake, handshake
from hanse_client.enrolment import Enrolment
from hanse_client.features.prepare import Preparation
from hanse_client.ingest.store_config import load_store
from hanse_common.errors import HanseError, KeyFileError, StoreNotReady
from hanse_common.identity import StoreKey
from hanse_common.manifest_terms import check_base_model
from hanse_common.monitoring.expiry import WARNING_DAYS
from hanse_common.paths import CUSTOMER_KEY_FILE, LEDGER_FILE, NEXT_SUFFIX
from hanse_common.privacy.ledger import Ledger
from hanse_common.versions import Version, other_protocol, own_version

State = Literal["ok", "warning", "failed", "skipped"]

_DAY = 86_400
_SOON = max(WARNING_DAYS) * _DAY
"""Seconds before a certificate's end from which a check warns."""
_OLD_KEY = 365 * _DAY
_CLOCK = 60.0
"""Seconds by which this clock may be behind; Flower's authentication fails at five minutes."""
_DISK = 1 << 30
"""Free bytes below which a check warns."""
_LITTLE_DISK = 100 << 20
"""Free bytes below which it fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    Args:
        check: Name of the check.
        state: A `warning` does not stop a round; `skipped` means that it could not be checked.
        message: The result in words.
        mend: How to repair it; empty if nothing is wrong.
    """

    check: str
    state: State
    message: str
    mend: str = ""


Check = Callable[[StoreFolder], Iterator[Finding] | Finding]


def examine(folder: StoreFolder) -> list[Finding]:
    """Run every check; an error in one of them becomes its finding.

    Raises:
        StoreNotReady: There is no store in the folder.
    """
    folder.node()
    findings: list[Finding] = []
    for name, check in _CHECKS.items():
        try:
            result = check(folder)
            findings += [result] if isinstance(result, Finding) else list(result)
        except StoreNotReady as error:
            findings.append(
                Finding(check=name, state="failed", message=error.message, mend=error.hint)
            )
        except HanseError as error:
            message = f"{error.message} [{error.code}]"
            findings.append(Finding(check=name, state="failed", message=message, mend=error.hint))
    return findings


def _data(folder: StoreFolder) -> Finding:
    from hanse_client.ingest.check import StoreTables

    tables = StoreTables.read(load_store(folder.store_toml))
    return _ok("data", f"{tables.rows_read:,} rows, {tables.rejected:,} rejected")


def _histories(folder: StoreFolder) -> Finding:
    store, settings = load_store(folder.store_toml), folder.settings()
    done = Preparation.load(folder.histories)
    mend = "`hanse store data prepare`; `join` does it too"
    if done is None:
        return _warn("histories", "not prepared yet", mend)
    reason = done.outdated(folder.model, store, settings)
    if reason:
        return _warn("histories", reason, mend)
    needed = settings.data.min_customers
    if done.customers < needed:
        return _fail(
            "histories",
            f"{done.customers} customers, the run asks for {needed}",
            "join this store's data to a neighbour's, or ask the federation for other terms",
        )
    return _ok("histories", f"{done.customers:,} customers")


def _key_files(folder: StoreFolder) -> Iterator[Finding]:
    customer = load_store(folder.store_toml).pseudonym_key
    for path in (folder.store_key, folder.node_key, customer):
        fault = _private(path)
        if fault is not None:
            yield fault
            return
    StoreKey.load(folder.store_key)
    load_node_key(folder.node_key)
    yield _ok("key files", "for their owner only")
    age = time.time() - folder.store_key.stat().st_mtime
    if folder.store_key.with_name(folder.store_key.name + NEXT_SUFFIX).exists():
        yield _warn(
            "key age",
            "a new key waits for its certificate",
            "send its request, then `hanse store enrol --certificate FILE`",
        )
    elif age > _OLD_KEY:
        yield _warn("key age", f"{age / _DAY:.0f} days", "`hanse store keys rotate`")
    else:
        yield _ok("key age", f"{age / _DAY:.0f} days")


def _private(path: Path) -> Finding | None:
    """The finding about a key file that is missing or readable by others; None if it is neither."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    if mode is None:
        made = path.name == CUSTOMER_KEY_FILE
        return _fail(
            "key files",
            f"{path} is missing",
            # Pseudonyms are computed with this key: with another one every customer looks new.
            "restore it from its backup" + ("; with a new one all customers are new" * made),
        )
    if mode & 0o077:
        return _fail("key files", f"{path} can be read by others ({mode:04o})", f"chmod 600 {path}")
    return None


def _certificate(folder: StoreFolder) -> Finding:
    from hanse_client.deployment.enrol import check_membership

    left = check_membership(folder).certificate.valid_until - time.time()
    message = f"valid for {left / _DAY:.0f} days, its keys are here"
    if left < _SOON:
        return _warn("membership", message, "`hanse store enrol` writes a request for another one")
    return _ok("membership", message + ", the manifest is within the policy")


def _code(folder: StoreFolder) -> Finding:
    pinned = Enrolment(folder.enrolment).manifest.fab_digest
    if pinned is None:
        return _fail(
            "code pin",
            "the manifest does not name the app bundle",
            "ask the federation for a manifest with fab_digest",
        )
    return _ok("code pin", f"only the bundle {pinned[:12]}… is answered, and none is installed")


def _model(folder: StoreFolder) -> Finding:
    from hanse_client.deployment.enrol import check_model, check_settings

    settings, manifest = folder.settings(), folder.membership().manifest
    check_settings(folder, settings)
    if manifest.base_digest is not None:
        # Byte for byte what was signed, so that loading it, with torch, would show nothing more.
        check_base_model(folder.model, manifest)
        return _ok("model", f"{manifest.base_digest[:12]}…, as the manifest names its files")
    if check_model(folder.model, settings, manifest):
        return _ok("model", f"{manifest.model_digest[:12]}…, as the manifest names it")
    return _ok(
        "model",
        f"as the manifest names it; the run starts from an earlier run's parameters, "
        f"{manifest.model_digest[:12]}…, which come with the first message",
    )


def _disk(folder: StoreFolder) -> Finding:
    free = shutil.disk_usage(folder.path).free
    message = f"{free / (1 << 30):.1f} GB free"
    # A charge that cannot be written must stop the upload.
    if free < _LITTLE_DISK:
        return _fail("disk", message, "a full disk stops the ledger, and with it the store")
    return _ok("disk", message) if free >= _DISK else _warn("disk", message, "make room")


def _server(folder: StoreFolder) -> Iterator[Finding]:
    invitation = folder.invitation()
    headers: dict[str, str] = {}
    with suppress(KeyFileError):  # which the check of key files reports
        headers = signed_headers(load_node_key(folder.node_key))
    result: Handshake = handshake(invitation.fleet, invitation.ca, headers=headers)
    through = "" if result.proxy is None else f", through the proxy {result.proxy}"
    yield _ok("server", f"{invitation.fleet} answers in {result.seconds * 1000:.0f} ms{through}")
    left = result.expires - time.time()
    message = f"{result.version}, certificate valid for {left / _DAY:.0f} days"
    if left < _SOON:
        yield _warn("TLS", message, "ask the coordinator for `hanse server tls renew`")
    else:
        yield _ok("TLS", message)
    if result.clock is None:
        yield Finding(check="clock", state="skipped", message="the server does not say its time")
    elif not -_CLOCK <= result.clock <= LARGEST_AHEAD:
        ahead = "ahead of" if result.clock > 0 else "behind"
        yield _fail(
            "clock",
            f"{abs(result.clock):.0f} s {ahead} the server's",
            "set this machine's clock by NTP",
        )
    else:
        yield _ok("clock", f"within {max(1.0, abs(result.clock)):.0f} s of the server's")
        if result.admitted is not None:
            yield _admitted(result.admitted)
    yield _versions(result.coordinator)


def _admitted(admitted: bool) -> Finding:
    if admitted:
        return _ok("admission", "the coordinator knows this store's node key")
    return _fail(
        "admission",
        "the coordinator does not know this store's node key",
        "has the coordinator admitted this store's newest request, and not revoked it?",
    )


def _versions(coordinator: Version | None) -> Finding:
    own = own_version()
    if coordinator is None:
        return _ok("versions", f"{own} here; the coordinator names none")
    if coordinator.protocol != own.protocol:
        error = other_protocol(coordinator, they="the coordinator", we="this store")
        return _fail("versions", error.message, error.hint)
    theirs = coordinator.release_name
    return _ok("versions", f"{own} here, {theirs} at the coordinator")


def _budget(folder: StoreFolder) -> Finding:
    row = budget_row(evidence_of(folder.node()))
    # `budget_row` only reads; opening also compares the ledger with its head.
    Ledger.open(folder.path / LEDGER_FILE, StoreKey.load(folder.store_key))
    if row is None or row.limit is None:
        return _ok("budget", "nothing spent")
    message = f"epsilon {row.spent:.3g} of {row.limit:g} spent"
    if row.rounds_left == 0:
        return _fail(
            "budget",
            message + ", not one more round fits",
            "raise max_epsilon or set budget_renews in policy.toml, which is a decision about "
            "people's privacy; or leave",
        )
    return _ok("budget", message + (f", {row.rounds_left} rounds left" if row.rounds_left else ""))


def _round_log(folder: StoreFolder) -> Finding:
    from hanse_client.rounds.witness import Witness

    enrolment = folder.membership()
    if enrolment.manifest.log_key is None:
        return _warn(
            "round log",
            "the federation has none, so that stores cannot tell whether all were sent the same",
            "ask for a manifest with log_key, and set round_log = true in policy.toml",
        )
    seen = Witness(folder.node(), enrolment).seen
    if seen is None:
        return _ok("round log", "nothing seen of it yet")
    return _ok("round log", f"accepted up to record {seen.size}; another history is refused")


def _telemetry(folder: StoreFolder) -> Finding:
    if os.environ.get("FLWR_TELEMETRY_ENABLED", "0") not in ("", "0"):
        return _warn(
            "telemetry",
            "FLWR_TELEMETRY_ENABLED is set; `join` turns telemetry off nevertheless",
            "unset it for other programs that use Flower",
        )
    return _ok("telemetry", "off")


def _ok(check: str, message: str) -> Finding:
    return Finding(check=check, state="ok", message=message)


def _warn(check: str, message: str, mend: str) -> Finding:
    return Finding(check=check, state="warning", message=message, mend=mend)


def _fail(check: str, message: str, mend: str) -> Finding:
    return Finding(check=check, state="failed", message=message, mend=mend)


_CHECKS: dict[str, Check] = {
    "key files": _key_files,
    "data": _data,
    "membership": _certificate,
    "code pin": _code,
    "model": _model,
    "histories": _histories,
    "server": _server,
    "budget": _budget,
    "round log": _round_log,
    "disk": _disk,
    "telemetry": _telemetry,
}
