"""Visits to expect: a Poisson at the own rate until trained; calibrated, and judged as by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from sklearn.metrics import average_precision_score

from hanse_client.analytics.demand import demand, observed_visits
from hanse_client.analytics.purchase_chances import ALL_CLASSES, BOUGHT_BEFORE, foresee
from hanse_client.features.histories import days
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_client.tasks.interest.features import Anchors, collate
from hanse_client.tasks.interest.metrics import split_anchors
from hanse_client.tasks.interest.rates import RateHead, chances, rate_losses
from hanse_client.tasks.scoring import average_precision, calibration_error
from kits.histories import made

HORIZONS = (7.0, 14.0, 28.0)


@pytest.fixture(scope="module")
def world(small_stores):
    settings, prepared = small_stores
    model = InterestModel.from_pretrained(prepared.base_model).eval()
    return settings, prepared.load()[0], model


def batch_of(world):
    settings, histories, model = world
    anchors = split_anchors(histories, settings, "test").rows(0, 8)
    return collate(histories, anchors, model.config)


def test_untrained_it_is_a_poisson_at_the_customers_own_decayed_rate(world):
    *_, model = world
    batch = batch_of(world)
    with torch.inference_mode():
        expected = model(batch).expected_visits.numpy()
    half_life = 180.0
    decayed = batch.past.decayed[..., model.config.half_lives.index(half_life)].numpy()
    credit = 0.05 * np.exp(model.class_popularity.numpy())
    observed = batch.past.observed.numpy()[..., None]
    rate = (decayed + credit) / (half_life / np.log(2) * (1 - 2 ** (-observed / half_life)))
    np.testing.assert_allclose(expected, rate[..., None] * np.array(HORIZONS), rtol=1e-4)
    chance = chances(torch.from_numpy(expected)).numpy()
    np.testing.assert_allclose(chance, poisson.sf(0, expected), rtol=1e-4, atol=1e-6)


def test_a_longer_horizon_never_expects_less_whatever_was_trained(world):
    *_, model = world
    batch = batch_of(world)
    head = RateHead(model.config)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=20.0)
    features = torch.randn(*batch.past.counts.shape[:3], head.rate.in_features - 2)
    expected = head(batch.past, torch.zeros(len(batch), features.shape[2]), features)
    assert torch.isfinite(expected).all()
    assert (expected.diff(dim=-1) >= 0).all()


def test_the_first_visit_is_found_in_the_horizon_that_holds_it():
    visits = [(100.0, [0]), (106.9, [1]), (107.0, [2]), (114.0, [3]), (128.0, [4])]
    histories = made([[*visits, (130.0, [0])]])
    model = InterestConfig(classes=list("abcdef"))
    ask = np.ones((1, 1), dtype=bool)
    for asked, first in ((ask, [0, 0, 1, 2, 3, 3]), (~ask, [-1] * 6)):
        anchors = Anchors(
            customers=np.array([0]), moments=np.array([[100.0]]), basket=ask, outlook=asked
        )
        model.vector_size = histories.visit_vectors.shape[1]
        assert collate(histories, anchors, model).first_visit[0, 0].tolist() == first


def test_the_loss_is_the_likelihood_of_the_first_visit():
    expected = torch.tensor([0.3, 0.7, 2.0]).expand(1, 1, 5, 3)
    none = np.exp(-np.array([0.0, 0.3, 0.7, 2.0]))
    likelihood = [*(none[:3] - none[1:]), none[3]]
    for first, wanted in enumerate(likelihood):
        loss = rate_losses(expected[:, :, :1], torch.tensor([[[first]]]))
        assert float(loss) * 8 == pytest.approx(-np.log(wanted), rel=1e-5)
    assert float(rate_losses(expected[:, :, :1], torch.tensor([[[-1]]]))) == 0.0
    assert torch.isfinite(rate_losses(expected * 0, torch.tensor([[[0, 1, 2, 3, -1]]]))).all()


def test_predicted_visits_are_compared_with_observed_ones(world):
    settings, histories, model = world
    moment = days(settings.data.split.validate_until)
    found = foresee(histories, model, moment)
    assert (np.diff(found.observed, axis=-1) >= 0).all()
    rows = found.judged()
    assert [row["horizon_days"] for row in rows[::2]] == list(HORIZONS)
    assert [row["classes"] for row in rows[:2]] == [BOUGHT_BEFORE, ALL_CLASSES]
    said, did = found.chances[..., 2][found.known], found.observed[..., 2][found.known] > 0
    assert rows[4]["judged"] == len(did)
    assert rows[4]["average_precision"] == pytest.approx(average_precision_score(did, said))
    assert sum(row["cases"] for row in rows[4]["reliability"]) == len(did)
    assert rows[4]["auc"] > 0.6


def test_average_precision_counts_ties_as_one_step():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 4, 200) / 4, rng.random(200) < 0.3
    assert average_precision(scores, positive) == pytest.approx(
        average_precision_score(positive, scores)
    )
    assert np.isnan(average_precision(scores, positive & False))


def test_a_calibrated_forecast_has_little_error_and_a_bold_one_much():
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    came_true = rng.random(20_000) < chance
    assert calibration_error(chance, came_true) < 0.02
    assert calibration_error((chance > 0.5).astype(float), came_true) > 0.2


def test_a_shops_demand_is_the_sum_of_its_customers(world):
    settings, histories, model = world
    moment = days(settings.data.split.validate_until)
    seen, found = foresee(histories, model, moment), demand(histories, model, moment)
    level = found.expected / seen.expected.sum(axis=0)
    np.testing.assert_allclose(level, level[:, :1].repeat(3, axis=1), rtol=1e-4)
    assert ((level > 0.3) & (level < 3)).all()
    np.testing.assert_allclose(found.buyers, seen.chances.sum(axis=0), rtol=1e-3)
    for index, horizon in enumerate(HORIZONS):
        actual = observed_visits(histories, moment, horizon, len(model.config.classes))
        assert (actual == seen.observed[..., index].sum(axis=0)).all()
    assert (found.low <= found.expected).all()
    assert (found.expected <= found.high).all()
    assert ((found.rise >= 0) & (found.fall >= 0) & (found.rise + found.fall <= 1.0001)).all()


def test_steady_shoppers_are_expected_back_within_the_interval():
    """Forty customers buy class 0 at a steady pace: the sum and its interval hold what comes."""
    rng = np.random.default_rng(2)
    histories = made(
        [
            [(float(day), [0]) for day in np.sort(rng.uniform(0, 400, 60)) if day < 400]
            for _ in range(40)
        ]
    )
    config = InterestConfig(
        classes=["a", "b"], vector_size=histories.visit_vectors.shape[1], n_embd=8, n_head=2
    )
    model = InterestModel(config).eval()
    model.rates.start_from_own_rate()
    found = demand(histories, model, 350.0)
    actual = observed_visits(histories, 350.0, 28.0, 2)
    assert found.low[0, 2] <= actual[0] <= found.high[0, 2]
    assert found.usual[0, 2] == pytest.approx(60 * 40 * 28 / 400, rel=0.2)
    assert actual[1] == 0
