"""Invitations and requests: what comes back unchanged, and what is refused."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from hanse_common.admission import (
    CLOCK_SECONDS,
    REQUEST_SECONDS,
    Invitation,
    Request,
    node_key_digest,
    public_pem,
)
from hanse_common.identity import AuthorityKey, StoreKey, fingerprint
from kits.errors import raises

NOW = 1_800_000_000


def _node_pem(curve: ec.EllipticCurve | None = None) -> str:
    return public_pem(ec.generate_private_key(curve or ec.SECP384R1()).public_key())


@pytest.fixture
def root() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "root")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def invitation(root: str) -> Invitation:
    return Invitation(
        federation="baltic",
        authority=AuthorityKey.generate().public.hex(),
        fleet="hanse.example.org:9092",
        ca=root,
    )


@pytest.fixture
def request_file() -> Request:
    return Request.make("luebeck", StoreKey.generate(), node_key=_node_pem(), created=NOW)


def test_an_invitation_comes_back_as_it_was_written(invitation, tmp_path):
    invitation.save(tmp_path / "invitation.json")
    assert Invitation.load(tmp_path / "invitation.json") == invitation
    assert invitation.fingerprint == fingerprint(bytes.fromhex(invitation.authority))


@pytest.mark.parametrize("fleet", ["10.0.0.1:443", "[::1]:9092", "a:1", "store-1.lan:65535"])
def test_addresses_that_are_good(invitation, fleet):
    table = json.loads(invitation.encode()) | {"fleet": fleet}
    assert Invitation.decode(json.dumps(table).encode()).fleet == fleet


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fleet": "hanse.example.org"}, "expected host:port"),
        ({"fleet": "https://hanse.example.org:443"}, "expected host:port"),
        ({"fleet": "host:0"}, "expected host:port"),
        ({"fleet": "host:65536"}, "expected host:port"),
        ({"fleet": "host:٣"}, "expected host:port"),
        ({"fleet": "-option:9092"}, "expected host:port"),
        ({"authority": "ab"}, "authority"),
        ({"authority": None}, "authority"),
        ({"federation": ""}, "federation"),
        ({"ca": "nothing"}, "not a PEM certificate"),
        ({"ca": ""}, "not a PEM certificate"),
        ({"version": 2}, "version"),
        ({"extra": 1}, "unknown setting 'extra'"),
    ],
)
def test_an_invitation_with_a_bad_field_is_refused_by_name(invitation, change, reason):
    table = json.loads(invitation.encode()) | change
    with raises("bad-invitation", match=reason):
        Invitation.decode(json.dumps(table).encode())


def test_an_invitation_never_carries_a_private_key(invitation, root):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    table = json.loads(invitation.encode()) | {"ca": root + pem}
    with raises("bad-invitation") as refusal:
        Invitation.decode(json.dumps(table).encode())
    assert "BEGIN" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"1", b"[" * 70_000, b"x" * 70_000])
def test_other_bytes_are_neither_invitation_nor_request(data):
    with raises("bad-invitation"):
        Invitation.decode(data)
    with raises("bad-enrolment-request"):
        Request.decode(data)


def test_a_missing_file_is_named(tmp_path):
    with raises("bad-invitation", match=r"invitation\.json"):
        Invitation.load(tmp_path / "invitation.json")
    with raises("bad-enrolment-request", match=r"a\.request"):
        Request.load(tmp_path / "a.request")


def test_a_request_comes_back_as_it_was_written(request_file, tmp_path):
    request_file.save(tmp_path / request_file.file_name)
    again = Request.load(tmp_path / "luebeck.request")
    assert again == request_file
    again.check()
    again.check(now=NOW)


def test_the_digest_of_a_node_key_is_of_its_der(request_file):
    der = load_pem_public_key(request_file.node_key.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert request_file.node_digest == hashlib.sha256(der).digest()
    assert node_key_digest(request_file.node_key.replace("\n", "\r\n")) == request_file.node_digest


@pytest.mark.parametrize(
    "change",
    [
        {"store": "rostock"},
        {"public_key": StoreKey.generate().public.hex()},
        {"node_key": _node_pem()},
        {"created": NOW + 1},
        {"signature": "00" * 64},
    ],
)
def test_an_altered_request_is_refused(request_file, change):
    table = json.loads(request_file.encode()) | change
    with raises("bad-enrolment-request", match="not signed"):
        Request.decode(json.dumps(table).encode()).check()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"store": "../etc"}, "store id"),
        ({"store": "Lübeck"}, "store id"),
        ({"public_key": "AB" * 32}, "public_key"),
        ({"public_key": "ab" * 31}, "public_key"),
        ({"signature": "ab"}, "signature"),
        ({"created": -1}, "created"),
        ({"created": "soon"}, "created"),
        ({"version": 2}, "version"),
        ({"extra": 1}, "unknown setting 'extra'"),
        ({"node_key": "nothing"}, "node_key is not a public key"),
        ({"node_key": _node_pem(ec.SECP256K1())}, "node_key is not a public key"),
        ({"node_key": _node_pem(ec.SECP224R1())}, "node_key is not a public key"),
    ],
)
def test_a_request_with_a_bad_field_is_refused_by_name(request_file, change, reason):
    table = json.loads(request_file.encode()) | change
    with raises("bad-enrolment-request", match=reason):
        Request.decode(json.dumps(table).encode())


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
)
def test_a_node_key_is_elliptic(key):
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with raises("bad-enrolment-request", match="NIST curve"):
        Request.make("luebeck", StoreKey.generate(), node_key=pem, created=NOW)


def test_a_request_names_a_store_as_certificates_do():
    with raises("malformed-message", match="store id"):
        Request.make("No Store", StoreKey.generate(), node_key=_node_pem(), created=NOW)


@pytest.mark.parametrize(
    ("now", "reason"),
    [(NOW + REQUEST_SECONDS + 1, "30 days old"), (NOW - CLOCK_SECONDS - 1, "in the future")],
)
def test_a_request_of_another_time_is_refused(request_file, now, reason):
    with raises("bad-enrolment-request", match=reason):
        request_file.check(now=now)


def test_a_request_may_wait_and_clocks_may_differ(request_file):
    request_file.check(now=NOW + REQUEST_SECONDS)
    request_file.check(now=NOW - CLOCK_SECONDS)


def test_a_request_holds_no_secret(tmp_path):
    key = StoreKey.generate()
    key.save(tmp_path / "store.key")
    secret = (tmp_path / "store.key").read_text().split()[1]
    request = Request.make("luebeck", key, node_key=_node_pem(), created=NOW)
    assert secret.encode() not in request.encode()
    assert b"PRIVATE" not in request.encode()
