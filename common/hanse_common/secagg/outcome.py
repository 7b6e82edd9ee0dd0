"""The coordinator's phases of an attempt, and the result of one that succeeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from hanse_common.secagg.layout import Integers
from hanse_common.secagg.reach import Excess


class Phase(IntEnum):
    """The message that the coordinator waits for, in order; `DONE` waits for none."""

    HELLO = 0
    SHARE = 1
    MASK = 2
    CONFIRM = 3
    UNMASK = 4
    DONE = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aggregate:
    """The result of an attempt.

    Args:
        total: Signed sum of the survivors' vectors, shape `(length,)`, in integer steps.
        survivors: Ids of the stores in the sum.
        missing: By stage, the stores that were lost at it.
        liars: Stores that reported wrong shares; the sum is correct without them.
        roster_digest: Digest of the roster, for the round log.
        survivors_digest: Digest of roster, U2 and U3, which the stores signed.
        confirmations: By store id, the signature over it.
        excesses: Sections whose sum honest stores cannot have made, with the measurements. If
            there is one, at least one vector was forged: use `total` only to search for it.
        proven: By store that is proven to have broken the protocol, the error code; see
            `Coordinator.proven`.
    """

    total: Integers
    survivors: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    liars: tuple[str, ...]
    roster_digest: bytes
    survivors_digest: bytes
    confirmations: Mapping[str, bytes]
    excesses: tuple[Excess, ...] = ()
    proven: Mapping[str, str] = field(default_factory=dict)

    @property
    def beyond(self) -> tuple[str, ...]:
        """Names of the sections whose sum honest stores cannot have made."""
        return tuple(excess.section for excess in self.excesses)
