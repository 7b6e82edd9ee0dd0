"""What an audit has checked so far, what it could not, and the first thing that is wrong."""

from __future__ import annotations

from hanse_common.audit.terms import Finding
from hanse_common.errors import HanseError


class Notes:
    """Collects findings in any order.

    Guarantees:
        `first` is the one with the smallest number, whenever it was found.
    """

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.unverified: list[str] = []
        self.faults: list[Finding] = []

    def fault(self, sequence: int, problem: str, detail: str) -> None:
        """Note what is wrong at an entry, or record, of a number; 0 is the whole."""
        self.faults.append(Finding(sequence=sequence, problem=problem, detail=detail))

    def whole(self, problem: str, error: HanseError) -> None:
        """Note that something could not be read or trusted at all."""
        self.fault(0, problem, error.message)

    def first(self) -> Finding | None:
        """The first thing that is wrong; None if nothing is."""
        return min(self.faults, key=lambda fault: fault.sequence, default=None)
