"""Exact clipping per customer at about the price of a plain backward pass.

    with BookKeeping(model, max_grad_norm=1.0) as clipper:
        for part in parts:  # the customers of one step, as many at a time as fit
            clipper.backward(losses_of(part))  # [B], one loss per customer
    # every trained parameter's .grad is now the sum of all customers' clipped gradients

Opacus' `DPOptimizerFastGradientClipping` adds noise to that sum, divides it by the public
batch size and steps; its accountants hook into that optimizer. The layers run with detached
parameters, so that one backward pass computes gradients of outputs only; norms come from
these and the layers' inputs, and so does the weighted sum, by one matrix product per layer
(book-keeping: Bu et al. 2023, "Differentially private optimization on large model at small
cost").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from hanse_client.clipping.layers import Call, Layer, Uses, layer_of, reads_of
from hanse_client.clipping.tied_embedding import combine
from hanse_client.clipping.uses import Use
from hanse_common.errors import PrivacyError

_TINY = 1e-6
"""Added to a norm before the clip is divided by it, as in Opacus; it only makes weights smaller."""


@dataclass(slots=True)
class _Run:
    """One call of one layer in the current forward pass."""

    number: int
    module: nn.Module
    name: str
    inputs: list[tuple[Tensor, int]]
    """Each tensor with its version counter, which shows an in-place change made after the call."""
    uses: Callable[[Tensor], Uses] | None


class BookKeeping:
    """Clips each customer's gradient over all trained parameters together.

    Args:
        model: Its trained parameters must all be in layers that are known here; the first
            dimension of every input to them is the customer dimension.
        max_grad_norm: The clip C > 0.
        replay: Further classes of small layers. The caller promises that their output for a
            customer depends on that customer's row of the inputs alone.

    Guarantees:
        After `backward`, `.grad` has grown by the sum over customers of g * min(1, C / |g|),
        g being the customer's gradient over all trained parameters: what that customer's own
        backward pass would yield, up to float32 rounding. So adding or removing a customer
        moves the sum of a step by at most C.
        A parameter that is trained but in no known layer, used outside its layer, or used in
        a combination without an exact norm is refused by name before any sum changes.

    Edge cases:
        No customers add exactly zero; `.grad` is zero from the start, never None.
        A customer whose gradient is infinite, not a number, or too long for its square in
        float32, adds exactly zero.
        A layer run several times in a pass counts with all its runs together.
        A layer without trained parameters that mixes customers (batch normalisation) is not
        noticed here, nor is an input whose first dimension only happens to be as long as the
        batch; `hanse_client.clipping.per_customer` compares with one-by-one passes on real data.
        Checkpointed activations and nested clippers are refused.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_grad_norm: float,
        replay: tuple[type[nn.Module], ...] = (),
    ) -> None:
        if not (math.isfinite(max_grad_norm) and max_grad_norm > 0):
            raise ValueError(f"max_grad_norm={max_grad_norm!r}: must be positive and finite")
        self.max_grad_norm = max_grad_norm
        self._model = model
        self._replay = replay
        self._names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self._wrapped: list[nn.Module] = []
        self._watchers: list[torch.utils.hooks.RemovableHandle] = []
        self._customers: int | None = None
        self._runs = 0
        self._reads: dict[Tensor, list[Tensor]] = {}
        self._uses: dict[nn.Parameter, list[tuple[int, Use]]] = {}
        self.norms: Tensor | None = None
        """[B] gradient norms of the last `backward`'s customers; they never leave the store."""
        self.layer_norms: dict[str, Tensor] = {}
        """[B] the same norms for each trained parameter alone, by name."""

    def __enter__(self) -> Self:
        layers = [(name, module, self._layer(name, module)) for name, module in self._trained()]
        for name, module, layer in layers:
            # An instance attribute takes precedence over the class's method; `__exit__` deletes
            # it, and the model is unchanged.
            module.forward = self._recorded(name, module, layer)
            self._wrapped.append(module)
        for parameter, name in self._names.items():
            # Zeros and not None: a step on which no customer was drawn still adds its noise.
            parameter.grad = torch.zeros_like(parameter)
            # The layers detach their parameters, so this hook fires only if the parameter is
            # also used elsewhere; such a use has no per-customer gradient.
            self._watchers.append(parameter.register_hook(_refuse_use_outside(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for module in self._wrapped:
            del module.forward
        for watcher in self._watchers:
            watcher.remove()
        self._wrapped, self._watchers = [], []
        self._forget()

    def backward(self, losses: Tensor) -> None:
        """Add the clipped gradients of these customers to every trained parameter's `.grad`.

        Args:
            losses: [B] one loss per customer, which depends on that customer's data alone, from
                a forward pass within this context.

        Raises:
            PrivacyError [inexact-clipping]: A customer's gradient cannot be computed exactly; names
                the parameter. No `.grad` has changed.
            ValueError: The losses are not one-dimensional.
        """
        if losses.ndim != 1:
            raise ValueError(f"losses of shape {list(losses.shape)}: one per customer is needed")
        self._refuse_newly_trained()
        try:
            if len(losses) == 0:
                self.norms = losses.detach()
                return
            if not losses.requires_grad:
                raise PrivacyError(
                    "the losses depend on no trained layer",
                    code="inexact-clipping",
                    hint="run the model within the clipper's context, with gradients enabled",
                )
            self._customers = len(losses)  # from here on a layer that runs again is refused
            # Customers do not interact, so the gradient of the sum by a customer's outputs is
            # the gradient of that customer's own loss.
            losses.sum().backward()
            with torch.no_grad():
                self._add_clipped(self._combined())
        finally:
            self._forget()

    def _add_clipped(self, uses: dict[nn.Parameter, Use]) -> None:
        squares = {name: uses[p].squared_norms() for p, name in self._names.items() if p in uses}
        if not squares:
            return
        self.layer_norms = {name: square.clamp(min=0).sqrt() for name, square in squares.items()}
        # Summed in the order of the parameters' names, so that rounding does not depend on the
        # order of the layers in the pass.
        self.norms = torch.stack(list(squares.values())).sum(0).clamp(min=0).sqrt()
        weights = (self.max_grad_norm / (self.norms + _TINY)).clamp(max=1.0)
        # Infinity and NaN have no bound: such a customer adds zero. Its factors must be zeroed
        # as well as its weight, since 0 * inf is NaN in the sum of everybody.
        dropped = ~torch.isfinite(self.norms)
        if bool(dropped.any()):
            weights = weights.masked_fill(dropped, 0.0)
            uses = {parameter: use.without(dropped) for parameter, use in uses.items()}
        for parameter in list(uses):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            # `pop` frees a parameter's factors before the next sum is computed.
            uses.pop(parameter).add_weighted_sum(parameter.grad, weights)

    def _combined(self) -> dict[nn.Parameter, Use]:
        # All uses are combined before any `.grad` changes: a refusal leaves the sums as they were.
        combined = {}
        for parameter, numbered in self._uses.items():
            # The backward pass delivers them in reverse; the order of calls fixes the rounding.
            numbered.sort(key=lambda pair: pair[0])
            use = combine([use for _, use in numbered])
            if use is None:
                raise PrivacyError(
                    f"parameter {self._names[parameter]!r} is shared by layers whose gradients "
                    "have no exact common norm",
                    code="inexact-clipping",
                    hint="give one of them its own parameter",
                )
            combined[parameter] = use
        self._uses.clear()
        return combined

    def _refuse_newly_trained(self) -> None:
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad and parameter not in self._names:
                raise PrivacyError(
                    f"parameter {name!r} was frozen when the clipper began",
                    code="inexact-clipping",
                    hint="choose what is trained first",
                )

    def _trained(self) -> list[tuple[str, nn.Module]]:
        """Modules with trained parameters of their own, by name."""
        return [
            (name, module)
            for name, module in self._model.named_modules()
            if any(p in self._names for p in module._parameters.values() if p is not None)
        ]

    def _layer(self, name: str, module: nn.Module) -> Layer:
        own = next(n for n, p in module._parameters.items() if p is not None and p in self._names)
        full = f"{name}.{own}" if name else own
        kind = type(module).__name__
        # Another clipper, or a library that patches the instance: what it computes is unknown.
        if "forward" in module.__dict__:
            raise PrivacyError(
                f"parameter {full!r} is in a {kind} whose forward was replaced",
                code="inexact-clipping",
            )
        layer = layer_of(module, self._replay)
        if layer is None:
            raise PrivacyError(
                f"parameter {full!r} is in a {kind}, which cannot be clipped per customer",
                code="inexact-clipping",
                hint="freeze it, use a known layer, or wrap it in a PerCustomerParameter",
            )
        why = layer.refuse(module)
        if why is not None:
            raise PrivacyError(
                f"parameter {full!r} is in a {kind} that cannot be clipped: {why}",
                code="inexact-clipping",
            )
        return layer

    def _recorded(self, name: str, module: nn.Module, layer: Layer) -> Callable[..., Any]:
        forward = module.forward

        def record(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            # Activation checkpointing runs the layer a second time within the backward pass.
            if self._customers is not None:
                raise PrivacyError(
                    f"layer {name!r} runs again during the backward pass",
                    code="inexact-clipping",
                    hint="switch activation checkpointing off",
                )
            call = Call(
                module=module,
                forward=forward,
                args=args,
                kwargs=kwargs,
                rows_read=self._rows_read,
            )
            output, uses = layer.run(call)
            # With detached parameters and frozen inputs the output would not be in the graph, and
            # its gradient would never arrive.
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            tensors = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            self._runs += 1
            versions = [(part, part._version) for part in tensors]
            run = _Run(self._runs, module, name, versions, uses)
            if isinstance(module, nn.Embedding):
                self._reads.setdefault(module.weight, []).append(reads_of(tensors[0]))
            output.register_hook(lambda gradient: self._receive(run, gradient))
            return output

        return record

    def _receive(self, run: _Run, gradient: Tensor) -> None:
        if self._customers is None or run.uses is None:
            raise PrivacyError(
                "a backward pass bypassed the clipper",
                code="inexact-clipping",
                hint="call the clipper's backward",
            )
        rows = [len(part) if part.ndim else 0 for part in (gradient, *(t for t, _ in run.inputs))]
        if any(count != self._customers for count in rows):
            raise PrivacyError(
                f"layer {run.name!r} saw {rows[-1]} rows for {self._customers} customers",
                code="inexact-clipping",
                hint="the first dimension of its input must be the customers'",
            )
        if any(part._version != version for part, version in run.inputs):
            raise PrivacyError(
                f"what layer {run.name!r} read was overwritten after it had run",
                code="inexact-clipping",
            )
        with torch.no_grad():
            for own, use in run.uses(gradient.detach()):
                parameter = run.module.get_parameter(own)
                if parameter in self._names:
                    self._uses.setdefault(parameter, []).append((run.number, use))
        run.uses, run.inputs = None, []  # frees the inputs while the backward pass goes on

    def _rows_read(self, table: Tensor) -> Tensor | None:
        reads = self._reads.get(table)
        return torch.cat(reads, dim=1) if reads else None

    def _forget(self) -> None:
        self._customers = None
        self._runs = 0
        self._reads.clear()
        self._uses.clear()


def _refuse_use_outside(name: str) -> Callable[[Tensor], None]:
    def refuse(gradient: Tensor) -> None:
        raise PrivacyError(
            f"parameter {name!r} is used outside its own layer",
            code="inexact-clipping",
            hint="its gradient cannot be split by customer there; wrap it in a "
            "PerCustomerParameter",
        )

    return refuse
