"""What a store's replies show to somebody who holds no key, without what is random in them."""

from __future__ import annotations

import dataclasses

from hanse_common.roundlog.receipt import Receipt
from hanse_common.secagg.messages import Hello, MaskedVector, ShareBundle, Unmasking
from kits.apps.secure_federation import STAGES, ByHand, said

RANDOM = {
    Hello: ("mask_public", "share_public", "possession", "commitment", "signature"),
    ShareBundle: ("roster_digest", "sealed", "vouched", "digests", "signature"),
    MaskedVector: ("roster_digest", "body", "signature"),
    Unmasking: ("roster_digest", "seed_shares", "signature"),
}
"""Fields that fresh keys make different each time; their lengths are compared all the same."""


def replies(federation, store: str, kind: str, **order) -> dict[str, object]:
    """What the store says at every stage, without what is random in it."""
    found = {"describe": seen(federation.tell_nothing(store))}
    by_hand = ByHand(federation, kind, **order)
    for stage in STAGES:
        answers = by_hand.open() if stage == "hello" else by_hand.next(stage)
        found[stage] = seen(answers[store])
    return found


def seen(reply) -> object:
    """What somebody sees of a reply who holds no key."""
    if reply.has_error():
        return reply.error.code, reply.error.reason
    entries = dict(reply.content["config"])
    found: dict[str, object] = {key: _length(value) for key, value in entries.items()}
    if "message" in entries:
        message = said(reply)
        fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
        for name in RANDOM.get(type(message), ("signature", "survivors_digest", "sharers_digest")):
            if name in fields:
                fields[name] = _length(fields[name])
        fields["certificate"] = str(fields.get("certificate"))[
            :40
        ]  # its key is a new one each time
        fields.pop("header", None)
        fields.pop("header_digest", None)
        fields.pop("roster_digest", None)
        found["message"] = (type(message).__name__, len(entries["message"]), repr(fields))
    if "receipt" in entries:
        found["receipt"] = Receipt.decode(entries["receipt"]).sequence
    return found


def _length(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return len(value)
    if isinstance(value, tuple):
        return [_length(part) for part in value]
    return value
