"""Renewal of the coordinator's certificate, and what a store says of one that is out of date."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hanse_client.deployment.tls_check import handshake, untrusted
from hanse_server.deployment import tls
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.tls_renewal import Reload, make_loopback, renew, renew_loopback
from kits.deployment import found, server, succeed
from kits.errors import raises

NOW = datetime.now(UTC)
HOSTS = ("127.0.0.1",)


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> FederationFolder:
    folder = tmp_path_factory.mktemp("tls") / "baltic"
    found(folder)
    return FederationFolder(folder)


def leaf(federation: FederationFolder) -> x509.Certificate:
    return tls.read_certificates(federation.tls / "server.crt")[0]


@pytest.mark.parametrize("new_key", [False, True])
def test_a_renewed_certificate_is_accepted_under_the_same_root(federation, new_key):
    before = leaf(federation)
    done = renew(federation, days=90, new_key=new_key)
    after = leaf(federation)
    assert after.serial_number != before.serial_number
    assert (after.public_key() == before.public_key()) is not new_key
    assert done.hosts == HOSTS and done.new_key is new_key
    assert timedelta(days=89) < after.not_valid_after_utc - NOW <= timedelta(days=91)
    key, root = federation.tls / "server.key", federation.tls / "ca.crt"
    assert key.stat().st_mode & 0o777 == 0o600
    tls.check_server(federation.tls / "server.crt", key, root, "127.0.0.1")


def test_no_certificate_outlives_its_root(federation):
    root = tls.read_certificates(federation.tls / "ca.crt")[0]
    done = renew(federation, days=3650, now=NOW + timedelta(days=3000))
    assert done.valid_until == root.not_valid_after_utc
    with raises("tls", match="root expired"):
        renew(federation, now=root.not_valid_after_utc + timedelta(days=1))
    renew(federation)


def test_certificates_of_another_authority_are_not_renewed_here(federation):
    text = (federation.path / "federation.toml").read_text()
    elsewhere = text.replace("tls/server.crt", "/etc/hanse/tls.crt")
    (federation.path / "federation.toml").write_text(elsewhere)
    try:
        with raises("tls", match="/etc/hanse/tls.crt"):
            renew(FederationFolder(federation.path))
    finally:
        (federation.path / "federation.toml").write_text(text)


def test_the_command_says_until_when(federation):
    done = succeed(server(federation.path, "tls", "renew", "--days", 30, "--format", "json"))
    until = datetime.fromisoformat(done.json["valid_until"])
    assert timedelta(days=29) < until - NOW < timedelta(days=31)
    said = succeed(server(federation.path, "status", "--format", "json")).json["warnings"]
    assert len(said) == 1 and "hanse server tls renew" in said[0] and "in 30 days" in said[0]
    succeed(server(federation.path, "tls", "renew", "--new-key"))
    assert succeed(server(federation.path, "status", "--format", "json")).json["warnings"] == []


def test_the_loopback_certificate_is_made_again_before_its_last_year(federation):
    before = (federation.tls / "loopback.crt").read_bytes()
    assert not renew_loopback(federation)
    assert renew_loopback(federation, now=NOW + timedelta(days=3300))
    assert (federation.tls / "loopback.crt").read_bytes() != before
    make_loopback(federation)


class Files:
    """Two files, and what a gateway would have taken in of them."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "a.crt", folder / "a.key"
        root_key, self.root = tls.make_root("root")
        self._make = lambda: tls.make_server(root_key, self.root, HOSTS)
        tls.save_certificate(folder / "ca.crt", self.root)
        self.key_after, self.certificate_after = self._make()
        self.write()
        self.taken = 0
        self.reload = Reload(
            self.certificate,
            self.key,
            check=lambda: tls.check_server(
                self.certificate, self.key, folder / "ca.crt", "127.0.0.1"
            ),
            install=self._install,
        )

    def _install(self) -> None:
        self.taken += 1

    def next(self) -> None:
        self.key_after, self.certificate_after = self._make()

    def write(self) -> None:
        tls.save_key(self.key, self.key_after)
        tls.save_certificate(self.certificate, self.certificate_after)


def test_files_are_taken_in_once_and_only_when_they_fit(tmp_path, caplog):
    files = Files(tmp_path)
    assert not files.reload.look() and not files.reload.look()
    files.next()
    tls.save_key(files.key, files.key_after)
    assert not files.reload.look() and not files.reload.look(), "a key without its certificate"
    assert "is not used" in caplog.text
    tls.save_certificate(files.certificate, files.certificate_after)
    assert not files.reload.look(), "it may be changing still"
    assert files.reload.look() and files.taken == 1
    assert not files.reload.look() and files.taken == 1
    files.key.unlink()
    assert not files.reload.look() and not files.reload.look(), "the one in use stays in use"


class Speaking:
    """A TLS server on loopback, whose certificate is valid in a certain period."""

    def __init__(self, folder: Path, *, begins: timedelta, ends: timedelta, own: bool = True):
        folder.mkdir()
        root_key, root = tls.make_root("root")
        key, good = tls.make_server(root_key, root, HOSTS)
        signer = root_key if own else tls.make_root("root")[0]
        builder = (
            x509.CertificateBuilder()
            .subject_name(good.subject)
            .issuer_name(good.issuer)
            .public_key(good.public_key())
            .serial_number(7)
            .not_valid_before(NOW + begins)
            .not_valid_after(NOW + ends)
        )
        for extension in good.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        tls.save_key(folder / "key", key)
        tls.save_certificate(folder / "crt", builder.sign(signer, hashes.SHA256()))
        self.ca = root.public_bytes(tls.serialization.Encoding.PEM).decode()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "crt", folder / "key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.fleet = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(100)


DAY = timedelta(days=1)
PERIODS = {
    "expired": ((-9 * DAY, -2 * DAY, True), (f"{(NOW - 2 * DAY).date()}", "tls renew")),
    "not yet valid": ((2 * DAY, 9 * DAY, True), (f"{(NOW + 2 * DAY).date()}", "by NTP")),
    "another's, and expired": ((-9 * DAY, -2 * DAY, False), ("cannot be trusted", "in between")),
    "another's": ((-DAY, DAY, False), ("cannot be trusted", "in between")),
}


@pytest.mark.parametrize("case", PERIODS)
def test_a_store_says_what_is_wrong_with_the_certificate(case, tmp_path):
    (begins, ends, own), (message, hint) = PERIODS[case]
    speaking = Speaking(tmp_path / "server", begins=begins, ends=ends, own=own)
    with raises("untrusted-server") as caught:
        handshake(speaking.fleet, speaking.ca)
    assert message in caught.value.message and hint in caught.value.hint
    assert ("in between" in caught.value.hint) is not own


def test_a_server_that_is_gone_when_it_is_looked_at_again_is_not_trusted(tmp_path):
    speaking = Speaking(tmp_path / "server", begins=-DAY, ends=DAY)
    error = untrusted("127.0.0.1:1", speaking.ca, "certificate has expired")
    assert "in between" in error.hint
