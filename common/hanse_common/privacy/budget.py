"""What may be spent: a store's own limit with its renewals, and what a manifest grants.

>>> budget = Budget.until_renewed(8.0, renews=date(2027, 1, 1))
>>> budget.renews
1798761600
>>> budget.is_due(now=1_798_761_599), budget.is_due(now=1_798_761_600)
(False, True)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Self

NEVER = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A limit on epsilon, for what was spent since the last renewal.

    A renewal is an entry of the ledger, not a matter of the clock alone: whatever comes after
    that entry counts, whatever time it bears.
    """

    max_epsilon: float
    renews: int = NEVER
    """Unix seconds from which on the budget counts anew; `NEVER` if it does not."""

    @classmethod
    def until_renewed(cls, max_epsilon: float, *, renews: date | None) -> Self:
        """A budget that renews at midnight UTC of a day; never without one."""
        if renews is None:
            return cls(max_epsilon=max_epsilon)
        midnight = datetime.combine(renews, time(), UTC)
        return cls(max_epsilon=max_epsilon, renews=int(midnight.timestamp()))

    def is_due(self, *, now: int) -> bool:
        """Whether the day of the renewal has come, by that clock."""
        return self.renews != NEVER and now >= self.renews


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What one signed manifest lets a store spend, whatever runs are started under it.

    A store's own limit may be higher, and a coordinator draws run numbers as it likes; what
    was charged under the manifest counts all the same, and no renewal takes it back.
    """

    manifest_digest: bytes
    max_epsilon: float
    """Of everything charged under the manifest, at its delta."""
    target_delta: float
    exchanges: Mapping[str, int]
    """Most charges by kind of exchange, `train` or `evaluate`."""
