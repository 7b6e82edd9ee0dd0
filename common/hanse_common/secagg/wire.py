"""The encoding of messages: envelope, signature, and lists of fixed-size fields.

Every message starts with `hnse`, a u16 version and a u8 kind; a store's message ends with its
Ed25519 signature over everything before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Self

from hanse_common.codec import Reader, Writer, digest
from hanse_common.errors import BadSignature, MalformedMessage, ProtocolError
from hanse_common.identity import StoreKey, verify
from hanse_common.secagg.terms import LARGEST_COHORT, VERSION

_MAGIC = b"hnse"

_SIGNATURE_LABEL = b"hanse/secagg/1/message"


class Message:
    """A message between a store and the coordinator."""

    kind: ClassVar[int]
    kinds: ClassVar[dict[int, type[Message]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Only classes that declare a kind are messages; `StoreMessage` is a base without one.
        if "kind" in cls.__dict__:
            Message.kinds[cls.kind] = cls

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        writer = Writer().raw(_MAGIC).u16(VERSION).u8(self.kind)
        self._write(writer)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a message of this kind.

        Raises:
            ProtocolError [unsupported-version]: It is of another protocol version.
            MalformedMessage: It is not a message of this kind in canonical form.
        """
        message = decode(data)
        if isinstance(message, cls):
            return message
        raise MalformedMessage(f"expected {cls.__name__}, got {type(message).__name__}")

    @abstractmethod
    def _write(self, writer: Writer) -> None: ...

    @classmethod
    @abstractmethod
    def _read(cls, reader: Reader) -> Self: ...


def decode(data: bytes) -> Message:
    """Read a message of any kind.

    Raises:
        ProtocolError [unsupported-version]: It is of another protocol version.
        MalformedMessage: It is not a message in canonical form.

    Guarantees:
        `decode(data).encode() == data` for every `data` that is accepted.
    """
    reader = Reader(data)
    if reader.raw(len(_MAGIC)) != _MAGIC:
        raise MalformedMessage("message does not start with 'hnse'")
    # Before the kind: another version may have other kinds, and deserves the clearer error.
    version = reader.u16()
    if version != VERSION:
        raise ProtocolError(
            f"message has protocol version {version}, this is version {VERSION}",
            code="unsupported-version",
            hint="upgrade the older of the two: `hanse server status` shows all versions",
        )
    kind = Message.kinds.get(reader.u8())
    if kind is None:
        raise MalformedMessage("message has an unknown kind")
    message = kind._read(reader)
    reader.end()
    return message


class StoreMessage(Message):
    """A message that a store signs."""

    store_id: str
    signature: bytes

    def sign(self, key: StoreKey) -> Self:
        """Return the message with the store's signature."""
        message: Any = self
        signed: Self = replace(message, signature=key.sign(_SIGNATURE_LABEL, self._signed()))
        return signed

    def check_signature(self, public_key: bytes) -> None:
        """Check the signature under the store's certified key.

        Raises:
            BadSignature: It does not verify.
        """
        try:
            verify(public_key, self.signature, _SIGNATURE_LABEL, self._signed())
        except BadSignature:
            raise BadSignature(
                f"{type(self).__name__} of {self.store_id!r} is not signed by its certified key",
                hint="it was altered on the way, or a key was replaced without enrolling it",
            ) from None

    def _signed(self) -> bytes:
        # The signature is the last field of every store's message and has no length in front.
        data = self.encode()
        return data[: len(data) - len(self.signature)]


def indices_digest(label: bytes, context: bytes, indices: tuple[int, ...]) -> bytes:
    """Return the digest of a list of roster indices, bound to a label and a context."""
    writer = Writer()
    write_indices(writer, indices)
    return digest(label, context, writer.finish())


def write_many(writer: Writer, values: tuple[bytes, ...]) -> None:
    """Append a counted list of values of one size."""
    writer.u32(len(values)).raw(b"".join(values))


def read_many(reader: Reader, size: int) -> tuple[bytes, ...]:
    """Read a counted list of values of `size` bytes."""
    return reader.many(partial(reader.raw, size), size=size, limit=LARGEST_COHORT)


def write_indices(writer: Writer, indices: tuple[int, ...]) -> None:
    """Append a list of roster indices."""
    writer.u32(len(indices))
    for index in indices:
        writer.u32(index)


def read_indices(reader: Reader) -> tuple[int, ...]:
    """Read a list of roster indices.

    Raises:
        MalformedMessage: It is not strictly increasing.
    """
    indices = reader.many(reader.u32, size=4, limit=LARGEST_COHORT)
    check_increasing(indices)
    return indices


def check_increasing(indices: Sequence[int]) -> None:
    """Check that roster indices are sorted and unique.

    Raises:
        MalformedMessage: They are not.
    """
    if any(second <= first for first, second in pairwise(indices)):
        raise MalformedMessage("a list of roster indices is not strictly increasing")
