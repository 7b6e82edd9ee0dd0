"""Counts repeated exchanges, and how many of the granted exchanges are used.

A manifest grants every exchange once, and spare exchanges of each kind for second attempts,
rounds interrupted by a crash, and lost rounds. Repeats are counted across run numbers, since the
coordinator can choose these freely.

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
from typing import Any

from hanse_common.manifest import Manifest
from hanse_common.phases import EVALUATE, EXCHANGES_PER_ROUND, TRAIN, exchange_name
from hanse_common.privacy.entry import Entry
from hanse_common.wording import counted

_MOST_NAMED = 8
"""Most repeats, and occurrences of each, that a sentence names; JSON lists all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Occurrence:
    """One charge or announcement of an exchange.

    Args:
        kind: `train`, `evaluate` or the name of a phase of statistics.
        round: The training round.
        exchange: Number of the exchange within a run, the same in every run.
        run: The coordinator's number of the run.
        attempt: 1 or 2.
        place: Number of the ledger's entry, or of the round log's record.
    """

    kind: str
    round: int
    exchange: int
    run: int
    attempt: int
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """All occurrences of one kind of exchange under one manifest.

    Args:
        manifest: Digest of the manifest, in hexadecimal.
        kind: `train`, `evaluate` or the name of a phase of statistics.
        granted: Number of exchanges of this kind that the manifest grants.
        spare: The granted exchanges beyond those of an undisturbed run.
        occurrences: The occurrences, in order.
    """

    manifest: str
    kind: str
    granted: int
    spare: int
    occurrences: tuple[Occurrence, ...]

    @property
    def used(self) -> int:
        """Number of occurrences, repeats included."""
        return len(self.occurrences)

    @property
    def repeats(self) -> list[tuple[Occurrence, ...]]:
        """The occurrences of each exchange that occurred more than once."""
        # Neither run nor attempt is in the key: a new run number makes no new exchange.
        by_exchange: dict[tuple[int, int], list[Occurrence]] = {}
        for one in self.occurrences:
            by_exchange.setdefault((one.round, one.exchange), []).append(one)
        return [tuple(times) for times in by_exchange.values() if times[1:]]

    @property
    def repeated(self) -> int:
        """Number of occurrences that repeat an earlier one."""
        return sum(len(times) - 1 for times in self.repeats)

    @property
    def beyond(self) -> Occurrence | None:
        """The first occurrence that is not granted; None if all are."""
        return self.occurrences[self.granted] if self.used > self.granted else None

    def in_words(self, place: str) -> str:
        """Return a sentence on the repeats; empty if there are none.

        Args:
            place: Word for a `place`: `entry` or `record`.
        """
        if not self.repeats:
            return ""
        if place == "record":  # an announced attempt may have ended before any store paid
            start = f"announced {counted(self.repeated, 'repeat')} of kind {self.kind!r}, a store "
            return f"{start}pays for {self.spare} at most: {self.named(place)}"
        return (
            f"{self.repeated} of {counted(self.spare, 'spare exchange')} of kind {self.kind!r} "
            f"used: {self.named(place)}"
        )

    def named(self, place: str) -> str:
        """Return the repeated exchanges in words, with run numbers and places."""
        shown = [_named(times, place) for times in self.repeats[:_MOST_NAMED]]
        more = len(self.repeats) - len(shown)
        return "; ".join(shown) + (f"; and {more} others, as JSON lists them" if more else "")

    def row(self) -> dict[str, Any]:
        """Return the use for JSON."""
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
    """Compare occurrences under a manifest with its grant, by kind; unused kinds are left out.

    Args:
        manifest: The terms.
        occurrences: Occurrences of any kind, in order.
    """
    all_kinds = list(occurrences)
    uses = []
    # Each kind has a grant of its own: spare evaluations pay for no training round.
    for kind in dict.fromkeys((*manifest.kinds, TRAIN, EVALUATE)):
        mine = tuple(one for one in all_kinds if one.kind == kind)
        granted = manifest.granted(kind)
        if mine:
            uses.append(
                Use(
                    manifest=manifest.digest().hex(),
                    kind=kind,
                    granted=granted,
                    spare=manifest.spare_exchanges if kind in (TRAIN, EVALUATE) and granted else 0,
                    occurrences=mine,
                )
            )
    return tuple(uses)


def repeats_in_words(uses: Iterable[Use], place: str) -> list[str]:
    """Return a sentence for each use with repeats; see `Use.in_words`."""
    return [words for words in (use.in_words(place) for use in uses) if words]


def charges_of(entries: Sequence[Entry]) -> list[Occurrence]:
    """Return a ledger's charges as occurrences."""
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


def kind_of(exchange: int, manifest: Manifest) -> str:
    """Return the kind of an exchange by its number: a phase's name, or `evaluate`."""
    number, place = divmod(exchange, EXCHANGES_PER_ROUND)
    return manifest.schedule.kind(EVALUATE if place else TRAIN, number)


def _named(times: Sequence[Occurrence], place: str) -> str:
    first = times[0]
    shown = ", ".join(
        f"{place} {one.place} (run {one.run}, attempt {one.attempt})" for one in times[:_MOST_NAMED]
    )
    more = len(times) - _MOST_NAMED
    often = "twice" if len(times) == 2 else f"{len(times)} times"
    rest = f" and {more} more" if more > 0 else ""
    return f"{exchange_name(first.exchange)} {often}: {shown}{rest}"
