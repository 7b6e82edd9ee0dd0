"""Surprise scores on constructed histories: what they notice, and what they must not."""

import numpy as np
import pytest
import torch

from hanse_client.analytics.anomaly import (
    Shop,
    forecast_by,
    log_likelihood_ratio,
    surprises,
    unexplained_repeats,
)
from hanse_client.analytics.moments import views
from hanse_client.analytics.occasions import basket_counts, each_day, each_visit, left_in_cart
from kits.histories import CONFIG, made, model, weekly  # noqa: F401


@pytest.fixture(scope="module")
def two_tastes():
    """One customer of milk and bread, one of wine and cheese, twenty weeks of each."""
    return made([weekly(0, 1), weekly(2, 3)])


def score(histories, model, occasions, **options):
    shop = Shop.of(histories.until(occasions.moments.min()), classes=4)
    return surprises(histories, occasions, forecast_by(model, shop), shop, CONFIG, **options)


def test_a_swapped_basket_is_more_surprising_than_the_customers_own(two_tastes, model):
    visits = each_visit(two_tastes, start=100, stop=200)
    own = score(two_tastes, model, visits)
    half = len(visits) // 2
    swapped = np.roll(np.arange(len(visits)), half)
    other = score(two_tastes, model, visits, contents=swapped)
    assert (own.taste < 0).all()
    assert (other.taste > 0).all()


def test_a_basket_that_the_customer_always_buys_is_as_surprising_whatever_its_size():
    log_p = np.log(np.full((2, 4), 0.25))
    share = np.log([0.4, 0.3, 0.2, 0.1])
    one, all_of_them = log_likelihood_ratio(log_p, share, np.array([[1.0, 0, 0, 0], [1.0] * 4]))
    assert one == pytest.approx(np.log(0.4 / 0.25))
    assert all_of_them == pytest.approx(np.mean(share - np.log(0.25)))
    assert np.array_equal(
        log_likelihood_ratio(log_p, share, np.full((2, 4), 1.0)),
        log_likelihood_ratio(log_p, share, np.full((2, 4), 3.0)),
    )


def test_taste_does_not_depend_on_the_order_of_classes(two_tastes, model):
    rng = np.random.default_rng(1)
    log_p, share = np.log(rng.dirichlet(np.ones(4), 5)), np.log(rng.dirichlet(np.ones(4)))
    counts = rng.integers(0, 2, (5, 4)).astype(float)
    order = rng.permutation(4)
    assert log_likelihood_ratio(log_p, share, counts) == pytest.approx(
        log_likelihood_ratio(log_p[:, order], share[order], counts[:, order])
    )


def test_a_customer_without_history_and_a_basket_without_known_class_are_no_surprise(model):
    histories = made([weekly(0, 1), [(150.5, [2, 3])], [(1.5, [0]), (150.5, [])], []])
    visits = each_visit(histories, start=150, stop=200)
    found = score(histories, model, visits)
    assert visits.customers.tolist() == [1, 2]
    assert found.total == pytest.approx([0.0, 0.0])


def test_scores_look_at_nothing_after_the_occasion_and_at_no_other_customer(model):
    before = made([weekly(0, 1), weekly(2, 3)])
    after = made([[*weekly(0, 1), (150.0, [3])], weekly(0, 3)])
    shop = Shop.of(before.until(100), classes=4)
    scores = []
    for histories in (before, after):
        visits = each_visit(histories, start=100, stop=140)
        visits = visits.keep(visits.customers == 0)
        scores.append(surprises(histories, visits, forecast_by(model, shop), shop, CONFIG).total)
    assert scores[0] == pytest.approx(scores[1])


def test_a_burst_of_one_class_in_a_day_is_noticed_and_a_large_basket_is_not(model):
    burst = made([[*weekly(0, 1), *((150.1 + i / 10, [2]) for i in range(4))]])
    large = made([[*weekly(0, 1), (150.1, [0, 1, 2, 3])]])
    found = [
        score(histories, model, each_day(histories, start=150, stop=151)).repeats[0]
        for histories in (burst, large)
    ]
    assert found[0] > 5
    assert found[1] == 0


def test_repeats_surprise_more_the_more_there_are_and_the_rarer_the_class():
    counts = np.array([[2.0], [3.0], [6.0], [3.0]])
    rates = np.array([[0.2], [0.2], [0.2], [0.02]])
    two, three, six, rare = unexplained_repeats(rates, counts)
    assert two < three < six
    assert three < rare
    assert np.isfinite(unexplained_repeats(np.array([[0.0]]), np.array([[500.0]]))).all()


def test_carts_surprise_by_the_customers_own_habit(model):
    days = [(7.0 * week + 0.5, [0]) for week in range(20)]
    habit = np.concatenate([np.full(20, 4.0), np.zeros(19), [4.0]])
    histories = made([days, days], left=habit)
    assert left_in_cart(histories).tolist() == habit.tolist()
    visits = each_visit(histories, start=133, stop=134)
    usual, unusual = score(histories, model, visits).carts
    assert unusual > usual + 1
    assert score(histories, model, each_visit(histories, start=126, stop=127)).carts[1] == 0


def test_a_day_holds_all_its_visits_and_nobody_elses():
    histories = made([[(1.2, [0]), (1.8, [0, 1]), (2.1, [2])], [(1.3, [3])]])
    days = each_day(histories, start=0, stop=10)
    assert days.customers.tolist() == [0, 0, 1]
    assert days.moments.tolist() == [1.2, 2.1, 1.3]
    expected = [[2, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert basket_counts(histories, days, 4).tolist() == expected
    assert len(each_visit(histories, start=0, stop=10)) == 4
    assert len(each_day(histories, start=5, stop=10)) == 0


def test_every_question_is_answered_once_in_whatever_order_it_was_asked():
    histories = made([weekly(0, weeks=40), weekly(1, weeks=3)])
    rng = np.random.default_rng(2)
    customers = rng.integers(0, 2, 50)
    moments = rng.uniform(0, 300, 50)
    ever = np.full(50, -1.0)
    for view in views(histories, customers, moments, CONFIG):
        assert (ever[view.questions] == -1).all()
        ever[view.questions] = view.past.counts[:, 0, :, -1].sum(-1).numpy()
    weeks = np.array([40, 3])[customers]
    assert ever == pytest.approx(np.clip(np.ceil((moments - 0.5) / 7), 0, weeks))
    assert list(views(histories, customers[:0], moments[:0], CONFIG)) == []
    assert torch.is_grad_enabled()
