"""Measure one clipping method in a process of its own: MODEL METHOD BATCH STEPS SECONDS.

Prints one JSON object: CPU-seconds of each step, the peak of memory above the level before the
first step, and how far the clipped sum is from one-by-one backward passes. A step is forward,
backward and the clipped sum; noise and the optimizer's step cost the same with every method,
and are left out.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from hanse_client.clipping import BookKeeping
from hanse_simulations.bench._clipping_models import Task, task
from hanse_simulations.bench._memory import forget_peak, peak

CHECKED = 4
"""Number of customers on whom the clipped sum is compared with one-by-one passes."""

_NEXT_TO_NOTHING = 1e-3
"""Fraction of the model's largest gradient below which a layer holds only rounding errors, as
an attention key's bias does."""

Step = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]
"""Maps a batch to the sums of (clipped) gradients by parameter name."""


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _plain(model: nn.Module, clip: float) -> Step:
    trained = _trained(model)

    def step(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        model(*inputs).sum().backward()
        return {name: p.grad for name, p in trained.items() if p.grad is not None}

    return step


def _bookkeeping(model: nn.Module, clip: float) -> Step:
    trained = _trained(model)
    clipper = BookKeeping(model, max_grad_norm=clip).__enter__()

    def step(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        clipper.backward(model(*inputs))
        return {name: p.grad for name, p in trained.items() if p.grad is not None}

    return step


def _opacus(model: nn.Module, clip: float, *, functorch: bool) -> Step:
    trained = _trained(model)
    wrapped = GradSampleModule(
        model, batch_first=True, loss_reduction="sum", force_functorch=functorch, strict=False
    )
    optimizer = DPOptimizer(
        torch.optim.SGD(trained.values(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=1,
    )

    def step(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        wrapped(*inputs).sum().backward()
        optimizer.clip_and_accumulate()
        return {name: p.summed_grad for name, p in trained.items()}  # type: ignore[attr-defined]

    return step


def _ghost(model: nn.Module, clip: float) -> Step:
    trained = _trained(model)
    wrapped = GradSampleModuleFastGradientClipping(
        model, batch_first=True, loss_reduction="sum", max_grad_norm=clip, strict=False
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(trained.values(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=1,
    )

    def step(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        losses = wrapped(*inputs)
        DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum").backward()
        return {name: p.grad for name, p in trained.items() if p.grad is not None}

    return step


METHODS: dict[str, Callable[[nn.Module, float], Step]] = {
    "bookkeeping": _bookkeeping,
    "plain": _plain,
    "opacus-hooks": lambda model, clip: _opacus(model, clip, functorch=False),
    "opacus-functorch": lambda model, clip: _opacus(model, clip, functorch=True),
    "opacus-ghost": _ghost,
}


def measure(model: str, method: str, batch: int, *, steps: int, seconds: float) -> dict[str, Any]:
    """Time a method on a model, then check its sums.

    Args:
        model: See `_clipping_models.task`.
        method: One of `METHODS`; with `-chunked`, the catalogue's softmax in chunks.
        batch: Customers in a step.
        steps: Largest number of timed steps, after one to warm up.
        seconds: CPU-seconds after which no further step is timed; at least one step is.
    """
    name, chunked = method.removesuffix("-chunked"), method.endswith("-chunked")
    work = task(model, batch, chunked=chunked)
    step = METHODS[name](work.model, 1.0)
    baseline = forget_peak()
    step(work.inputs)  # warms up caches; its memory counts, its time does not
    taken: list[float] = []
    while len(taken) < steps and (not taken or sum(taken) < seconds):
        start = time.process_time()
        step(work.inputs)
        taken.append(time.process_time() - start)
    most = peak() - baseline
    # A second copy of the model: the first one's hooks and gradients would disturb the check.
    error = None if name == "plain" else _error(METHODS[name], task(model, batch, chunked=chunked))
    return {"seconds": taken, "peak_mb": most / 2**20, "max_relative_error": error}


def one_by_one(work: Task) -> tuple[float, dict[str, Tensor]]:
    """(clip, clipped sums by name) of the first customers, from one backward pass each.

    The clip is the median of their gradient norms, so that about half of them are clipped.
    """
    trained = _trained(work.model)
    gradients: list[dict[str, Tensor]] = []
    for customer in range(min(CHECKED, len(work.inputs[0]))):
        work.model.zero_grad(set_to_none=True)
        work.model(*work.first(slice(customer, customer + 1))).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in trained.items() if p.grad is not None})
    norms = [
        sum(float(gradient.double().square().sum()) for gradient in by_name.values()) ** 0.5
        for by_name in gradients
    ]
    clip = sorted(norms)[len(norms) // 2]
    # 1e-6 as in Opacus, with which the sums are compared.
    weights = [min(1.0, clip / (norm + 1e-6)) for norm in norms]
    sums = {
        name: torch.stack([w * each[name] for w, each in zip(weights, gradients, strict=True)])
        for name in gradients[0]
    }
    return clip, {name: stacked.sum(0) for name, stacked in sums.items()}


def _error(method: Callable[[nn.Module, float], Step], work: Task) -> float:
    """Largest difference in any layer, relative to that layer's largest gradient."""
    clip, expected = one_by_one(work)
    work.model.zero_grad(set_to_none=True)
    sums = method(work.model, clip)(work.first(slice(0, CHECKED)))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(
        float((sums[name] - gradient).abs().max())
        / max(float(gradient.abs().max()), _NEXT_TO_NOTHING * largest)
        for name, gradient in expected.items()
    )


def main(model: str, method: str, batch: int, steps: int, seconds: float) -> None:
    """Measure and print; a model that a method does not support gives a note, not a failure."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    warnings.filterwarnings("ignore")
    try:
        figures = measure(model, method, batch, steps=steps, seconds=seconds)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        figures = {"note": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
