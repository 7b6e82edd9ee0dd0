"""The average of a run's last models (Polyak and Juditsky 1992).

The noise of single steps averages out in it. Everything is computed from models that were
published, so that it costs no epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse_common.config import RunSettings
from hanse_common.phases import trained

NDArray = npt.NDArray[Any]

_PREFIX = "average/"


class IterateAverage:
    """Averages the models of the last rounds of the gradient phase.

    Args:
        settings: The run's; `federation.average_last` is the fraction of rounds that count.
        state: The state of a checkpoint to go on from, in which other entries are ignored.
    """

    def __init__(self, settings: RunSettings, state: Mapping[str, NDArray]) -> None:
        phase = settings.schedule.gradient
        count = 0
        if phase is not None:
            count = math.ceil(settings.federation.average_last * phase.rounds)
        self._last = 0 if phase is None else phase.last
        self._first = self._last - count + 1
        self._sum = {
            name.removeprefix(_PREFIX): array
            for name, array in state.items()
            if name.startswith(_PREFIX)
        }

    @property
    def state(self) -> dict[str, NDArray]:
        """The sums so far, for a checkpoint."""
        return {_PREFIX + name: array for name, array in self._sum.items()}

    def take(self, number: int, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Count the model after a round.

        Args:
            number: The round.
            arrays: The model after it, by name.

        Returns:
            The average in the last round that counts; in all others the model itself.
        """
        if not self._first <= number <= self._last:
            return dict(arrays)
        for name, array in trained(arrays).items():
            # In float64, where the sum of float32 models is exact enough in any order.
            earlier = self._sum.get(name, np.zeros(array.shape))
            self._sum[name] = earlier + array.astype(np.float64)
        if number < self._last:
            return dict(arrays)
        count = self._last - self._first + 1
        mean = {name: (total / count).astype(np.float32) for name, total in self._sum.items()}
        return {**arrays, **mean}
