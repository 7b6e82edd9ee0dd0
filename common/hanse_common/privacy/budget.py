"""Limits on spending: a store's own budget with its renewals, and a manifest's grant.

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
    """A store's limit on the epsilon that is spent since the last renewal.

    A renewal is an entry of the ledger, not a matter of the clock alone: every entry after it
    counts, regardless of the entry's time.
    """

    max_epsilon: float
    renews: int = NEVER
    """Unix seconds of the next renewal, from which on spending is counted from zero; `NEVER`
    without one."""

    @classmethod
    def until_renewed(cls, max_epsilon: float, *, renews: date | None) -> Self:
        """Return a budget that renews at midnight UTC of a day; never if that is None."""
        if renews is None:
            return cls(max_epsilon=max_epsilon)
        midnight = datetime.combine(renews, time(), UTC)
        return cls(max_epsilon=max_epsilon, renews=int(midnight.timestamp()))

    def is_due(self, *, now: int) -> bool:
        """Whether the renewal is due at `now`, in Unix seconds."""
        return self.renews != NEVER and now >= self.renews


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """The spending that one signed manifest allows a store, over all runs under it.

    A store's own limit may be higher, and a coordinator chooses run numbers freely. Therefore
    everything that was charged under the manifest counts, and no renewal resets it.
    """

    manifest_digest: bytes
    max_epsilon: float
    """Largest epsilon of everything charged under the manifest, at its delta."""
    target_delta: float
    exchanges: Mapping[str, int]
    """Most charges, by kind of exchange (`train` or `evaluate`)."""
