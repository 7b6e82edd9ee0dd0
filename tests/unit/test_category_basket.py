"""The start rule of baskets: own habits, backed off to released popularity."""

import numpy as np
import pytest
import torch

from hanse_client.tasks.interest import InterestConfig, Interests
from hanse_client.tasks.interest.category_basket import CategoryBasket
from hanse_client.tasks.interest.category_pairs import DecodedPairs, decode_pairs, pair_cells

C = 6
CONFIG = InterestConfig(classes=[f"D/{n}" for n in range(C)], level="category", vector_size=4)
POPULARITY = np.linspace(-1.0, 1.0, C).astype(np.float32)
"""The last class is the most popular one; the public catalogue says the contrary."""
PUBLIC = torch.from_numpy(-POPULARITY)[None]


def past(visits):
    """One customer's past: visits a class, all of them yesterday."""
    counts = torch.tensor(visits, dtype=torch.float32)[None, None, :, None]
    return Interests(
        counts=counts.expand(-1, -1, -1, len(CONFIG.windows)),
        decayed=counts.expand(-1, -1, -1, len(CONFIG.half_lives)),
        days_since=torch.where(counts[..., 0] > 0, 1.0, 3650.0),
        visits=torch.full((1, 1, 4), float(sum(visits))),
        gap=torch.ones(1, 1),
        observed=torch.full((1, 1), 300.0),
    )


def ranking(visits, affinity=None):
    basket = CategoryBasket(CONFIG)
    matrix = np.zeros((C, C), np.float32) if affinity is None else affinity
    basket.set_pairs(DecodedPairs(affinity=matrix, popularity=POPULARITY))
    return basket(past(visits), PUBLIC)[0, 0].argsort(descending=True).tolist()


def test_of_a_customer_without_visits_popularity_decides_alone():
    assert ranking([0] * C) == [5, 4, 3, 2, 1, 0]


def test_habits_come_first_and_popularity_ranks_what_is_new():
    assert ranking([9, 0, 0, 0, 0, 0]) == [0, 5, 4, 3, 2, 1]


def test_between_equal_habits_released_popularity_decides():
    order = ranking([1, 1, 0, 0, 1, 0])
    assert order[:3] == [4, 1, 0]


def test_affinities_move_what_is_new_and_negative_ones_do_not_hide_popularity():
    affinity = np.zeros((C, C), np.float32)
    affinity[0, 1], affinity[0, 5] = 0.9, -0.9
    assert ranking([9, 0, 0, 0, 0, 0], affinity)[:2] == [0, 1]
    assert ranking([9, 0, 0, 0, 0, 0], affinity)[2] == 5


def test_without_a_release_the_public_popularity_decides():
    scores = CategoryBasket(CONFIG)(past([0] * C), PUBLIC)[0, 0]
    assert scores.argsort(descending=True).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_popularity_is_told_where_no_pair_can_be(noise):
    """Customers who bought one class each: no two classes go together."""
    rows = np.triu_indices(C)
    counts = np.array([200.0, 100, 50, 25, 12, 6])
    sums = np.where(rows[0] == rows[1], counts[rows[0]], 0.0)
    drawn = sums + np.random.default_rng(3).normal(0, noise, pair_cells(C))
    pairs = decode_pairs(drawn, classes=C, noise=noise)
    assert (pairs.popularity.argsort()[::-1][:4] == np.arange(4)).all()


def test_a_forged_release_cannot_lift_a_class_beyond_its_bound():
    rows = np.triu_indices(C)
    forged = np.where((rows[0] == rows[1]) & (rows[0] == 3), 1e9, 0.0)
    pairs = decode_pairs(forged, classes=C, noise=1.0)
    basket = CategoryBasket(CONFIG)
    basket.set_pairs(pairs)
    scores = basket(past([0] * C), PUBLIC)[0, 0]
    assert torch.isfinite(scores).all() and pairs.popularity.max() <= np.float32(2.2)
