"""The table of `hanse simulate sequences`: rules, arms and papers, one a row."""

from __future__ import annotations

from typing import IO

from hanse_simulations.experiment.next_item import SequencesResult
from hanse_simulations.report.study_table import print_research

_COLUMNS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10", "mrr", "all_hr@10")
_LABELS = {"global_popularity": "Popularity", "markov": "Markov chain"}


def print_sequences(result: SequencesResult, *, file: IO[str] | None = None) -> None:
    """Print rules, arms and papers, and how to read them.

    Args:
        result: The run's outcome.
        file: Where to print; stdout by default.
    """
    print_research(result, columns=_COLUMNS, labels=_LABELS, published=result.published, file=file)
