"""How the entries of a ledger follow each other, and what is wrong where they do not."""

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
    """The first entry of a ledger that is not as it was written, and how one can tell."""

    sequence: int
    problem: Problem
    detail: str

    def __str__(self) -> str:
        return f"entry {self.sequence} is {self.problem}: {self.detail}"


def follow(before: Sequence[Entry], row: Row) -> Entry | Fault:
    """Read a row as the entry that comes after `before`; signature and epsilon stay unchecked."""
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
    checks: tuple[tuple[bool, Problem, str], ...] = (
        (entry.hash == row.hash, "altered", "its hash is not that of its content"),
        (entry.sequence == number, "out of place", f"it was written as entry {entry.sequence}"),
        (entry.previous == head.hash, "another history", "it does not follow the one before it"),
        (entry.time >= last, "altered", f"its time {entry.time} is before that of the last one"),
    )
    wrong = next((fault(problem, detail) for good, problem, detail in checks if not good), None)
    return wrong or entry


def compare(entries: Sequence[Entry], head: Head) -> Fault | None:
    """Compare a ledger with a head that somebody remembers; it may have gone on since."""
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
    """How far these entries go."""
    return Head(entries[-1].sequence, entries[-1].hash) if entries else EMPTY


def paid(entries: Sequence[Entry], *, since: int = 0) -> list[SampledGaussianSteps]:
    """What entries after number `since` spent; neighbours of the same terms are joined."""
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
