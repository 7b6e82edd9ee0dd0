"""Per-customer clipping with Opacus, and the proof on real data that it is exact here.

Some layers yield wrong per-customer gradients without a word (a padded embedding is off by
23 %, shared position ids break altogether), and then neither clip nor epsilon means anything.
So before a store's first private step the gradients that Opacus would clip are compared with
gradients computed one customer at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from hanse_common.errors import InexactClipping
from hanse_common.model import Batch, InterestModel, customer_losses

TOLERANCE = 1e-4
"""Largest difference between the two, relative to the layer's largest gradient."""


@contextmanager
def per_customer_gradients(model: nn.Module) -> Iterator[GradSampleModule]:
    """Make backward passes leave `grad_sample` [B, ...] on every trained parameter.

    The loss must be a sum over customers. Opacus' hooks are gone again afterwards.
    """
    model.train()  # Opacus records nothing in evaluation mode; there is no dropout.
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            # Where the first layers are frozen; gradients by output are what Opacus needs.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield wrapped
    finally:
        wrapped.to_standard_module()


def check_exactness(model: InterestModel, batch: Batch, *, outlook_weight: float) -> float:
    """Compare Opacus' per-customer gradients with gradients taken one customer at a time.

    Args:
        model: Its trained parameters are small fixed random numbers during the check, and
            put back afterwards: where an output layer starts at zero, the gradients behind
            it are zero, and two zeros prove nothing; and were they the coordinator's, it
            could make the check fail for some customers and not for others.
        batch: A few real customers, with targets.
        outlook_weight: As in training.

    Returns:
        The largest relative difference over all layers and customers.

    Raises:
        InexactClipping: It exceeds `TOLERANCE`; names the layer.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    kept = {name: p.detach().clone() for name, p in trained.items()}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for parameter in trained.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        with per_customer_gradients(model) as wrapped:
            _backward(wrapped, batch, outlook_weight)
            together = {name: getattr(p, "grad_sample", None) for name, p in trained.items()}
            together = {n: g.detach().clone() for n, g in together.items() if g is not None}
        model.zero_grad(set_to_none=True)
        worst = 0.0
        for customer in range(len(batch)):
            _backward(model, batch.rows(customer, customer + 1), outlook_weight)
            for name, parameter in trained.items():
                worst = max(worst, _difference(name, parameter.grad, together.get(name), customer))
            model.zero_grad(set_to_none=True)
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(kept[name])
    return worst


def _backward(model: nn.Module, batch: Batch, outlook_weight: float) -> None:
    basket, outlook = customer_losses(model(batch), batch, outlook_weight=outlook_weight)
    (basket + outlook).sum().backward()


def _difference(name: str, alone: Tensor | None, together: Tensor | None, customer: int) -> float:
    if alone is None:
        alone = torch.zeros(()) if together is None else torch.zeros_like(together[customer])
    if together is None:
        raise InexactClipping(
            f"layer {name!r} has no per-customer gradient",
            hint="freeze it, or use a layer that Opacus knows",
        )
    scale = max(float(together.abs().max()), float(alone.abs().max()), 1e-8)
    difference = float((together[customer] - alone).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise InexactClipping(
            f"layer {name!r}: per-customer gradients are off by {difference:.2g} of their size",
            hint="nothing was trained or sent; this model cannot be clipped per customer here",
        )
    return difference
