"""Membership: turns requests into certificates, revokes certificates, and looks both up.

Only the authority's key admits a store. The folder's `certificates/` is this coordinator's
list of members; a certificate in `revoked/` is refused although its signature is still valid.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hanse_common.admission import Request
from hanse_common.durable import PARTIAL
from hanse_common.errors import (
    ConfigError,
    DeploymentError,
    KeyFileError,
    MalformedMessage,
    ProtocolError,
)
from hanse_common.identity import AuthorityKey, Certificate, check_store_id, fingerprint
from hanse_common.paths import EARLIER_FOLDER
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.tls import read_certificates

_DAY = 86_400
_CLOCK = 3_600
"""Seconds that a store's clock may be behind: certificates are backdated by as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An admitted store."""

    certificate: Certificate
    request: Request

    @property
    def store_id(self) -> str:
        """The store's id in the federation."""
        return self.certificate.store_id


def open_request(folder: FederationFolder, path: Path, *, now: int | None = None) -> Request:
    """Read a request and check everything except its sender, which a person has to confirm.

    Args:
        folder: The federation's folder.
        path: The request's file.
        now: Unix seconds; the system clock's if unset.

    Raises:
        ProtocolError [bad-enrolment-request]: It is altered, too old, or not signed by the key
            in it.
        DeploymentError [admission-refused]: It shows a key of another store, or a revoked key.
    """
    request = Request.load(path)
    request.check(now=int(time.time()) if now is None else now)
    check_keys(folder, request)
    return request


def check_keys(folder: FederationFolder, request: Request) -> None:
    """Check that a request shows no key of another store, and none that was revoked.

    Raises:
        DeploymentError [admission-refused]: It does.
    """
    store_id = request.store_id
    for other in members(folder):
        if other.store_id == store_id:
            continue
        # One party under two ids would count as two stores in a cohort.
        for what, same in (
            ("store", other.request.public_key == request.public_key),
            ("node", other.request.node_digest == request.node_digest),
        ):
            if same:
                raise DeploymentError(
                    f"request of {store_id!r} shows the {what} key of {other.store_id!r}",
                    code="admission-refused",
                    hint="every store needs its own keys: ask it to run `hanse store init` again",
                )
    earlier = sorted((folder.revoked / EARLIER_FOLDER).glob("*@*"))
    for path in (*_store_files(folder.revoked), *earlier):
        out = Certificate.load(path)
        if request.public_key == out.public_key or request.node_digest == out.node_key:
            raise DeploymentError(
                f"request of {store_id!r} shows a key of {out.store_id!r} that was revoked",
                code="admission-refused",
                hint="a revoked store needs two new keys to come back: ask it to run `hanse store "
                "keys rotate --node-key` and to send the new request",
            )


def company_of(folder: FederationFolder, request: Request, *, now: int | None = None) -> str | None:
    """Return the subject of the company's certificate that vouches for a request.

    Returns:
        None if the request shows none, or `federation.toml` names no company's roots; then a
        person compares the fingerprint.

    Raises:
        ProtocolError [bad-enrolment-request]: The certificate does not vouch for this request.
        DeploymentError [tls]: The roots cannot be read.
    """
    roots = folder.file.enrolment.ca
    if request.company is None or roots is None:
        return None
    return request.company.check(
        request.payload(),
        store_id=request.store_id,
        roots=read_certificates(folder.resolve(roots)),
        now=int(time.time()) if now is None else now,
    )


def _replaced_by(folder: FederationFolder, request: Request) -> Certificate | None:
    """The certificate that granting a request would replace; None if there is none."""
    return _certificate(folder.certificate(request.store_id))


def admit(
    folder: FederationFolder,
    request: Request,
    authority: AuthorityKey,
    *,
    days: int | None = None,
    replace: bool = False,
    now: int | None = None,
) -> Certificate:
    """Certify the two keys of a request that `open_request` returned, and save the certificate.

    Args:
        folder: The federation's folder.
        request: The store's request.
        authority: The enrolment authority's key.
        days: Days for which the certificate is valid; `federation.toml` decides if unset.
        replace: Whether to replace an earlier certificate, for a new key or a new period.
        now: Unix seconds; the system clock's if unset.

    Raises:
        DeploymentError [admission-refused]: The store is admitted already, and `replace` is off.
        ConfigError: The key is not that of this federation's authority.
        DeploymentError: The folder cannot be written.
    """
    if authority.public != folder.authority:
        raise ConfigError(
            f"the authority's key has the fingerprint {fingerprint(authority.public)}, this "
            f"federation's is {fingerprint(folder.authority)}",
            hint="name the right one with --authority-key",
        )
    before = _replaced_by(folder, request)
    if before is not None and not replace:
        if before.public_key == request.public_key:
            raise DeploymentError(
                f"{request.store_id!r} is admitted already, with this key",
                code="admission-refused",
                hint="add --replace for a new period, or for a new node key",
            )
        raise DeploymentError(
            f"{request.store_id!r} is admitted already, with another key of fingerprint "
            f"{fingerprint(before.public_key)}",
            code="admission-refused",
            hint="if the store itself says by phone that it changed its key, add --replace",
        )
    now = int(time.time()) if now is None else now
    until = now + (days or folder.file.certificate_days) * _DAY
    if request.company is not None and folder.file.enrolment.ca is not None:
        # What the company vouches for ends with its own certificate.
        until = min(until, request.company.ends)
    certificate = authority.certify(
        request.store_id,
        request.public_key,
        valid_from=now - _CLOCK,
        valid_until=until,
        node_key=request.node_digest,
    )
    install(folder, request, certificate)
    return certificate


def install(folder: FederationFolder, request: Request, certificate: Certificate) -> None:
    """Save a certificate and its request; an earlier certificate is set aside.

    Raises:
        DeploymentError: The folder cannot be written.
    """
    try:
        for path in (folder.certificates, folder.request(request.store_id).parent):
            path.mkdir(exist_ok=True)
        if folder.certificate(request.store_id).exists():
            _set_aside(folder.certificate(request.store_id))
        # The request first: `members` refuses a certificate without its request.
        request.save(folder.request(request.store_id))
        # Written atomically: a running round may read it at the same moment.
        certificate.save(folder.certificate(request.store_id))
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.path}: {error.strerror}") from error


def revoke(folder: FederationFolder, store_id: str) -> Member:
    """Refuse a store's certificate from now on.

    Returns:
        The former member.

    Raises:
        DeploymentError [admission-refused]: No such store is admitted.
        DeploymentError: The folder cannot be written.
    """
    member = next((m for m in members(folder) if m.store_id == store_id), None)
    if member is None:
        known = ", ".join(m.store_id for m in members(folder)) or "none"
        raise DeploymentError(
            f"no store {store_id!r} is admitted",
            code="admission-refused",
            hint=f"admitted: {known}",
        )
    try:
        folder.revoked.mkdir(exist_ok=True)
        if (folder.revoked / store_id).exists():
            # Revoked once before: those keys stay refused too.
            _set_aside(folder.revoked / store_id)
        os.utime(folder.certificate(store_id))  # the time that `revoked_since` reads
        # One rename: at no moment is the store both admitted and revoked, or neither.
        folder.certificate(store_id).replace(folder.revoked / store_id)
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.revoked}: {error.strerror}") from error
    return member


def revoked_since(folder: FederationFolder, store_id: str) -> datetime | None:
    """Return when a store was revoked; None if it is not, or has been admitted again."""
    if store_id not in revoked_ids(folder):
        return None
    return datetime.fromtimestamp((folder.revoked / store_id).stat().st_mtime, UTC)


def members(folder: FederationFolder) -> list[Member]:
    """Return the admitted stores that were not revoked, in the order of their ids.

    Raises:
        KeyFileError: A file in `certificates/` is not a certificate.
        ProtocolError [bad-enrolment-request]: A request that was granted is missing or altered.
        ProtocolError [bad-certificate]: A certificate is not by this federation's authority, or
            not for its request.
    """
    admitted = []
    for path in _store_files(folder.certificates):
        certificate = Certificate.load(path)
        request = Request.load(folder.request(path.name))
        # Its own first day as the time: here only the signer counts, not whether it has expired.
        certificate.check(folder.authority, now=certificate.valid_from)
        if certificate.store_id != path.name or (
            certificate.public_key,
            certificate.node_key,
        ) != (request.public_key, request.node_digest):
            raise ProtocolError(
                f"{path} is not the certificate of the request {folder.request(path.name)}",
                code="bad-certificate",
                hint="put back the file that `hanse server admit` wrote",
            )
        admitted.append(Member(certificate=certificate, request=request))
    return admitted


def revoked_ids(folder: FederationFolder) -> list[str]:
    """Return the ids of stores that are revoked and have not been admitted again."""
    return [
        path.name
        for path in _store_files(folder.revoked)
        if not folder.certificate(path.name).exists()
    ]


class Gate:
    """Checks that a certificate is the current one of a member.

    A run calls it for every store in every attempt, so that a revocation takes effect at once.

    Args:
        folder: The federation's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = FederationFolder(folder)

    def __call__(self, certificate: Certificate) -> None:
        """Check one certificate against the folder's current files.

        Raises:
            ProtocolError [bad-certificate]: It was revoked, replaced, or never admitted here.
        """
        store_id = certificate.store_id
        # The file, not the signature: a revoked or replaced certificate still verifies.
        current = _certificate(self._folder.certificate(store_id))
        if current == certificate:
            return
        if current is not None:
            reason, hint = "was replaced by a later one", "give the store its new certificate"
        elif (self._folder.revoked / store_id).exists():
            reason, hint = "was revoked", "sign a manifest without it"
        else:
            reason, hint = "was not issued by this coordinator's folder", "admit the store"
        raise ProtocolError(
            f"certificate of {store_id!r} {reason}",
            code="bad-certificate",
            hint=hint,
            culprits=(store_id,),
        )


def _store_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_id(path.name))


def _is_id(name: str) -> bool:
    try:
        check_store_id(name)
    except MalformedMessage:
        return False
    return not name.endswith(PARTIAL)


def _certificate(path: Path) -> Certificate | None:
    if not path.exists():
        return None
    try:
        return Certificate.load(path)
    except KeyFileError:
        raise
    except ProtocolError as error:
        raise KeyFileError(f"{path} is not a certificate file: {error.message}") from error


def _set_aside(path: Path) -> None:
    """Move a certificate that is being replaced to `earlier/` beside it, named by its first day."""
    earlier = path.parent / EARLIER_FOLDER
    earlier.mkdir(exist_ok=True)
    old = Certificate.load(path)
    name = f"{path.name}@{time.strftime('%Y-%m-%d', time.gmtime(old.valid_from))}"
    target, count = earlier / name, 1
    while target.exists():
        count += 1
        target = earlier / f"{name}-{count}"
    path.rename(target)
