"""What travels with an exchange about the round log, and how a participant checks it.

    checkpoint   of the log, whose last record announces the exchange
    inclusion    that it does
    consistency  that the log goes on from what stores may have seen before, by its size

The checkpoint is part of the exchange's header; proofs are not, for they prove themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanse_common.errors import MalformedMessage, RoundLogError
from hanse_common.instructions import Instructions
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.merkle import check_consistency, check_last
from hanse_common.roundlog.records import Announced

COSIGNATURE, RECEIPT = "cosignature", "receipt"
"""What a store answers with its Hello, and with its masked vector."""
LOG_SIZE = "log-size"
"""In a store's description of itself: how far the log went that it has seen; 0 if none."""
_MAX_PROOFS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Proofs:
    """Of one checkpoint.

    Args:
        inclusion: Of its last record.
        consistency: By the size of an earlier checkpoint.
    """

    inclusion: str
    consistency: Mapping[int, str] = field(default_factory=dict)

    def encode(self) -> str:
        """Return JSON."""
        earlier = {str(size): proof for size, proof in sorted(self.consistency.items())}
        return json.dumps({"inclusion": self.inclusion, "consistency": earlier})

    @classmethod
    def decode(cls, text: str) -> Proofs:
        """Read what `encode` wrote.

        Raises:
            MalformedMessage: It is something else.
        """
        try:
            table: Any = json.loads(text)
            inclusion, earlier = table["inclusion"], table["consistency"]
            if len(earlier) > _MAX_PROOFS or not isinstance(inclusion, str):
                raise ValueError("too many, or of another type")
            consistency = {int(size): str(proof) for size, proof in earlier.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MalformedMessage(f"the round log's proofs are malformed: {error}") from None
        return cls(inclusion=inclusion, consistency=consistency)


def check_announced(
    told: Instructions,
    proofs: Proofs,
    *,
    log_key: bytes,
    seen: Checkpoint | None,
) -> Checkpoint:
    """Check that an exchange is announced in the log that this participant knows.

    Args:
        told: The exchange.
        proofs: That came with it.
        log_key: The coordinator's, as the manifest names it.
        seen: The last checkpoint that it accepted; None if it has seen none.

    Returns:
        The checkpoint, to be remembered and cosigned.

    Raises:
        RoundLogError [log-forked]: There is no checkpoint, it is another log's, it does not go on
            from `seen`, or its last record does not announce this exchange.
        BadSignature: The coordinator has not signed it.
        MalformedMessage: It or a proof is malformed.

    Guarantees:
        Whoever returns has been shown one history so far, of which this exchange is part.
    """
    if not told.checkpoint:
        raise RoundLogError(
            "the coordinator sent no checkpoint of its round log",
            code="log-forked",
            hint="the manifest names a log: nothing was trained or sent",
        )
    checkpoint = Checkpoint.decode(told.checkpoint)
    if checkpoint.log_key != log_key:
        raise RoundLogError(
            f"the checkpoint is of log {checkpoint.log_key.hex()[:16]}…, the manifest names "
            f"{log_key.hex()[:16]}…",
            code="log-forked",
        )
    checkpoint.check_signature()
    announcement = Announced.of(told).encode()
    check_last(announcement, checkpoint.size, checkpoint.root, proofs.inclusion)
    if seen is None or (seen.size, seen.root) == (checkpoint.size, checkpoint.root):
        return checkpoint
    if seen.size >= checkpoint.size:
        raise RoundLogError(
            f"the round log has {checkpoint.size} records, it had {seen.size} before",
            code="log-forked",
            hint="the coordinator lost records or shows two histories: ask the federation",
        )
    proof = proofs.consistency.get(seen.size)
    if proof is None:
        raise RoundLogError(
            f"the coordinator does not prove that its log goes on from the {seen.size} records "
            "that were seen before",
            code="log-forked",
        )
    check_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof)
    return checkpoint
