"""Made-up shoppers: well-formed, repeatable, diverse, and each mechanism has its effect."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_client.features.histories import FACTS, Histories
from hanse_client.pretraining.shoppers import (
    Market,
    draw_market,
    made_up_shoppers,
    simulate,
)


def plain(categories: int = 4, **changes) -> Market:
    """A market without drift, seasons, jumps, stock, pauses, churn and late shoppers."""
    none = np.zeros(categories, dtype=np.float32)
    market = Market(
        visit_shape=400.0,
        visit_scale=0.005,  # two visits a week from everybody
        visit_persistence=0.9,
        visit_drift=0.0,
        pause=0.0,
        pause_end=1.0,
        churn=0.0,
        late=0.0,
        taste_spread=0.0,
        taste_correlation=0.0,
        jump=0.0,
        popularity=none,
        persistence=none,
        drift=none,
        season=none,
        phase=none,
        stock=none,
    )
    return replace(market, **changes)


def held(market: Market, *, shoppers: int = 300, weeks: int = 40, seed: int = 0):
    """[N, weeks, K] visits with each category, and [N, weeks] visits."""
    histories = simulate(market, shoppers=shoppers, weeks=weeks, rng=np.random.default_rng(seed))
    owner = np.repeat(np.arange(shoppers), histories.sizes)
    week = (histories.visit_days // 7).astype(int)
    visits = np.zeros((shoppers, weeks))
    np.add.at(visits, (owner, week), 1)
    bought = np.zeros((shoppers, weeks, market.categories))
    visit = np.repeat(np.arange(len(owner)), np.diff(histories.pair_offsets))
    np.add.at(bought, (owner[visit], week[visit], histories.pair_classes), 1)
    return bought, visits


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shoppers=st.integers(1, 12),
    categories=st.integers(1, 8),
    weeks=st.integers(1, 30),
)
def test_histories_are_well_formed(seed, shoppers, categories, weeks):
    histories = made_up_shoppers(seed, shoppers=shoppers, categories=categories, weeks=weeks)
    assert len(histories) == shoppers
    visits = len(histories.visit_days)
    assert histories.visit_offsets[0] == 0 and histories.visit_offsets[-1] == visits
    assert histories.pair_offsets[-1] == len(histories.pair_classes)
    assert histories.visit_facts.shape == (visits, len(FACTS))
    assert (np.diff(histories.visit_offsets) >= 0).all()
    assert (np.diff(histories.pair_offsets) >= 0).all()
    for first, last in zip(histories.visit_offsets, histories.visit_offsets[1:], strict=False):
        days = histories.visit_days[first:last]
        assert (np.diff(days) >= 0).all()
        assert not len(days) or (days[0] >= 0 and days[-1] < 7 * weeks)
    for first, last in zip(histories.pair_offsets, histories.pair_offsets[1:], strict=False):
        classes = histories.pair_classes[first:last]
        assert (np.diff(classes) > 0).all()  # each at most once a visit
        assert not len(classes) or (classes[0] >= 0 and classes[-1] < categories)


def test_the_same_seed_gives_the_same_histories_and_another_one_others(tmp_path):
    first, again, other = (
        made_up_shoppers((seed, 3), shoppers=30, categories=5, weeks=20) for seed in (7, 7, 8)
    )
    for field in fields(Histories):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert len(first.visit_days) != len(other.visit_days)
    # Like a store's own histories, they can be stored and read.
    first.save(tmp_path / "made-up.npz")
    np.testing.assert_array_equal(
        Histories.load(tmp_path / "made-up.npz").visit_days, first.visit_days
    )


def test_sets_differ_in_more_than_their_noise():
    rates, contents = [], []
    for number in range(12):
        histories = made_up_shoppers((1, number), shoppers=150, weeks=20)
        rates.append(len(histories.visit_days) / 150 / 20)
        contents.append(len(histories.pair_classes) / len(histories.visit_days))
    assert max(rates) > 2 * min(rates)
    assert max(contents) > 1.3 * min(contents)
    jumps = {draw_market(np.random.default_rng(seed)).jump for seed in range(40)}
    assert len(jumps) == 4
    assert {draw_market(np.random.default_rng(seed)).late for seed in range(40)} == {0, 0.1, 0.4}


def test_a_plain_market_is_a_poisson_process():
    bought, visits = held(plain())
    assert visits.mean() == pytest.approx(2.0, rel=0.03)
    assert visits.var() / visits.mean() == pytest.approx(1.0, rel=0.05)
    # Log-odds of 0: a category is in every second visit. Shocks move it by a few per cent.
    assert bought.sum() / visits.sum() / 4 == pytest.approx(0.5, abs=0.03)


def test_what_is_in_stock_is_bought_less_often_right_after():
    stock = np.array([0.0, 4.0, 0.0, 4.0], dtype=np.float32)
    bought, _ = held(plain(stock=stock))
    again = [
        (bought[:, 1:, k] > 0)[bought[:, :-1, k] > 0].mean()
        / (bought[:, 1:, k] > 0)[bought[:, :-1, k] == 0].mean()
        for k in range(4)
    ]
    assert min(again[0], again[2]) > 0.95
    assert max(again[1], again[3]) < 0.8


def test_tastes_last_and_jumps_end_them():
    def kept(**changes):
        bought, _ = held(plain(taste_spread=1.5, **changes))
        halves = bought[:, :20].sum(1).ravel(), bought[:, 20:].sum(1).ravel()
        return np.corrcoef(*halves)[0, 1]

    assert kept() > 0.8
    assert kept(jump=0.1) < 0.4


def test_churned_shoppers_never_come_back_and_paused_ones_do():
    _, gone = held(plain(churn=0.05))
    last = 40 - np.argmax((gone > 0)[:, ::-1], axis=1)
    assert (last < 30).mean() > 0.5
    _, paused = held(plain(pause=0.2, pause_end=0.3))
    quiet = (paused == 0).mean()
    assert 0.3 < quiet < 0.7
    assert (paused[:, -8:].sum(1) > 0).mean() > 0.9


def test_late_shoppers_join_in_any_week_and_stay():
    _, visits = held(plain(late=0.6))
    first = np.argmax(visits > 0, axis=1)
    assert 0.45 < (first > 3).mean() < 0.65
    late = first[first > 3]
    assert late.mean() == pytest.approx(22, abs=2)  # uniform over what is left of 40 weeks
    after = np.arange(40) > first[:, None]
    assert visits[after].mean() == pytest.approx(2.0, rel=0.03)


def test_seasons_come_every_year():
    season = np.array([2.0, 0.0], dtype=np.float32)
    market = replace(plain(2), season=season)
    bought, visits = held(market, weeks=104)
    share = bought.sum(0) / visits.sum(0)[:, None]
    high, low = share[[13, 65], 0], share[[39, 91], 0]
    assert high.min() > low.max() + 0.4
    assert np.ptp(share[[13, 65, 39, 91], 1]) < 0.3
