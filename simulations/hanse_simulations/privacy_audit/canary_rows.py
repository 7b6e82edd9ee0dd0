"""Replace canaries' rows in a sum of statistics by made-up ones.

A canary's row is the worst that the bound allows: all of its norm in one number. It replaces
the row of the canary's history before rows are checked: from there on the production code
checks and sums, so that the attack detects a bound that does not hold as well as missing noise.

>>> from hanse_simulations.privacy_audit.canaries import Direction
>>> rows = Contributions(
...     offsets=np.array([0, 1, 3]), cells=np.array([0, 0, 2]), values=np.full(3, 0.5), length=3
... )
>>> replace_rows(rows, {1: Direction(place=1, sign=-1.0)}).sum()
array([ 0.5, -1. ,  0. ])
>>> replace_rows(rows, {1: None}).sum()
array([0.5, 0. , 0. ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hanse_client.features.ragged import offsets_of
from hanse_client.tasks.contributions import Contributions
from hanse_simulations.privacy_audit.canaries import Direction


def replace_rows(rows: Contributions, by: Mapping[int, Direction | None]) -> Contributions:
    """Return the same rows with those of some customers replaced.

    Args:
        rows: One for each customer.
        by: By the customer's index, the direction of the unit vector that is the new row; None
            for an empty row.
    """
    owner = rows.rows()
    others = ~np.isin(owner, list(by))
    unit = {row: direction for row, direction in by.items() if direction is not None}
    owner = np.concatenate([owner[others], np.array(list(unit), np.int64)])
    cells = np.concatenate([rows.cells[others], [place for place, _ in unit.values()]])
    values = np.concatenate([rows.values[others], [sign for _, sign in unit.values()]])
    order = np.argsort(owner, kind="stable")
    return replace(
        rows,
        offsets=offsets_of(np.bincount(owner, minlength=len(rows))),
        cells=cells[order].astype(np.int64),
        values=values[order],
    )
