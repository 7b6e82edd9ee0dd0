"""Whether the noise that the stores promised is in their sum.

A few thousand coordinates of every masked vector carry nothing but noise. Their sum shows the
coordinator how much noise the stores added, and nothing about any customer: so it notices a
store that adds none, by a fault or an old release, before many rounds rest on it. Malice it
does not notice: a store can add noise there and nowhere else.

>>> monitor = NoiseMonitor(variance=100.0)
>>> rng = np.random.default_rng(1)
>>> for _ in range(3):
...     monitor.take(rng.normal(0.0, (10 * 100.0) ** 0.5, 4096), stores=10)
>>> 0.95 < monitor.share < 1.05
True
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_common.errors import NoiseMissing, RoundNoiseMissing

CHANCE = 1e-6
"""How rarely a round is lost although all noise is there."""


class NoiseMonitor:
    """Compares the noise of all rounds so far with what the manifest says.

    Args:
        variance: Of the noise that one store adds to one integer coordinate.
        needed: Stores whose noise the promise rests on: those of the smallest admissible sum,
            colluders with them, as their noise is in the sum and hides nothing from them.
            What arrives beyond theirs is noise that nothing needs, so that a store which adds
            none breaks no promise as long as so many others do. All of a sum if unset.
    """

    def __init__(self, variance: float, *, needed: int | None = None) -> None:
        self._variance = variance
        self._needed = needed
        self._squares = 0.0
        self._enough = 0.0
        self._count = 0

    @property
    def share(self) -> float:
        """Measured variance over promised variance, all rounds that count; 1 before any."""
        return self._squares / self._count if self._count else 1.0

    @property
    def warning(self) -> str:
        """What to say where some stores add none, and the promise holds all the same."""
        if not self._count or _chance_of_less(self._squares, self._count) >= CHANCE:
            return ""
        return (
            f"the stores' noise has {self.share:.1%} of the variance that all of them should "
            "add; the promise needs less, and holds; have every store check its release of Hanse"
        )

    def take(self, total: npt.NDArray[Any], *, stores: int) -> None:
        """Take in the noise-only coordinates of a round's sum.

        Args:
            total: Integers, shape [coordinates].
            stores: How many stores the sum holds.

        Raises:
            RoundNoiseMissing: So little noise in this round alone has a chance below `CHANCE`
                if the stores that are needed add theirs. The round is to be lost, and does
                not count.
            NoiseMissing: The same of all rounds that count, this one included: the model rests
                on less noise than was promised.
        """
        needed = min(stores, self._needed or stores)
        found = float(np.square(total.astype(np.float64)).sum()) / self._variance
        if _chance_of_less(found / needed, total.size) < CHANCE:
            raise RoundNoiseMissing(
                _missing(found / stores, total.size, stores),
                hint="the model is unchanged; have every store check its release of Hanse",
            )
        self._squares, self._count = self._squares + found / stores, self._count + total.size
        self._enough += found / needed
        if _chance_of_less(self._enough, self._count) < CHANCE:
            raise NoiseMissing(
                _missing(self._squares, self._count, stores),
                hint="the model is unchanged; have every store check its release of Hanse, "
                "then resume",
            )


def _missing(squares: float, count: int, stores: int) -> str:
    missing = max(1, round((1 - squares / count) * stores))
    return (
        f"the stores' noise has {squares / count:.1%} of the variance that the manifest "
        f"promises: about {missing} of {stores} stores add none"
    )


def _chance_of_less(squares: float, count: int) -> float:
    """The chi-square distribution's lower tail."""
    from scipy.special import gammainc

    return float(gammainc(count / 2, squares / 2))
