"""An X.509 certificate of a company's own authority, by which a store proves who it is.

A store that has such a certificate signs its request with the certificate's key as well. The
enrolment authority checks the chain up to the company's roots, and need not compare fingerprints
by phone. The proof says who asks; in the protocol the store has its own key all the same, which
the authority certifies.

The store's name has to stand in the certificate: as a DNS name, or the first label of one, or as
the common name. Chains are checked as in RFC 5280, by the verifier of `cryptography`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from hanse_common.codec import Writer
from hanse_common.errors import KeyFileError, ProtocolError
from hanse_common.identity import KEY_FAULTS, read_private

_LABEL = b"hanse/company-certificate/1"
_MOST_CERTIFICATES = 5
_LEAST_RSA_BITS = 2048
_CODE = "bad-enrolment-request"

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, kw_only=True, slots=True)
class CompanyProof:
    """A certificate chain, and a signature by the key of its first certificate.

    Args:
        chain: The store's certificate, then those that issued it, without the root.
        signature: By the certificate's key, over the request.
    """

    chain: tuple[x509.Certificate, ...]
    signature: bytes

    @classmethod
    def sign(cls, chain: Path, key: Path, request: bytes) -> CompanyProof:
        """Sign a request.

        Args:
            chain: PEM file of the certificates.
            key: PEM file of the first one's private key, 0600 and without a passphrase.
            request: The bytes that the store's own key signs too.

        Raises:
            KeyFileError: A file cannot be read, or the key is not that of the certificate.
        """
        try:
            certificates = read_chain(chain.read_text(encoding="ascii"))
        except OSError as error:
            raise KeyFileError(f"cannot read {chain}: {error.strerror}") from error
        except ValueError as error:
            raise KeyFileError(f"{chain} {error}") from None
        private = _private_key(key)
        if private.public_key() != certificates[0].public_key():
            raise KeyFileError(
                f"{key} is not the private key of the first certificate in {chain}",
                hint="the store's own certificate comes first in the file",
            )
        return cls(chain=certificates, signature=_sign(private, _signed(request)))

    @property
    def pem(self) -> str:
        """The chain as PEM."""
        return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in self.chain)

    @property
    def ends(self) -> int:
        """When the store's certificate ends, in Unix seconds."""
        return int(self.chain[0].not_valid_after_utc.timestamp())

    def check(
        self, request: bytes, *, store_id: str, roots: Sequence[x509.Certificate], now: int
    ) -> str:
        """Check that a company vouches for the store that made a request.

        Args:
            request: The bytes that were signed.
            store_id: The id that the store asks for.
            roots: The company's root certificates.
            now: Unix seconds.

        Returns:
            The certificate's subject, for people.

        Raises:
            ProtocolError [bad-enrolment-request]: The signature, the chain, its period or the
                name is wrong.
        """
        certificate = self.chain[0]
        _verify(certificate.public_key(), self.signature, _signed(request), store_id)
        moment = datetime.fromtimestamp(now, UTC)
        verifier = PolicyBuilder().store(Store(list(roots))).time(moment).build_client_verifier()
        try:
            verifier.verify(certificate, list(self.chain[1:]))
        except (VerificationError, ValueError, x509.UnsupportedGeneralNameType) as error:
            raise _refused(
                store_id,
                f"is not of the company's authority: {str(error)[:200]!a}",
                "send the chain without the root, of a certificate for TLS clients that is in date",
            ) from None
        names = _names(certificate)
        if not any(name == store_id or name.startswith(f"{store_id}.") for name in names):
            raise _refused(
                store_id,
                f"names {', '.join(sorted(names)) or 'nobody'}, not this store",
                "the store's id is to be its common name, a DNS name, or the first label of one",
            )
        return certificate.subject.rfc4514_string() or ", ".join(sorted(names))


def read_chain(pem: str) -> tuple[x509.Certificate, ...]:
    """Read a chain of certificates.

    Raises:
        ValueError: The text holds none, too many, or a private key.
    """
    if "PRIVATE KEY" in pem:
        raise ValueError("holds a private key, which must never be passed on")
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem.encode("ascii")))
        for certificate in chain:
            certificate.public_key()
    except KEY_FAULTS:
        raise ValueError("is not a chain of PEM certificates") from None
    if len(chain) > _MOST_CERTIFICATES:
        raise ValueError(f"holds {len(chain)} certificates, at most {_MOST_CERTIFICATES}")
    return chain


def _signed(request: bytes) -> bytes:
    # The label stands behind its length, so that the signature is valid for nothing else.
    return Writer().blob(_LABEL).raw(request).finish()


def _private_key(path: Path) -> _PrivateKey:
    try:
        key = load_pem_private_key(read_private(path).encode("ascii"), None)
    except KEY_FAULTS:
        key = None
    if not isinstance(key, _PrivateKey):
        raise KeyFileError(
            f"{path} is not an ECDSA, RSA or Ed25519 key without a passphrase",
            hint="`openssl pkey -in KEY -out FILE` removes a passphrase; chmod 600 FILE",
        )
    return key


def _sign(key: _PrivateKey, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _pss(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _verify(key: object, signature: bytes, message: bytes, store_id: str) -> None:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
            key.verify(signature, message, _pss(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        else:
            raise _refused(store_id, "has a key of another kind", "use ECDSA, RSA 2048 or Ed25519")
    except InvalidSignature:
        raise _refused(
            store_id,
            "has not signed this request",
            "ask the store for the file as `hanse store enrol` wrote it",
        ) from None


def _pss() -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)


def _names(certificate: x509.Certificate) -> set[str]:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = {str(attribute.value) for attribute in common}
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return names
    return names | set(listed.value.get_values_for_type(x509.DNSName))


def _refused(store_id: str, reason: str, hint: str) -> ProtocolError:
    return ProtocolError(
        f"the company certificate in the request of {store_id!r} {reason}",
        code=_CODE,
        hint=hint,
        culprits=(store_id,),
    )
