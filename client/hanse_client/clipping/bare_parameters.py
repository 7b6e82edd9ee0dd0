"""A parameter that is used as it is, in no layer: how to make it one that can be clipped."""

from __future__ import annotations

from torch import Tensor, nn


class PerCustomerParameter(nn.Module):
    """Hands a copy of one parameter to each customer of a batch.

    A bare `nn.Parameter` in a model's arithmetic mixes the customers' gradients before
    anybody can tell them apart. Behind this module each customer's use is its own.

    Args:
        start: The parameter's first value, of any shape.

    Example:
        >>> import torch
        >>> temperature = PerCustomerParameter(torch.ones(()))
        >>> import torch
        >>> temperature(customers=3).shape
        torch.Size([3])
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, *, customers: int) -> Tensor:
        """Return [customers, *shape]."""
        return self.weight.expand(customers, *self.weight.shape)
