"""Batches for predictions at chosen (customer, moment) pairs, called questions here.

Questions may come in any order; each batch names those that it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import Batch, InterestConfig, Interests
from hanse_client.tasks.interest.features import Anchors, Floats, Ints, collate, rows_at_once

_PER_ROW = 16  # anchors of a row; a causal pass over a history serves all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A batch, and the positions of k questions in it."""

    batch: Batch
    questions: Ints
    """[k] indices of the questions."""
    rows: Ints
    """[k] row of each question in the batch."""
    points: Ints
    """[k] anchor of each question in its row."""

    def of(self, answers: Tensor) -> Tensor:
        """The rows [k, ...] of the questions from the batch's output [R, P, ...]."""
        return answers[torch.from_numpy(self.rows), torch.from_numpy(self.points)]

    @property
    def past(self) -> Interests:
        """The past at each question, [k, 1, ...]: one customer with one anchor each."""
        past = self.batch.past
        return Interests(
            **{
                name: self.of(getattr(past, name)).unsqueeze(1)
                for name in ("counts", "decayed", "days_since", "visits", "gap", "observed")
            }
        )


def views(
    histories: Histories, customers: Ints, moments: Floats, config: InterestConfig
) -> Iterator[View]:
    """Batches of customers at moments.

    Args:
        histories: Complete histories; what follows a moment is hidden.
        customers: [n] indices into the histories.
        moments: [n] in days since 1970.
        config: The model's.

    Returns:
        Views in which every question is once.
    """
    # By customer, then moment: questions of one customer share a row and so a transformer pass.
    order = np.lexsort((moments, customers))
    owners = customers[order]
    place = np.arange(len(order)) - np.searchsorted(owners, owners)
    points = place % _PER_ROW
    rows = np.cumsum(points == 0) - 1
    count = int(rows.max(initial=-1)) + 1
    firsts = np.flatnonzero(points == 0)
    # Unused anchors of a row repeat its first moment; no question reads them.
    grid = np.repeat(moments[order][firsts][:, None], _PER_ROW, axis=1)
    grid[rows, points] = moments[order]
    nothing = np.zeros(grid.shape, dtype=bool)
    anchors = Anchors(customers=owners[firsts], moments=grid, basket=nothing, outlook=nothing)
    for start in range(0, count, rows_at_once(config)):
        stop = start + rows_at_once(config)
        inside = (rows >= start) & (rows < stop)
        yield View(
            batch=collate(histories, anchors.rows(start, stop), config),
            questions=order[inside],
            rows=rows[inside] - start,
            points=points[inside],
        )
