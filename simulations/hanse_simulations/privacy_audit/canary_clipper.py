"""Run the production clipper on canaries' made-up gradients.

A canary's gradient is long and points along one parameter. It replaces the gradient of the
canary's history before norms are computed: from there on the production code clips and sums,
so that the attack detects a clip that does not hold as well as missing noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hanse_client.clipping import BookKeeping
from hanse_client.clipping.uses import Materialized, Use
from hanse_common.vector import flatten
from hanse_simulations.privacy_audit.canaries import Direction

TIMES_THE_CLIP = 10.0
"""Norm of a canary's gradient before clipping, in clips."""


class CanaryClipper(BookKeeping):
    """Clips as `BookKeeping` does, and records the sum of all but the canaries.

    Args:
        model: As `BookKeeping` takes it.
        max_grad_norm: The clip.
        replay: As `BookKeeping` takes it.
        directions: Parameter index and sign of each of the store's canaries, by pseudonym.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_grad_norm: float,
        replay: tuple[type[nn.Module], ...] = (),
        directions: Mapping[str, Direction],
    ) -> None:
        super().__init__(model, max_grad_norm=max_grad_norm, replay=replay)
        self._directions = directions
        self._rows: list[int] = []
        self._signs: list[float] = []
        self._places: dict[nn.Parameter, slice] = {}
        start = 0
        # In the order of `flatten`, by name, in which `directions` count.
        for parameter, _ in sorted(self._names.items(), key=lambda item: item[1]):
            self._places[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()
        self.others: npt.NDArray[np.float64] = np.zeros(start)
        """Sum of the clipped gradients of all other customers over all steps [parameters].

        An attacker who knows all customers but one knows this. It is computed as if the
        canaries were not there, so that it holds nothing about them."""

    def expect(self, customers: Sequence[str]) -> None:
        """Set who is in the next pass: pseudonyms in the order of the rows."""
        nowhere = Direction(place=-1, sign=0.0)
        found = [self._directions.get(name, nowhere) for name in customers]
        self._rows = [direction.place for direction in found]
        self._signs = [direction.sign for direction in found]

    def _add_clipped(self, uses: dict[nn.Parameter, Use]) -> None:
        rows = torch.tensor(self._rows)
        real = {parameter: use.without(rows >= 0) for parameter, use in uses.items()}
        # 1. Sum without the canaries; it is recorded, and the gradients so far are restored.
        sums = {parameter: parameter.grad for parameter in self._names}
        for parameter in self._names:
            parameter.grad = torch.zeros_like(parameter)
        super()._add_clipped(dict(real))
        self.others += flatten({name: _gradient(p) for p, name in self._names.items()})
        for parameter, value in sums.items():
            parameter.grad = value
        # 2. Sum with the canaries, as the store would send it.
        for parameter, place in self._places.items():
            crafted = self._crafted(parameter, place, rows)
            if crafted is not None:
                use = real.get(parameter)
                real[parameter] = crafted if use is None else use + crafted
        super()._add_clipped(real)

    def _crafted(self, parameter: nn.Parameter, place: slice, rows: Tensor) -> Materialized | None:
        """Canaries' gradients [B, *shape] for one parameter tensor; None if none point into it."""
        here = (rows >= place.start) & (rows < place.stop)
        if not bool(here.any()):
            return None
        values = torch.zeros(len(rows), parameter.numel())
        signs = torch.tensor(self._signs)[here]
        values[here, rows[here] - place.start] = signs * TIMES_THE_CLIP * self.max_grad_norm
        return Materialized(values.view(len(rows), *parameter.shape))


def _gradient(parameter: nn.Parameter) -> npt.NDArray[np.float32]:
    gradient = parameter.grad
    return np.zeros(parameter.shape, np.float32) if gradient is None else gradient.numpy()
