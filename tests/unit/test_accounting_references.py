"""The accounting beside what others published: papers, tutorials, other accountants.

Every figure names where it was printed. Our own are by privacy loss distributions, which
are tight; figures by Rényi accounting are bounds that ours stays below.
"""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opacus.accountants import create_accountant
from scipy.optimize import brentq
from scipy.special import ive, logsumexp, ndtr

from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_common.manifest_terms import manifest_for
from hanse_common.privacy.accounting import (
    SampledGaussianSteps,
    combined_noise_multiplier,
    epsilon,
    noise_multiplier_for,
    skellam_variance,
)
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.recipes import grocery_rules


def spent(sigma, rate, count, delta, stores=1):
    steps = SampledGaussianSteps(
        noise_multiplier=sigma, sample_rate=rate, count=count, stores=stores
    )
    return epsilon([steps], target_delta=delta)


# Gaussian, without sampling


@pytest.mark.parametrize(
    ("sigma", "count", "delta"),
    [(0.5, 1, 1e-5), (1.0, 1, 1e-6), (3.0, 10, 1e-5), (20.0, 200, 1e-8)],
)
def test_releases_of_everybody_cost_what_the_analytic_gaussian_says(sigma, count, delta):
    """Balle and Wang 2018, theorem 8; k releases are one with sigma divided by sqrt(k)."""
    s = sigma / math.sqrt(count)

    def excess(e):
        return ndtr(1 / (2 * s) - e * s) - math.exp(e) * ndtr(-1 / (2 * s) - e * s) - delta

    assert spent(sigma, 1.0, count, delta) == pytest.approx(brentq(excess, 0, 50), rel=0.01)


@pytest.mark.parametrize(("sigma", "count", "delta"), [(2.0, 1, 1e-5), (5.0, 30, 1e-6)])
def test_releases_of_everybody_stay_below_their_renyi_bound(sigma, count, delta):
    """Mironov 2017: a/(2 sigma²) at order a (corollary 3), to epsilon by proposition 3."""
    rho = count / (2 * sigma**2)
    bound = rho + 2 * math.sqrt(rho * math.log(1 / delta))  # the least over all orders
    assert 0.7 * bound < spent(sigma, 1.0, count, delta) < bound


# Poisson-sampled Gaussian


@pytest.mark.parametrize(
    ("sigma", "rate", "count", "delta", "expected"),
    [
        # dp-accounting, `pld_privacy_accountant_test.py`: exact values.
        (math.sqrt(3), 1.0, 3, 0.126936, 1.0),
        (0.5, 0.2, 3, 0.15594, 1.0),
        # dp-accounting, `accountant_test.py`: the least noise for epsilon 1.
        (0.67379294682, 0.01, 1, 1e-5, 1.0),
        (3.20956502598 / 6, 0.001, 25, 1e-5, 1.0),
    ],
)
def test_dp_accountings_own_examples_come_out(sigma, rate, count, delta, expected):
    assert spent(sigma, rate, count, delta) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("sigma", "rate", "count", "bound"),
    [
        # Abadi et al. 2016, section 3.2: the moments accountant at q = 0.01, sigma = 4.
        (4.0, 0.01, 10_000, 1.26),
        # TensorFlow Privacy's MNIST tutorial, its table of results: batches of 256 of 60,000.
        (1.3, 256 / 60_000, 15 * 60_000 // 256, 1.19),
        (1.1, 256 / 60_000, 60 * 60_000 // 256, 3.01),
        (0.7, 256 / 60_000, 45 * 60_000 // 256, 7.10),
    ],
)
def test_published_moments_accounts_bound_ours_and_are_not_far(sigma, rate, count, bound):
    assert 0.7 * bound < spent(sigma, rate, count, 1e-5) <= bound * 1.005


@pytest.mark.parametrize(
    ("sigma", "rate", "count", "delta"),
    [(2.1, 0.02, 500, 1e-6), (0.69, 0.02, 500, 1e-6), (3.0, 0.1, 1000, 1e-8), (1.5, 0.5, 20, 1e-5)],
)
def test_opacus_prv_agrees_within_one_percent(sigma, rate, count, delta):
    """Gopi, Lee and Wutschitz 2021, as Opacus ships it."""
    prv = create_accountant("prv")
    prv.history = [(sigma, rate, count)]
    assert spent(sigma, rate, count, delta) == pytest.approx(prv.get_epsilon(delta), rel=0.01)


@pytest.mark.parametrize(("target", "sigma"), [(1, 2.10), (2, 1.29), (4, 0.91), (8, 0.69)])
def test_the_noise_for_an_epsilon_is_what_was_measured_before(target, sigma):
    found = noise_multiplier_for(
        target_epsilon=target, target_delta=1e-6, sample_rate=0.02, count=500
    )
    assert found == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize(("arrived", "expected"), [(50, 3.21), (45, 3.61), (40, 4.13), (25, 7.54)])
def test_each_store_that_stays_away_takes_its_noise_with_it(arrived, expected):
    """Shares measured by 50 stores, sigma = 1 together: why a round below the minimum aborts."""
    found = spent(math.sqrt(arrived / 50), 0.02, 500, 1e-6)
    assert found == pytest.approx(expected, rel=0.01)


# A person at several stores


@pytest.mark.parametrize(("stores", "apart", "shared"), [(2, 6.96, 2.26), (3, 11.1, 2.13)])
def test_a_person_at_several_stores_pays_for_full_clips_and_not_for_shared_ones(
    stores, apart, shared
):
    """sigma 1, q 0.02, 500 steps, delta 1e-6, where one store costs 3.21."""
    assert spent(1 / stores, 0.02, 500, 1e-6, stores) == pytest.approx(apart, rel=0.01)
    assert spent(1.0, 0.02, 500, 1e-6, stores) == pytest.approx(shared, rel=0.01)


def test_one_store_is_the_plain_sampled_gaussian():
    from dp_accounting import dp_event, pld

    mixture = pld.PLDAccountant(value_discretization_interval=1e-3)
    mixture.compose(dp_event.MixtureOfGaussiansDpEvent(1.3, [0, 1], [0.9, 0.1]), 100)
    assert spent(1.3, 0.1, 100, 1e-6) == pytest.approx(mixture.get_epsilon(1e-6), rel=1e-3)


@pytest.mark.parametrize("stores", [2, 4])
def test_a_shared_clip_costs_less_than_one_store_and_more_than_full_independence(stores):
    """All lots falling together is the worst that k stores at C/k can do: one store at C."""
    one = spent(1.0, 0.1, 100, 1e-6)
    shared = spent(1.0, 0.1, 100, 1e-6, stores)
    # Were one of the stores everything that the person has, it would be C/k alone.
    assert spent(float(stores), 0.1, 100, 1e-6) < shared < one


@pytest.mark.parametrize("stores", [1, 3])
def test_a_plan_reports_the_mixture_where_noise_is_shared_and_repeats_where_it_is_not(stores):
    base = {
        "sample_rate": 0.1,
        "max_grad_norm": 0.6,
        "noise_multiplier": 3.0,
        "steps_per_round": 1,
        "rounds": 20,
        "target_epsilon": 50.0,
        "target_delta": 1e-6,
        "statistics_noise_multiplier": 10.0,
        "max_stores_per_customer": stores,
    }
    shared, local = PrivacyPlan(**base, mode="distributed"), PrivacyPlan(**base, mode="local")
    both = combined_noise_multiplier(3.0, 10.0)
    assert shared.store_clip == pytest.approx(0.6 / stores)
    assert local.store_clip == 0.6
    assert shared.epsilon_after(rounds=20) == spent(both, 0.1, 20, 1e-6, stores)
    assert local.epsilon_after(rounds=20) == spent(both, 0.1, 20 * stores, 1e-6)
    assert shared.round_charge().steps.count == 1
    assert local.round_charge().steps.count == stores


# Skellam


def skellam_bound(alpha, mu, l2, l1):
    """Agarwal, Kairouz and Liu 2021, theorem 3.5."""
    more = min(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * mu**2), 3 * l1 / (2 * mu))
    return alpha * l2**2 / (2 * mu) + more


ORDERS = (1 + 1e-9, 1.1, 1.5, 2.0, 3.0, 8.0, 32.0, 256.0, 1e4, 1e8)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    sigma=st.floats(0.05, 100),
    log_l2=st.floats(0, 18),
    log_length=st.floats(0, 18),
)
def test_skellam_noise_has_no_larger_renyi_divergence_than_the_gaussian_at_any_order(
    sigma, log_l2, log_length
):
    l2, length = math.exp(log_l2), math.exp(log_length)
    l1 = math.sqrt(length) * l2
    variance = skellam_variance(sigma, l2, l1)
    assert variance >= (sigma * l2) ** 2 * (1 - 1e-12)
    for alpha in ORDERS:
        found = skellam_bound(alpha, variance, l2, l1)
        assert found <= alpha / (2 * sigma**2) * (1 + 1e-9)


@pytest.mark.parametrize("mu", [10.0, 200.0, 3000.0])
@pytest.mark.parametrize("shift", [1, 3, 10])
@pytest.mark.parametrize("alpha", [1.5, 2.0, 6.0])
def test_the_published_skellam_bound_holds_by_direct_summation(mu, shift, alpha):
    """In one dimension, from the mass function itself: e^-mu I_k(mu)."""
    reach = int(30 * math.sqrt(mu)) + 20 * shift
    k = np.arange(-reach, reach + 1)
    mass = ive(np.abs(np.stack([k - shift, k])), mu)
    here = (mass > 1e-280).all(axis=0)
    moved, still = np.log(mass[:, here])
    divergence = logsumexp(alpha * moved + (1 - alpha) * still) / (alpha - 1)
    assert divergence <= skellam_bound(alpha, mu, shift, shift)
    assert divergence > 0.8 * alpha * shift**2 / (2 * (mu + shift**2))  # not vacuous


def test_sampled_and_composed_skellam_costs_what_the_gaussian_accounting_reports():
    """The theorem bounds one unsampled release; what is reported is sampled and composed.

    One dimension, 80 rounds at q = 0.1, on a grid far coarser than any manifest's. Losses
    are rounded up to whole ten-thousandths, which adds up to 80 halves of one.
    """
    sigma, rate, count, delta, step = 1.5, 0.1, 80, 1e-6, 128
    variance = skellam_variance(sigma, step, step)
    reach = int(9 * math.sqrt(variance)) + step
    k = np.arange(-reach, reach + 1)
    still, moved = ive(np.abs(k), variance), ive(np.abs(k - step), variance)
    mixed = (1 - rate) * still + rate * moved
    lower, upper = (dict(enumerate(np.log(p).tolist())) for p in (still, mixed))
    found = privacy_loss_distribution.from_two_probability_mass_functions(
        lower, upper, value_discretization_interval=1e-4, symmetric=False
    )
    cost = found.self_compose(count).get_epsilon_for_delta(delta)  # of both directions
    reported = spent(sigma, rate, count, delta)
    assert 0.99 * reported < cost <= reported * 1.001 + count * 0.5e-4


@pytest.mark.parametrize("classes", [1, 201, 994])
def test_the_grocery_manifests_noise_is_at_most_a_thousandth_above_gaussian(classes):
    settings = grocery_rules().with_changes({"privacy.noise_multiplier": 3.0})
    model = InterestModel(
        InterestConfig(classes=[f"c{i}" for i in range(classes)], n_embd=8, vector_size=8)
    )
    model.train_only("rules")
    arrays = {n: p.detach().numpy() for n, p in model.named_parameters() if p.requires_grad}
    manifest = manifest_for(settings, arrays, [f"r{i:02}" for i in range(12)], federation="f")
    honest = 10 - 1  # of twelve regions two may be missing and one may collude
    (update,) = (part for part in manifest.sections if part.name == "update")
    gaussian = (3.0 * 0.5 * update.scale) ** 2
    assert 1 <= update.noise_variance * honest / gaussian <= 1.001
