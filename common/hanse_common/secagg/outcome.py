"""The stages of an attempt as the coordinator sees them, and what comes out at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from hanse_common.secagg.layout import Integers
from hanse_common.secagg.reach import Excess


class Phase(IntEnum):
    """What the coordinator waits for."""

    HELLO = 0
    SHARE = 1
    MASK = 2
    CONFIRM = 3
    UNMASK = 4
    DONE = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aggregate:
    """The outcome of an attempt.

    Args:
        total: Signed sum of the survivors' vectors, shape `(length,)`.
        survivors: Stores in the sum.
        missing: Stores that were lost at each stage.
        liars: Stores that reported wrong shares; the sum is right without them.
        roster_digest: Of the roster, for the round log.
        survivors_digest: Of roster, U2 and U3: what the stores signed.
        confirmations: Signatures over it, by store id.
        excesses: Sections whose sum honest stores cannot have made, with what was measured:
            at least one vector was forged, and `total` is to be used for nothing but finding
            out whose.
        proven: Stores that are proven to have broken the protocol, by error code; see
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
