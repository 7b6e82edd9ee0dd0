"""The records of a round log and their canonical encoding.

Encoding version 1, in the terms of `hanse_common.codec`: u16 version, u8 kind, fields.

>>> record = Published(run=7, round=3, model_digest=bytes(32))
>>> decode(record.encode()) == record
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.errors import HanseError, MalformedMessage, RoundLogError
from hanse_common.identity import MAX_CERTIFICATE_SIZE, SIGNATURE_SIZE, Certificate
from hanse_common.instructions import Instructions
from hanse_common.roundlog.receipt import MAX_RECEIPT_SIZE, Receipt
from hanse_common.secagg.messages import Confirmation
from hanse_common.secagg.messages import decode as decode_message
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.terms import HEADER_SIZE, LARGEST_COHORT, Header
from hanse_common.secagg.wire import read_indices, write_indices

VERSION = 1
SUMMED = "summed"
"""The outcome of an attempt that gave a sum; other outcomes are error codes."""

_MAX_CONFIRMATION_SIZE = 512  # a Confirmation takes at most 267 bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Announced:
    """The announcement of an attempt, which is written before any store is asked.

    Args:
        run: The coordinator's number of its run.
        exchange: Number of the exchange within the run.
        attempt: 1 or 2.
        model_digest: Digest of the model that is sent.
        instructions_digest: Digest of everything that is sent except the log's checkpoint.
    """

    kind: ClassVar[int] = 1
    run: int
    exchange: int
    attempt: int
    model_digest: bytes
    instructions_digest: bytes

    @classmethod
    def of(cls, instructions: Instructions) -> Announced:
        """Return the announcement of an exchange, computed from its instructions."""
        return cls(
            run=instructions.run,
            exchange=instructions.exchange,
            attempt=instructions.attempt,
            model_digest=instructions.model_digest,
            instructions_digest=instructions.digest,
        )

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        writer = _writer(self.kind).u64(self.run).u32(self.exchange).u8(self.attempt)
        return writer.raw(self.model_digest).raw(self.instructions_digest).finish()

    @classmethod
    def _read(cls, reader: Reader) -> Announced:
        return cls(
            run=reader.u64(),
            exchange=reader.u32(),
            attempt=reader.u8(),
            model_digest=reader.raw(DIGEST_SIZE),
            instructions_digest=reader.raw(DIGEST_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A store in a roster: its certificate, and its cosignature of the announcing checkpoint."""

    certificate: Certificate
    cosignature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """The outcome of an attempt.

    Args:
        header: The attempt's header; its model digest binds the announcing checkpoint.
        outcome: `summed`, or the code of the error that ended the attempt; `interrupted` if
            that was not an error of Hanse.
        roster_digest: The roster's digest that the stores sign; zero if there was no roster.
        members: The roster, in its order.
        sharers: Roster indices of the stores that dealt shares (U2).
        survivors: Roster indices of the stores whose vectors are in the sum, if there is one
            (U3); empty if the attempt ended before stage 3.
        receipts: Receipts of the stores that sent a masked vector.
        confirmations: Confirmations of the stores that signed U3.
    """

    kind: ClassVar[int] = 2
    header: Header
    outcome: str
    roster_digest: bytes
    members: tuple[Member, ...]
    sharers: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()

    @property
    def stores(self) -> tuple[str, ...]:
        """Ids of the roster's stores, in its order."""
        return tuple(member.certificate.store_id for member in self.members)

    @property
    def summed(self) -> tuple[str, ...]:
        """Ids of the stores in the sum."""
        return tuple(self.stores[index] for index in self.survivors)

    def signed_digests(self) -> tuple[bytes, bytes]:
        """Return the digests of U2, and of U2 and U3, that confirmations sign."""
        # Both digests depend on indices and the roster's digest only, so no peers are needed.
        cohort = Cohort(self.header.digest(), self.roster_digest, ())
        sharers = cohort.sharers_digest(self.sharers)
        return sharers, cohort.survivors_digest(self.sharers, self.survivors)

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        writer = _writer(self.kind).raw(self.header.encode()).text(self.outcome)
        writer.raw(self.roster_digest).u32(len(self.members))
        for member in self.members:
            writer.blob(member.certificate.encode()).raw(member.cosignature)
        write_indices(writer, self.sharers)
        write_indices(writer, self.survivors)
        for parts in (self.receipts, self.confirmations):
            writer.u32(len(parts))
            for part in parts:
                writer.blob(part.encode())
        return writer.finish()

    @classmethod
    def _read(cls, reader: Reader) -> Closed:
        def member() -> Member:
            certificate = Certificate.decode(reader.blob(MAX_CERTIFICATE_SIZE))
            return Member(certificate=certificate, cosignature=reader.raw(SIGNATURE_SIZE))

        def confirmation() -> Confirmation:
            message = decode_message(reader.blob(_MAX_CONFIRMATION_SIZE))
            if not isinstance(message, Confirmation):
                raise MalformedMessage(f"a {type(message).__name__} is not a confirmation")
            return message

        closed = cls(
            header=Header.decode(reader.raw(HEADER_SIZE)),
            outcome=reader.text(),
            roster_digest=reader.raw(DIGEST_SIZE),
            members=reader.many(member, size=4, limit=LARGEST_COHORT),
            sharers=read_indices(reader),
            survivors=read_indices(reader),
            receipts=reader.many(
                lambda: Receipt.decode(reader.blob(MAX_RECEIPT_SIZE)), size=4, limit=LARGEST_COHORT
            ),
            confirmations=reader.many(confirmation, size=4, limit=LARGEST_COHORT),
        )
        # `summed` and `stores` index the members by these.
        if any(index >= len(closed.members) for index in (*closed.sharers, *closed.survivors)):
            raise MalformedMessage("a record names a store beyond its roster")
        return closed


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The publication of the model after a round; round 0 is the initial model."""

    kind: ClassVar[int] = 3
    run: int
    round: int
    model_digest: bytes

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        writer = _writer(self.kind).u64(self.run).u32(self.round)
        return writer.raw(self.model_digest).finish()

    @classmethod
    def _read(cls, reader: Reader) -> Published:
        return cls(run=reader.u64(), round=reader.u32(), model_digest=reader.raw(DIGEST_SIZE))


Record = Announced | Closed | Published


def decode(data: bytes) -> Record:
    """Read a record; signatures in it are not checked.

    Raises:
        RoundLogError: The bytes are not a record in canonical form, or of a newer version.
    """
    reader = Reader(data, "round log record")
    try:
        version, number = reader.u16(), reader.u8()
        if version != VERSION:
            raise RoundLogError(
                f"round log record has version {version}, this is version {VERSION}",
                hint="a newer version of Hanse wrote it: use that one",
            )
        known: dict[int, Callable[[Reader], Record]] = {
            kind.kind: kind._read for kind in (Announced, Closed, Published)
        }
        if number not in known:
            raise RoundLogError(f"there is no kind {number} of round log record")
        record = known[number](reader)
        reader.end()
    except RoundLogError:
        raise
    # Records contain certificates and messages, whose decoders raise errors of their own.
    except HanseError as error:
        raise RoundLogError(error.message, hint=error.hint) from None
    return record


def _writer(kind: int) -> Writer:
    return Writer().u16(VERSION).u8(kind)
