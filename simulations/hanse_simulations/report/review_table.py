"""The table of `hanse simulate reviews`."""

from __future__ import annotations

from typing import IO

from hanse_simulations.experiment.study import ResearchResult
from hanse_simulations.report.study_table import print_research

_COLUMNS = ("accuracy", "auc", "f1", "mae")
_LABELS = {"most_frequent": "Most frequent label", "words": "Logistic regression on words"}


def print_reviews(result: ResearchResult, *, file: IO[str] | None = None) -> None:
    """Print rules and arms, and how to read them.

    Args:
        result: The run's outcome.
        file: Where to print; stdout by default.
    """
    print_research(result, columns=_COLUMNS, labels=_LABELS, file=file)
