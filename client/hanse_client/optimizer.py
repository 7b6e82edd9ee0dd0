"""Opacus' optimizer with noise that nobody can predict, and with the sum before the noise.

Opacus draws noise from torch's Mersenne Twister; its secure mode needs a package that cannot
be installed. Clipping and accumulation are Opacus' own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor


class KeystreamOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus is untyped
    """DP-SGD's optimizer, noise from a ChaCha20 keystream.

    Args:
        optimizer: What steps.
        noise_multiplier: In units of the clip.
        max_grad_norm: Clip of one customer's gradient.
        expected_batch_size: Public constant that sums are divided by.
        randomness: A generator over a keystream.

    Guarantees:
        One customer moves the clipped sum by at most `max_grad_norm`, and the true number of
        customers enters nothing but that sum.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        randomness: np.random.Generator,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._divisor = expected_batch_size
        self._randomness = randomness

    def add_up(self) -> None:
        """Clip the gradients of some customers, add them to the sum, and forget them."""
        self.clip_and_accumulate()
        for parameter in self.params:
            holder: Any = parameter
            holder.grad_sample = None
            parameter.grad = None

    def clipped_sum(self, parameter: torch.nn.Parameter) -> Tensor:
        """The sum of the customers' clipped gradients so far, zero if there were none."""
        summed = getattr(parameter, "summed_grad", None)
        return torch.zeros_like(parameter) if summed is None else summed.detach()

    def add_noise(self) -> None:
        """Put the noisy sums, over the public constant, where the optimizer looks for them."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = self._randomness.normal(0.0, scale, tuple(parameter.shape))
            noisy = self.clipped_sum(parameter) + torch.as_tensor(noise, dtype=parameter.dtype)
            parameter.grad = noisy / self._divisor

    def noisy_step(self) -> None:
        """Step along the noisy sum, and begin a new one."""
        self.add_noise()
        self.original_optimizer.step()
        self.zero_grad()
