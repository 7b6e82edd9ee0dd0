"""The phases of a run: which rounds release a gradient, and which a sum of statistics.

A run's rounds are numbered from 1 over all phases. In a round of a `gradient` phase the stores
release clipped gradients, and the coordinator takes one step. In a round of a `statistics` phase
they release one bounded sum over their customers, which the coordinator sends with the model in
every later round, as the array `released.<phase>`.

>>> phases = Phases.of([("pairs", "statistics", 1), ("train", "gradient", 3)])
>>> phases.rounds, phases.at(1).name, phases.at(2).name
(4, 'pairs', 'train')
>>> arrays = {"head": 1, "released.pairs": 2}
>>> sorted(phases.known(arrays, after=0)), sorted(phases.known(arrays, after=1))
(['head'], ['head', 'released.pairs'])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeVar

Release = Literal["gradient", "statistics"]
_Value = TypeVar("_Value")

TRAIN: Final = "train"
"""Name of the gradient phase, and of its kind of exchange."""
EVALUATE: Final = "evaluate"
RELEASED: Final = "released."
"""Prefix of the arrays that hold released sums; they are sent, and no step changes them."""
EXCHANGES_PER_ROUND: Final = 3
"""Exchange numbers per round: training or statistics, evaluation, test."""
PHASE_NAME: Final = r"^(?!(?:train|evaluate)$)[a-z][a-z0-9-]{0,39}$"
"""Names of statistics phases: they are kinds of exchange next to `train` and `evaluate`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Consecutive rounds that release the same thing.

    Args:
        name: `train` for the gradient; otherwise the task's name of the statistics.
        release: What a round releases.
        first: The phase's first round, from 1.
        rounds: Number of its rounds.
    """

    name: str
    release: Release
    first: int
    rounds: int

    @property
    def last(self) -> int:
        """The phase's last round."""
        return self.first + self.rounds - 1

    @property
    def array(self) -> str:
        """Name of the array with the released sum."""
        return RELEASED + self.name


@dataclass(frozen=True, slots=True)
class Phases:
    """All phases of a run in order."""

    all: tuple[Phase, ...]

    @classmethod
    def of(cls, phases: Iterable[tuple[str, Release, int]]) -> Self:
        """Number the rounds of phases that are given as name, release and count of rounds."""
        numbered, first = [], 1
        for name, release, rounds in phases:
            numbered.append(Phase(name=name, release=release, first=first, rounds=rounds))
            first += rounds
        return cls(tuple(numbered))

    @property
    def rounds(self) -> int:
        """Number of rounds of all phases."""
        return sum(phase.rounds for phase in self.all)

    @property
    def gradient(self) -> Phase | None:
        """The gradient phase; None if the run has statistics only."""
        return next((phase for phase in self.all if phase.release == "gradient"), None)

    @property
    def statistics(self) -> tuple[Phase, ...]:
        """The phases that release statistics."""
        return tuple(phase for phase in self.all if phase.release == "statistics")

    @property
    def statistics_rounds(self) -> int:
        """Number of rounds that release statistics."""
        return sum(phase.rounds for phase in self.statistics)

    def at(self, number: int) -> Phase:
        """Return the phase of a round; of the nearest one for a number outside the run."""
        return next((phase for phase in self.all if number <= phase.last), self.all[-1])

    def kind(self, message_kind: str, number: int) -> str:
        """Return the kind of exchange that a message of a type orders in a round.

        Args:
            message_kind: `train` or `evaluate`.
            number: The round.

        Returns:
            `train`, `evaluate`, or the name of a statistics phase.
        """
        return self.at(number).name if message_kind == TRAIN else message_kind

    def known(self, arrays: Mapping[str, _Value], *, after: int) -> dict[str, _Value]:
        """Return the arrays that exist after a round: all but sums that are released later.

        Args:
            arrays: Arrays, shapes or anything else by array name.
            after: The round; 0 before the first.
        """
        later = {phase.array for phase in self.statistics if phase.first > after}
        return {name: value for name, value in arrays.items() if name not in later}


def exchange_name(exchange: int) -> str:
    """Name an exchange by its number within the run, for people.

    >>> exchange_name(15), exchange_name(16), exchange_name(17)
    ('round 5', 'the evaluation of round 5', 'the test of round 5')
    """
    number, place = divmod(exchange, EXCHANGES_PER_ROUND)
    return ("", "the evaluation of ", "the test of ")[place] + f"round {number}"


def is_released(name: str) -> bool:
    """Whether an array holds a released sum, and is not trained."""
    return name.startswith(RELEASED)


def trained(arrays: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the arrays that a step of training changes."""
    return {name: value for name, value in arrays.items() if not is_released(name)}
