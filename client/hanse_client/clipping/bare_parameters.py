"""Per-customer gradients of a parameter that is used directly and belongs to no layer."""

from __future__ import annotations

from torch import Tensor, nn


class PerCustomerParameter(nn.Module):
    """Expands one parameter to a batch, one copy per customer.

    The gradient of a bare `nn.Parameter` is summed over customers by autograd, so that it can
    no longer be clipped per customer. The output of this module has a customer dimension, and
    its gradient is the per-customer gradient.

    Args:
        start: The parameter's initial value, of any shape; it is copied.

    Example:
        >>> import torch
        >>> temperature = PerCustomerParameter(torch.ones(()))
        >>> temperature(customers=3).shape
        torch.Size([3])
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, *, customers: int) -> Tensor:
        """Return the parameter expanded to [customers, *shape]."""
        # `expand` copies nothing: the copies are views with stride 0.
        return self.weight.expand(customers, *self.weight.shape)
