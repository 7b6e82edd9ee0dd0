"""Golden bytes of the round log, once by this code and once by hand from RFC 9162."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse_common.instructions import logged_digest
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.merkle import Tree
from hanse_common.roundlog.receipt import Receipt
from hanse_common.roundlog.records import Announced, Closed, Published, decode
from kits.errors import raises
from kits.vectors import CHECKPOINT, COORDINATOR, RECEIPT, STORE, read, records

GOLDEN = read("roundlog.txt")
REFUSED = read("roundlog-refused.txt")
DECODERS = {"record": decode, "checkpoint": Checkpoint.decode, "receipt": Receipt.decode}


@pytest.mark.parametrize("name", records())
def test_records_encode_to_the_golden_bytes(name):
    record = records()[name]
    assert record.encode().hex() == GOLDEN[name].hex()
    assert decode(GOLDEN[name]) == record


def test_every_kind_of_record_has_golden_bytes():
    assert records().keys() == {kind.__name__ for kind in (Announced, Closed, Published)}


def test_the_checkpoint_encodes_to_the_golden_bytes():
    assert CHECKPOINT.encode() == GOLDEN["Checkpoint"]
    checkpoint = Checkpoint.decode(GOLDEN["Checkpoint"])
    checkpoint.check_signature()
    checkpoint.check_cosignature(GOLDEN["cosignature"], STORE.public)
    assert checkpoint.cosign(STORE) == GOLDEN["cosignature"]


def test_the_receipt_encodes_to_the_golden_bytes():
    assert RECEIPT.encode() == GOLDEN["Receipt"]
    Receipt.decode(GOLDEN["Receipt"]).check_signature(STORE.public)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_bytes_give_the_named_error(name):
    code, decoder, _ = name.split(": ", 2)
    with raises(code):
        DECODERS[decoder](REFUSED[name])


def test_what_is_derived_from_them():
    told = records()["Announced"]
    bound = logged_digest(told.instructions_digest, CHECKPOINT.payload())
    assert bound == GOLDEN["model digest of the header"]
    bodies = [GOLDEN[name] for name in ("Announced", "Closed", "Published")]
    assert Tree(bodies[:1]).root() == GOLDEN["root of Announced"]
    assert Tree(bodies).root() == GOLDEN["root of all three"]


# The same, by hand


def lengths(size: int, *parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(size, "big") + part for part in parts)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_roots_by_hand():
    """RFC 9162, section 2.1.1: a leaf behind 0x00, a node behind 0x01."""
    leaves = [sha256(b"\0", GOLDEN[name]) for name in ("Announced", "Closed", "Published")]
    assert leaves[0] == GOLDEN["root of Announced"]
    assert sha256(b"\1", sha256(b"\1", *leaves[:2]), leaves[2]) == GOLDEN["root of all three"]


def test_the_headers_digest_by_hand():
    payload = GOLDEN["Checkpoint"][:-64]
    digest = GOLDEN["Announced"][-32:]
    assert (
        sha256(lengths(8, b"hanse/logged-instructions/1", digest, payload))
        == (GOLDEN["model digest of the header"])
    )


@pytest.mark.parametrize(
    ("label", "of", "signature", "key"),
    [
        (b"hanse/checkpoint/1", "Checkpoint", "Checkpoint", COORDINATOR),
        (b"hanse/cosignature/1", "Checkpoint", "cosignature", STORE),
        (b"hanse/receipt/1", "Receipt", "Receipt", STORE),
    ],
)
def test_signatures_by_hand(label, of, signature, key):
    """Ed25519 over the label behind its length, then everything before the signature."""
    signed = lengths(4, label) + GOLDEN[of][:-64]
    Ed25519PublicKey.from_public_bytes(key.public).verify(GOLDEN[signature][-64:], signed)
