"""Metrics of rankings (HR@k, recall@k, NDCG@k) and of predicted probabilities (AUC, AP, ECE).

All classes are ranked, without sampled candidates, which distort the metrics (Krichene and
Rendle 2020).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
TOP = 10


def ranking_metrics(
    scores: Scores, targets: Mask, *, allowed: Mask | None = None, k: int = TOP
) -> dict[str, Floats]:
    """Metrics of rankings, one a row, against the classes that were bought.

    Args:
        scores: [R, C], higher is better; ties go to the lower class index.
        targets: [R, C] the classes bought.
        allowed: [R, C] classes that are ranked and counted as targets; all if left out.
        k: Length of the list.

    Returns:
        `hr@k`, `recall@k` and `ndcg@k`, [R'] each, over the rows with an allowed target; the
        ideal list of NDCG has min(k, targets) hits.

    Example:
        >>> bought = np.array([[False, True, True]])
        >>> metrics = ranking_metrics(np.array([[3.0, 2.0, 1.0]]), bought, k=2)
        >>> {name: round(float(value[0]), 3) for name, value in metrics.items()}
        {'hr@2': 1.0, 'recall@2': 0.5, 'ndcg@2': 0.387}
    """
    if allowed is not None:
        targets = targets & allowed
        scores = np.where(allowed, scores, -np.inf)
    judged = targets.any(axis=1)
    scores, targets = scores[judged], targets[judged]
    size = min(k, scores.shape[1])
    # Stable, so that ties go to the lower index on every platform.
    top = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    hits = np.take_along_axis(targets, top, axis=1).astype(np.float64)
    if allowed is not None:
        # With fewer than k allowed classes the list ends in others, which are no hits.
        hits *= np.take_along_axis(allowed[judged], top, axis=1)
    discounts = 1.0 / np.log2(np.arange(2, size + 2))
    sizes = targets.sum(axis=1)
    ideal = np.cumsum(discounts)[np.minimum(sizes, size) - 1]
    return {
        f"hr@{k}": hits.max(axis=1, initial=0.0),
        f"recall@{k}": hits.sum(axis=1) / np.maximum(sizes, 1),
        f"ndcg@{k}": (hits @ discounts) / ideal,
    }


def auc(scores: Scores, positive: Mask) -> float:
    """Area under the ROC curve, from the rank sum (Mann and Whitney 1947); ties count half.

    Args:
        scores: [N].
        positive: [N].

    Returns:
        In [0, 1]; NaN without a positive or without a negative.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(middle_ranks[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(scores: Scores, positive: Mask) -> float:
    """Mean of the precision at each positive, by descending score; ties count as one step.

    Args:
        scores: [N].
        positive: [N].

    Returns:
        In [0, 1]; NaN without a positive.

    Example:
        >>> round(average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True])), 3)
        0.833
    """
    positives = int(positive.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    # The last place of each group of equal scores, so that their order does not matter.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / positives)


def reliability(chances: Scores, positive: Mask, *, bins: int = 10) -> list[dict[str, float]]:
    """Predicted and observed rates, by bins of the predicted probability.

    Args:
        chances: [N] probabilities in [0, 1].
        positive: [N].
        bins: Number of bins of equal width.

    Returns:
        For each bin that is not empty: the number of `cases`, the mean probability
        `mean_predicted`, and the share of positives `observed`.
    """
    place = np.minimum((chances * bins).astype(np.int64), bins - 1)  # 1.0 is in the last bin
    cases = np.bincount(place, minlength=bins)
    predicted = np.bincount(place, chances, minlength=bins)
    observed = np.bincount(place, positive, minlength=bins)
    return [
        {
            "cases": int(cases[i]),
            "mean_predicted": float(predicted[i] / cases[i]),
            "observed": float(observed[i] / cases[i]),
        }
        for i in np.flatnonzero(cases)
    ]


def calibration_error(chances: Scores, positive: Mask, *, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (Naeini et al. 2015).

    Returns:
        The mean over cases of the distance between predicted and observed rate, in [0, 1]; NaN
        without a case.
    """
    if not len(chances):
        return float("nan")
    rows = reliability(chances, positive, bins=bins)
    gaps = sum(row["cases"] * abs(row["mean_predicted"] - row["observed"]) for row in rows)
    return gaps / len(chances)
