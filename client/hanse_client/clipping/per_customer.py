"""Per-customer clipping of a task's model, and a check on real data that it is exact.

Some layers silently yield wrong per-customer gradients (in Opacus a padded embedding is off by
23 %, and shared position ids break altogether); then the clip does not hold, and epsilon is
wrong. So before a store's first private step the sums that it would release are compared with
gradients computed one customer at a time.
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

TOLERANCE = 1e-3
"""Largest difference allowed between the two, relative to the layer's largest gradient. A
customer's gradient is a sum over interests and points in time whose terms cancel, on sparse data
to a thousandth of their size, so that two orders of summation in float32 differ by up to 3e-4;
layers that are computed wrongly differ by a hundredth and more."""
_FLOOR = 1e-3
"""Smallest size, as a part of the clip, that a layer's gradient is taken to have."""


def customer_clipper(model: nn.Module, max_grad_norm: float) -> BookKeeping:
    """The clipper for all trained parameters of a task's model.

    `Popularity` adds one vector to each customer's row and mixes no customers, so that it may be
    replayed.
    """
    model.train()
    return BookKeeping(model, max_grad_norm=max_grad_norm, replay=(Popularity,))


@contextmanager
def per_customer_gradients(model: nn.Module) -> Iterator[GradSampleModule]:
    """Let backward passes store Opacus' `grad_sample` [B, ...] on every trained parameter.

    Training clips by `customer_clipper`; this is an independent implementation to compare it
    with. The loss must be a sum over customers. Opacus' hooks are removed at the end.
    """
    model.train()  # Opacus records nothing in evaluation mode; the models have no dropout.
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            # torch warns where the first layers are frozen; Opacus reads gradients by outputs,
            # which are right all the same.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield wrapped
    finally:
        wrapped.to_standard_module()


def check_exactness(
    model: nn.Module, batch: BatchT, *, losses: Callable[[BatchT], Tensor]
) -> float:
    """Compare clipped sums as in training with gradients computed one customer at a time.

    Compared are each customer's norm in each layer, and each layer's sum under the median norm
    as clip, which half of the customers exceed.

    Args:
        model: The model. Its trained parameters are replaced by small fixed random numbers
            during the check and restored at the end.
        batch: A few real customers, with targets.
        losses: Per-customer losses [B] by the model, as in training.

    Returns:
        The largest relative difference over all layers and customers.

    Raises:
        PrivacyError [inexact-clipping]: The difference exceeds `TOLERANCE`, or a layer cannot be
            clipped; names the layer.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in trained.items()}
    # Random parameters, because an output layer that starts at zero has zero gradients behind
    # it, and comparing zeros shows nothing. Fixed ones, because with the coordinator's it could
    # make the check fail for certain customers and not for others.
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for parameter in trained.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        alone = _one_by_one(model, batch, losses)
        layer_norms = {name: g.reshape(len(batch), -1).norm(dim=1) for name, g in alone.items()}
        norms = torch.stack(list(layer_norms.values())).norm(dim=0)
        clip = max(float(norms.median()), 1e-6)  # so that both branches of the clip are compared
        with customer_clipper(model, clip) as clipper:
            clipper.backward(losses(batch))
        weights = (clip / norms).clamp(max=1.0)
        worst = 0.0
        for name, parameter in trained.items():
            expected = torch.einsum("b,b...->...", weights, alone[name])
            worst = max(worst, _difference(name, parameter.grad, expected, clip=clip))
            norm = clipper.layer_norms.get(name)
            worst = max(worst, _difference(name, norm, layer_norms[name], clip=clip))
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(start[name])
    return worst


def _one_by_one(
    model: nn.Module, batch: BatchT, losses: Callable[[BatchT], Tensor]
) -> dict[str, Tensor]:
    """Gradients [B, ...] by parameter name, from one backward pass per customer."""
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
    return {name: torch.stack(each) for name, each in gradients.items()}


def _difference(name: str, actual: Tensor | None, expected: Tensor, *, clip: float) -> float:
    """Largest difference of two gradients, relative to their size or to `_FLOOR * clip`.

    Raises:
        PrivacyError [inexact-clipping]: The difference exceeds `TOLERANCE`, or is not a number.
    """
    if actual is None:
        actual = torch.zeros_like(expected)
    # The floor: a gradient that is zero but for rounding, such as that of a constant added to
    # all scores of a softmax, differs between two computations by as much as its own size.
    scale = max(float(actual.abs().max()), float(expected.abs().max()), _FLOOR * clip)
    difference = float((actual - expected).abs().max()) / scale
    if not difference <= TOLERANCE:  # true for NaN, too
        raise PrivacyError(
            f"layer {name!r}: per-customer gradients are off by {difference:.2g} of their size",
            code="inexact-clipping",
            hint="nothing was trained or sent; this model cannot be clipped per customer here "
            "(does it have dropout, or layers that mix the rows of a batch?)",
        )
    return difference
