"""A store's receipt: a signed reference to the ledger entry that charges one upload.

The store sends it to the coordinator with the masked vector, after the ledger's entry is on
the disk. A holder of receipts can detect that a ledger was replaced by an older one.

>>> from hanse_common.identity import StoreKey
>>> key = StoreKey.generate()
>>> receipt = Receipt(
...     store_id="luebeck", header_digest=bytes(32), roster_digest=bytes(32),
...     sequence=3, entry_hash=bytes(32),
... ).sign(key)
>>> Receipt.decode(receipt.encode()) == receipt
True
>>> receipt.check_signature(key.public)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.identity import SIGNATURE_SIZE, StoreKey, check_store_id, verify

VERSION = 1
MAX_RECEIPT_SIZE = 512
_LABEL = b"hanse/receipt/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """A reference to one upload's entry in its store's ledger.

    Args:
        store_id: The store's id.
        header_digest: Digest of the attempt's header.
        roster_digest: Digest of the attempt's roster.
        sequence: Number of the ledger's entry that charges the upload; 0 in a run without
            privacy.
        entry_hash: Hash of that entry, which covers every entry up to it.
        signature: Signature by the store's certified key, 64 bytes.
    """

    store_id: str
    header_digest: bytes
    roster_digest: bytes
    sequence: int
    entry_hash: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    def payload(self) -> bytes:
        """Return the bytes that the store signs."""
        writer = Writer().u16(VERSION).text(self.store_id).raw(self.header_digest)
        writer.raw(self.roster_digest).u64(self.sequence).raw(self.entry_hash)
        return writer.finish()

    def encode(self) -> bytes:
        """Return the canonical encoding: the payload, then the signature."""
        return self.payload() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Read a receipt; its signature is not checked.

        Raises:
            MalformedMessage: It is not a receipt of this version in canonical form.
        """
        reader = Reader(data, "receipt")
        reader.expect(VERSION)
        receipt = cls(
            store_id=check_store_id(reader.text()),
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            sequence=reader.u64(),
            entry_hash=reader.raw(DIGEST_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        reader.end()
        return receipt

    def sign(self, key: StoreKey) -> Receipt:
        """Return the receipt with the key's signature."""
        return replace(self, signature=key.sign(_LABEL, self.payload()))

    def check_signature(self, public_key: bytes) -> None:
        """Check the signature.

        Raises:
            BadSignature: It is not a signature by that key.
        """
        verify(public_key, self.signature, _LABEL, self.payload())
