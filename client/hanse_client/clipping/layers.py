"""Layer classes that can be clipped, each with a rule for its per-customer gradients.

A layer runs with its parameters detached, so that the backward pass computes gradients by
outputs only. The per-customer gradients of its parameters follow from the layer's input and
the gradient by its output. A layer of any other class can be clipped by running it again per
customer (`_REPLAYED`) if the caller promises that it treats customers independently.
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
from hanse_client.clipping.uses import Materialized, Product, Rows, Use
from hanse_common.errors import PrivacyError

Uses = Iterable[tuple[str, Use]]
"""Pairs of the name of a layer's own parameter and its per-customer gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a layer: its arguments, and the embedding rows read earlier in the pass."""

    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows_read: Callable[[Tensor], Tensor | None]
    """Rows [B, S] that an embedding of this table has read so far in this pass, if any."""

    def input(self, name: str = "input") -> Tensor:
        """The layer's only input, detached.

        Raises:
            PrivacyError [inexact-clipping]: The layer was given several arguments, or no tensor.
        """
        given = [*self.args, *self.kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise PrivacyError(
                f"a {type(self.module).__name__} was given more than one {name}",
                code="inexact-clipping",
            )
        return given[0].detach()

    def run(self) -> Any:
        """Run the layer's forward with its own parameters detached."""
        with detached(self.module):
            return self.forward(*self.args, **self.kwargs)


LayerOutput = tuple[Tensor, Callable[[Tensor], Uses]]
"""A layer's output, and a function from the output's gradient to the parameters' uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The clipping rule of a layer class."""

    run: Callable[[Call], LayerOutput]
    refuse: Callable[[Any], str | None] = lambda module: None
    """The reason why a certain module of the class cannot be clipped; None if it can."""


@contextmanager
def detached(module: nn.Module) -> Iterator[None]:
    """Detach a module's own parameters from the autograd graph within the block."""
    own = dict(module._parameters)
    for name, parameter in own.items():
        if parameter is not None:
            module._parameters[name] = parameter.detach()  # type: ignore[assignment]
    try:
        yield
    finally:
        # Also after an error: a model left with detached parameters would silently train nothing.
        module._parameters.update(own)


def _linear(call: Call) -> LayerOutput:
    inputs = call.input()

    def uses(gradient: Tensor) -> Uses:
        weight = Product(left=_positions(gradient), right=_positions(inputs))
        return _with_bias(call.module, weight)

    return call.run(), uses


def _conv1d(call: Call) -> LayerOutput:
    inputs = call.input()

    def uses(gradient: Tensor) -> Uses:
        weight = Product(left=_positions(inputs), right=_positions(gradient))
        yield from _with_bias(call.module, weight, gradient=weight.right)

    return call.run(), uses


def _with_bias(module: nn.Module, weight: Product, *, gradient: Tensor | None = None) -> Uses:
    bias = getattr(module, "bias", None)
    if bias is not None and bias.requires_grad:
        yield "bias", Materialized((weight.left if gradient is None else gradient).sum(1))
    if module.weight.requires_grad:
        yield "weight", weight.smaller_form()


def _positions(tensor: Tensor) -> Tensor:
    """Reshape [B, ..., D] to [B, T, D]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _embedding(call: Call) -> LayerOutput:
    index = call.input()
    module = call.module
    rows = reads_of(index)

    def uses(gradient: Tensor) -> Uses:
        gradients = gradient.reshape(*rows.shape, gradient.shape[-1])
        if module.padding_idx is not None:
            padding = torch.eq(rows, module.padding_idx).unsqueeze(-1)  # type: ignore[arg-type]
            # As in torch: the padding row gets no gradient.
            gradients = gradients.masked_fill(padding, 0.0)
        yield "weight", Rows(index=rows, gradients=gradients, table_rows=module.num_embeddings)  # type: ignore[arg-type]

    return call.run(), uses


def reads_of(index: Tensor) -> Tensor:
    """Reshape the rows read from [B, ...] to [B, S]; B may be 0, so -1 cannot be used."""
    return index.reshape(len(index), math.prod(index.shape[1:]))


def _refuse_embedding(module: nn.Embedding) -> str | None:
    if module.max_norm is not None:
        return "max_norm rewrites rows while they are read"
    if module.scale_grad_by_freq:
        return "scale_grad_by_freq makes one customer's gradient depend on the others' reads"
    return None


def _layer_norm(call: Call) -> LayerOutput:
    inputs = call.input()
    module = call.module

    def uses(gradient: Tensor) -> Uses:
        shape = module.normalized_shape
        flat = (len(gradient), -1, *shape)  # type: ignore[misc]
        if module.bias is not None and module.bias.requires_grad:
            yield "bias", Materialized(gradient.reshape(flat).sum(1))
        if module.weight.requires_grad:
            # The output has weight and bias in it; the gradient by the weight needs it without.
            normal = nn.functional.layer_norm(inputs, shape, eps=module.eps)  # type: ignore[arg-type]
            yield "weight", Materialized(normal.mul_(gradient).reshape(flat).sum(1))

    return call.run(), uses


def _per_customer(call: Call) -> LayerOutput:
    def uses(gradient: Tensor) -> Uses:
        yield "weight", Materialized(gradient)

    return call.run(), uses


def _replayed(call: Call) -> LayerOutput:
    if call.kwargs or not all(isinstance(given, Tensor) for given in call.args):
        raise PrivacyError(
            f"a {type(call.module).__name__} was given more than tensors by position",
            code="inexact-clipping",
        )
    inputs = [given.detach() for given in call.args]
    module = call.module
    own = {n: p.detach() for n, p in module.named_parameters(recurse=False) if p.requires_grad}

    def answer(parameters: dict[str, Tensor], *one: Tensor) -> Tensor:
        with _replaced(module, parameters):
            result: Tensor = call.forward(*(part.unsqueeze(0) for part in one))
        return result.squeeze(0)

    def gradients(gradient: Tensor, *one: Tensor) -> dict[str, Tensor]:
        pull = torch.func.vjp(lambda parameters: answer(parameters, *one), own)[1]
        by_name: dict[str, Tensor] = pull(gradient)[0]
        return by_name

    def uses(gradient: Tensor) -> Uses:
        if any(len(part) != len(gradient) for part in inputs):
            raise PrivacyError(
                f"a {type(module).__name__} was given an input that is not one per customer",
                code="inexact-clipping",
            )
        for name, values in torch.func.vmap(gradients)(gradient, *inputs).items():
            yield name, Materialized(values)

    return call.run(), uses


def _refuse_parts(module: nn.Module) -> str | None:
    parts = (p for part in module.children() for p in part.parameters())
    if any(p.requires_grad for p in parts):
        return (
            "it is run again per customer, and its submodules have trained parameters of their own"
        )
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
_REPLAYED = Layer(run=_replayed, refuse=_refuse_parts)
"""Each customer's gradient by running the layer again for that customer alone, vectorised.

Exact for a layer that answers each customer from that customer's row alone. Every own
parameter's gradient is held for every customer at once, so for small layers only.
"""


def layer_of(module: nn.Module, replay: tuple[type[nn.Module], ...] = ()) -> Layer | None:
    """The clipping rule of a module, or None if there is none.

    A subclass is treated as its base class only if it inherits `forward` unchanged.
    """
    for kind, layer in _KNOWN.items():
        # A subclass with a forward of its own may use the parameters in another way.
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return layer
    if isinstance(module, replay) or _is_rms_norm(module):
        return _REPLAYED
    return None


def register(kind: type[nn.Module], layer: Layer) -> None:
    """Register the rule of a layer class for every clipper; for the layers of this package."""
    _KNOWN[kind] = layer


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether this is an RMSNorm of `transformers`, which defines one class per architecture."""
    kind = type(module)
    return (
        kind.__module__.startswith("transformers.models.")
        and kind.__name__.endswith("RMSNorm")
        and [name for name, _ in module.named_parameters()] == ["weight"]
    )
