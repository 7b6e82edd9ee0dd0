"""Identities: Ed25519 keys, and the certificates by which the enrolment authority admits stores.

The authority's key is made once and stays offline, so that neither the coordinator nor an
operator of its machine can admit a store.

>>> authority = AuthorityKey.generate()
>>> store = StoreKey.generate()
>>> certificate = authority.certify(
...     "luebeck", store.public, valid_from=1_700_000_000, valid_until=1_800_000_000
... )
>>> certificate.check(authority.public, now=1_750_000_000)
>>> certificate.check(authority.public, now=1_900_000_000)
Traceback (most recent call last):
    ...
hanse_common.errors.ExpiredCertificate: certificate of 'luebeck' is valid until \
2027-01-15T08:00:00Z, now is 2030-03-17T17:46:40Z (ask the enrolment authority for a new one)
>>> store
StoreKey(public='...')
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from hanse_common.codec import Reader, Writer
from hanse_common.durable import write_durably, write_new
from hanse_common.errors import (
    BadSignature,
    ExpiredCertificate,
    KeyFileError,
    MalformedMessage,
    ProtocolError,
)

KEY_SIZE = 32
SIGNATURE_SIZE = 64
MAX_CERTIFICATE_SIZE = 512
_CERTIFICATE_VERSION = 1
NO_NODE_KEY = bytes(32)
"""The node key of a certificate that is not bound to a Flower node."""

_CERTIFICATE_LABEL = b"hanse/certificate/1"
_STORE_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def check_store_id(store_id: str) -> str:
    """Return `store_id` if it is 1 to 64 of `a-z 0-9 . _ -`, no punctuation at the ends.

    Raises:
        MalformedMessage: It is not.
    """
    if not _STORE_ID.fullmatch(store_id):
        raise MalformedMessage(
            f"store id {store_id!r} is not 1 to 64 of a-z 0-9 . _ - between letters or digits"
        )
    return store_id


def fingerprint(public_key: bytes) -> str:
    """Return SHA-256 of a public key in groups of four hexadecimal digits, to read aloud."""
    return hashlib.sha256(public_key).digest().hex(":", 2)


def verify(public_key: bytes, signature: bytes, label: bytes, payload: bytes) -> None:
    """Check an Ed25519 signature over a labelled payload.

    Raises:
        BadSignature: The signature is not that key's over that label and payload.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _signed(label, payload))
    except (InvalidSignature, ValueError):
        raise BadSignature(f"signature does not verify under {public_key.hex()[:16]}…") from None


def _signed(label: bytes, payload: bytes) -> bytes:
    # The label stands behind its length, so that no signature is valid for another purpose.
    return Writer().blob(label).raw(payload).finish()


class _SigningKey:
    """An Ed25519 private key that does not show in `repr` and cannot be pickled."""

    _kind = "key"

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> Self:
        """Make a new key from `entropy`, a cryptographic source of random bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(entropy(KEY_SIZE)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the key file at `path`.

        Raises:
            KeyFileError: The file is missing, readable by others, or not a key of this kind.
        """
        line = read_private(path).strip()
        # The kind is checked: a store must not run with the authority's key by a wrong path.
        kind, _, hexadecimal = line.partition(" ")
        try:
            seed = bytes.fromhex(hexadecimal)
        except ValueError:
            seed = b""
        if kind != f"hanse-{cls._kind}-1" or len(seed) != KEY_SIZE:
            raise KeyFileError(
                f"{path} is not a {cls._kind} file",
                hint=f"its one line begins with 'hanse-{cls._kind}-1'",
            )
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read.

        Raises:
            KeyFileError: The file exists already, or cannot be written.
        """
        save_private(path, f"hanse-{self._kind}-1 {self._private.private_bytes_raw().hex()}\n")

    def sign(self, label: bytes, payload: bytes) -> bytes:
        """Return the Ed25519 signature over `label` and `payload`, 64 bytes."""
        return self._private.sign(_signed(label, payload))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise KeyFileError(f"a {self._kind} is not pickled", hint="pass the path of its file")


class StoreKey(_SigningKey):
    """A store's long-lived identity."""

    _kind = "store-key"


class CoordinatorKey(_SigningKey):
    """The coordinator's key, which signs the checkpoints of its round log and nothing else."""

    _kind = "coordinator-key"


class AuthorityKey(_SigningKey):
    """The enrolment authority's offline key, which signs certificates and manifests."""

    _kind = "authority-key"

    def certify(
        self,
        store_id: str,
        public_key: bytes,
        *,
        valid_from: int,
        valid_until: int,
        node_key: bytes = NO_NODE_KEY,
    ) -> Certificate:
        """Admit a store.

        Args:
            store_id: 1 to 64 of `a-z 0-9 . _ -`.
            public_key: The store's Ed25519 public key, 32 bytes.
            valid_from: Unix seconds, inclusive.
            valid_until: Unix seconds, exclusive.
            node_key: SHA-256 of the store's Flower node public key, or `NO_NODE_KEY`.

        Raises:
            ProtocolError [bad-certificate]: The period is empty or a key is not 32 bytes.
        """
        if not 0 <= valid_from < valid_until:
            raise ProtocolError(
                f"valid_from={valid_from} is not before valid_until={valid_until}",
                code="bad-certificate",
            )
        if len(public_key) != KEY_SIZE or len(node_key) != KEY_SIZE:
            raise ProtocolError(
                f"keys are {KEY_SIZE} bytes: public_key has {len(public_key)}, "
                f"node_key {len(node_key)}",
                code="bad-certificate",
            )
        unsigned = Certificate(
            store_id=check_store_id(store_id),
            public_key=public_key,
            node_key=node_key,
            valid_from=valid_from,
            valid_until=valid_until,
            signature=b"",
        )
        signature = self.sign(_CERTIFICATE_LABEL, unsigned.payload())
        # Decoded once, so that a certificate which stores would refuse is never issued.
        return Certificate.decode(unsigned.payload() + signature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """The authority's signed statement that a public key belongs to a store, for a period.

    Args:
        store_id: The store's id.
        public_key: The store's Ed25519 public key, 32 bytes.
        node_key: SHA-256 of the store's Flower node public key, or `NO_NODE_KEY`.
        valid_from: Unix seconds, inclusive.
        valid_until: Unix seconds, exclusive.
        signature: The authority's signature, 64 bytes.
    """

    store_id: str
    public_key: bytes
    node_key: bytes
    valid_from: int
    valid_until: int
    signature: bytes

    def payload(self) -> bytes:
        """Return the bytes that the authority signs."""
        writer = Writer().u16(_CERTIFICATE_VERSION).text(self.store_id).raw(self.public_key)
        return writer.raw(self.node_key).u64(self.valid_from).u64(self.valid_until).finish()

    def encode(self) -> bytes:
        """Return the canonical encoding: the payload, then the signature."""
        return self.payload() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Read a certificate; its signature is not checked.

        Raises:
            ProtocolError [unsupported-version]: It is of another version.
            MalformedMessage: It is not a certificate in canonical form.
        """
        reader = Reader(data, "certificate")
        version = reader.u16()
        if version != _CERTIFICATE_VERSION:
            raise ProtocolError(
                f"certificate has version {version}, this is version {_CERTIFICATE_VERSION}",
                code="unsupported-version",
            )
        certificate = cls(
            store_id=check_store_id(reader.text()),
            public_key=reader.raw(KEY_SIZE),
            node_key=reader.raw(KEY_SIZE),
            valid_from=reader.u64(),
            valid_until=reader.u64(),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        reader.end()
        return certificate

    def check(self, authority: bytes, *, now: int) -> None:
        """Check the signature and the period of validity.

        Args:
            authority: The enrolment authority's public key, which the store pins.
            now: Unix seconds.

        Raises:
            ProtocolError [bad-certificate]: The signature is not that authority's.
            ExpiredCertificate: `now` is outside `[valid_from, valid_until)`.
        """
        try:
            verify(authority, self.signature, _CERTIFICATE_LABEL, self.payload())
        except BadSignature:
            raise ProtocolError(
                f"certificate of {self.store_id!r} is not signed by the enrolment authority "
                f"{fingerprint(authority)[:9]}…",
                code="bad-certificate",
                hint="enrol with this federation's authority, or correct the pinned key",
                culprits=(self.store_id,),
            ) from None
        if now < self.valid_from:
            raise ExpiredCertificate(
                f"certificate of {self.store_id!r} is valid from {_time(self.valid_from)}, "
                f"now is {_time(now)}",
                hint="check this machine's clock",
                culprits=(self.store_id,),
            )
        if now >= self.valid_until:
            raise ExpiredCertificate(
                f"certificate of {self.store_id!r} is valid until {_time(self.valid_until)}, "
                f"now is {_time(now)}",
                hint="ask the enrolment authority for a new one",
                culprits=(self.store_id,),
            )

    def save(self, path: Path) -> None:
        """Write the certificate, which is public, as one line of hexadecimal."""
        write_durably(path, f"hanse-certificate-1 {self.encode().hex()}\n")

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Read a certificate file.

        Raises:
            KeyFileError: The file is missing or not a certificate.
        """
        try:
            kind, _, hexadecimal = path.read_text(encoding="ascii").strip().partition(" ")
            data = bytes.fromhex(hexadecimal)
        except OSError as error:
            raise KeyFileError(
                f"cannot read {path}: {error.strerror}",
                hint="name the file that `hanse server admit` wrote",
            ) from error
        except ValueError:
            raise KeyFileError(f"{path} is not a certificate file") from None
        if kind != "hanse-certificate-1":
            raise KeyFileError(f"{path} is not a certificate file")
        return cls.decode(data)


def save_private(path: Path, text: str) -> None:
    """Write a secret to a new file that only its owner can read.

    Raises:
        KeyFileError: The file exists already, or cannot be written.
    """
    try:
        write_new(path, text.encode("ascii"))
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already", hint="a key is never overwritten: move it away first"
        ) from None
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


KEY_FAULTS = (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError)
"""What `cryptography` raises for a key or certificate that is none, or of a kind that it does not
know: TypeError where it has a passphrase, NotImplementedError for a compressed point."""


def read_private(path: Path) -> str:
    """Read a secret that only its owner can read.

    Raises:
        KeyFileError: The file is missing, open to others, or not text.
    """
    try:
        with path.open(encoding="ascii") as file:
            # The mode of the open file: the path may point to another one by the next call.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"{path} can be read by others (mode {mode:04o}, expected 0600)",
                    hint=f"chmod 600 {path}, and replace the key if others may have read it",
                )
            return file.read()
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not a key file") from None


def _time(seconds: int) -> str:
    # Times in certificates are u64; datetime ends with the year 9999.
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
