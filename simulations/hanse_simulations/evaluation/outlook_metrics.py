"""Metrics of the outlook: precision and recall, ROC and PR curves, calibration.

The threshold of each side is the one with the best F1 in the validation weeks; precision,
recall and F1 are then computed in the test weeks with that threshold. Calibration compares the
predicted chances with the observed frequencies, in ten bins of equally many cases; their mean
gap, weighted by cases, is the expected calibration error (Naeini et al. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from hanse_client.tasks.interest.metrics import FALL, RISE, Figures
from hanse_simulations.runs.results import Curve, OutlookCurves, OutlookMetrics

SIDES: Final = {"rise": RISE, "fall": FALL}
_POINTS: Final = 80
"""Largest number of points of a stored curve."""
_BINS: Final = 10
_FEWEST: Final = 10

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def outlook_metrics(
    validate: Figures, test: Figures
) -> tuple[list[OutlookMetrics], list[OutlookCurves]]:
    """Evaluate the predicted chances of rise and fall.

    Args:
        validate: Figures of all customers in the validation weeks, for the thresholds.
        test: Figures of all customers in the test weeks, for the metrics.

    Returns:
        Metrics and curves, one for each side with at least ten cases of both kinds in both
        splits.
    """
    figures, curves = [], []
    for name, side in SIDES.items():
        chosen, judged = _cases(validate, name, side), _cases(test, name, side)
        if min(_fewer(chosen[1]), _fewer(judged[1])) >= _FEWEST:
            figures.append(_figures(name, best_threshold(*chosen), *judged))
            curves.append(_curves(name, *judged))
    return figures, curves


def best_threshold(chances: Floats, happened: Mask) -> float:
    """Return the threshold with the best F1.

    >>> chances, happened = np.array([0.1, 0.4, 0.6, 0.8]), np.array([False, True, False, True])
    >>> best_threshold(chances, happened)
    0.4
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(happened, chances)
    total = np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(np.argmax((2 * precision * recall / total)[:-1]))])


def calibration(chances: Floats, happened: Mask) -> tuple[Curve, float]:
    """Return the reliability curve, and the expected calibration error."""
    from sklearn.calibration import calibration_curve

    share, stated = calibration_curve(happened, chances, n_bins=_BINS, strategy="quantile")
    edges = np.unique(np.percentile(chances, np.linspace(0, 100, _BINS + 1)))
    # As scikit-learn bins: a chance on an edge belongs to the bin below. Its function returns no
    # counts, and drops empty bins.
    bins = np.searchsorted(edges[1:-1], chances)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    counts = counts[counts > 0]
    error = float(np.average(np.abs(share - stated), weights=counts))
    return Curve(x=_rounded(stated), y=_rounded(share)), error


def _figures(name: str, threshold: float, chances: Floats, happened: Mask) -> OutlookMetrics:
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    predicted = chances >= threshold
    precision, recall, f1, _ = precision_recall_fscore_support(
        happened, predicted, average="binary", zero_division=0.0
    )
    return OutlookMetrics(
        side=name,
        cases=len(happened),
        share=float(happened.mean()),
        threshold=threshold,
        accuracy=float(accuracy_score(happened, predicted)),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        roc_auc=float(roc_auc_score(happened, chances)),
        average_precision=float(average_precision_score(happened, chances)),
        calibration_error=calibration(chances, happened)[1],
    )


def _curves(name: str, chances: Floats, happened: Mask) -> OutlookCurves:
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, _ = roc_curve(happened, chances)
    precisions, recalls, _ = precision_recall_curve(happened, chances)
    return OutlookCurves(
        side=name,
        roc=_thinned(false_rate, true_rate),
        precision_recall=_thinned(recalls[::-1], precisions[::-1]),
        reliability=calibration(chances, happened)[0],
    )


def _cases(figures: Figures, name: str, side: int) -> tuple[Floats, Mask]:
    logarithms = getattr(figures, f"{name}_scores").astype(np.float64)
    return np.exp(logarithms), figures.outcomes == side


def _fewer(happened: Mask) -> int:
    return int(min(happened.sum(), len(happened) - happened.sum()))


def _thinned(x: Floats, y: Floats) -> Curve:
    """At most `_POINTS` points of a curve, evenly spaced along x."""
    places = np.searchsorted(x, np.linspace(x[0], x[-1], _POINTS)).clip(0, len(x) - 1)
    chosen = np.unique(np.concatenate([[0], places, [len(x) - 1]]))
    return Curve(x=_rounded(x[chosen]), y=_rounded(y[chosen]))


def _rounded(values: Sequence[float] | Floats) -> list[float]:
    return [round(float(value), 4) for value in values]
