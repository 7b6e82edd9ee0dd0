"""What book-keeping is compared with: one backward pass per customer, and Opacus."""

from __future__ import annotations

import torch
from opacus.grad_sample import GradSampleModule

from hanse_client.clipping import BookKeeping

TOLERANCE = 1e-5


def clipped(model, losses, clip, **options):
    """(norms [B], clipped sums by name) of the clipper; `losses()` runs the model."""
    with BookKeeping(model, max_grad_norm=clip, **options) as clipper:
        clipper.backward(losses())
        sums = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return clipper.norms, sums


def one_by_one(model, losses, customers):
    """(norms [B], gradients by name [B, ...]); `losses(rows)` runs some of the customers."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = {name: [] for name in trained}
    for customer in range(customers):
        model.zero_grad(set_to_none=True)
        losses(slice(customer, customer + 1)).sum().backward()
        for name, p in trained.items():
            gradients[name].append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
    model.zero_grad(set_to_none=True)
    stacked = {name: torch.stack(found) for name, found in gradients.items()}
    norms = (
        torch.stack([g.reshape(customers, -1).square().sum(1) for g in stacked.values()])
        .sum(0)
        .sqrt()
    )
    return norms, stacked


def assert_same(model, losses, customers, **options):
    """Norms and clipped sums are right, with clips that bite for none, some and all."""
    expected_norms, gradients = one_by_one(model, losses, customers)
    for clip in (0.01, float(expected_norms.median()), 1e6):
        norms, sums = clipped(model, lambda: losses(slice(None)), clip, **options)
        torch.testing.assert_close(norms, expected_norms, rtol=TOLERANCE, atol=1e-6)
        weights = (clip / (expected_norms + 1e-6)).clamp(max=1)
        assert set(sums) == set(gradients)
        for name, gradient in gradients.items():
            expected = torch.einsum("b,b...->...", weights, gradient)
            scale = float(expected.abs().max())
            error = float((sums[name] - expected).abs().max())
            assert error <= TOLERANCE * scale + 1e-9, (name, error, scale)


def functorch_norms(model, inputs, losses_of):
    """Norms [B] by Opacus' slowest mode."""
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum", force_functorch=True)
    wrapped.train()
    losses_of(wrapped(inputs)).sum().backward()
    squares = [
        p.grad_sample.flatten(1).square().sum(1) for p in model.parameters() if p.requires_grad
    ]
    norms = torch.stack(squares).sum(0).sqrt().detach()
    wrapped.to_standard_module()
    return norms
