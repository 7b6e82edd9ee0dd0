"""Admission of a store: the invitation that it receives and the request that it returns.

The invitation is public and not signed: the store's operator compares the authority's
fingerprint with the authority by phone. The request holds the public keys of the store and of
its node, signed by the store's key; private keys never leave the store. The authority answers
with a `Certificate`, and later with the signed manifest.

>>> from cryptography.hazmat.primitives.asymmetric import ec
>>> from hanse_common.identity import StoreKey
>>> node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
>>> request = Request.make("luebeck", StoreKey.generate(), node_key=node, created=1_800_000_000)
>>> request.file_name
'luebeck.request'
>>> Request.decode(request.encode()).check(now=1_800_000_060)
>>> Request.decode(request.encode().replace(b"luebeck", b"rostock")).check()
Traceback (most recent call last):
    ...
hanse_common.errors.ProtocolError: request of 'rostock' is not signed by the key in it \
(ask the store for the file as `hanse store enrol` wrote it)
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from pydantic import Field, StringConstraints, field_validator

from hanse_common.addresses import split_address
from hanse_common.codec import Writer
from hanse_common.company_certificate import CompanyProof, read_chain
from hanse_common.durable import write_durably
from hanse_common.errors import BadSignature, ConfigError, MalformedMessage, ProtocolError
from hanse_common.identity import (
    KEY_FAULTS,
    KEY_SIZE,
    SIGNATURE_SIZE,
    StoreKey,
    check_store_id,
    fingerprint,
    verify,
)
from hanse_common.manifest import Hex32
from hanse_common.paths import REQUEST_SUFFIX
from hanse_common.settings_files import Settings, parse_settings

_REQUEST_VERSION = 1
REQUEST_SECONDS = 30 * 86_400
"""Longest age of a request, in seconds."""
CLOCK_SECONDS = 3_600
"""Seconds by which a store's clock may be ahead of the authority's."""
_LARGEST_FILE = 64 * 1024
"""Most bytes of an invitation or a request; larger files are refused before they are parsed."""

_REQUEST_LABEL = b"hanse/request/1"
_REFUSED_REQUEST = "ask the store for the file as `hanse store enrol` wrote it"
_REFUSED_INVITATION = "ask the coordinator for invitation.json as `hanse server init` wrote it"


class Invitation(Settings):
    """Address and authority of a federation; public, and not signed."""

    version: Literal[1] = 1
    federation: str = Field(min_length=1, max_length=128)
    authority: Hex32
    """Public key of the enrolment authority; compare its fingerprint by phone."""
    fleet: Annotated[str, StringConstraints(max_length=270)]
    """`host:port` that stores connect to."""
    ca: Annotated[str, StringConstraints(max_length=_LARGEST_FILE)]
    """PEM root certificates that the coordinator's TLS certificate is checked against."""

    @field_validator("fleet")
    @classmethod
    def _host_and_port(cls, fleet: str) -> str:
        split_address(fleet)
        return fleet

    @field_validator("ca")
    @classmethod
    def _certificates(cls, ca: str) -> str:
        if "PRIVATE KEY" in ca:
            raise ValueError("it holds a private key, which must never be passed on")
        try:
            roots = x509.load_pem_x509_certificates(ca.encode("ascii"))
        except KEY_FAULTS:
            raise ValueError("it is not a PEM certificate") from None
        # Encoding the certificates again drops any other text that the file holds.
        return "".join(root.public_bytes(Encoding.PEM).decode("ascii") for root in roots)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the authority's key, to compare by phone."""
        return fingerprint(bytes.fromhex(self.authority))

    def encode(self) -> bytes:
        """Return the file's bytes: readable JSON."""
        return _readable(self.model_dump(mode="json"))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an invitation file's bytes.

        Raises:
            ProtocolError [bad-invitation]: The bytes are not an invitation.
        """
        try:
            return parse_settings(cls, _table(data))
        except ConfigError as error:
            # Without its value: a certificate would fill the screen.
            what = error.message.split("=", 1)[0] if "BEGIN" in error.message else error.message
            raise ProtocolError(
                f"invitation: {what}", code="bad-invitation", hint=_REFUSED_INVITATION
            ) from None
        except ValueError as error:
            raise ProtocolError(
                f"invitation {error}", code="bad-invitation", hint=_REFUSED_INVITATION
            ) from None

    def save(self, path: Path) -> None:
        """Write the invitation file; it is public."""
        write_durably(path, self.encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an invitation file.

        Raises:
            ProtocolError [bad-invitation]: It cannot be read, or is not an invitation.
        """
        try:
            return cls.decode(path.read_bytes())
        except OSError as error:
            raise ProtocolError(
                f"cannot read {path}: {error.strerror}",
                code="bad-invitation",
                hint="name the invitation.json that the coordinator handed out",
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A store's request to be admitted: its id, its own and its node's public key.

    Args:
        store_id: The id that the store wants.
        public_key: Its Ed25519 key, 32 bytes.
        node_key: Its Flower node's public key, PEM, on a NIST curve.
        created: Unix seconds, by the store's clock.
        signature: Ed25519 signature over the fields above, by `public_key`.
        company: A proof by an X.509 certificate of the store's company, if it has one.
    """

    store_id: str
    public_key: bytes
    node_key: str
    created: int
    signature: bytes
    company: CompanyProof | None = None

    @classmethod
    def make(
        cls,
        store_id: str,
        key: StoreKey,
        *,
        node_key: str,
        created: int,
        certificate: tuple[Path, Path] | None = None,
    ) -> Request:
        """Create and sign a request.

        Args:
            store_id: The id that the store wants.
            key: The store's key.
            node_key: Its Flower node's public key, PEM.
            created: Unix seconds.
            certificate: PEM files of a company's certificate and its key, which sign it too.

        Raises:
            KeyFileError: The certificate or its key cannot be used.
            ProtocolError [bad-enrolment-request]: Flower's authentication does not support the
                node's key.
            MalformedMessage: The store id is malformed.
        """
        unsigned = cls(
            store_id=check_store_id(store_id),
            public_key=key.public,
            node_key=public_pem(_node_key(node_key)),
            created=created,
            signature=b"",
        )
        company = None
        if certificate is not None:
            company = CompanyProof.sign(*certificate, unsigned.payload())
        signature = key.sign(_REQUEST_LABEL, unsigned.payload())
        # Decoded again, so that a request is never written that the authority would refuse.
        return cls.decode(replace(unsigned, signature=signature, company=company).encode())

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the store's key, to compare by phone before it is certified."""
        return fingerprint(self.public_key)

    @property
    def node_digest(self) -> bytes:
        """The digest that a certificate holds as `node_key`."""
        return node_key_digest(self.node_key)

    @property
    def file_name(self) -> str:
        """Name of the request's file."""
        return self.store_id + REQUEST_SUFFIX

    def payload(self) -> bytes:
        """Return the bytes that the store signs."""
        # The key is signed as DER: PEM text has many spellings of one key.
        writer = Writer().u16(_REQUEST_VERSION).text(self.store_id).raw(self.public_key)
        return writer.blob(_der(self.node_key)).u64(self.created).finish()

    def check(self, *, now: int | None = None) -> None:
        """Check that the sender holds the private key of the store key in the request.

        Args:
            now: Unix seconds; if given, requests that are too old or dated in the future are
                refused too.

        Raises:
            ProtocolError [bad-enrolment-request]: The signature is not by `public_key`, or
                `created` is out of range.

        Edge cases:
            A valid signature does not identify the sender: compare the fingerprint.
        """
        try:
            verify(self.public_key, self.signature, _REQUEST_LABEL, self.payload())
        except BadSignature:
            raise ProtocolError(
                f"request of {self.store_id!r} is not signed by the key in it",
                code="bad-enrolment-request",
                hint=_REFUSED_REQUEST,
                culprits=(self.store_id,),
            ) from None
        if now is None:
            return
        age = now - self.created
        if age > REQUEST_SECONDS:
            raise ProtocolError(
                f"request of {self.store_id!r} is {age // 86_400} days old, at most "
                f"{REQUEST_SECONDS // 86_400}",
                code="bad-enrolment-request",
                hint="ask the store to run `hanse store enrol` again",
                culprits=(self.store_id,),
            )
        if age < -CLOCK_SECONDS:
            raise ProtocolError(
                f"request of {self.store_id!r} was made {-age} s in the future",
                code="bad-enrolment-request",
                hint="check the clocks of both machines",
                culprits=(self.store_id,),
            )

    def encode(self) -> bytes:
        """Return the file's bytes: readable JSON."""
        table: dict[str, Any] = {
            "version": _REQUEST_VERSION,
            "store": self.store_id,
            "public_key": self.public_key.hex(),
            "node_key": self.node_key,
            "created": self.created,
            "signature": self.signature.hex(),
        }
        if self.company is not None:
            proof = {"certificates": self.company.pem, "signature": self.company.signature.hex()}
            table["company"] = proof
        return _readable(table)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read a request file's bytes; `check` verifies the signature.

        Raises:
            ProtocolError [bad-enrolment-request]: The bytes are not a request.
        """
        try:
            table = parse_settings(_RequestFile, _table(data))
            return cls(
                store_id=check_store_id(table.store),
                public_key=_raw(table.public_key, KEY_SIZE, "public_key"),
                node_key=public_pem(_node_key(table.node_key)),
                created=table.created,
                signature=_raw(table.signature, SIGNATURE_SIZE, "signature"),
                company=None if table.company is None else table.company.proof(),
            )
        except (ConfigError, MalformedMessage) as error:
            raise ProtocolError(
                f"request: {error.message}", code="bad-enrolment-request", hint=_REFUSED_REQUEST
            ) from None
        except ValueError as error:
            raise ProtocolError(
                f"request {error}", code="bad-enrolment-request", hint=_REFUSED_REQUEST
            ) from None

    def save(self, path: Path) -> None:
        """Write the request file; it is public."""
        write_durably(path, self.encode())

    @classmethod
    def load(cls, path: Path) -> Request:
        """Read a request file; `check` verifies the signature.

        Raises:
            ProtocolError [bad-enrolment-request]: It cannot be read, or is not a request.
        """
        try:
            return cls.decode(path.read_bytes())
        except OSError as error:
            raise ProtocolError(
                f"cannot read {path}: {error.strerror}",
                code="bad-enrolment-request",
                hint="name the file that `hanse store enrol` wrote at the store",
            ) from error


class _CompanyTable(Settings):
    """The proof by a company's certificate in a request's file."""

    certificates: Annotated[str, StringConstraints(max_length=_LARGEST_FILE)]
    signature: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,1024}$")]

    def proof(self) -> CompanyProof:
        """Return the proof, which is not checked.

        Raises:
            ValueError: The certificates cannot be read.
        """
        chain = read_chain(self.certificates)
        return CompanyProof(chain=chain, signature=bytes.fromhex(self.signature))


class _RequestFile(Settings):
    """The fields of a request's file."""

    version: Literal[1]
    store: str
    public_key: str
    node_key: Annotated[str, StringConstraints(max_length=2048)]
    created: int = Field(ge=0, lt=2**63)
    signature: str
    company: _CompanyTable | None = None


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return a node's public key as Flower sends it: PEM, SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def node_key_digest(pem: str) -> bytes:
    """Return the SHA-256 of a node's public key (DER, SubjectPublicKeyInfo), as certificates do.

    Raises:
        ProtocolError [bad-enrolment-request]: Flower's authentication does not support the key.
    """
    return hashlib.sha256(_der(pem)).digest()


def _der(pem: str) -> bytes:
    return _node_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _node_key(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except KEY_FAULTS:
        key = None
    # Flower also accepts P-192 and P-224, which have less than 128 bits of security.
    curves = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curves):
        raise ProtocolError(
            "node_key is not a public key on a NIST curve of at least 256 bits in PEM",
            code="bad-enrolment-request",
            hint=_REFUSED_REQUEST,
        )
    return key


def _raw(text: str, size: int, name: str) -> bytes:
    if not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise ValueError(f"has a {name} that is not {size} bytes in lower-case hexadecimal")
    return bytes.fromhex(text)


def _readable(table: dict[str, Any]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()


def _table(data: bytes) -> dict[str, Any]:
    if len(data) > _LARGEST_FILE:
        raise ValueError(f"has {len(data)} bytes, at most {_LARGEST_FILE}")
    try:
        table: Any = json.loads(data)
    except (ValueError, RecursionError):
        table = None
    if isinstance(table, dict):
        return table
    raise ValueError("is not a JSON object")
