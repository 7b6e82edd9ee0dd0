"""A round log at one moment: how many records it has, and the root of the tree over them.

The coordinator signs it; a store that has checked that it goes on from what the store saw
before cosigns it.

>>> from hanse_common.identity import CoordinatorKey, StoreKey
>>> key, store = CoordinatorKey.generate(), StoreKey.generate()
>>> checkpoint = Checkpoint(log_key=key.public, size=2, root=bytes(32)).sign(key)
>>> Checkpoint.decode(checkpoint.encode()) == checkpoint
True
>>> checkpoint.check_signature()
>>> checkpoint.check_cosignature(checkpoint.cosign(store), store.public)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.errors import MalformedMessage, RoundLogError
from hanse_common.identity import KEY_SIZE, SIGNATURE_SIZE, CoordinatorKey, StoreKey, verify

VERSION = 1
_LABEL = b"hanse/checkpoint/1"
_COSIGNATURE_LABEL = b"hanse/cosignature/1"
_LINE = "hanse-checkpoint-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Size and root of a round log.

    Args:
        log_key: Ed25519 public key of the coordinator, which stands for the log.
        size: Records in the tree.
        root: As RFC 9162, section 2.1, with SHA-256.
        signature: By the log's key.
    """

    log_key: bytes
    size: int
    root: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    def payload(self) -> bytes:
        """Return the bytes that coordinator and stores sign."""
        return Writer().u16(VERSION).raw(self.log_key).u64(self.size).raw(self.root).finish()

    def encode(self) -> bytes:
        """Return the canonical encoding: the payload, then the signature."""
        return self.payload() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint:
        """Read a checkpoint; its signature is not checked.

        Raises:
            MalformedMessage: It is no checkpoint of this version in canonical form.
        """
        reader = Reader(data, "checkpoint")
        reader.expect(VERSION)
        checkpoint = cls(
            log_key=reader.raw(KEY_SIZE),
            size=reader.u64(),
            root=reader.raw(DIGEST_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        reader.end()
        return checkpoint

    def sign(self, key: CoordinatorKey) -> Checkpoint:
        """Return the checkpoint with the log key's signature."""
        return replace(self, signature=key.sign(_LABEL, self.payload()))

    def check_signature(self) -> None:
        """Check the coordinator's signature.

        Raises:
            BadSignature: It is not that of the log's key.
        """
        verify(self.log_key, self.signature, _LABEL, self.payload())

    def cosign(self, key: StoreKey) -> bytes:
        """Return a store's signature over the same bytes, 64 bytes."""
        return key.sign(_COSIGNATURE_LABEL, self.payload())

    def check_cosignature(self, cosignature: bytes, public_key: bytes) -> None:
        """Check a store's signature.

        Raises:
            BadSignature: It is not that key's.
        """
        verify(public_key, cosignature, _COSIGNATURE_LABEL, self.payload())

    def line(self) -> str:
        """Return the content of a checkpoint's file."""
        return f"{_LINE} {self.encode().hex()}\n"

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read a checkpoint's file; None if there is none.

        Raises:
            RoundLogError: It cannot be read, or is something else.
        """
        try:
            text = path.read_bytes().decode("ascii")
            kind, value = text.split()
            data = bytes.fromhex(value)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RoundLogError(f"cannot read {path}: {error.strerror}") from error
        except ValueError:
            raise RoundLogError(f"{path} is damaged") from None
        if kind != _LINE:
            raise RoundLogError(f"{path} is no checkpoint of a round log")
        try:
            checkpoint = cls.decode(data)
        except MalformedMessage as error:
            raise RoundLogError(f"{path} is damaged: {error.message}") from None
        if checkpoint.line() != text:
            raise RoundLogError(f"{path} is damaged: it is not as it was written")
        return checkpoint
