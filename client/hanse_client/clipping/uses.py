"""Factored per-customer gradients of one parameter: their norms and their weighted sum.

A customer's gradient is a large matrix with small factors: a linear layer's is the product of
its input and its output's gradient, an embedding's has a few non-zero rows. Norms and weighted
sums are computed from the factors; the matrix is computed only where it is smaller than they.

- Norms of products by Gram matrices: Li et al. 2022, "Large language models can be strong
  differentially private learners" (ghost clipping).
- Norms and the clipped sum from the factors of a single backward pass: Bu et al. 2023,
  "Differentially private optimization on large model at small cost" (book-keeping).

>>> inputs, output_gradients = torch.ones(2, 3, 4), torch.ones(2, 3, 5)
>>> Product(left=output_gradients, right=inputs).squared_norms()  # (3 * 3) * (4 * 5)
tensor([180., 180.])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_LARGE = 2**16
"""Largest number of weights whose per-customer gradients may be stored as matrices."""

_SCRATCH = 2**20
"""Numbers of scratch memory at a time while norms are computed (4 MiB in float32)."""

ROUNDING = 2.0**-22
"""Twice the machine epsilon of float32 (2^-23)."""

_WIDE = 2**12
"""From this width on, one matrix product per customer is faster than a batched one: 39 against
61 ms for [50, 10,001] (docs/lab-notes.md)."""


class Use(ABC):
    """Gradients of B customers by one parameter, summed over all its uses of this kind."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Squared Euclidean norm of each customer's gradient, [B]."""

    @abstractmethod
    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """Add the customers' gradients, each times its weight [B], to `into`."""

    @abstractmethod
    def without(self, dropped: Tensor) -> Use:
        """The same with a gradient of zero for the customers where `dropped` [B] is true."""

    @abstractmethod
    def __add__(self, other: Use) -> Use:
        """The sum of both gradients; `NotImplemented` for kinds that have no common form."""


@dataclass(frozen=True, slots=True)
class Materialized(Use):
    """Gradients stored as they are, for parameters that are smaller than their factors."""

    values: Tensor
    """[B, *shape of the parameter]."""

    def squared_norms(self) -> Tensor:
        """See `Use`."""
        return _squares(self._flat())

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """See `Use`."""
        into.add_((weights @ self._flat()).view_as(into))

    def without(self, dropped: Tensor) -> Materialized:
        """See `Use`."""
        return Materialized(_zeroed(self.values, dropped))

    def __add__(self, other: Use) -> Use:
        """See `Use`."""
        if isinstance(other, Product):
            other = other.materialized()
        return (
            Materialized(self.values + other.values)
            if isinstance(other, Materialized)
            else NotImplemented
        )

    def _flat(self) -> Tensor:
        return self.values.reshape(len(self.values), self.values[0].numel())


@dataclass(frozen=True, kw_only=True, slots=True)
class Product(Use):
    """Gradients `left.T @ right` of each customer over T positions, stored as the two factors."""

    left: Tensor
    """[B, T, rows]."""
    right: Tensor
    """[B, T, columns]."""

    def squared_norms(self) -> Tensor:
        """See `Use`; by Gram matrices, or by the product itself where that is smaller."""
        customers, steps, rows = self.left.shape
        columns = self.right.shape[2]
        if steps == 1:
            # A product of two vectors: the norm is the product of their norms.
            return self.left.square().sum((1, 2)) * self.right.square().sum((1, 2))
        by_gram = steps * (rows + columns) < rows * columns
        norms = self.left.new_empty(customers)
        each = steps * (2 * steps + rows + columns) if by_gram else rows * columns
        for part in parts(customers, each):
            left, right = self.left[part], self.right[part]
            if by_gram:
                norms[part] = sum_rounded_up(gram(left).mul_(gram(right)))
            else:
                norms[part] = _squares(torch.bmm(left.mT, right).flatten(1))
        return norms

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """One matrix product for all customers."""
        left, right = self.left, self.right
        # Weights multiply the narrower factor, which is copied.
        if left.shape[2] < right.shape[2]:
            left = left * weights[:, None, None]
        else:
            right = right * weights[:, None, None]
        add_product(into, left.flatten(0, 1), right.flatten(0, 1))

    def without(self, dropped: Tensor) -> Product:
        """See `Use`."""
        return Product(left=_zeroed(self.left, dropped), right=_zeroed(self.right, dropped))

    def __add__(self, other: Use) -> Use:
        """Concatenate the positions: the sum of two products is the product of both."""
        if isinstance(other, Materialized):
            return self.materialized() + other
        if not isinstance(other, Product):
            return NotImplemented
        return Product(
            left=torch.cat([self.left, other.left], dim=1),
            right=torch.cat([self.right, other.right], dim=1),
        )

    def materialized(self) -> Materialized:
        """The gradients themselves, [B, rows, columns]."""
        return Materialized(torch.bmm(self.left.mT, self.right))

    def smaller_form(self) -> Use:
        """The gradients themselves if they take no more than twice the factors' memory."""
        _, steps, rows = self.left.shape
        columns = self.right.shape[2]
        small = rows * columns <= min(_LARGE, 2 * steps * (rows + columns))
        return self.materialized() if small else self


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Use):
    """Gradients by a table of which each customer read a few rows, possibly several times."""

    index: Tensor
    """[B, S] row of each read."""
    gradients: Tensor
    """[B, S, D] gradient by each read."""
    table_rows: int

    def squared_norms(self) -> Tensor:
        """See `Use`."""
        # Reads of the same row by the same customer must be added up before they are squared:
        # the squares of the single reads would give a norm that is too small.
        customers = torch.arange(len(self.index), device=self.index.device)
        keys = self.index + self.table_rows * customers[:, None]
        rows_read, where = torch.unique(keys, return_inverse=True)
        width = self.gradients.shape[2]
        sums = self.gradients.new_zeros(len(rows_read), width)
        sums.index_add_(0, where.flatten(), self.gradients.reshape(-1, width))
        norms = self.gradients.new_zeros(len(self.index))
        return norms.index_add_(0, rows_read // self.table_rows, sums.square_().sum(1))

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """See `Use`."""
        weighted = self.gradients * weights[:, None, None]
        into.index_add_(0, self.index.flatten(), weighted.flatten(0, 1))

    def without(self, dropped: Tensor) -> Rows:
        """See `Use`."""
        return replace(self, gradients=_zeroed(self.gradients, dropped))

    def __add__(self, other: Use) -> Use:
        """Concatenate the reads."""
        if not isinstance(other, Rows):
            return NotImplemented
        return Rows(
            index=torch.cat([self.index, other.index], dim=1),
            gradients=torch.cat([self.gradients, other.gradients], dim=1),
            table_rows=self.table_rows,
        )


def gram(rows: Tensor) -> Tensor:
    """Inner products [B, T, T] of each customer's T rows, [B, T, D]."""
    customers, steps, width = rows.shape
    if width < _WIDE:
        return torch.bmm(rows, rows.mT)
    products = rows.new_empty(customers, steps, steps)
    for one, product in zip(rows, products, strict=True):
        torch.mm(one, one.T, out=product)
    return products


def sum_rounded_up(terms: Tensor) -> Tensor:
    """Sums [B] of terms [B, T, S], raised by `ROUNDING` times their absolute values.

    Where terms cancel, rounding can make a norm too small, and the customer would exceed the
    clip: gradients of 10^4 that sum to 1 gave norms down to 0 (docs/lab-notes.md).
    """
    return terms.sum((1, 2)).add_(terms.abs_().sum((1, 2)), alpha=ROUNDING)


def add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left.T @ right`, of [N, rows] and [N, columns], to `into` [rows, columns]."""
    # Many rows and few columns: 33 instead of 62 ms for [V, N] x [N, D] (docs/lab-notes.md).
    if left.shape[1] > 4 * right.shape[1]:
        into.add_((right.T @ left).T)
    else:
        into.addmm_(left.T, right)


def parts(count: int, each: int) -> Iterator[slice]:
    """Slices of `count` customers that need `each` numbers of scratch memory."""
    size = max(1, _SCRATCH // max(each, 1))
    for first in range(0, count, size):
        yield slice(first, first + size)


def added(uses: Sequence[Use]) -> list[Use]:
    """Add up the uses of one parameter that have a common form; one use of each form is left."""
    kinds: list[Use] = []
    for use in uses:
        for place, other in enumerate(kinds):
            if _addable(use, other):
                kinds[place] = other + use
                break
        else:
            kinds.append(use)
    return kinds


def _addable(one: Use, other: Use) -> bool:
    """Whether the sum of two uses has a common form."""
    dense = (Materialized, Product)
    if isinstance(one, dense):
        return isinstance(other, dense)
    return isinstance(one, Rows) and isinstance(other, Rows)


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


def _zeroed(tensor: Tensor, dropped: Tensor) -> Tensor:
    """Set the rows dropped to zero; a product would leave NaN and infinity as NaN."""
    return tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0.0)
