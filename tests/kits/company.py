"""A company's own certificate authority, and certificates of its shops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Company:
    """A root, and an authority below it that issues the shops' certificates."""

    def __init__(self, name: str = "Hansa AG") -> None:
        self._root_key, self._key = KEYS["ecdsa"](), KEYS["ecdsa"]()
        self.root = self._issue(_named(name), self._root_key, _named(name), self._root_key, ca=1)
        self._between = self._issue(
            _named(f"{name} shops"), self._key, self.root.subject, self._root_key, ca=0
        )

    def save_root(self, path: Path) -> Path:
        path.write_bytes(self.root.public_bytes(Encoding.PEM))
        return path

    def certify(
        self,
        folder: Path,
        *,
        dns: str = "luebeck.shops.example.org",
        common: str = "Shop 7",
        kind: str = "ecdsa",
        days: tuple[float, float] = (-1, 90),
        server: bool = False,
        password: bytes = b"",
    ) -> tuple[Path, Path]:
        """A shop's chain and key, as PEM files."""
        key = KEYS[kind]()
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = self._issue(
            _named(common), key, self._between.subject, self._key, days=days, names=(dns,), use=use
        )
        folder.mkdir(exist_ok=True)
        chain, private = folder / "shop.pem", folder / "shop.key"
        pems = [each.public_bytes(Encoding.PEM) for each in (certificate, self._between)]
        chain.write_bytes(b"".join(pems))
        locked = BestAvailableEncryption(password) if password else NoEncryption()
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        private.chmod(0o600)
        return chain, private

    def _issue(
        self,
        subject: x509.Name,
        key: Any,
        issuer: x509.Name,
        signer: Any,
        *,
        ca: int | None = None,
        days: tuple[float, float] = (-1, 900),
        names: tuple[str, ...] = (),
        use: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = dict.fromkeys(_USAGES, False)
        usage |= {"digital_signature": True} if ca is None else {"key_cert_sign": True}
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca is not None, path_length=ca), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if names:
            listed = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(listed, critical=False)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return builder.sign(signer, hashes.SHA256())
