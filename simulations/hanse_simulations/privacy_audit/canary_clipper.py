"""The production clipper over canaries' made-up gradients.

A gradient canary's gradient is long and points along one parameter. It takes the place of
what the canary's history would yield, before norms are computed: from there on, clipping and
adding up are the production code's, and a clip that does not hold is as visible as noise
that is missing.
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

TIMES_THE_CLIP = 10.0
"""How long a canary's gradient is before it is clipped."""


class CanaryClipper(BookKeeping):
    """Clips as `BookKeeping` does, and keeps apart what all but the canaries added.

    Args:
        model: As `BookKeeping` takes it.
        max_grad_norm: The clip.
        replay: As `BookKeeping` takes it.
        coordinates: Of the store's canaries, by pseudonym.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_grad_norm: float,
        replay: tuple[type[nn.Module], ...] = (),
        coordinates: Mapping[str, int],
    ) -> None:
        super().__init__(model, max_grad_norm=max_grad_norm, replay=replay)
        self._coordinates = coordinates
        self._rows: list[int] = []
        self._places: dict[nn.Parameter, slice] = {}
        start = 0
        for parameter, _ in sorted(self._names.items(), key=lambda item: item[1]):
            self._places[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()
        self.others: npt.NDArray[np.float64] = np.zeros(start)
        """[parameters] sum over all steps of what customers who are no canaries added.

        Whoever knows everybody but one customer knows this. It is computed as if the
        canaries were not there, so that it holds nothing about them."""

    def expect(self, customers: Sequence[str]) -> None:
        """Say who is in the next pass: pseudonyms in the order of the rows."""
        self._rows = [self._coordinates.get(name, -1) for name in customers]

    def _add_clipped(self, uses: dict[nn.Parameter, Use]) -> None:
        rows = torch.tensor(self._rows)
        real = {parameter: use.without(rows >= 0) for parameter, use in uses.items()}
        # 1. What would be added if the canaries were not there; it is looked at and undone.
        sums = {parameter: parameter.grad for parameter in self._names}
        for parameter in self._names:
            parameter.grad = torch.zeros_like(parameter)
        super()._add_clipped(dict(real))
        self.others += flatten({name: _gradient(p) for p, name in self._names.items()})
        for parameter, value in sums.items():
            parameter.grad = value
        # 2. The same with the canaries.
        for parameter, place in self._places.items():
            crafted = self._crafted(parameter, place, rows)
            if crafted is not None:
                use = real.get(parameter)
                real[parameter] = crafted if use is None else use + crafted
        super()._add_clipped(real)

    def _crafted(self, parameter: nn.Parameter, place: slice, rows: Tensor) -> Materialized | None:
        """Gradients [B, *shape] of the canaries that point along one of these parameters."""
        here = (rows >= place.start) & (rows < place.stop)
        if not bool(here.any()):
            return None
        values = torch.zeros(len(rows), parameter.numel())
        values[here, rows[here] - place.start] = TIMES_THE_CLIP * self.max_grad_norm
        return Materialized(values.view(len(rows), *parameter.shape))


def _gradient(parameter: nn.Parameter) -> npt.NDArray[np.float32]:
    found = parameter.grad
    return np.zeros(parameter.shape, np.float32) if found is None else found.numpy()
