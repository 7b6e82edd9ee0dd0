"""The proofs about the round log that travel with an exchange, and a participant's check.

    checkpoint   of the log, whose last record announces the exchange
    inclusion    proof that the last record of the checkpoint is this announcement
    consistency  proofs, by earlier size, that the log continues what stores may have seen

The checkpoint is part of the exchange's header. The proofs need not be: they verify against it.
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
"""Names of the fields that a store sends with its Hello and with its masked vector."""
LOG_SIZE = "log-size"
"""Field of a store's self-description: size of the last log that it accepted; 0 if none."""
_MAX_PROOFS = 10_000  # one for each store of the largest cohort, all of which saw other sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Proofs:
    """The proofs for one checkpoint, each as JSON.

    Args:
        inclusion: Proof of inclusion of its last record.
        consistency: By the size of an earlier checkpoint, the proof of consistency with it.
    """

    inclusion: str
    consistency: Mapping[int, str] = field(default_factory=dict)

    def encode(self) -> str:
        """Return JSON."""
        earlier = {str(size): proof for size, proof in sorted(self.consistency.items())}
        return json.dumps({"inclusion": self.inclusion, "consistency": earlier})

    @classmethod
    def decode(cls, text: str) -> Proofs:
        """Read the output of `encode`.

        Raises:
            MalformedMessage: The text is not the JSON of proofs.
        """
        try:
            table: Any = json.loads(text)
            inclusion, earlier = table["inclusion"], table["consistency"]
            if len(earlier) > _MAX_PROOFS or not isinstance(inclusion, str):
                raise ValueError("too many, or of another type")
            consistency = {int(size): str(proof) for size, proof in earlier.items()}
        # RecursionError: the text comes from the coordinator, and may be nested without end.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MalformedMessage(f"the round log's proofs are malformed: {error}") from None
        return cls(inclusion=inclusion, consistency=consistency)


def check_announced(
    instructions: Instructions,
    proofs: Proofs,
    *,
    log_key: bytes,
    seen: Checkpoint | None,
) -> Checkpoint:
    """Check that an exchange is announced in the log that this participant knows.

    Args:
        instructions: The instructions of the exchange.
        proofs: The proofs that came with them.
        log_key: The log's public key, as the manifest names it.
        seen: The last checkpoint that the participant accepted; None if there is none.

    Returns:
        The checkpoint, to be stored and cosigned.

    Raises:
        RoundLogError [log-forked]: There is no checkpoint, it is another log's, it does not
            continue `seen`, or its last record does not announce this exchange.
        BadSignature: The coordinator has not signed it.
        MalformedMessage: It or a proof is malformed.

    Guarantees:
        If this returns, all checkpoints that the participant accepted so far belong to one
        history, and this exchange is part of it.
    """
    if not instructions.checkpoint:
        raise RoundLogError(
            "the coordinator sent no checkpoint of its round log",
            code="log-forked",
            hint="the manifest names a log: nothing was trained or sent",
        )
    checkpoint = Checkpoint.decode(instructions.checkpoint)
    if checkpoint.log_key != log_key:
        raise RoundLogError(
            f"the checkpoint is of log {checkpoint.log_key.hex()[:16]}…, the manifest names "
            f"{log_key.hex()[:16]}…",
            code="log-forked",
        )
    # The signature before the proofs: they are checked against the signed size and root.
    checkpoint.check_signature()
    # The record is computed here, from the instructions that this participant was sent: a log
    # that announces another model or other settings fails.
    announcement = Announced.of(instructions).encode()
    check_last(announcement, checkpoint.size, checkpoint.root, proofs.inclusion)
    if seen is None or (seen.size, seen.root) == (checkpoint.size, checkpoint.root):
        return checkpoint
    # Equal sizes come here only with different roots: two histories of the same length.
    if seen.size >= checkpoint.size:
        raise RoundLogError(
            f"the round log has {checkpoint.size} records, it had {seen.size} before",
            code="log-forked",
            hint="the coordinator lost records or shows two histories: ask the federation",
        )
    proof = proofs.consistency.get(seen.size)
    if proof is None:
        raise RoundLogError(
            f"the coordinator does not prove that its log continues the {seen.size} records "
            "that were seen before",
            code="log-forked",
        )
    check_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof)
    return checkpoint
