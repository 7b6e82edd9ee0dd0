"""The table of `hanse simulate conversion`."""

from __future__ import annotations

from typing import IO

from hanse_simulations.experiment.conversion import ConversionResult
from hanse_simulations.report.study_table import print_research

_COLUMNS = ("auc", "auc_within", "ap", "ece", "foretold", "came")
_LABELS = {
    "prior_rate": "Customer's prior rate",
    "stores_alone": "Logistic, each store alone",
    "logistic_regression": "Logistic, pooled",
    "boosted_trees": "Boosted trees, pooled",
}


def print_conversion(result: ConversionResult, *, file: IO[str] | None = None) -> None:
    """Print baselines and arms, and how to read them.

    Args:
        result: The run's outcome.
        file: Where to print; stdout by default.
    """
    print_research(result, columns=_COLUMNS, labels=_LABELS, file=file)
