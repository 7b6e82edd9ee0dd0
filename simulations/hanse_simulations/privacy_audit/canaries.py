"""Draw canary customers and add them to stores' prepared histories.

A canary is a customer whom the attacker made up and tries to detect. Each is in its store's
data or not by a coin of its own; training never sees one that is not. The production code
samples canaries by the same lots as all customers, and clips, sums and noises what they add in
the same sums.

>>> canaries = draw_canaries(["a", "b"], count=4, seed=1)
>>> canaries.stores, len(set(canaries.directions(number=1, length=10).places))
(('a', 'b', 'a', 'b'), 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories
from hanse_common.privacy.randomness import keystream, repeatable_key

PREFIX = "~canary-"
"""Prefix of canaries' names: no pseudonym begins with it, and all sort before it."""

# Domains of keys: other keys from the same seed (lots, noise) are independent of them.
_COINS, _DIRECTIONS = 0xCA, 0xD1


class Direction(NamedTuple):
    """Where a canary points in one round's vector: one number, up or down."""

    place: int
    sign: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Directions:
    """Directions of m canaries in one round."""

    places: npt.NDArray[np.int64]
    """The number that each canary adds to [m], in the order of the released vector."""
    signs: npt.NDArray[np.float64]
    """1 or -1 [m]."""

    @classmethod
    def draw(cls, count: int, *, length: int, seed: int, number: int) -> Directions:
        """Draw the directions of all canaries in a round.

        Where there are more canaries than numbers, several share one, as evenly as possible.
        With random signs, and with others in every round, they are no more than a little noise
        to each other. A customer may send anything in a round, so that other directions in each
        are within what the promise covers.

        Args:
            count: Number of canaries, m.
            length: Length of the round's vector.
            seed: The run's.
            number: The round, from 1.
        """
        lots = keystream(repeatable_key(seed, _DIRECTIONS, number))
        shared = -(-count // length)
        places = lots.permutation(shared * length)[:count] % length
        return cls(places=places, signs=lots.choice([-1.0, 1.0], count))

    def of(self, canary: int) -> Direction:
        """The direction of one canary by its number."""
        return Direction(int(self.places[canary]), float(self.signs[canary]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """Stores and coins of m canaries."""

    stores: tuple[str, ...]
    """Store at which each would be a customer [m]."""
    included: npt.NDArray[np.bool_]
    """Whether it is one [m]. The attack reads this only after all guesses are made."""
    seed: int
    """Of their directions."""

    def __len__(self) -> int:
        return len(self.stores)

    @property
    def names(self) -> list[str]:
        """Pseudonyms [m]."""
        return [f"{PREFIX}{number:06d}" for number in range(len(self))]

    def of_store(self, store: str) -> dict[str, int]:
        """Numbers of the canaries that are customers of a store, by pseudonym."""
        homes = zip(self.names, self.stores, self.included, strict=True)
        return {
            name: number
            for number, (name, home, there) in enumerate(homes)
            if there and home == store
        }

    def directions(self, *, number: int, length: int) -> Directions:
        """The directions of all canaries in a round; see `Directions.draw`."""
        return Directions.draw(len(self), length=length, seed=self.seed, number=number)


def draw_canaries(stores: Sequence[str], *, count: int, seed: int) -> Canaries:
    """Spread canaries over stores and toss their coins.

    Args:
        stores: Names of the stores, over which canaries, in or out, are spread evenly.
        count: Number of canaries, m.
        seed: Makes the coins repeatable. They have a key of their own, so that the nodes'
            lots and noise say nothing about them.
    """
    lots = keystream(repeatable_key(seed, _COINS))
    return Canaries(
        stores=tuple(stores[number % len(stores)] for number in range(count)),
        included=lots.random(count) < 0.5,
        seed=seed,
    )


def with_canaries(histories: Histories, names: Sequence[str], *, until: float) -> Histories:
    """Add customers with the history of the store's least active customer.

    Their history matters little, since what they add is made up; but without a visit before
    training ends they would never be counted.

    Args:
        histories: The store's histories.
        names: Pseudonyms of the customers to add.
        until: First day after training, in days since 1970.
    """
    visits = np.diff(histories.until(until).visit_offsets)
    donor = int(np.where(visits > 0, visits, np.iinfo(np.int64).max).argmin())
    together = Histories.pooled([histories, *[_only(histories, donor)] * len(names)])
    return replace(together, customers=np.array([*histories.customers, *names]))


def _only(histories: Histories, customer: int) -> Histories:
    """The history of one customer alone."""
    visits = slice(*histories.visit_offsets[customer : customer + 2])
    pairs = histories.pair_offsets[visits.start : visits.stop + 1]
    return replace(
        histories,
        customers=histories.customers[customer : customer + 1],
        homes=histories.homes[customer : customer + 1],
        visit_offsets=np.array([0, visits.stop - visits.start]),
        visit_days=histories.visit_days[visits],
        visit_vectors=histories.visit_vectors[visits],
        visit_facts=histories.visit_facts[visits],
        pair_offsets=pairs - pairs[0],
        pair_classes=histories.pair_classes[pairs[0] : pairs[-1]],
    )
