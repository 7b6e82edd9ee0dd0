"""Rows of the downstream tasks' metrics, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.table import Table

from hanse_client.tasks.scoring import auc

LABELS = {
    "model": "Shared model",
    "untrained": "Model before training",
    "personal": "Personal frequency",
    "most_repeats": "Most repeated class of the day",
    "left_in_cart": "Items left in the cart",
    "stay": "Stays as it is",
    "markov": "Markov chain",
    "logistic_regression": "Logistic regression",
    "boosted_trees": "Boosted trees",
    "long_run_rate": "Long-run rate",
    "last_weeks": "As in the last 4 weeks",
    "usual": "As usual (12 weeks)",
    "mean_reversion": "Return to the mean",
}

LESS_IS_BETTER = ("ece", "mae", "mape")


@dataclass(frozen=True, kw_only=True, slots=True)
class DownstreamRow:
    """One metric of one method on one task."""

    task: str
    method: str
    part: str
    """Which score of the method was evaluated."""
    metric: str
    value: float | None
    """None where there were no cases to evaluate."""
    cases: int
    """Number of positive cases."""
    judged: int
    """Number of all cases."""

    @classmethod
    def auc(
        cls,
        task: str,
        method: str,
        part: str,
        scores: npt.NDArray[np.float64],
        positive: npt.NDArray[np.bool_],
    ) -> DownstreamRow:
        """AUC of scores [n] against positive cases [n]."""
        return cls._of(task, method, part, "auc", auc(scores, positive), positive)

    @classmethod
    def share(
        cls, task: str, method: str, part: str, metric: str, hits: npt.NDArray[np.bool_]
    ) -> DownstreamRow:
        """Fraction of hits [n]."""
        return cls._of(task, method, part, metric, hits.mean() if len(hits) else np.nan, hits)

    @classmethod
    def _of(
        cls,
        task: str,
        method: str,
        part: str,
        metric: str,
        value: float,
        cases: npt.NDArray[np.bool_],
    ) -> DownstreamRow:
        return cls(
            task=task,
            method=method,
            part=part,
            metric=metric,
            value=round(float(value), 4) if np.isfinite(value) else None,
            cases=int(cases.sum()),
            judged=len(cases),
        )


def best(rows: Sequence[DownstreamRow]) -> Mapping[tuple[str, str], float]:
    """The best value of each task and metric; coverage has no best."""
    leading: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.value is None or row.metric == "coverage":
            continue
        key = (row.task, row.metric)
        better = min if row.metric in LESS_IS_BETTER else max
        leading[key] = better(leading.get(key, row.value), row.value)
    return leading


def render(rows: Sequence[DownstreamRow]) -> Table:
    """Lay the rows out as a table for people; the best of each task and metric is marked."""
    table = Table(title="Downstream tasks of the shared model, with baselines (* the best)")
    for heading in ("task", "method", "score"):
        table.add_column(heading)
    for heading in ("metric", "figure", "cases", "of"):
        table.add_column(heading, justify="right")
    leading = best(rows)
    before = ""
    for row in rows:
        mark = (
            "*"
            if row.value is not None and row.value == leading.get((row.task, row.metric))
            else " "
        )
        table.add_row(
            row.task if row.task != before else "",
            LABELS[row.method],
            row.part,
            row.metric,
            "–" if row.value is None else f"{row.value:.3f}{mark}",
            str(row.cases),
            str(row.judged),
        )
        before = row.task
    return table
