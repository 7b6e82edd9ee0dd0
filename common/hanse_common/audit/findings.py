"""Collects the findings of an audit: passed checks, open points and faults."""

from __future__ import annotations

from hanse_common.audit.terms import Finding
from hanse_common.errors import HanseError


class Notes:
    """The findings so far, in any order.

    Guarantees:
        `first` is the fault with the smallest number, in whatever order faults are added.
    """

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.unverified: list[str] = []
        self.faults: list[Finding] = []

    def fault(self, sequence: int, problem: str, detail: str) -> None:
        """Add a fault at the number of an entry or record; 0 means the file or terms."""
        self.faults.append(Finding(sequence=sequence, problem=problem, detail=detail))

    def reject(self, problem: str, error: HanseError) -> None:
        """Add the fault that something cannot be read or trusted at all."""
        self.fault(0, problem, error.message)

    def first(self) -> Finding | None:
        """Return the fault with the smallest number; None if there is none."""
        return min(self.faults, key=lambda fault: fault.sequence, default=None)
