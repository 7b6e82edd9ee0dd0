"""Reads annotated vectors: sections of `name`, lines of hexadecimal, two spaces, a comment."""

from __future__ import annotations

from pathlib import Path

from hanse_common.identity import AuthorityKey, CoordinatorKey, StoreKey
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.receipt import Receipt
from hanse_common.roundlog.records import SUMMED, Announced, Closed, Member, Published, Record
from hanse_common.secagg import Header
from hanse_common.secagg.messages import (
    Accusation,
    Confirmation,
    Delivery,
    Hello,
    MaskedVector,
    Message,
    Refusal,
    Roster,
    ShareBundle,
    Survivors,
    Unmasking,
    UnmaskRequest,
)

HERE = Path(__file__).parents[1] / "vectors"


def fixed(byte: int):
    """An entropy source that gives one byte over and over."""
    return lambda size: bytes([byte]) * size


AUTHORITY = AuthorityKey.generate(fixed(0xA0))
STORE = StoreKey.generate(fixed(0xB0))
CERTIFICATE = AUTHORITY.certify(
    "luebeck",
    STORE.public,
    valid_from=1_700_000_000,
    valid_until=1_800_000_000,
    node_key=b"\xc0" * 32,
)
COORDINATOR = CoordinatorKey.generate(fixed(0xC1))
HEADER = Header(run=7, round=3, attempt=1, manifest_digest=b"\x11" * 32, model_digest=b"\x22" * 32)


def messages() -> dict[str, Message]:
    """One message of every kind, as in `messages.txt`."""
    ids = {"header_digest": b"\x33" * 32, "roster_digest": b"\x44" * 32}
    hello = Hello(
        header=HEADER,
        certificate=CERTIFICATE,
        mask_public=b"\x55" * 32,
        share_public=b"\x66" * 32,
        possession=b"\x67" * 64,
        commitment=b"\x77" * 32,
    ).sign(STORE)
    name = {"store_id": "luebeck"}
    return {
        "Hello": hello,
        "Roster": Roster(header_digest=b"\x33" * 32, hellos=(hello,)),
        "ShareBundle": ShareBundle(
            **ids,
            **name,
            sealed=(b"\x88" * 94,),
            vouched=(b"\x89" * 64,),
            digests=(b"\x99" * 64, b"\xaa" * 64),
        ).sign(STORE),
        "Delivery": Delivery(
            **ids,
            sharers=(0, 2),
            sealed=(b"\x88" * 94,),
            vouched=(b"\x89" * 64,),
            digests=(b"\x99" * 64,),
        ),
        "MaskedVector": MaskedVector(**ids, **name, body=b"\x01\x00\x00\x00\xff\xff\xff\xff").sign(
            STORE
        ),
        "Survivors": Survivors(**ids, survivors=(0, 2, 3)),
        "Confirmation": Confirmation(
            **ids, **name, sharers_digest=b"\xbb" * 32, survivors_digest=b"\xcc" * 32
        ).sign(STORE),
        "UnmaskRequest": UnmaskRequest(**ids, signers=(0, 3), signatures=(b"\xdd" * 64,) * 2),
        "Unmasking": Unmasking(
            **ids, **name, seed_shares=(b"\x00" * 33,), mask_key_shares=(b"\x00" + b"\xee" * 32,)
        ).sign(STORE),
        "Refusal": Refusal(
            header_digest=b"\x33" * 32,
            **name,
            code="bad-shares",
            culprits=("stralsund", "wismar"),
            accusations=(
                Accusation(
                    dealer="wismar",
                    shared=b"\x8a" * 32,
                    challenge=b"\x8b" * 32,
                    response=b"\x8c" * 32,
                ),
            ),
        ).sign(STORE),
    }


CHECKPOINT = Checkpoint(log_key=COORDINATOR.public, size=5, root=b"\x25" * 32).sign(COORDINATOR)
RECEIPT = Receipt(
    store_id="luebeck",
    header_digest=b"\x33" * 32,
    roster_digest=b"\x44" * 32,
    sequence=2,
    entry_hash=b"\x26" * 32,
).sign(STORE)


def records() -> dict[str, Record]:
    """One record of every kind, as in `roundlog.txt`."""
    confirmation = messages()["Confirmation"]
    assert isinstance(confirmation, Confirmation)
    return {
        "Announced": Announced(
            run=7,
            exchange=3,
            attempt=1,
            model_digest=b"\x23" * 32,
            instructions_digest=b"\x24" * 32,
        ),
        "Closed": Closed(
            header=HEADER,
            outcome=SUMMED,
            roster_digest=b"\x44" * 32,
            members=(Member(certificate=CERTIFICATE, cosignature=CHECKPOINT.cosign(STORE)),),
            sharers=(0,),
            survivors=(0,),
            receipts=(RECEIPT,),
            confirmations=(confirmation,),
        ),
        "Published": Published(run=7, round=1, model_digest=b"\x27" * 32),
    }


def read(file: str) -> dict[str, bytes]:
    """Bytes by section name."""
    sections: dict[str, bytes] = {}
    current = ""
    for line in (HERE / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = line.strip("[]")
            sections[current] = b""
        elif line and not line.startswith("#"):
            sections[current] += bytes.fromhex(line.split("  ")[0])
    return sections
