"""What a pass leaves behind of each use of a parameter: enough to clip it, and little more.

A customer's gradient is a large matrix, but what it is made of is small: a linear layer's is
the product of what went in and what came back, a table's is a few rows. Norms and weighted
sums are computed from these, and the matrix itself only where it is smaller than its parts.

- Norms of products by Gram matrices: Li et al. 2022, "Large language models can be strong
  differentially private learners" (ghost clipping).
- One backward pass whose leftovers give norms first and the clipped sum afterwards: Bu et
  al. 2023, "Differentially private optimization on large model at small cost"
  (book-keeping).

>>> entered, came_back = torch.ones(2, 3, 4), torch.ones(2, 3, 5)
>>> Product(left=came_back, right=entered).squared_norms()  # (3 * 3) * (4 * 5)
tensor([180., 180.])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LARGE = 2**16
"""A layer with more weights never has its per-customer gradients kept, however few customers."""

_SCRATCH = 2**20
"""Numbers held at a time while norms are computed."""

ROUNDING = 2.0**-22
"""Twice the relative precision of float32."""

_WIDE = 2**12
"""From this width on, one matrix product per customer is faster than a batched one."""


class Use(ABC):
    """One parameter's gradients for B customers, summed over all its uses of this kind."""

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
        """Both uses together; `NotImplemented` for kinds that do not add."""


@dataclass(frozen=True, slots=True)
class Whole(Use):
    """Gradients as they are, for parameters so small that nothing is saved otherwise."""

    values: Tensor
    """[B, *shape of the parameter]."""

    def squared_norms(self) -> Tensor:
        """See `Use`."""
        return _squares(self._flat())

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """See `Use`."""
        into.add_((weights @ self._flat()).view_as(into))

    def without(self, dropped: Tensor) -> Whole:
        """See `Use`."""
        return Whole(_zeroed(self.values, dropped))

    def __add__(self, other: Use) -> Use:
        """Add up."""
        if isinstance(other, Product):
            other = other.whole()
        return Whole(self.values + other.values) if isinstance(other, Whole) else NotImplemented

    def _flat(self) -> Tensor:
        return self.values.reshape(len(self.values), self.values[0].numel())


@dataclass(frozen=True, kw_only=True, slots=True)
class Product(Use):
    """Gradients `left.T @ right` of each customer, over T positions; never multiplied out."""

    left: Tensor
    """[B, T, rows]."""
    right: Tensor
    """[B, T, columns]."""

    def squared_norms(self) -> Tensor:
        """By Gram matrices, or by multiplying out a few customers at a time if that is less."""
        customers, steps, rows = self.left.shape
        columns = self.right.shape[2]
        if steps == 1:
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
        if left.shape[2] < right.shape[2]:
            left = left * weights[:, None, None]
        else:
            right = right * weights[:, None, None]
        add_product(into, left.flatten(0, 1), right.flatten(0, 1))

    def without(self, dropped: Tensor) -> Product:
        """See `Use`."""
        return Product(left=_zeroed(self.left, dropped), right=_zeroed(self.right, dropped))

    def __add__(self, other: Use) -> Use:
        """Put positions one after another."""
        if isinstance(other, Whole):
            return self.whole() + other
        if not isinstance(other, Product):
            return NotImplemented
        return Product(
            left=torch.cat([self.left, other.left], dim=1),
            right=torch.cat([self.right, other.right], dim=1),
        )

    def whole(self) -> Whole:
        """Multiplied out."""
        return Whole(torch.bmm(self.left.mT, self.right))

    def kept_small(self) -> Use:
        """Multiplied out if that takes no more room than the parts; else as it is."""
        _, steps, rows = self.left.shape
        columns = self.right.shape[2]
        small = rows * columns <= min(LARGE, 2 * steps * (rows + columns))
        return self.whole() if small else self


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Use):
    """Gradients of a table of which each customer read a few rows, some more than once."""

    index: Tensor
    """[B, S] which row each read was of."""
    gradients: Tensor
    """[B, S, D] what came back to each read."""
    table_rows: int

    def squared_norms(self) -> Tensor:
        """Reads of the same row add up before they are squared."""
        customers = torch.arange(len(self.index), device=self.index.device)
        keys = self.index + self.table_rows * customers[:, None]
        found, where = torch.unique(keys, return_inverse=True)
        width = self.gradients.shape[2]
        sums = self.gradients.new_zeros(len(found), width)
        sums.index_add_(0, where.flatten(), self.gradients.reshape(-1, width))
        norms = self.gradients.new_zeros(len(self.index))
        return norms.index_add_(0, found // self.table_rows, sums.square_().sum(1))

    def add_weighted_sum(self, into: Tensor, weights: Tensor) -> None:
        """See `Use`."""
        weighted = self.gradients * weights[:, None, None]
        into.index_add_(0, self.index.flatten(), weighted.flatten(0, 1))

    def without(self, dropped: Tensor) -> Rows:
        """See `Use`."""
        return replace(self, gradients=_zeroed(self.gradients, dropped))

    def __add__(self, other: Use) -> Use:
        """Put reads one after another."""
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
    """Sums [B] of terms [B, T, S], raised by what rounding can hide where terms cancel.

    A norm that came out too short would let a customer exceed the clip.
    """
    return terms.sum((1, 2)).add_(terms.abs_().sum((1, 2)), alpha=ROUNDING)


def add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left.T @ right`, [N, rows] and [N, columns], to a matrix.

    A product with far more rows than columns takes half the time transposed.
    """
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
    """Uses of one parameter, those of one kind added up; at most one of each kind is left."""
    kinds: list[Use] = []
    for use in uses:
        for place, other in enumerate(kinds):
            if addable(use, other):
                kinds[place] = other + use
                break
        else:
            kinds.append(use)
    return kinds


def addable(one: Use, other: Use) -> bool:
    """Whether two uses add up to one."""
    dense = (Whole, Product)
    if isinstance(one, dense):
        return isinstance(other, dense)
    return isinstance(one, Rows) and isinstance(other, Rows)


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


def _zeroed(tensor: Tensor, dropped: Tensor) -> Tensor:
    """Zero, also where there is NaN, in the rows dropped."""
    return tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0.0)
