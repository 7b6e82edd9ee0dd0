"""Renews the certificate that stores see, and lets a running gateway take it in.

`hanse server init` makes a root and a certificate; `renew` issues the next certificate from the
same root, so that stores' invitations stay valid. An operator with certificates of their own
replaces the two files by hand. In both cases `Reload` notices the new files: connections that
exist go on under the old certificate, and new ones get the new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hanse_common.errors import DeploymentError
from hanse_common.identity import KEY_FAULTS, read_private
from hanse_common.paths import (
    LOOPBACK_CERTIFICATE_FILE,
    LOOPBACK_KEY_FILE,
    LOOPBACK_ROOT_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_KEY_FILE,
    TLS_ROOT_FILE,
    TLS_ROOT_KEY_FILE,
)
from hanse_server.deployment import tls
from hanse_server.deployment.folder import FederationFolder

_LOOK_SECONDS = 1.0
_LOOPBACK_LEFT = timedelta(days=365)
"""Time that the loopback certificate must have left when the federation comes up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewed:
    """A certificate that was issued in place of an earlier one."""

    certificate: Path
    hosts: tuple[str, ...]
    valid_until: datetime
    new_key: bool


def renew(
    folder: FederationFolder,
    *,
    days: int = tls.SERVER_DAYS,
    new_key: bool = False,
    now: datetime | None = None,
) -> Renewed:
    """Issue the next certificate from the federation's own root, for the same host names.

    Args:
        folder: The federation's folder.
        days: Days for which it is valid; the root's end limits them.
        new_key: Whether to make a new private key too.
        now: The current time (UTC); the system clock's if unset.

    Raises:
        DeploymentError [tls]: The certificate is not of the federation's own root, or that root
            has expired.
        KeyFileError: A private key is missing, or readable by others.
        DeploymentError: The folder cannot be written.
    """
    now = now or datetime.now(UTC)
    fleet = folder.file.fleet
    certificate, key_file = folder.resolve(fleet.certificate), folder.resolve(fleet.key)
    _check_own(folder, certificate, key_file)
    root_key = _read_key(folder.tls / TLS_ROOT_KEY_FILE)
    root = tls.read_certificates(folder.tls / TLS_ROOT_FILE)[0]
    until = min(now + timedelta(days=days), root.not_valid_after_utc)
    if until <= now:
        raise DeploymentError(
            f"the federation's root expired on {root.not_valid_after_utc.date()}",
            code="tls",
            hint="found a new federation, or use certificates of your own; stores need a new "
            "invitation in both cases",
        )
    hosts = _hosts(certificate, fleet.host)
    key, issued = tls.make_server(
        root_key, root, hosts, key=None if new_key else _read_key(key_file), until=until
    )
    try:
        # The certificate last. Until then a running gateway finds that the two do not fit, and
        # goes on with those that it has.
        if new_key:
            tls.save_key(key_file, key)
        tls.save_certificate(certificate, issued)
    except OSError as error:
        raise DeploymentError(f"cannot write {folder.tls}: {error.strerror}") from error
    tls.check_server(certificate, key_file, folder.resolve(fleet.ca), fleet.host)
    return Renewed(certificate=certificate, hosts=hosts, valid_until=until, new_key=new_key)


def make_loopback(folder: FederationFolder) -> None:
    """Make the SuperLink's certificate for connections within this machine."""
    # This root's key is never written: nothing else can be certified by it later.
    root_key, root = tls.make_root("this machine only")
    # As long as the root: only this machine's own programs check it.
    key, certificate = tls.make_server(
        root_key, root, ("127.0.0.1", "localhost"), until=root.not_valid_after_utc
    )
    tls.save_certificate(folder.tls / LOOPBACK_ROOT_FILE, root)
    tls.save_key(folder.tls / LOOPBACK_KEY_FILE, key)
    tls.save_certificate(folder.tls / LOOPBACK_CERTIFICATE_FILE, certificate)


def renew_loopback(folder: FederationFolder, *, now: datetime | None = None) -> bool:
    """Make the loopback certificate again if its end is near; before the SuperLink starts.

    Returns:
        Whether it was made again.

    Raises:
        DeploymentError [tls]: The certificate cannot be read.
    """
    now = now or datetime.now(UTC)
    if tls.expires(folder.tls / LOOPBACK_CERTIFICATE_FILE) - now > _LOOPBACK_LEFT:
        return False
    make_loopback(folder)
    return True


class Reload:
    """Gives a running gateway the certificate that is on disk, whenever that changes.

    Args:
        certificate: PEM file of the certificate that stores see.
        key: PEM file of its private key.
        check: Raises `DeploymentError` for files that stores would refuse.
        install: Uses the two files for connections from now on.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        check: Callable[[], None],
        install: Callable[[], None],
    ) -> None:
        self._files = (certificate, key)
        self._check, self._install = check, install
        self._settled = self._seen = self._stamp()

    def look(self) -> bool:
        """Compare the files with those in use; returns whether new ones were taken in.

        A change counts from the second look on that finds the same files, so that a key and a
        certificate which are written one after the other are read together.
        """
        stamp = self._stamp()
        changing, self._seen = stamp != self._seen, stamp
        if changing or stamp == self._settled:
            return False
        self._settled = stamp  # also if it is refused: the refusal is logged once
        try:
            self._check()
            self._install()
        except (DeploymentError, OSError) as error:
            # The gateway goes on with the certificate that it has, which may still be valid.
            _log.warning("the new TLS certificate is not used: %s", str(error))
            return False
        ends = tls.expires(self._files[0])
        _log.info("the TLS certificate was renewed; it is valid until %s", ends.date())
        return True

    async def keep_looking(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def _stamp(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for path in self._files:
            try:
                status = path.stat()  # follows links: Kubernetes replaces a link to a folder
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append(None)
        return tuple(stamps)


def _check_own(folder: FederationFolder, certificate: Path, key: Path) -> None:
    """Refuse to renew what another authority has issued."""
    own = (folder.tls / TLS_CERTIFICATE_FILE, folder.tls / TLS_KEY_FILE)
    if (certificate, key) == own and (folder.tls / TLS_ROOT_KEY_FILE).exists():
        return
    raise DeploymentError(
        f"{certificate} was not issued by this federation's own root",
        code="tls",
        hint=f"replace {certificate} and {key} by new ones of your own authority; a running "
        "`hanse server up` takes them in by itself",
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_private(path).encode("ascii"), None)
    except KEY_FAULTS:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DeploymentError(
            f"{path} is not an ECDSA key without a passphrase",
            code="tls",
            hint="restore the file that `hanse server init` wrote",
        )
    return key


def _hosts(certificate: Path, host: str) -> tuple[str, ...]:
    """The names in the present certificate, and first the one that stores connect to."""
    try:
        found = (
            tls.read_certificates(certificate)[0]
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except (DeploymentError, x509.ExtensionNotFound):
        return (host,)
    names = [str(name.value) for name in found]
    return (host, *(name for name in names if name != host))
