"""The ends of all certificates of a federation, the soonest first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from hanse_common.monitoring.expiry import DAY, WARNING_DAYS
from hanse_common.paths import LOOPBACK_CERTIFICATE_FILE
from hanse_server.deployment import tls
from hanse_server.deployment.admit import members
from hanse_server.deployment.folder import FederationFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The end of one certificate.

    Args:
        what: The certificate in words.
        store: The store that it belongs to; empty for the coordinator's own.
        file: Path of the file.
        ends: ISO 8601.
        days: Days until then; negative if it has ended.
    """

    what: str
    store: str
    file: str
    ends: str
    days: float

    @property
    def tone(self) -> str:
        """`bad` if it has ended, `warn` if it ends soon, else `good`."""
        return "bad" if self.days < 0 else "warn" if self.days < max(WARNING_DAYS) else "good"


def endings(folder: FederationFolder, *, now: float | None = None) -> list[Ending]:
    """Return the ends of the coordinator's TLS certificates and of all admitted stores'.

    Raises:
        DeploymentError: A TLS certificate cannot be read.
        HanseError: As `members`.
    """
    now = time.time() if now is None else now
    return sorted(_all(folder, now), key=lambda one: one.days)


def _all(folder: FederationFolder, now: float) -> Iterator[Ending]:
    fleet = folder.file.fleet
    own = (
        ("TLS certificate that stores see", folder.resolve(fleet.certificate)),
        ("TLS root in the invitation", folder.resolve(fleet.ca)),
        ("TLS certificate within this machine", folder.tls / LOOPBACK_CERTIFICATE_FILE),
    )
    for what, path in own:
        end = tls.expires(path)
        yield Ending(
            what=what,
            store="",
            file=str(path),
            ends=end.isoformat(timespec="seconds"),
            days=(end.timestamp() - now) / DAY,
        )
    for member in members(folder):
        until = member.certificate.valid_until
        yield Ending(
            what=f"membership of {member.store_id}",
            store=member.store_id,
            file=str(folder.certificate(member.store_id)),
            ends=datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds"),
            days=(until - now) / DAY,
        )
