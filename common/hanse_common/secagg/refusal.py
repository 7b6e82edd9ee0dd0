"""The message by which a store leaves an attempt: error code, culprits and evidence.

`messages.py` exports it with the other messages; `dispute.py` makes and checks accusations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.errors import MalformedMessage
from hanse_common.identity import SIGNATURE_SIZE, check_store_id
from hanse_common.secagg._edwards import POINT_SIZE
from hanse_common.secagg.terms import LARGEST_COHORT
from hanse_common.secagg.wire import StoreMessage

SCALAR_SIZE = 32

_CODE = re.compile(r"[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accusation:
    """Evidence against a dealer: the point that two share keys agree on, and a proof of it.

    Args:
        dealer: Id of the store whose share does not open, or does not match what it signed.
        shared: Point of edwards25519 that both share keys agree on; it opens the shares
            between these two stores only.
        challenge: The proof's challenge: an integer below the group's order, little-endian.
        response: The proof's response, encoded likewise.
    """

    dealer: str
    shared: bytes
    challenge: bytes
    response: bytes

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        writer.text(self.dealer).raw(self.shared).raw(self.challenge).raw(self.response)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read the output of `write`; numbers and points are checked with the proof."""
        return cls(
            dealer=check_store_id(reader.text()),
            shared=reader.raw(POINT_SIZE),
            challenge=reader.raw(SCALAR_SIZE),
            response=reader.raw(SCALAR_SIZE),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal(StoreMessage):
    """Any stage, from a store: it leaves the attempt, for an error code and because of culprits.

    `accusations` hold evidence against some of the culprits, sorted by dealer.
    """

    kind: ClassVar[int] = 10
    header_digest: bytes
    store_id: str
    code: str
    culprits: tuple[str, ...] = ()
    accusations: tuple[Accusation, ...] = ()
    signature: bytes = bytes(SIGNATURE_SIZE)

    def _write(self, writer: Writer) -> None:
        writer.raw(self.header_digest).text(self.store_id).text(self.code)
        writer.u32(len(self.culprits))
        for culprit in self.culprits:
            writer.text(culprit)
        writer.u32(len(self.accusations))
        for accusation in self.accusations:
            accusation.write(writer)
        writer.raw(self.signature)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        def store_id() -> str:
            return check_store_id(reader.text())

        def accusation() -> Accusation:
            return Accusation.read(reader)

        message = cls(
            header_digest=reader.raw(DIGEST_SIZE),
            store_id=store_id(),
            code=reader.text(64),
            # An id takes at least 5 bytes: its length, and one letter.
            culprits=reader.many(store_id, size=5, limit=LARGEST_COHORT),
            accusations=reader.many(accusation, size=5, limit=LARGEST_COHORT),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        if not _CODE.fullmatch(message.code):
            raise MalformedMessage(f"error code {message.code!r} is not lower-case words")
        # At most one accusation per dealer, so that judging a refusal takes bounded time.
        accused = [accusation.dealer for accusation in message.accusations]
        if accused != sorted(set(accused)) or not set(accused) <= set(message.culprits):
            raise MalformedMessage("accusations are not of culprits, or not sorted and unique")
        return message
