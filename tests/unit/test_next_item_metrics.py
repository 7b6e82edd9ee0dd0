"""Full ranking of leave-one-out, against figures worked out by hand."""

import math

import numpy as np
import pytest

from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.metrics import Ranks, judge, rank_of
from hanse_simulations.evaluation.next_item_baselines import markov, popularity


def test_ranks_and_figures_of_a_small_case_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.9]])
    past = [np.array([0, 1]), np.array([3])]
    found = rank_of(scores, np.array([2, 1]), past, customers=np.arange(2))
    assert found.every.tolist() == [3, 3]  # ties go to the lower item
    assert found.new.tolist() == [1, 2]  # what was taken before does not rank
    figures = found.metrics()
    assert figures["hr@5"] == figures["hr@10"] == figures["all_hr@10"] == 1.0
    assert figures["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert figures["mrr"] == pytest.approx(0.75)
    assert figures["all_mrr"] == pytest.approx(1 / 3)


def test_the_lists_end_where_they_say():
    found = Ranks(new=np.array([5, 6, 11]), every=np.array([10, 11, 11]), customers=np.arange(3))
    figures = found.metrics()
    assert figures["hr@5"] == pytest.approx(1 / 3)
    assert figures["hr@10"] == pytest.approx(2 / 3)
    assert figures["ndcg@5"] == pytest.approx(1 / math.log2(6) / 3)
    assert figures["all_hr@10"] == pytest.approx(1 / 3)


def test_a_target_that_was_taken_before_still_ranks():
    scores = np.array([[0.9, 0.8, 0.7]])
    found = rank_of(scores, np.array([2]), [np.array([2, 0])], customers=np.arange(1))
    assert (found.new.tolist(), found.every.tolist()) == ([2], [3])


def test_every_customer_adds_at_most_one_to_each_sum():
    found = Ranks(new=np.array([1, 2, 50]), every=np.array([1, 2, 50]), customers=np.arange(3))
    sums = found.sums(np.array([0, 2]))
    assert sums["customers"] == 2
    assert sums["hr@10"] == 1
    assert sums["mrr"] == pytest.approx(1 + 1 / 50)
    assert all(0 <= value <= 2 for value in sums.values())


def test_nobody_judged_is_no_figure():
    figures = Ranks.pooled([]).metrics()
    assert all(math.isnan(value) for value in figures.values())
    assert set(figures) == set(Ranks.pooled([]).metrics())


@pytest.mark.parametrize(("split", "asked"), [("test", [3, 4]), ("validate", [2, 0])])
def test_each_split_asks_for_its_item_and_shows_what_came_before(split, asked):
    data = Sequences.of([[0, 1, 2, 3], [2, 0, 4], [1]], items=5)
    seen = []

    def scores(past):
        seen.extend(one.tolist() for one in past)
        return np.eye(5)[asked]

    found = judge(data, split, scores)
    assert found.new.tolist() == [1, 1]
    assert found.customers.tolist() == [0, 1]
    assert seen == ([[0, 1, 2], [2, 0]] if split == "test" else [[0, 1], [2]])


def test_simple_rules_are_those_of_the_training_items():
    data = Sequences.of([[0, 1, 2, 3], [0, 1, 4, 2], [0, 1, 0, 1]], items=5)
    known = data.without_last(2)
    # 0 and 1 were taken three times each; nothing else was.
    assert popularity(known, data, "test").every.tolist() == [4, 3, 2]
    # After 2 and 4 nothing came in training, and after 0 came 1.
    assert markov(known, data, "test").every.tolist() == [4, 3, 1]
