"""Paired bootstrap intervals over customers, against a slow reference and on edge cases."""

import math

import numpy as np
import pytest

from hanse_client.tasks.interest.metrics import FALL, RISE, Figures
from hanse_client.tasks.next_item.metrics import Ranks
from hanse_client.tasks.scoring import auc
from hanse_simulations.evaluation.paired import FEWEST, Area, Mean, Resampled, draw_weights
from hanse_simulations.evaluation.paired_arms import REFERENCES, compare_arms, statistics_of
from kits.metrics import figures

CUSTOMERS = 25


@pytest.fixture
def cases():
    """Owners, scores with ties, and outcomes; some customers have none."""
    rng = np.random.default_rng(0)
    owners = rng.integers(0, CUSTOMERS - 3, 120)
    return owners, np.round(rng.normal(size=120), 1).astype(np.float32), rng.random(120) < 0.3


def drawn(owners, weights):
    """The cases of one draw, each repeated as often as its customer is drawn."""
    return np.repeat(np.arange(len(owners)), weights[owners])


def test_every_draw_is_the_metric_of_the_repeated_customers(cases):
    owners, scores, positive = cases
    weights = draw_weights(CUSTOMERS, seed=3, draws=40)
    area = Area(scores=scores, positive=positive, owners=owners).resampled(weights)
    mean = Mean(values=scores.astype(float), owners=owners).resampled(weights)
    assert area.value == pytest.approx(auc(scores, positive))
    assert mean.value == pytest.approx(scores.mean())
    for draw, row in enumerate(weights[1:]):
        chosen = drawn(owners, row)
        assert area.draws[draw] == pytest.approx(auc(scores[chosen], positive[chosen]))
        assert mean.draws[draw] == pytest.approx(scores[chosen].astype(float).mean())


def test_the_same_seed_gives_the_same_draws_and_the_first_is_everybody():
    one, two = (draw_weights(9, seed=4, draws=20) for _ in range(2))
    assert (one == two).all()
    assert (one[0] == 1).all()
    assert (one.sum(axis=1) == 9).all()
    assert (one != draw_weights(9, seed=5, draws=20)).any()


def test_a_difference_is_paired_and_its_interval_are_percentiles(cases):
    owners, scores, positive = cases
    weights = draw_weights(CUSTOMERS, seed=3)
    first = Area(scores=scores, positive=positive, owners=owners).resampled(weights)
    other = Area(scores=scores + positive, positive=positive, owners=owners).resampled(weights)
    difference = other.minus(first)
    apart = other.draws - first.draws
    assert difference.value == other.value - first.value
    assert difference.interval() == tuple(np.percentile(apart, (2.5, 97.5)))
    low, high = first.interval()
    assert low < first.value < high


def test_a_constant_gain_leaves_nothing_uncertain():
    owners = np.arange(CUSTOMERS)
    weights = draw_weights(CUSTOMERS, seed=1)
    values = np.linspace(0, 1, CUSTOMERS)
    parts = [Mean(values=v, owners=owners).resampled(weights) for v in (values + 0.1, values)]
    assert parts[0].minus(parts[1]).interval() == pytest.approx((0.1, 0.1))


def test_the_mean_of_seeds_is_taken_draw_by_draw():
    parts = [
        Resampled(value=v, draws=np.array([v, 2 * v]), customers=n)
        for v, n in ((1.0, 12), (3.0, 15))
    ]
    mean = Resampled.mean(parts)
    assert (mean.value, mean.draws.tolist(), mean.customers) == (2.0, [2.0, 4.0], 12)


def test_ties_count_one_half_and_equal_scores_say_nothing():
    owners = np.arange(12)
    found = Area(
        scores=np.zeros(12, np.float32), positive=owners % 2 == 0, owners=owners
    ).resampled(draw_weights(12, seed=1))
    assert found.value == 0.5
    assert set(found.draws[np.isfinite(found.draws)]) == {0.5}
    assert found.interval() == (0.5, 0.5)


def test_without_cases_or_without_one_side_nothing_is_defined():
    weights = draw_weights(12, seed=1, draws=5)
    none = np.zeros(0)
    empty = (
        Mean(values=none, owners=none.astype(int)),
        Area(scores=none.astype(np.float32), positive=none > 0, owners=none.astype(int)),
        Area(scores=np.ones(12, np.float32), positive=np.ones(12, bool), owners=np.arange(12)),
    )
    for statistic in empty:
        found = statistic.resampled(weights)
        assert math.isnan(found.value)
        assert all(map(math.isnan, found.interval()))


@pytest.mark.parametrize("customers", [1, FEWEST - 1])
def test_a_few_customers_have_a_figure_and_no_interval(customers):
    owners = np.repeat(np.arange(customers), 5)
    values = np.linspace(0, 1, len(owners))
    found = Mean(values=values, owners=owners).resampled(draw_weights(customers, seed=1))
    assert found.value == pytest.approx(0.5)
    assert all(map(math.isnan, found.interval()))


def test_nobody_can_be_drawn_from_nobody():
    assert draw_weights(0, seed=1, draws=3).shape == (4, 0)


def test_the_statistics_are_the_metrics_that_a_task_prints():
    people = np.arange(30)
    ranks = np.random.default_rng(1).integers(1, 30, 30)
    for one in (
        figures(people, ndcg=np.linspace(0, 1, 60)),
        Ranks(new=ranks, every=ranks, customers=people),
    ):
        printed = one.metrics()
        weights = draw_weights(30, seed=1, draws=2)
        for name, statistic in statistics_of(one).items():
            found = statistic.resampled(weights).value
            assert found == pytest.approx(printed[name], nan_ok=True)


def arm(ndcg, shift=0.0):
    """Figures of two stores, with ranks of rise that get better with the shift."""
    by_store = {name: figures(np.arange(20) + 3, ndcg=ndcg) for name in ("a", "b")}
    moved = {}
    for name, one in by_store.items():
        values = {field: getattr(one, field) for field in Figures.__slots__}
        values["rise_scores"] = one.rise_scores + np.float32(shift) * (one.outcomes == RISE)
        moved[name] = Figures(**values)
    return moved


def test_arms_are_compared_with_every_reference_on_the_same_customers():
    arms = {
        ("alone", None): [arm(0.2)],
        ("federated", None): [arm(0.3)],
        ("distributed", 4.0): [arm(0.25, 1.0), arm(0.27, 1.0)],
    }
    rows = {(r.arm, r.epsilon, r.against, r.metric): r for r in compare_arms(arms, seed=1)}
    joining = rows["distributed", 4.0, "alone", "ndcg@10"]
    assert joining.value == pytest.approx(0.06)
    assert (joining.seeds, joining.customers, joining.is_none) == (2, 40, False)
    privacy = rows["distributed", 4.0, "federated", "ndcg@10"]
    assert privacy.value == pytest.approx(-0.04)
    assert rows["distributed", 4.0, "alone", "rise_auc"].low > 0
    # What is the same under two arms differs by exactly nothing.
    fall = rows["distributed", 4.0, "alone", "fall_auc"]
    assert (fall.value, fall.low, fall.high, fall.is_none) == (0, 0, 0, True)
    assert not any(
        row.against == "boosted_trees" or row.against == row.arm for row in rows.values()
    )
    pooled = Figures.pooled([*arm(0.2).values()])
    own = rows["alone", None, None, "rise_auc"]
    assert own.value == pytest.approx(auc(pooled.rise_scores, pooled.outcomes == RISE))
    assert own.low < own.value < own.high
    assert {FALL, RISE} <= set(pooled.outcomes)


def test_a_store_that_one_arm_lacks_is_compared_under_none():
    part = {"a": arm(0.3)["a"]}
    rows = compare_arms({("alone", None): [arm(0.2)], ("federated", None): [part]}, seed=1)
    assert {row.customers for row in rows} == {20}


def test_metrics_that_do_not_apply_are_left_out_and_no_arm_gives_nothing():
    arms = {("alone", None): [arm(0.2)], ("markov", None): [arm(0.1)]}
    rows = compare_arms(arms, seed=1, wanted={"markov": ("ndcg@10",)})
    assert {row.metric for row in rows if row.arm == "markov"} == {"ndcg@10"}
    assert {row.against for row in rows} <= {None, *REFERENCES}
    assert compare_arms({}, seed=1) == []
    assert compare_arms({**arms, ("federated", None): [{}]}, seed=1) == compare_arms(arms, seed=1)
