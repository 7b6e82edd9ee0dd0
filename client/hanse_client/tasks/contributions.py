"""Sufficient statistics by customer: what each customer adds to the vector of a phase.

A phase of kind `statistics` releases one sum over all customers. A task says what a customer
adds to it, as a sparse row whose L2 norm is at most 1; the sum of the rows then changes by at
most 1 when one customer is added or removed, and the noise is a multiple of that.

>>> rows = Contributions(
...     offsets=np.array([0, 2, 2, 3]), cells=np.array([0, 3, 1]),
...     values=np.array([0.6, 0.8, 1.0]), length=4,
... )
>>> rows.norms()
array([1., 0., 1.])
>>> rows.sum()
array([0.6, 1. , 0. , 0.8])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hanse_common.errors import PrivacyError

_ROUNDING = 1e-6
"""A norm of 1 that was computed in floating point may lie this much above 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contributions:
    """Sparse rows (CSR), one for each customer of a store's data.

    Args:
        offsets: [N + 1] where each customer's entries begin and end.
        cells: [E] index in the vector, at least 0 and below `length`; a cell that occurs twice
            in a row counts with the sum of its values.
        values: [E] what is added there.
        length: Length of the vector.
    """

    offsets: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    length: int

    def __len__(self) -> int:
        """N, the number of customers."""
        return len(self.offsets) - 1

    def norms(self) -> npt.NDArray[np.float64]:
        """[N] L2 norm of each customer's row; NaN where a value is not finite."""
        merged = self._merged()
        squares = np.bincount(merged.rows(), merged.values**2, minlength=len(self))
        return np.asarray(np.sqrt(squares))

    def rows(self) -> npt.NDArray[np.int64]:
        """[E] the customer of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def check(self) -> None:
        """Check the bound on which the noise rests.

        Raises:
            PrivacyError [unbounded-statistics]: A customer's row has a norm above 1, or a cell
                lies outside the vector.
        """
        outside = (self.cells < 0) | (self.cells >= self.length)
        norms = self.norms() if not outside.any() else np.array([np.inf])
        # `not <=` instead of `>`, so that NaN fails too.
        if not (norms <= 1 + _ROUNDING).all():
            raise PrivacyError(
                "a customer adds a row of norm above 1, or outside the vector, to a sum of "
                "statistics: its noise would not cover them",
                code="unbounded-statistics",
                hint="mend the task's `contributions`; nothing was sent",
            )

    def sum(self, customers: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return the sum of the customers' rows, shape [length].

        Args:
            customers: Indices of the customers to count; all if left out.
        """
        total = np.zeros(self.length)
        self.add_to(total, customers)
        return total

    def add_to(
        self, total: npt.NDArray[np.float64], customers: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Add the customers' rows to a sum of shape [length], one entry after the other.

        So the sum of several parts of a store has the same bits as that of all of it at once.

        Args:
            total: Changed in place.
            customers: Indices of the customers to count; all if left out.
        """
        cells, values = self.cells, self.values
        if customers is not None:
            counted = np.isin(self.rows(), customers)
            cells, values = cells[counted], values[counted]
        np.add.at(total, cells, values)

    def _merged(self) -> Contributions:
        """The same rows with each cell at most once."""
        if not len(self.cells):
            return self
        keys, where = np.unique(self.rows() * self.length + self.cells, return_inverse=True)
        values = np.bincount(where, self.values).astype(np.float64)
        counts = np.bincount(keys // self.length, minlength=len(self))
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            cells=keys % self.length,
            values=values,
        )
