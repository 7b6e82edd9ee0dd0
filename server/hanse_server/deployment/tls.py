"""Makes TLS roots and certificates for trials, and checks those of an operator.

A deployment has two server certificates. Stores check the gateway's against the root in their
invitation. The SuperLink listens on loopback, where only this machine's processes connect to
it; its certificate is from a root whose key is discarded after it has signed.
"""

from __future__ import annotations

import ipaddress
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse_common.durable import write_durably
from hanse_common.errors import DeploymentError

_CA_DAYS, SERVER_DAYS = 3650, 825
"""A root lasts as long as a federation; clients refuse server certificates beyond 825 days."""
_BACKDATED = timedelta(hours=1)  # for stores whose clock is behind
_RENEW = "`hanse server tls renew` issues the next one from the federation's own root"


def make_root(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a self-signed root: its key (ECDSA on P-256) and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(subject, subject, key.public_key(), datetime.now(UTC) + timedelta(days=_CA_DAYS))
        # No intermediate authorities: the root signs server certificates and nothing else.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def make_server(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    hosts: tuple[str, ...],
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    until: datetime | None = None,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a server's key and certificate.

    Args:
        root_key: The key that signs the certificate.
        root: The certificate of that key.
        hosts: Names or IP addresses for which the certificate is valid.
        key: The server's key; a new one if unset.
        until: When it expires (UTC); after 825 days if unset.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    until = until or datetime.now(UTC) + timedelta(days=SERVER_DAYS)
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    builder = (
        _builder(names, root.subject, key.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(h) for h in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
    )
    return key, builder.sign(root_key, hashes.SHA256())


def save_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key as PEM, readable by its owner only."""
    write_durably(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        mode=0o600,
    )


def save_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM."""
    write_durably(path, certificate.public_bytes(serialization.Encoding.PEM))


def check_server(certificate: Path, key: Path, ca: Path, host: str) -> None:
    """Check that stores will accept a server with these files under a host's name.

    It makes a TLS handshake in memory, as a store's node will over the network.

    Args:
        certificate: PEM file, the server's certificate first, then intermediate ones.
        key: PEM file of the private key, without a passphrase.
        ca: PEM file of the roots, as in the invitation.
        host: Name or IP address that stores connect to.

    Raises:
        DeploymentError [tls]: Stores would refuse it; the message names the file and the fault.
    """
    read_certificates(certificate)
    read_certificates(ca)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password, or OpenSSL would ask for one on the terminal.
        server.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise DeploymentError(
            f"{key} is not the private key of {certificate}: {error}",
            code="tls",
            hint="set fleet.certificate and fleet.key to a pair, the key without a passphrase",
        ) from error
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        client.load_verify_locations(ca)
        _shake_hands(server, client, host)
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"stores will refuse {certificate} for {host!r}, by the roots in {ca}: "
            f"{error.verify_message}",
            code="tls",
            hint=_RENEW
            if "expired" in error.verify_message
            else "it must be in date, name that host, and be issued by one of those roots; "
            "a new root needs a new invitation for stores",
        ) from error
    except ssl.SSLError as error:
        raise DeploymentError(
            f"no connection is possible with {certificate} and {key}: {error.reason}",
            code="tls",
            hint="use an ECDSA key on P-256, or RSA of 2048 bits or more",
        ) from error


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):  # TLS 1.3 needs two flights from each end; more do nothing
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read a PEM file of one or more certificates.

    Raises:
        DeploymentError [tls]: The file cannot be read, or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise DeploymentError(f"cannot read {path}: {error.strerror}", code="tls") from error
    except ValueError as error:
        raise DeploymentError(f"{path} is not a PEM certificate: {error}", code="tls") from error


def expires(path: Path) -> datetime:
    """The time (UTC) at which the first certificate of a PEM file expires.

    Raises:
        DeploymentError [tls]: The file cannot be read, or holds no certificate.
    """
    return read_certificates(path)[0].not_valid_after_utc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _BACKDATED)
        .not_valid_after(until)
    )


def _name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
