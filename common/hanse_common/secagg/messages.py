"""The messages of secure aggregation, each with one canonical encoding.

Every message starts with `hnse`, a u16 version and a u8 kind; a store's message ends with its
Ed25519 signature over everything before it. Decoders refuse all other bytes with a
`ProtocolError`. `docs/protocol.md` has the byte tables; `tests/vectors` the golden bytes.

>>> message = Survivors(header_digest=bytes(32), roster_digest=bytes(32), survivors=(0, 2))
>>> decode(message.encode()) == message
True
>>> decode(b"hnse")
Traceback (most recent call last):
    ...
hanse_common.errors.MalformedMessage: message ends at byte 4, expected 2 bytes at byte 4
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.errors import ProtocolError
from hanse_common.identity import (
    MAX_CERTIFICATE_SIZE,
    SIGNATURE_SIZE,
    Certificate,
    check_store_id,
)
from hanse_common.secagg.keys import KEY_SIZE, NONCE_SIZE, TAG_SIZE
from hanse_common.secagg.layout import MAX_LENGTH
from hanse_common.secagg.masking import Words
from hanse_common.secagg.refusal import Accusation, Refusal
from hanse_common.secagg.shamir import SHARE_SIZE, check_share
from hanse_common.secagg.terms import HEADER_SIZE, LARGEST_COHORT, Header
from hanse_common.secagg.wire import (
    Message,
    StoreMessage,
    decode,
    read_indices,
    read_many,
    write_indices,
    write_many,
)

__all__ = [
    "Accusation",
    "Confirmation",
    "Delivery",
    "Hello",
    "MaskedVector",
    "Message",
    "Refusal",
    "Roster",
    "ShareBundle",
    "StoreMessage",
    "Survivors",
    "UnmaskRequest",
    "Unmasking",
    "decode",
]

SEALED_SIZE = NONCE_SIZE + 2 * SHARE_SIZE + TAG_SIZE
DIGESTS_SIZE = 2 * DIGEST_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello(StoreMessage):
    """Stage 0, from a store: its fresh keys and the commitment to its seed b.

    `possession` proves that the store holds its share key; see `keys.ShareKey`.
    """

    kind: ClassVar[int] = 1
    header: Header
    certificate: Certificate
    mask_public: bytes
    share_public: bytes
    possession: bytes
    commitment: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    @property
    def store_id(self) -> str:  # type: ignore[override]
        """Return the id in the certificate."""
        return self.certificate.store_id

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header.encode()).blob(self.certificate.encode())
        writer.raw(self.mask_public).raw(self.share_public).raw(self.possession)
        writer.raw(self.commitment).raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header=Header.decode(reader.raw(HEADER_SIZE)),
            certificate=Certificate.decode(reader.blob(MAX_CERTIFICATE_SIZE)),
            mask_public=reader.raw(KEY_SIZE),
            share_public=reader.raw(KEY_SIZE),
            possession=reader.raw(SIGNATURE_SIZE),
            commitment=reader.raw(DIGEST_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster(Message):
    """Stage 1, to all stores: every Hello, sorted by store id."""

    kind: ClassVar[int] = 2
    header_digest: bytes
    hellos: tuple[Hello, ...]

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).u32(len(self.hellos))
        for hello in self.hellos:
            writer.blob(hello.encode())

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        def hello() -> Hello:
            # A Hello with the largest certificate (512 bytes) takes 826.
            return Hello.decode(reader.blob(2048))

        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            hellos=reader.many(hello, size=4, limit=LARGEST_COHORT),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareBundle(StoreMessage):
    """Stage 1, from a store: encrypted shares for every other store, digests of all shares.

    `sealed` is in roster order without the sender. `vouched` has the sender's signature over
    each sealed share; the holder receives both, and can distinguish a share that was dealt
    wrongly from one that was altered on the way. `digests` is in roster order with the sender;
    each element is the digest of the mask-key share, then that of the seed share.
    """

    kind: ClassVar[int] = 3
    header_digest: bytes
    roster_digest: bytes
    store_id: str
    sealed: tuple[bytes, ...]
    vouched: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    signature: bytes = bytes(SIGNATURE_SIZE)

    def part(self, dealer: int, holder: int) -> tuple[bytes, bytes, bytes]:
        """Return the part of the bundle that belongs to one holder.

        Args:
            dealer: Roster index of the sender.
            holder: Roster index of another store.

        Returns:
            The sealed share, the sender's signature over it, and the digests.
        """
        # The lists of sealed shares and signatures skip the sender; the digests do not.
        place = holder - (dealer < holder)
        return self.sealed[place], self.vouched[place], self.digests[holder]

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest).text(self.store_id)
        write_many(writer, self.sealed)
        write_many(writer, self.vouched)
        write_many(writer, self.digests)
        writer.raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            store_id=check_store_id(reader.text()),
            sealed=read_many(reader, SEALED_SIZE),
            vouched=read_many(reader, SIGNATURE_SIZE),
            digests=read_many(reader, DIGESTS_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery(Message):
    """Stage 2, to one store: the sharers U2, and the shares that the others sealed for it."""

    kind: ClassVar[int] = 4
    header_digest: bytes
    roster_digest: bytes
    sharers: tuple[int, ...]
    sealed: tuple[bytes, ...]
    vouched: tuple[bytes, ...]
    digests: tuple[bytes, ...]

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest)
        write_indices(writer, self.sharers)
        write_many(writer, self.sealed)
        write_many(writer, self.vouched)
        write_many(writer, self.digests)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            sharers=read_indices(reader),
            sealed=read_many(reader, SEALED_SIZE),
            vouched=read_many(reader, SIGNATURE_SIZE),
            digests=read_many(reader, DIGESTS_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedVector(StoreMessage):
    """Stage 2, from a store: the masked vector; `body` is little-endian 32-bit words."""

    kind: ClassVar[int] = 5
    header_digest: bytes
    roster_digest: bytes
    store_id: str
    body: bytes | memoryview = field(repr=False)
    signature: bytes = bytes(SIGNATURE_SIZE)

    def words(self, length: int) -> Words:
        """Return the body as words, read-only.

        Raises:
            ProtocolError [bad-vector]: It does not hold exactly `length` words.
        """
        if len(self.body) != 4 * length:
            raise ProtocolError(
                f"vector of {self.store_id!r} has {len(self.body)} bytes, "
                f"expected {4 * length} for {length} words of 32 bits",
                code="bad-vector",
                culprits=(self.store_id,),
            )
        words: Words = np.frombuffer(self.body, "<u4")
        return words

    def _signed(self) -> bytes:
        # Ed25519 reads the message twice; signing the digest of a body of megabytes saves that.
        short = replace(self, body=hashlib.sha256(self.body).digest())
        return StoreMessage._signed(short)

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest).text(self.store_id)
        writer.blob(self.body).raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            store_id=check_store_id(reader.text()),
            # Not copied: uploads of a whole cohort would take twice their size.
            body=reader.view(4 * MAX_LENGTH),
            signature=reader.raw(SIGNATURE_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Survivors(Message):
    """Stage 3, to all survivors: U3, the stores whose vectors are in the sum."""

    kind: ClassVar[int] = 6
    header_digest: bytes
    roster_digest: bytes
    survivors: tuple[int, ...]

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest)
        write_indices(writer, self.survivors)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            survivors=read_indices(reader),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation(StoreMessage):
    """Stage 3, from a store: its only signature over roster, U2 and U3, as digests."""

    kind: ClassVar[int] = 7
    header_digest: bytes
    roster_digest: bytes
    sharers_digest: bytes
    survivors_digest: bytes
    store_id: str
    signature: bytes = bytes(SIGNATURE_SIZE)

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest)
        writer.raw(self.sharers_digest).raw(self.survivors_digest)
        writer.text(self.store_id).raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            sharers_digest=reader.raw(DIGEST_SIZE),
            survivors_digest=reader.raw(DIGEST_SIZE),
            store_id=check_store_id(reader.text()),
            signature=reader.raw(SIGNATURE_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnmaskRequest(Message):
    """Stage 4, to all survivors: signatures over U3 by the stores at indices `signers`."""

    kind: ClassVar[int] = 8
    header_digest: bytes
    roster_digest: bytes
    signers: tuple[int, ...]
    signatures: tuple[bytes, ...]

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest)
        write_indices(writer, self.signers)
        write_many(writer, self.signatures)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            signers=read_indices(reader),
            signatures=read_many(reader, SIGNATURE_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmasking(StoreMessage):
    """Stage 4, from a store: per peer one share, of its seed if it survived, else of its mask key.

    `seed_shares` follow the order of U3, `mask_key_shares` that of the sharers outside of U3.
    """

    kind: ClassVar[int] = 9
    header_digest: bytes
    roster_digest: bytes
    store_id: str
    seed_shares: tuple[bytes, ...] = field(repr=False)
    mask_key_shares: tuple[bytes, ...] = field(repr=False)
    signature: bytes = bytes(SIGNATURE_SIZE)

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).raw(self.roster_digest).text(self.store_id)
        write_many(writer, self.seed_shares)
        write_many(writer, self.mask_key_shares)
        writer.raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        message = cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            store_id=check_store_id(reader.text()),
            seed_shares=read_many(reader, SHARE_SIZE),
            mask_key_shares=read_many(reader, SHARE_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        # Refused here, as malformed, a share cannot fail inside the reconstruction, where it
        # would end the round for all.
        for share in (*message.seed_shares, *message.mask_key_shares):
            check_share(share)
        return message
