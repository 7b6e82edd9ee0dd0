"""Draw canary customers and add them to stores' prepared histories.

A canary is a customer whom the attacker made up and tries to detect. Each is in its store's
data or not by a coin of its own; training never sees one that is not. The production code
samples canaries by the same lots as all customers, and clips, sums and noises their gradients
in the same sums.

>>> canaries = draw_canaries(["a", "b"], count=4, parameters=10, seed=1)
>>> canaries.stores, len(set(canaries.coordinates))
(('a', 'b', 'a', 'b'), 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hanse_client.features.histories import Histories
from hanse_common.errors import ConfigError
from hanse_common.privacy.randomness import keystream, repeatable_key

PREFIX = "~canary-"
"""Prefix of canaries' names: no pseudonym begins with it, and all sort before it."""

# Domain of the coins' key: other keys from the same seed (lots, noise) are independent of it.
_COINS = 0xCA


@dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """Stores, coins and directions of m canaries."""

    stores: tuple[str, ...]
    """Store at which each would be a customer [m]."""
    included: npt.NDArray[np.bool_]
    """Whether it is one [m]. The attack reads this only after all guesses are made."""
    coordinates: tuple[int, ...]
    """The parameter, in the order of `flatten`, along which its gradient points [m]."""

    def __len__(self) -> int:
        return len(self.stores)

    @property
    def names(self) -> list[str]:
        """Pseudonyms [m]."""
        return [f"{PREFIX}{number:06d}" for number in range(len(self))]

    def of_store(self, store: str) -> dict[str, int]:
        """Coordinates of the canaries that are customers of a store, by pseudonym."""
        return {
            name: coordinate
            for name, home, there, coordinate in zip(
                self.names, self.stores, self.included, self.coordinates, strict=True
            )
            if there and home == store
        }


def draw_canaries(stores: Sequence[str], *, count: int, parameters: int, seed: int) -> Canaries:
    """Spread canaries over stores and toss their coins.

    Args:
        stores: Names of the stores, over which canaries, in or out, are spread evenly.
        count: Number of canaries, m.
        parameters: Number of trained parameters; each canary has one for itself.
        seed: Makes the coins repeatable. They have a key of their own, so that the nodes'
            lots and noise say nothing about them.

    Raises:
        ConfigError: There are more canaries than parameters.
    """
    if count > parameters:
        raise ConfigError(
            f"{count} canaries cannot have a direction each among {parameters} trained parameters",
            hint="take fewer canaries, or train more: --set model.trainable=heads",
        )
    lots = keystream(repeatable_key(seed, _COINS))
    return Canaries(
        stores=tuple(stores[number % len(stores)] for number in range(count)),
        included=lots.random(count) < 0.5,
        coordinates=tuple(int(place) for place in lots.permutation(parameters)[:count]),
    )


def with_canaries(histories: Histories, names: Sequence[str], *, until: float) -> Histories:
    """Add customers with the history of the store's least active customer.

    Their history matters little, since their gradient is made up; but without a visit before
    training ends they would never be drawn.

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
