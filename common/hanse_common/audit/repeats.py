"""Exchanges that came more than once, and how much of what the signed terms grant is used.

A manifest grants every exchange once, and some spare ones of each kind: for second attempts,
rounds that a crash cut off, and rounds that were lost. Whatever run number a coordinator
shows, a repeat is a repeat.

>>> twice = [
...     Occurrence(kind="train", round=1, exchange=3, run=7, attempt=attempt, place=attempt)
...     for attempt in (1, 2)
... ]
>>> use = Use(manifest="", kind="train", granted=3, spare=1, occurrences=tuple(twice))
>>> use.used, use.repeated, use.beyond
(2, 1, None)
>>> print(use.in_words("entry"))
1 of 1 spare exchange of kind 'train' used: round 1 twice: entry 1 (run 7, attempt 1), entry 2 \
(run 7, attempt 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hanse_common.manifest import Manifest
from hanse_common.privacy.entry import Entry
from hanse_common.wording import counted

EXCHANGES_PER_ROUND = 3
"""Numbers that a run has for each of its rounds: training, evaluation, test."""
KINDS: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")
_MOST_NAMED = 8
"""Repeats, and occurrences of each, that a sentence names; JSON has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Occurrence:
    """One time that an exchange was charged, or announced.

    Args:
        kind: `train` or `evaluate`.
        round: The training round.
        exchange: Its number within a run, the same in every run.
        run: The coordinator's number of its run.
        attempt: 1 or 2.
        place: The entry of the ledger, or the record of the round log.
    """

    kind: str
    round: int
    exchange: int
    run: int
    attempt: int
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Everything of one kind of exchange that came under one manifest.

    Args:
        manifest: Its digest, in hexadecimal.
        kind: `train` or `evaluate`.
        granted: Exchanges of the kind that the manifest lets a store pay for.
        spare: Of them, those beyond one for each exchange of an undisturbed run.
        occurrences: In order.
    """

    manifest: str
    kind: str
    granted: int
    spare: int
    occurrences: tuple[Occurrence, ...]

    @property
    def used(self) -> int:
        """How many exchanges came, repeats included."""
        return len(self.occurrences)

    @property
    def repeats(self) -> list[tuple[Occurrence, ...]]:
        """The occurrences of each exchange that came more than once."""
        found: dict[tuple[int, int], list[Occurrence]] = {}
        for one in self.occurrences:
            found.setdefault((one.round, one.exchange), []).append(one)
        return [tuple(times) for times in found.values() if times[1:]]

    @property
    def repeated(self) -> int:
        """How many of them had come before."""
        return sum(len(times) - 1 for times in self.repeats)

    @property
    def beyond(self) -> Occurrence | None:
        """The first occurrence that is not granted; None if all are."""
        return self.occurrences[self.granted] if self.used > self.granted else None

    def in_words(self, place: str) -> str:
        """Say what was repeated; empty if nothing was.

        Args:
            place: What a `place` is called, `entry` or `record`.
        """
        if not self.repeats:
            return ""
        if place == "record":  # what was announced may have ended before anybody paid
            told = f"announced {counted(self.repeated, 'repeat')} of kind {self.kind!r}, a store "
            return f"{told}pays for {self.spare} at most: {self.named(place)}"
        return (
            f"{self.repeated} of {counted(self.spare, 'spare exchange')} of kind {self.kind!r} "
            f"used: {self.named(place)}"
        )

    def named(self, place: str) -> str:
        """Name the exchanges that came more than once, with run numbers and places."""
        shown = [_named(times, place) for times in self.repeats[:_MOST_NAMED]]
        more = len(self.repeats) - len(shown)
        return "; ".join(shown) + (f"; and {more} others, as JSON lists them" if more else "")

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "manifest": self.manifest,
            "kind": self.kind,
            "granted": self.granted,
            "spare": self.spare,
            "used": self.used,
            "repeated": self.repeated,
            "repeats": [
                {
                    "round": times[0].round,
                    "exchange": times[0].exchange,
                    "times": [
                        {"run": one.run, "attempt": one.attempt, "at": one.place} for one in times
                    ],
                }
                for times in self.repeats
            ],
        }


def uses_of(manifest: Manifest, occurrences: Iterable[Occurrence]) -> tuple[Use, ...]:
    """Hold what came under a manifest against what it grants; a kind that never came is left out.

    Args:
        manifest: The terms.
        occurrences: Of any kinds, in order.
    """
    came = list(occurrences)
    uses = []
    for kind in KINDS:
        mine = tuple(one for one in came if one.kind == kind)
        granted = manifest.granted(kind)
        if mine:
            uses.append(
                Use(
                    manifest=manifest.digest().hex(),
                    kind=kind,
                    granted=granted,
                    spare=min(manifest.spare_exchanges, granted),
                    occurrences=mine,
                )
            )
    return tuple(uses)


def repeats_in_words(uses: Iterable[Use], place: str) -> list[str]:
    """One sentence for each use in which something was repeated; see `Use.in_words`."""
    return [words for words in (use.in_words(place) for use in uses) if words]


def charges_of(entries: Sequence[Entry]) -> list[Occurrence]:
    """A ledger's charges, as occurrences."""
    return [
        Occurrence(
            kind=entry.release.kind,
            round=entry.release.round,
            exchange=entry.release.exchange,
            run=entry.release.run,
            attempt=entry.release.attempt,
            place=entry.sequence,
        )
        for entry in entries
        if entry.kind == "charge"
    ]


def kind_of(exchange: int) -> str:
    """What kind an exchange is, by its number.

    >>> kind_of(3), kind_of(4), kind_of(5)
    ('train', 'evaluate', 'evaluate')
    """
    return "evaluate" if exchange % EXCHANGES_PER_ROUND else "train"


def _named(times: Sequence[Occurrence], place: str) -> str:
    first = times[0]
    what = {0: "round", 1: "the evaluation of round", 2: "the test of round"}
    shown = ", ".join(
        f"{place} {one.place} (run {one.run}, attempt {one.attempt})" for one in times[:_MOST_NAMED]
    )
    more = len(times) - _MOST_NAMED
    often = "twice" if len(times) == 2 else f"{len(times)} times"
    return f"{what[first.exchange % EXCHANGES_PER_ROUND]} {first.round} {often}: {shown}" + (
        f" and {more} more" if more > 0 else ""
    )
