"""Asking about chosen moments: batches of few customers, each seen from several moments.

What is asked may come in any order; every answer says which question it belongs to.
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

_PER_ROW = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A batch, and where in it the answers to some of the questions lie."""

    batch: Batch
    questions: Ints
    """[k] indices into what was asked."""
    rows: Ints
    """[k]."""
    points: Ints
    """[k]."""

    def of(self, answers: Tensor) -> Tensor:
        """Answers [R, P, ...] of the batch as answers [k, ...] to the questions."""
        return answers[torch.from_numpy(self.rows), torch.from_numpy(self.points)]

    @property
    def past(self) -> Interests:
        """What was known at each question, [k, 1, ...]: the questions as customers."""
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
    """See customers from moments, a batch at a time.

    Args:
        histories: Uncut: a moment itself hides what comes at it and after it.
        customers: [n] indices into the histories.
        moments: [n] days.
        config: The model's.

    Returns:
        Views that answer every question once.
    """
    order = np.lexsort((moments, customers))
    owners = customers[order]
    place = np.arange(len(order)) - np.searchsorted(owners, owners)
    points = place % _PER_ROW
    rows = np.cumsum(points == 0) - 1
    count = int(rows.max(initial=-1)) + 1
    firsts = np.flatnonzero(points == 0)
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
