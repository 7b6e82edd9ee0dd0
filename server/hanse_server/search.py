"""Which store breaks the sums: group testing over whole exchanges, without input or output.

Masks hide single vectors, so a forged one shows in a sum alone, and not whose it was. The
coordinator leaves stores out, a group in each exchange, and sees which sums are good. A broken
sum is a lost round; a good one is a round like any other, with fewer stores in it.

What a broken sum says is certain as long as one store is to blame: it was in that sum, and
every store that was left out is cleared. A good sum says less, as the store may have forged
nothing this time: it decides whom to leave out next, and nobody is cleared by it for good.

1. Sweep. Leave out `most` of the candidates at a time until a sum is good.
2. Narrow. Those who were left out of the good sum come back one at a time. The one with which
   the sum breaks is singled out, and left out as long as sums are good without it.
3. If a sum breaks without it, it is cleared, and the sweep goes on among the others. Once one
   candidate is left, and a sum without it is good, it is convicted.

A store that forges whenever it can is singled out after at most 1 + ceil((n - 1) / most) lost
rounds, which is the least that groups of that size allow. If no single store can have broken
all the sums, several do; the search then looks for a group without which a sum is good.

>>> names = ("bremen", "danzig", "luebeck", "riga", "visby")
>>> search = Search.begin(names)
>>> search.leave_out(2, present=names)
('bremen', 'danzig')
>>> search = search.after(("luebeck", "riga", "visby"), broken=False)
>>> search.leave_out(2, present=names)
('danzig',)
>>> search = search.after(("bremen", "luebeck", "riga", "visby"), broken=True)
>>> search.singled, search.lost
(('bremen',), 2)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

_STUCK = 3
"""Broken sums after which a search in which nobody can be left out is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is known about who breaks the sums of one kind of exchange.

    Args:
        candidates: Stores that were in every broken sum, the most suspicious first; all of
            them if `several`.
        queue: Candidates that are still to be left out in this sweep.
        held: Stores that were left out of a good sum, and come back one at a time.
        singled: Stores with which a sum broke when they came back, or which are the only
            candidates.
        convicted: Stores that are found; the search is over.
        several: More than one store breaks sums.
        turn: How often a sweep for several was begun; each one makes other groups.
        lost: Rounds that this search has cost, the one that began it included.
        sweeps: Sweeps to make before everybody takes part again; 0 while everybody does.
        fruitless: How often sums broke again after a sweep that found nobody.
    """

    candidates: tuple[str, ...]
    queue: tuple[str, ...]
    held: tuple[str, ...] = ()
    singled: tuple[str, ...] = ()
    convicted: tuple[str, ...] = ()
    several: bool = False
    turn: int = 0
    lost: int = 1
    sweeps: int = 1
    fruitless: int = 0

    @classmethod
    def begin(
        cls, participants: Iterable[str], suspicion: Mapping[str, float] | None = None
    ) -> Self:
        """Begin with the stores of a broken sum.

        Args:
            participants: All of them.
            suspicion: How much else speaks against a store; those are left out first.
        """
        against = suspicion or {}
        order = tuple(sorted(participants, key=lambda name: (-against.get(name, 0.0), name)))
        return cls(candidates=order, queue=order)._settled()

    def leave_out(self, most: int, *, present: Collection[str]) -> tuple[str, ...]:
        """Say whom the next exchange should go on without.

        Args:
            most: How many of those present may be absent.
            present: Stores that would take part.
        """
        if most < 1:
            return ()
        if self.singled or self.held:
            held = [name for name in self.held if name in present]
            singled = [name for name in self.singled if name in present]
            # The first of those held comes back; alone, so that one sum says which it is.
            return tuple([*singled, *held[1:]][:most])
        waiting = [name for name in self.queue if name in present]
        # One candidate less than all: if that sum breaks, it is the one that took part.
        return tuple(waiting[: min(most, len(self.candidates) - 1)])

    def after(self, participants: Collection[str], *, broken: bool) -> Self:
        """Take in what a sum of these stores was.

        Args:
            participants: Stores in the sum.
            broken: Whether it was one that honest stores cannot have made.

        Edge cases:
            A good sum with every candidate in it says nothing, whoever it was may have sent
            an honest vector. Absent stores count as left out.
        """
        within = frozenset(participants)
        if not broken:
            return self._good(within)
        lost = replace(self, lost=self.lost + 1)
        return lost._several(within) if self.several else lost._broken(within)

    def is_hopeless(self, most: int) -> bool:
        """Whether it will not say who it was: several are to blame, or nobody can be left out."""
        return self.several or (self.lost >= _STUCK and not self.singled and most < 1)

    def without(self, store: str) -> Self | None:
        """Clear a store, because a person says so; None if there is nobody left to suspect."""
        rest = frozenset(self.candidates) - {store}
        if not rest:
            return None
        return replace(
            self,
            candidates=_in(rest, self.candidates),
            queue=_in(rest, self.queue),
            held=_in(rest, self.held),
            singled=_in(rest, self.singled),
        )._settled()

    def _good(self, within: frozenset[str]) -> Self:
        if self.singled and not self.held:
            sure = self.several or len(self.candidates) == 1
            if sure and not within & frozenset(self.singled):
                return replace(self, convicted=self.singled)
            return self
        if self.held:
            return replace(self, held=_not_in(within, self.held))._settled()
        left = _not_in(within, self.candidates)
        if not left or len(left) == len(self.candidates):
            return self
        return replace(self, held=left, queue=_in(within, self.queue))

    def _broken(self, within: frozenset[str]) -> Self:
        """One store is to blame, so that it is among the candidates in this sum."""
        inside = _in(within, self.candidates)
        if not inside:
            everybody = tuple(sorted(within | frozenset(self.candidates)))
            several = replace(self, candidates=everybody, several=True, sweeps=2)
            return replace(several, queue=(), held=(), singled=())._settled()
        tried = _in(within, self.held)
        singled = _in(within, self.singled) + (tried if len(tried) == 1 else ())
        held = tried if len(tried) > 1 else ()
        again = self.sweeps == 0
        fruitless = self.fruitless + again
        queue = _in(within, self.queue)
        if not (queue or held or singled):
            queue = inside
        return replace(
            self,
            candidates=inside,
            queue=queue,
            held=held,
            singled=singled,
            fruitless=fruitless,
            # Whoever forges only when everybody takes part finds that ever more rarely so.
            sweeps=2**fruitless if again else self.sweeps,
        )._settled()

    def _several(self, within: frozenset[str]) -> Self:
        """More than one store is to blame: whoever is left out is cleared of nothing."""
        tried, singled, held = _in(within, self.held), self.singled, self.held
        if len(tried) == 1:
            singled, held = (*singled, *tried), _not_in(within, held)
        elif tried:
            held = tried
        else:
            # Others than these break sums as well; nothing is known about these any more.
            singled, held = (), ()
        queue = _in(within, self.queue)
        return replace(self, queue=queue, held=held, singled=singled, sweeps=2)._settled()

    def _settled(self) -> Self:
        """Single out the only candidate left; begin a new sweep at the end of one, or rest."""
        if len(self.candidates) == 1:
            return replace(self, singled=self.candidates, held=(), queue=())
        if self.held or self.singled or self.queue or self.sweeps == 0:
            return self
        if self.sweeps == 1:
            return replace(self, sweeps=0)
        queue, turn = self.candidates, self.turn
        if self.several:  # in other groups each time, until one holds all of them
            turn += 1
            queue = tuple(sorted(queue, key=lambda name: _mixed(name, turn)))
        return replace(self, queue=queue, turn=turn, sweeps=self.sweeps - 1)


def _in(within: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in within)


def _not_in(within: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in within)


def _mixed(name: str, turn: int) -> bytes:
    """Sorts stores in another order each turn, and in the same one every time."""
    return sha256(f"{turn}/{name}".encode()).digest()
