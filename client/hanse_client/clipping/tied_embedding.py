"""Norms of a table's gradient if the table both embeds and scores the items (tied weights).

A customer's gradient is G_in + G_out, where G_in has a row for each item read and G_out is
dense over the catalogue. Their inner product needs only the columns of dL/dlogits that
belong to the items read (phantom clipping: Ding et al. 2024, "Delving into differentially
private Transformer"):

    |G_in + G_out|^2 = |G_in|^2 + |G_out|^2 + 2 sum_{t,s} d_t[id_s] <h_t, e_s>

with d = dL/dlogits, h the output layer's input, e = dL/d(embedded items).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hanse_client.clipping.uses import ROUNDING, Materialized, Product, Rows, Use, added


@runtime_checkable
class Scores(Protocol):
    """A dense use of a table that stores its gradient's entries at the rows read."""

    def inner_products(self, reads: Rows) -> Tensor:
        """[B] inner products of each customer's dense gradient with that of its reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tied(Use):
    """The sum of a table's dense gradient and the gradient of its reads."""

    scores: Use
    reads: Rows
    inner: Tensor
    """[B] inner products of the two gradients."""

    def squared_norms(self) -> Tensor:
        """[B] squared norms by the formula of the module's docstring."""
        apart = self.scores.squared_norms() + self.reads.squared_norms()
        # Where the two gradients cancel, rounding can make the result too small, and the customer
        # would exceed the clip. So it is raised in proportion to its largest terms.
        return apart * (1 + ROUNDING) + 2 * self.inner

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """See `Use`."""
        self.scores.add_weighted_sum(into, weights)
        self.reads.add_weighted_sum(into, weights)

    def without(self, dropped: Tensor) -> Tied:
        """See `Use`."""
        return Tied(
            scores=self.scores.without(dropped),
            reads=self.reads.without(dropped),
            inner=self.inner.masked_fill(dropped, 0.0),
        )

    def __add__(self, other: Use) -> Use:
        """Not supported: it combines all uses of the table already."""
        return NotImplemented


def combine(uses: Sequence[Use]) -> Use | None:
    """Combine all uses of one parameter into one; None if their norm cannot be exact."""
    kinds = added(uses)
    if len(kinds) == 1:
        return kinds[0]
    reads = [use for use in kinds if isinstance(use, Rows)]
    dense = [use for use in kinds if not isinstance(use, Rows)]
    if len(reads) != 1 or len(dense) != 1:
        return None
    inner = _inner_products(dense[0], reads[0])
    return None if inner is None else Tied(scores=dense[0], reads=reads[0], inner=inner)


def _inner_products(dense: Use, reads: Rows) -> Tensor | None:
    if isinstance(dense, Product):
        steps = dense.left.shape[1]
        columns = reads.index[:, None, :].expand(-1, steps, -1)  # [B, T, S]
        entries = dense.left.gather(2, columns)
        return (entries * torch.bmm(dense.right, reads.gradients.mT)).sum((1, 2))
    if isinstance(dense, Materialized):
        rows = reads.index.unsqueeze(-1).expand(-1, -1, dense.values.shape[-1])
        return (dense.values.gather(1, rows) * reads.gradients).sum((1, 2))
    return dense.inner_products(reads) if isinstance(dense, Scores) else None
