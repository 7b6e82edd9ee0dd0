"""The layers that can be clipped: how each runs, and what it leaves of its parameters' uses.

A layer runs with its parameters detached, so that the backward pass computes gradients of
outputs only. What its parameters' gradients are then follows from what went in and what
came back. A layer of any other class can be clipped if it treats the batch's first dimension
customer by customer (`replayed`), which somebody has to promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hanse_client.clipping.bare_parameters import PerCustomerParameter
from hanse_client.clipping.uses import Product, Rows, Use, Whole
from hanse_common.errors import PrivacyError

Uses = Iterable[tuple[str, Use]]
"""Names of a layer's own parameters, each with a use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A layer being run: what it was given, and what is known of the pass so far."""

    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows_read: Callable[[Tensor], Tensor | None]
    """Which rows [B, S] of a table have been read so far in this pass."""

    def input(self, name: str = "input") -> Tensor:
        """The layer's only input."""
        given = [*self.args, *self.kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise PrivacyError(
                f"a {type(self.module).__name__} was given more than one {name}",
                code="inexact-clipping",
            )
        return given[0].detach()

    def run(self) -> Any:
        """Run the layer as it is, with its own parameters detached."""
        with detached(self.module):
            return self.forward(*self.args, **self.kwargs)


Ran = tuple[Tensor, Callable[[Tensor], Uses]]
"""A layer's output, and what its parameters' uses are once the output's gradient is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A class of layers that can be clipped."""

    run: Callable[[Call], Ran]
    refuse: Callable[[Any], str | None] = lambda module: None
    """Why this very module cannot be clipped, if so."""


@contextmanager
def detached(module: nn.Module) -> Iterator[None]:
    """Let a module compute with its own parameters without asking for their gradients."""
    own = dict(module._parameters)
    for name, parameter in own.items():
        if parameter is not None:
            module._parameters[name] = parameter.detach()  # type: ignore[assignment]
    try:
        yield
    finally:
        module._parameters.update(own)


def _linear(call: Call) -> Ran:
    entered = call.input()

    def uses(gradient: Tensor) -> Uses:
        weight = Product(left=_positions(gradient), right=_positions(entered))
        return _with_bias(call.module, weight)

    return call.run(), uses


def _conv1d(call: Call) -> Ran:
    entered = call.input()

    def uses(gradient: Tensor) -> Uses:
        weight = Product(left=_positions(entered), right=_positions(gradient))
        yield from _with_bias(call.module, weight, gradient=weight.right)

    return call.run(), uses


def _with_bias(module: nn.Module, weight: Product, *, gradient: Tensor | None = None) -> Uses:
    bias = getattr(module, "bias", None)
    if bias is not None and bias.requires_grad:
        yield "bias", Whole((weight.left if gradient is None else gradient).sum(1))
    if module.weight.requires_grad:
        yield "weight", weight.kept_small()


def _positions(tensor: Tensor) -> Tensor:
    """[B, ..., D] as [B, T, D]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _embedding(call: Call) -> Ran:
    index = call.input()
    module = call.module
    rows = reads_of(index)

    def uses(gradient: Tensor) -> Uses:
        gradients = gradient.reshape(*rows.shape, gradient.shape[-1])
        if module.padding_idx is not None:
            padding = torch.eq(rows, module.padding_idx).unsqueeze(-1)  # type: ignore[arg-type]
            gradients = gradients.masked_fill(padding, 0.0)
        yield "weight", Rows(index=rows, gradients=gradients, table_rows=module.num_embeddings)  # type: ignore[arg-type]

    return call.run(), uses


def reads_of(index: Tensor) -> Tensor:
    """Rows read, [B, ...] as [B, S]."""
    return index.reshape(len(index), math.prod(index.shape[1:]))


def _refuse_embedding(module: nn.Embedding) -> str | None:
    if module.max_norm is not None:
        return "max_norm rewrites rows while they are read"
    if module.scale_grad_by_freq:
        return "scale_grad_by_freq lets customers' reads weigh on each other"
    return None


def _layer_norm(call: Call) -> Ran:
    entered = call.input()
    module = call.module

    def uses(gradient: Tensor) -> Uses:
        shape = module.normalized_shape
        flat = (len(gradient), -1, *shape)  # type: ignore[misc]
        if module.bias is not None and module.bias.requires_grad:
            yield "bias", Whole(gradient.reshape(flat).sum(1))
        if module.weight.requires_grad:
            normal = nn.functional.layer_norm(entered, shape, eps=module.eps)  # type: ignore[arg-type]
            yield "weight", Whole(normal.mul_(gradient).reshape(flat).sum(1))

    return call.run(), uses


def _per_customer(call: Call) -> Ran:
    def uses(gradient: Tensor) -> Uses:
        yield "weight", Whole(gradient)

    return call.run(), uses


def _replayed(call: Call) -> Ran:
    if call.kwargs or not all(isinstance(given, Tensor) for given in call.args):
        raise PrivacyError(
            f"a {type(call.module).__name__} was given more than tensors by position",
            code="inexact-clipping",
        )
    entered = [given.detach() for given in call.args]
    module = call.module
    own = {n: p.detach() for n, p in module.named_parameters(recurse=False) if p.requires_grad}

    def answer(parameters: dict[str, Tensor], *one: Tensor) -> Tensor:
        with _replaced(module, parameters):
            result: Tensor = call.forward(*(part.unsqueeze(0) for part in one))
        return result.squeeze(0)

    def gradients(gradient: Tensor, *one: Tensor) -> dict[str, Tensor]:
        pull = torch.func.vjp(lambda parameters: answer(parameters, *one), own)[1]
        found: dict[str, Tensor] = pull(gradient)[0]
        return found

    def uses(gradient: Tensor) -> Uses:
        if any(len(part) != len(gradient) for part in entered):
            raise PrivacyError(
                f"a {type(module).__name__} was given an input that is not one per customer",
                code="inexact-clipping",
            )
        for name, values in torch.func.vmap(gradients)(gradient, *entered).items():
            yield name, Whole(values)

    return call.run(), uses


def _refuse_parts(module: nn.Module) -> str | None:
    parts = (p for part in module.children() for p in part.parameters())
    if any(p.requires_grad for p in parts):
        return "it is run again as a whole, and its parts have trained parameters of their own"
    return None


@contextmanager
def _replaced(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    own = dict(module._parameters)
    module._parameters.update(values)  # type: ignore[arg-type]
    try:
        yield
    finally:
        module._parameters.update(own)


_KNOWN: dict[type[nn.Module], Layer] = {
    nn.Linear: Layer(run=_linear),
    Conv1D: Layer(run=_conv1d),
    nn.Embedding: Layer(run=_embedding, refuse=_refuse_embedding),
    nn.LayerNorm: Layer(run=_layer_norm),
    PerCustomerParameter: Layer(run=_per_customer),
    nn.RMSNorm: Layer(run=_replayed),
}
REPLAYED = Layer(run=_replayed, refuse=_refuse_parts)
"""Each customer's gradient by running the layer again for that customer alone, vectorised.

Exact for a layer that answers each customer from that customer's row alone. Every own
parameter's gradient is held for every customer at once, so for small layers only.
"""


def layer_of(module: nn.Module, replay: tuple[type[nn.Module], ...] = ()) -> Layer | None:
    """How a module is clipped, or None if it is not known.

    A subclass counts as its base only where it runs the same code.
    """
    for kind, layer in _KNOWN.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return layer
    if isinstance(module, replay) or _is_rms_norm(module):
        return REPLAYED
    return None


def register(kind: type[nn.Module], layer: Layer) -> None:
    """Make a class of layers known to every clipper; for the layers of this package."""
    _KNOWN[kind] = layer


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether this is one of the root-mean-square norms of `transformers`, one per model."""
    kind = type(module)
    return (
        kind.__module__.startswith("transformers.models.")
        and kind.__name__.endswith("RMSNorm")
        and [name for name, _ in module.named_parameters()] == ["weight"]
    )
