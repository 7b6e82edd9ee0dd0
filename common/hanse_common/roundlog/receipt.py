"""A store's receipt: what its ledger says of an upload, signed, for the coordinator to keep.

It leaves with the masked vector, after the ledger's entry is on the disk. Whoever has a
store's receipts can tell that its ledger was replaced by an older one.

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
    """One upload's entry in its store's ledger.

    Args:
        store_id: Whose.
        header_digest: Of the attempt.
        roster_digest: Of the stores that the attempt began with.
        sequence: Number of the ledger's entry that charges the upload; 0 where there is no
            privacy to account for.
        entry_hash: Its hash, which stands for every entry up to it.
        signature: By the store's certified key.
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
            MalformedMessage: It is no receipt of this version in canonical form.
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
            BadSignature: It is not that key's.
        """
        verify(public_key, self.signature, _LABEL, self.payload())
