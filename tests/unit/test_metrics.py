"""Ranking metrics by hand, and AUC against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from hanse_client.tasks.scoring import auc, ranking_metrics


def test_ranking_metrics_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1]])
    targets = np.array([[False, True, False, True]])
    found = ranking_metrics(scores, targets, k=2)
    assert found["hr@2"] == [1]
    assert found["recall@2"] == [0.5]
    assert found["ndcg@2"] == pytest.approx([(1 / np.log2(3)) / (1 + 1 / np.log2(3))])


def test_ndcg_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 30)), rng.random((50, 30)) < 0.2
    targets[:, 0] = True
    ours = ranking_metrics(scores, targets, k=10)["ndcg@10"].mean()
    assert ours == pytest.approx(ndcg_score(targets, scores, k=10))


def test_explore_neither_ranks_nor_counts_what_is_known():
    scores = np.array([[9.0, 1.0, 2.0], [9.0, 1.0, 2.0]])
    targets = np.array([[True, True, False], [True, False, False]])
    allowed = np.array([[False, True, True], [False, True, True]])
    found = ranking_metrics(scores, targets, allowed=allowed, k=1)
    assert found["hr@1"].tolist() == [0]  # the second row has nothing new to find
    assert ranking_metrics(scores, targets, allowed=allowed, k=2)["recall@2"].tolist() == [1]


def test_forbidden_classes_never_fill_a_short_list():
    scores = np.array([[1.0, 2.0, 3.0]])
    found = ranking_metrics(
        scores, np.array([[True, True, True]]), allowed=np.array([[True, False, False]]), k=3
    )
    assert found["recall@3"].tolist() == [1]
    assert found["ndcg@3"].tolist() == [1]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auc_agrees_with_scikit_learn_with_ties(pairs):
    scores = np.array([score for score, _ in pairs], dtype=float)
    positive = np.array([label for _, label in pairs])
    if positive.all() or not positive.any():
        assert np.isnan(auc(scores, positive))
    else:
        assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
