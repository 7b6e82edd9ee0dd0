"""Opacus' DP-SGD optimizer with noise from a cryptographic generator.

Opacus draws noise from torch's Mersenne Twister, whose state can be computed from its output;
its secure mode needs a package that cannot be installed.
"""

from __future__ import annotations

import numpy as np
import torch
from opacus.optimizers import DPOptimizerFastGradientClipping


class KeystreamOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # untyped
    """DP-SGD's optimizer over clipped sums in `parameter.grad`, with noise from a keystream.

    Args:
        optimizer: The optimizer that makes the step.
        noise_multiplier: Standard deviation of the noise in units of the clip.
        max_grad_norm: The clip of one customer's gradient.
        expected_batch_size: Public constant by which sums are divided.
        randomness: A generator over a ChaCha20 keystream.

    Guarantees:
        The true number of customers has no influence except through the sum of gradients.
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
            # Divides by `expected_batch_size`, a constant; "sum" would not divide at all.
            loss_reduction="mean",
        )
        self._randomness = randomness

    def add_noise(self) -> None:
        """Set each `.grad` to the clipped sum plus Gaussian noise."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = self._randomness.normal(0.0, scale, tuple(parameter.shape))
            noisy = parameter.summed_grad + torch.as_tensor(noise, dtype=parameter.dtype)
            parameter.grad = noisy.view_as(parameter)
