"""The hash chain of a ledger's entries, and the faults in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hanse_common.errors import LedgerError
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger_file import EMPTY, Head, Row

Problem = Literal[
    "altered",
    "missing",
    "out of place",
    "cut off",
    "another history",
    "unsigned",
    "bad signature",
    "another key",
    "wrong epsilon",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The first entry of a ledger that is not as it was written, and the evidence for it."""

    sequence: int
    problem: Problem
    detail: str

    def __str__(self) -> str:
        return f"entry {self.sequence} is {self.problem}: {self.detail}"


def follow(before: Sequence[Entry], row: Row) -> Entry | Fault:
    """Decode a row and check that it continues the entries `before`.

    Signature and epsilon are not checked; see `verify`.
    """
    head = head_of(before)
    number = head.sequence + 1

    def fault(problem: Problem, detail: str) -> Fault:
        return Fault(sequence=number, problem=problem, detail=detail)

    if row.sequence != number:
        if row.sequence < number:
            return fault("out of place", f"its row bears the number {row.sequence}")
        return fault("missing", f"the next one is entry {row.sequence}")
    try:
        entry = Entry.decode(row.body, signature=row.signature)
    except LedgerError as error:
        return fault("altered", error.message)
    last = before[-1].time if before else 0
    # In this order: a changed body fails the first check, and only an intact entry is judged by
    # what it says about its place.
    checks: tuple[tuple[bool, Problem, str], ...] = (
        (entry.hash == row.hash, "altered", "its hash is not that of its content"),
        (entry.sequence == number, "out of place", f"it was written as entry {entry.sequence}"),
        (entry.previous == head.hash, "another history", "it does not follow the one before it"),
        (entry.time >= last, "altered", f"its time {entry.time} is before that of the last one"),
    )
    first = next((fault(problem, detail) for good, problem, detail in checks if not good), None)
    return first or entry


def compare(entries: Sequence[Entry], head: Head) -> Fault | None:
    """Check that a ledger contains a remembered head; entries after it are allowed."""
    if head.sequence > len(entries):
        return Fault(
            sequence=len(entries) + 1,
            problem="cut off",
            detail=f"the ledger ends before it, and had {head.sequence} entries",
        )
    if head_of(entries[: head.sequence]) != head:
        return Fault(
            sequence=head.sequence,
            problem="another history",
            detail="its hash is not the one that is remembered",
        )
    return None


def head_of(entries: Sequence[Entry]) -> Head:
    """Return the head of these entries: number and hash of the last one."""
    return Head(entries[-1].sequence, entries[-1].hash) if entries else EMPTY


def paid(entries: Sequence[Entry], *, since: int = 0) -> list[SampledGaussianSteps]:
    """Return the steps charged after entry `since`; adjacent ones of equal terms are joined."""
    # Joined, because every entry's epsilon is computed from these: a run has thousands of steps.
    joined: list[SampledGaussianSteps] = []
    for entry in entries[since:]:
        steps = entry.steps if entry.spends else None
        if steps is None:
            continue
        if joined and replace(joined[-1], count=0) == replace(steps, count=0):
            joined[-1] = replace(steps, count=joined[-1].count + steps.count)
        else:
            joined.append(steps)
    return joined
