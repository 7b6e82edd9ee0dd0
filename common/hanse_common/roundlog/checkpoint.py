"""Checkpoints of a round log: its size and Merkle root at one moment, signed.

The coordinator signs a checkpoint. A store cosigns it after checking that it continues the
last checkpoint that the store saw.

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
        log_key: Ed25519 public key of the coordinator, which identifies the log.
        size: Number of records in the tree.
        root: Merkle tree hash of RFC 9162, section 2.1, with SHA-256.
        signature: Signature by the log's key, 64 bytes.
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
            MalformedMessage: It is not a checkpoint of this version in canonical form.
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
            BadSignature: It is not a signature by the log's key.
        """
        verify(self.log_key, self.signature, _LABEL, self.payload())

    def cosign(self, key: StoreKey) -> bytes:
        """Return a store's signature over the same bytes, 64 bytes."""
        # A label of its own: a cosignature never passes for the coordinator's signature.
        return key.sign(_COSIGNATURE_LABEL, self.payload())

    def check_cosignature(self, cosignature: bytes, public_key: bytes) -> None:
        """Check a store's signature.

        Raises:
            BadSignature: It is not a signature by that key.
        """
        verify(public_key, cosignature, _COSIGNATURE_LABEL, self.payload())

    def line(self) -> str:
        """Return the content of a checkpoint's file."""
        return f"{_LINE} {self.encode().hex()}\n"

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read a checkpoint's file; None if there is none.

        Raises:
            RoundLogError: It cannot be read, or is not a checkpoint's file.
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
            raise RoundLogError(f"{path} is not a checkpoint of a round log")
        try:
            checkpoint = cls.decode(data)
        except MalformedMessage as error:
            raise RoundLogError(f"{path} is damaged: {error.message}") from None
        # `split` and `fromhex` accept other spacing and upper case; one content has one form.
        if checkpoint.line() != text:
            raise RoundLogError(f"{path} is damaged: it is not as it was written")
        return checkpoint
