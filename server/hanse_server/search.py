"""Group testing over exchanges for the store that breaks sums; pure, without I/O.

Masks hide single vectors: a forged vector shows in the sum only, which does not tell whose it
is. In each exchange the coordinator leaves out a group of stores and sees whether the sum is
good. A broken sum is a lost round; a good one is a normal round with fewer stores.

If a single store is to blame, a broken sum is certain evidence: the store was in that sum, and
every store that was left out is cleared. A good sum is weaker evidence, because the store may
have forged nothing this time: it decides whom to leave out next, but clears no store for good.

1. Sweep. Leave out `most` of the candidates at a time until a sum is good.
2. Narrow. The stores that were left out of the good sum come back one at a time. The one with
   which the sum breaks is singled out, and left out as long as sums are good without it.
3. If a sum breaks without it, it is cleared, and the sweep goes on among the others. Once one
   candidate is left, and a sum without it is good, it is convicted.

A store that forges whenever it can is singled out after at most 1 + ceil((n - 1) / most) lost
rounds, the minimum for groups of that size. If no single store can have broken all the sums,
several do; the search then looks for a group without which a sum is good.

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
"""Broken sums after which a search that can leave out no store is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The state of a search for the store that breaks the sums of one kind of exchange.

    Args:
        candidates: Stores that were in every broken sum, the most suspicious first; all of
            them if `several`.
        queue: Candidates that this sweep has still to leave out.
        held: Stores that were left out of a good sum, and come back one at a time.
        singled: Stores with which a sum broke when they came back, or which are the only
            candidates.
        convicted: Stores that are found guilty; the search is over.
        several: More than one store breaks sums.
        turn: The number of sweeps for several stores so far; each forms other groups.
        lost: Rounds that this search has cost, including the one that began it.
        sweeps: Sweeps to make before all stores take part again; 0 while all of them do.
        fruitless: How often a sum broke again after a sweep without a result.
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
            participants: The stores in it.
            suspicion: Other evidence against a store, as a score; the highest are left out
                first.
        """
        scores = suspicion or {}
        # Ties by name: coordinator and tests get the same order on every machine.
        order = tuple(sorted(participants, key=lambda name: (-scores.get(name, 0.0), name)))
        return cls(candidates=order, queue=order)._settled()

    def leave_out(self, most: int, *, present: Collection[str]) -> tuple[str, ...]:
        """Return the stores that the next exchange should leave out.

        Args:
            most: How many of the present stores may be absent.
            present: Stores that would take part.
        """
        if most < 1:
            return ()
        if self.singled or self.held:
            held = [name for name in self.held if name in present]
            singled = [name for name in self.singled if name in present]
            # Only the first of those held comes back, so that a broken sum identifies it.
            return tuple([*singled, *held[1:]][:most])
        waiting = [name for name in self.queue if name in present]
        # One candidate always stays in: if the sum breaks, it is that one.
        return tuple(waiting[: min(most, len(self.candidates) - 1)])

    def after(self, participants: Collection[str], *, broken: bool) -> Self:
        """Return the state of the search after one more sum.

        Args:
            participants: Stores in the sum.
            broken: Whether honest stores cannot have made the sum.

        Edge cases:
            A good sum with every candidate in it changes nothing: the store to blame may have
            sent an honest vector. Absent stores count as left out.
        """
        within = frozenset(participants)
        if not broken:
            return self._good(within)
        lost = replace(self, lost=self.lost + 1)
        return lost._several(within) if self.several else lost._broken(within)

    def is_hopeless(self, most: int) -> bool:
        """Whether the search cannot succeed: several are to blame, or none can be left out."""
        return self.several or (self.lost >= _STUCK and not self.singled and most < 1)

    def without(self, store: str) -> Self | None:
        """Clear a store at a person's request; None if no candidate is left."""
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
            # While other candidates are left, one of them may have forged whenever the
            # singled-out store took part; it is then cleared by a later broken sum.
            sure = self.several or len(self.candidates) == 1
            if sure and not within & frozenset(self.singled):
                return replace(self, convicted=self.singled)
            return self
        if self.held:
            return replace(self, held=_not_in(within, self.held))._settled()
        left = _not_in(within, self.candidates)
        # All or no candidates in the sum: it does not distinguish between them.
        if not left or len(left) == len(self.candidates):
            return self
        return replace(self, held=left, queue=_in(within, self.queue))

    def _broken(self, within: frozenset[str]) -> Self:
        """The state after a broken sum, if one store is to blame: a candidate in this sum."""
        inside = _in(within, self.candidates)
        if not inside:
            # No store was in all broken sums, which refutes that a single one is to blame.
            everyone = tuple(sorted(within | frozenset(self.candidates)))
            several = replace(self, candidates=everyone, several=True, sweeps=2)
            return replace(several, queue=(), held=(), singled=())._settled()
        tried = _in(within, self.held)
        singled = _in(within, self.singled) + (tried if len(tried) == 1 else ())
        # More than one came back, as absences do not always go as planned: narrow again.
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
            # A store that forges only while all stores take part gets fewer such rounds each
            # time, so that it loses ever fewer of them.
            sweeps=2**fruitless if again else self.sweeps,
        )._settled()

    def _several(self, within: frozenset[str]) -> Self:
        """The state after a broken sum, if several are to blame: absence clears no store."""
        tried, singled, held = _in(within, self.held), self.singled, self.held
        if len(tried) == 1:
            singled, held = (*singled, *tried), _not_in(within, held)
        elif tried:
            held = tried
        else:
            # Other stores break sums as well, so nothing is known about these any more.
            singled, held = (), ()
        queue = _in(within, self.queue)
        return replace(self, queue=queue, held=held, singled=singled, sweeps=2)._settled()

    def _settled(self) -> Self:
        """Single out the last candidate, or begin the next sweep once one has ended."""
        if len(self.candidates) == 1:
            return replace(self, singled=self.candidates, held=(), queue=())
        if self.held or self.singled or self.queue or self.sweeps == 0:
            return self
        if self.sweeps == 1:
            # A rest: all stores take part until a sum breaks, so no round lacks stores for
            # a search that has nothing to find.
            return replace(self, sweeps=0)
        queue, turn = self.candidates, self.turn
        if self.several:  # other groups in each sweep, until one group holds all the culprits
            turn += 1
            queue = tuple(sorted(queue, key=lambda name: _mixed(name, turn)))
        return replace(self, queue=queue, turn=turn, sweeps=self.sweeps - 1)


def _in(within: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in within)


def _not_in(within: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in within)


def _mixed(name: str, turn: int) -> bytes:
    """A sort key: the order differs between turns, and is the same on every machine."""
    # A hash, not a generator: the order has to be the same after a restart.
    return sha256(f"{turn}/{name}".encode()).digest()
