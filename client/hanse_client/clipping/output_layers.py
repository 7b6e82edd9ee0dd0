"""Softmax losses over large catalogues, without the [B, T, V] tensor of scores.

`CatalogueSoftmax` is a softmax over all V items that computes the scores of a few customers at
a time, in the forward pass and a second time for the weighted sum. `sampled_softmax` compares
the next item with negatives that all customers share. Both also train without a clipper; within
one they are clipped exactly, whether the table is tied to the input embedding or not.

>>> head = CatalogueSoftmax(nn.Embedding(5, 4))
>>> head(torch.zeros(2, 3, 4), torch.tensor([[1, 2, -100], [0, 4, 4]]))[0]
tensor([1.6094, 1.6094, 0.0000], grad_fn=<SelectBackward0>)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hanse_client.clipping.layers import Call, Layer, LayerOutput, Uses, register
from hanse_client.clipping.uses import Rows, Use, add_product, gram, sum_rounded_up

IGNORED = -100
"""A position without a target: no loss, no gradient. Same value as in torch's cross-entropy."""

_CELLS = 2**20
"""Scores held at a time (4 MiB in float32, which stay in the cache: a third faster than dense,
docs/lab-notes.md). One customer's scores are held together even if they are more."""


class CatalogueSoftmax(nn.Module):
    """Cross-entropy of the next item under a softmax over all items of the catalogue.

    Args:
        table: The items' vectors, [V, D]. If the input embedding is given, its parameter is
            shared (tied).
    """

    def __init__(self, table: nn.Embedding | nn.Parameter) -> None:
        super().__init__()
        self.weight = table.get_parameter("weight") if isinstance(table, nn.Embedding) else table

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Per-position cross-entropy [B, T].

        Args:
            hidden: [B, T, D] hidden states.
            targets: [B, T] item indices, or `IGNORED`.

        Returns:
            [B, T] losses; 0 where the target is ignored.

        Raises:
            ValueError: A target is not an item index.
        """
        _check(targets, len(self.weight))
        loss: Tensor = _Loss.apply(hidden, self.weight, targets)  # type: ignore[no-untyped-call]
        return loss


def sampled_softmax(
    hidden: Tensor, table: nn.Embedding, targets: Tensor, negatives: Tensor
) -> Tensor:
    """Cross-entropy of the next item against negatives that all positions share.

    Every read goes through `table`, once for the targets and once for the negatives, so that
    a clipper sees them as further reads of the embedding and clips them exactly.

    Args:
        hidden: [B, T, D] hidden states.
        table: The items' vectors.
        targets: [B, T] item indices, or `IGNORED`.
        negatives: [N] item indices that are public: they were drawn without looking at any
            customer. A negative that equals a position's target is left out at that position.

    Returns:
        [B, T] losses; 0 where the target is ignored.

    Raises:
        ValueError: A target is not an item index.
    """
    _check(targets, table.num_embeddings)
    has_target = targets != IGNORED
    items = targets.clamp(min=0)
    wanted: Tensor = (hidden * table(items)).sum(-1, keepdim=True)  # [B, T, 1]
    shared: Tensor = table(negatives.expand(len(hidden), -1))  # [B, N, D]
    others = torch.bmm(hidden, shared.mT)  # [B, T, N]
    # A negative that is the target would be counted twice in the denominator.
    others = others.masked_fill(items.unsqueeze(-1) == negatives, -torch.inf)
    scores = torch.cat([wanted, others], dim=-1)
    losses = scores.logsumexp(-1) - wanted.squeeze(-1)
    return losses.masked_fill(~has_target, 0.0)


class _Loss(torch.autograd.Function):
    """The loss with its plain gradient, for training without a clipper."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        losses, log_sums = torch.empty_like(hidden[..., 0]), torch.empty_like(hidden[..., 0])
        for part, scores in _scores(hidden, weight):
            log_sums[part] = torch.logsumexp(scores, dim=-1)
            losses[part] = log_sums[part] - _of_targets(scores, targets[part])
        ignored = targets == IGNORED
        # An infinite log-sum makes exp(score - log_sum) zero, so that ignored positions need no
        # mask over V (28 ms for 64 customers, docs/lab-notes.md).
        ctx.save_for_backward(hidden, weight, targets, log_sums.masked_fill_(ignored, torch.inf))
        return losses.masked_fill_(ignored, 0.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, targets, log_sums = ctx.saved_tensors
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for part, scores in _scores(hidden, weight):
            gradient = _to_gradient(scores, targets[part], log_sums[part])
            gradient.mul_(upstream[0][part].unsqueeze(-1))
            torch.matmul(gradient, weight, out=to_hidden[part])
            add_product(to_weight, gradient.flatten(0, 1), hidden[part].flatten(0, 1))
        return to_hidden, to_weight, None


class _Known(torch.autograd.Function):
    """A loss whose gradient by the hidden states was computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.view_as(losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].unsqueeze(-1), None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Softmax(Use):
    """Per-customer gradients `d.T @ hidden` of the table, where d [B, T, V] is never stored.

    Stored of d = upstream * dL/dscores are its Gram matrix (for norms), its entries at the items
    that the tied embedding read (for inner products), and the log-sums to compute it a second
    time (for the weighted sum).
    """

    hidden: Tensor
    """[B, T, D] hidden states."""
    weight: Tensor
    """[V, D] the items' vectors."""
    targets: Tensor
    """[B, T] item indices, or `IGNORED`."""
    log_sums: Tensor
    """[B, T] log-sum-exp of the scores; infinite where the target is ignored."""
    upstream: Tensor
    """[B, T] gradient by each position's loss."""
    products: Tensor
    """[B, T, T] inner products of dL/dscores."""
    read: Tensor | None
    """[B, S] items read by the tied embedding."""
    entries: Tensor | None
    """[B, T, S] dL/dscores at these items."""

    def squared_norms(self) -> Tensor:
        """|d.T @ h|^2 is the sum of the elementwise product of the two Gram matrices."""
        scaled = self.hidden * self.upstream.unsqueeze(-1)
        return sum_rounded_up(self.products * gram(scaled))

    def inner_products(self, reads: Rows) -> Tensor | None:
        """See `Scores`; None where the table was read after its softmax."""
        # Entries were gathered for the rows read before the softmax; further reads have none.
        if self.read is None or self.entries is None or not torch.equal(self.read, reads.index):
            return None
        scaled = self.hidden * self.upstream.unsqueeze(-1)
        return (self.entries * torch.bmm(scaled, reads.gradients.mT)).sum((1, 2))

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """Compute dL/dscores a second time, a few customers at a time."""
        scaled = self.hidden * (self.upstream * weights[:, None]).unsqueeze(-1)
        for part, scores in _scores(self.hidden, self.weight):
            gradient = _to_gradient(scores, self.targets[part], self.log_sums[part])
            add_product(into, gradient.flatten(0, 1), scaled[part].flatten(0, 1))

    def without(self, dropped: Tensor) -> _Softmax:
        """See `Use`."""
        wide = dropped[:, None]
        return replace(
            self,
            hidden=self.hidden.masked_fill(wide.unsqueeze(-1), 0.0),
            upstream=self.upstream.masked_fill(wide, 0.0),
            log_sums=self.log_sums.masked_fill(wide, torch.inf),
            targets=self.targets.masked_fill(wide, IGNORED),
        )

    def __add__(self, other: Use) -> Use:
        """Not supported: a catalogue is scored once a pass."""
        return NotImplemented


def _catalogue_softmax(call: Call) -> LayerOutput:
    hidden, targets = _arguments(*call.args, **call.kwargs)
    _check(targets, len(call.module.weight))  # type: ignore[arg-type]
    weight = call.module.weight.detach()  # type: ignore[operator]
    known = hidden.detach()
    losses, log_sums = torch.empty_like(known[..., 0]), torch.empty_like(known[..., 0])
    customers, steps, _ = known.shape
    gradient, products = torch.empty_like(known), known.new_empty(customers, steps, steps)
    read = call.rows_read(call.module.weight)  # type: ignore[arg-type]
    entries = None if read is None else known.new_empty(customers, steps, read.shape[1])
    with torch.no_grad():
        for part, scores in _scores(known, weight):
            by_score, losses[part], log_sums[part] = _first_gradient(scores, targets[part])
            torch.matmul(by_score, weight, out=gradient[part])
            products[part] = gram(by_score)
            if read is not None and entries is not None:
                columns = read[part].unsqueeze(1).expand(-1, steps, -1)
                torch.gather(by_score, 2, columns, out=entries[part])
    output: Tensor = _Known.apply(hidden, losses, gradient)  # type: ignore[no-untyped-call]

    def uses(upstream: Tensor) -> Uses:
        yield (
            "weight",
            _Softmax(
                hidden=known,
                weight=weight,
                targets=targets,
                log_sums=log_sums,
                upstream=upstream,
                products=products,
                read=read,
                entries=entries,
            ),
        )

    return output, uses


def _check(targets: Tensor, items: int) -> None:
    wrong = (targets != IGNORED) & ((targets < 0) | (targets >= items))
    if bool(wrong.any()):
        raise ValueError(f"target {int(targets[wrong][0])} is not one of the {items} items")


def _arguments(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's arguments, whether given by position or by name."""
    return hidden, targets


def _scores(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield scores [b, T, V] of a few customers at a time, in one buffer that is reused."""
    customers, steps, _ = hidden.shape
    size = max(1, min(customers, _CELLS // max(steps * len(weight), 1)))
    buffer = hidden.new_empty(size, steps, len(weight))
    for first in range(0, customers, size):
        part = slice(first, min(first + size, customers))
        yield part, torch.matmul(hidden[part], weight.T, out=buffer[: part.stop - first])


def _of_targets(scores: Tensor, targets: Tensor) -> Tensor:
    return scores.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def _first_gradient(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite scores [b, T, V] with the gradient of the loss by them.

    Returns:
        Gradient [b, T, V], losses [b, T], log-sum-exp of the scores [b, T], which is infinite
        where the target is ignored.
    """
    has_target = targets != IGNORED
    # One pass of `exp` and a division: 32 ms for 64 customers, where `logsumexp` and `exp` of the
    # difference take 48 (docs/lab-notes.md). Subtracting the maximum avoids overflow.
    top = scores.amax(-1, keepdim=True)
    of_targets = _of_targets(scores, targets) - top.squeeze(-1)
    total = scores.sub_(top).exp_().sum(-1)
    gradient = scores.mul_((has_target / total).unsqueeze(-1))
    _subtract_targets(gradient, targets)
    logarithm = total.log()
    losses = torch.where(has_target, logarithm - of_targets, 0.0)
    return gradient, losses, torch.where(has_target, logarithm + top.squeeze(-1), torch.inf)


def _to_gradient(scores: Tensor, targets: Tensor, log_sums: Tensor) -> Tensor:
    """Gradient by the scores from known log-sums, which are infinite where a target is ignored."""
    gradient = scores.sub_(log_sums.unsqueeze(-1)).exp_()
    _subtract_targets(gradient, targets)
    return gradient


def _subtract_targets(gradient: Tensor, targets: Tensor) -> None:
    minus = -(targets != IGNORED).to(gradient.dtype).unsqueeze(-1)
    gradient.scatter_add_(-1, targets.clamp(min=0).unsqueeze(-1), minus)


register(CatalogueSoftmax, Layer(run=_catalogue_softmax))
