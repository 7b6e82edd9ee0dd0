"""Full ranking of leave-one-out, against figures worked out by hand."""

import math

import numpy as np
import pytest

from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.metrics import Ranks, judge, rank_of
from hanse_client.tasks.next_item.public_hash import of_names
from hanse_simulations.evaluation.next_item_baselines import markov, nearest_texts, popularity

LOTS = of_names(["ann", "bob"])


def test_ranks_and_figures_of_a_small_case_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.5, 0.6, 0.4, 0.9]])
    past = [np.array([0, 1]), np.array([3])]
    found = rank_of(scores, np.array([2, 0]), past, customers=np.arange(2), lots=LOTS)
    assert found.every.tolist() == [3, 3]
    assert found.new.tolist() == [1, 2]  # what was taken before does not rank
    figures = found.metrics()
    assert figures["hr@5"] == figures["hr@10"] == figures["all_hr@10"] == 1.0
    assert figures["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert figures["mrr"] == pytest.approx(0.75)
    assert figures["all_mrr"] == pytest.approx(1 / 3)


def test_ties_favour_no_items_number_and_are_broken_alike_everywhere():
    items, names = 40, [f"customer {i}" for i in range(400)]
    alike = Sequences.of([[0, i % 39 + 1, 0] for i in range(400)], items=items, customers=names)

    def scores(past):
        return np.zeros((len(past), items))

    ranks = judge(alike, "validate", scores).every
    # A fair lot: ranks 1 to 40 with a mean of 20.5, give or take .6, whatever the number.
    low, high = ranks[np.arange(400) % 39 < 10], ranks[np.arange(400) % 39 >= 29]
    assert abs(ranks.mean() - 20.5) < 2
    assert abs(low.mean() - high.mean()) < 5
    # All items of one customer have different ranks: each is the target once.
    of_one = [
        int(judge(alike.select(np.array([0])), "validate", scores).every[0]),
        *(
            int(
                rank_of(
                    np.zeros((1, items)),
                    np.array([item]),
                    [[]],
                    customers=np.arange(1),
                    lots=of_names(names[:1]),
                ).every[0]
            )
            for item in range(items)
        ),
    ]
    assert sorted(of_one[1:]) == list(range(1, items + 1))
    assert of_one[0] == of_one[1 + 1]  # the same in another partition: item 1 of the first
    np.testing.assert_array_equal(
        judge(alike.select(np.arange(100, 200)), "validate", scores).every, ranks[100:200]
    )


def test_the_lists_end_where_they_say():
    found = Ranks(new=np.array([5, 6, 11]), every=np.array([10, 11, 11]), customers=np.arange(3))
    figures = found.metrics()
    assert figures["hr@5"] == pytest.approx(1 / 3)
    assert figures["hr@10"] == pytest.approx(2 / 3)
    assert figures["ndcg@5"] == pytest.approx(1 / math.log2(6) / 3)
    assert figures["all_hr@10"] == pytest.approx(1 / 3)


def test_a_target_that_was_taken_before_still_ranks():
    scores = np.array([[0.9, 0.8, 0.7]])
    found = rank_of(
        scores, np.array([2]), [np.array([2, 0])], customers=np.arange(1), lots=LOTS[:1]
    )
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
    # 0 and 1 were taken three times each, and nothing else was.
    popular = popularity(known, data, "test").every
    assert popular[0] in (3, 4, 5)
    assert popular[1] in (3, 4, 5)
    assert popular[2] in (1, 2)
    # After 2 and 4 nothing came in training, and after 0 came 1.
    after = markov(known, data, "test").every
    assert after[0] in (3, 4, 5)
    assert after[2] == 1


def test_the_nearest_texts_come_first():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    public = ItemVectors(vectors=vectors, components=vectors, coarse=vectors)
    data = Sequences.of([[3, 0, 1], [3, 0, 2]], items=4)
    assert nearest_texts(public, data, "test").new.tolist() == [1, 2]
