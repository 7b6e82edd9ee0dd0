"""Per-customer clipping of a task's model, and the proof on real data that it is exact here.

Some layers yield wrong per-customer gradients without a word (in Opacus a padded embedding is
off by 23 %, shared position ids break altogether), and then neither clip nor epsilon means
anything. So before a store's first private step the sums that would be released are compared
with gradients computed one customer at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from hanse_client.clipping import BookKeeping
from hanse_client.tasks.base import Batch
from hanse_client.tasks.interest.heads import Popularity
from hanse_common.errors import PrivacyError

BatchT = TypeVar("BatchT", bound=Batch)

TOLERANCE = 1e-4
"""Largest difference between the two, relative to the layer's largest gradient."""
_FLOOR = 1e-3
"""A layer's gradient that is a smaller part of the whole is taken to be this large: with the
tolerance, the precision of float32."""


def customer_clipper(model: nn.Module, max_grad_norm: float) -> BookKeeping:
    """The clipper for every part of a task's model.

    `Popularity` adds one vector to each customer's own row, so it may be replayed.
    """
    model.train()
    return BookKeeping(model, max_grad_norm=max_grad_norm, replay=(Popularity,))


@contextmanager
def per_customer_gradients(model: nn.Module) -> Iterator[GradSampleModule]:
    """Make backward passes leave Opacus' `grad_sample` [B, ...] on every trained parameter.

    Training clips by `customer_clipper`; this is the second opinion. The loss must be a sum
    over customers. Opacus' hooks are gone again afterwards.
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


def check_exactness(
    model: nn.Module, batch: BatchT, *, losses: Callable[[BatchT], Tensor]
) -> float:
    """Compare what training clips and adds up with gradients taken one customer at a time.

    Compared are each customer's norm in each layer, and each layer's sum under a clip that
    some of the customers exceed.

    Args:
        model: Its trained parameters are small fixed random numbers during the check, and
            put back afterwards: where an output layer starts at zero, the gradients behind
            it are zero, and two zeros prove nothing; and were they the coordinator's, it
            could make the check fail for some customers and not for others.
        batch: A few real customers, with targets.
        losses: Each customer's own loss, by the model, as in training.

    Returns:
        The largest relative difference over all layers and customers.

    Raises:
        PrivacyError [inexact-clipping]: It exceeds `TOLERANCE`, or a layer cannot be clipped; names
            it.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    kept = {name: p.detach().clone() for name, p in trained.items()}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for parameter in trained.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        alone = _one_by_one(model, batch, losses)
        layer_norms = {name: g.reshape(len(batch), -1).norm(dim=1) for name, g in alone.items()}
        norms = torch.stack(list(layer_norms.values())).norm(dim=0)
        clip = max(float(norms.median()), 1e-6)
        with customer_clipper(model, clip) as clipper:
            clipper.backward(losses(batch))
        weights = (clip / norms).clamp(max=1.0)
        worst = 0.0
        for name, parameter in trained.items():
            expected = torch.einsum("b,b...->...", weights, alone[name])
            worst = max(worst, _difference(name, parameter.grad, expected, whole=clip))
            found = clipper.layer_norms.get(name)
            worst = max(worst, _difference(name, found, layer_norms[name], whole=clip))
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(kept[name])
    return worst


def _one_by_one(
    model: nn.Module, batch: BatchT, losses: Callable[[BatchT], Tensor]
) -> dict[str, Tensor]:
    """Gradients [B, ...] by name."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients: dict[str, list[Tensor]] = {name: [] for name in trained}
    for customer in range(len(batch)):
        model.zero_grad(set_to_none=True)
        losses(batch.rows(customer, customer + 1)).sum().backward()
        for name, parameter in trained.items():
            gradient = parameter.grad
            gradients[name].append(
                torch.zeros_like(parameter) if gradient is None else gradient.clone()
            )
    model.zero_grad(set_to_none=True)
    return {name: torch.stack(found) for name, found in gradients.items()}


def _difference(name: str, found: Tensor | None, expected: Tensor, *, whole: float) -> float:
    """Largest difference, relative to the layer's gradient or to what rounding leaves of it.

    A gradient that is zero but for rounding, such as that of a number added to all scores
    under a softmax, differs from itself by as much as it is large.
    """
    if found is None:
        found = torch.zeros_like(expected)
    scale = max(float(found.abs().max()), float(expected.abs().max()), _FLOOR * whole)
    difference = float((found - expected).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise PrivacyError(
            f"layer {name!r}: per-customer gradients are off by {difference:.2g} of their size",
            code="inexact-clipping",
            hint="nothing was trained or sent; this model cannot be clipped per customer here",
        )
    return difference
