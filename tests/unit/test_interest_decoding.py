"""What is decoded from the two sums of task `interest`."""

import numpy as np
import pytest

from hanse_client.tasks.interest.category_pairs import decode_pairs, pair_cells
from hanse_client.tasks.interest.class_residuals import class_priors, residual_cells

C = 30


@pytest.fixture(scope="module")
def gram():
    """Two groups of customers with tastes of their own."""
    rng = np.random.default_rng(0)
    chances = np.where(np.arange(C) < C // 2, 0.7, 0.1)
    bought = rng.random((4000, C)) < np.where(rng.random((4000, 1)) < 0.5, chances, chances[::-1])
    rows = bought / np.maximum(np.linalg.norm(bought, axis=1, keepdims=True), 1)
    return rows.T @ rows


def released(gram):
    scale = np.where(np.eye(C, dtype=bool), 1, np.sqrt(2))
    return (gram * scale)[np.triu_indices(C)]


def test_without_noise_pairs_decode_to_ease_of_the_exact_gram_matrix(gram):
    precision = np.linalg.inv(gram + 20.0 * np.eye(C))
    ease = -precision / np.diag(precision)
    np.fill_diagonal(ease, 0)
    pairs = decode_pairs(released(gram), classes=C, noise=0.0)
    np.testing.assert_allclose(pairs.affinity, ease, atol=1e-5)
    logs = np.log(np.diag(gram))
    np.testing.assert_allclose(pairs.popularity, logs - logs.mean(), atol=1e-5)


@pytest.mark.parametrize("noise", [1.0, 5.0, 10.0])
def test_under_noise_classes_of_one_taste_stay_nearer_to_each_other(gram, noise):
    rng = np.random.default_rng(1)
    noisy = released(gram) + rng.normal(0, noise, pair_cells(C))
    pairs = decode_pairs(noisy, classes=C, noise=noise)
    same = np.equal.outer(np.arange(C) < C // 2, np.arange(C) < C // 2) & ~np.eye(C, dtype=bool)
    apart = ~same & ~np.eye(C, dtype=bool)
    assert pairs.affinity[same].mean() > pairs.affinity[apart].mean() + 0.01
    assert np.isfinite(pairs.popularity).all()


def test_noise_alone_decodes_to_nothing():
    # Far below the edge, so that no draw decides.
    noise = np.random.default_rng(2).normal(0, 1.0, pair_cells(C))
    assert decode_pairs(noise, classes=C, noise=3.0) is None
    assert decode_pairs(np.zeros(pair_cells(C)), classes=C, noise=0.0) is None


def residuals(log_odds, information):
    """Sums of which a class's log-odds differ by these from the guess, to first order."""
    scores = log_odds * information
    return np.concatenate([scores, -scores, information, information])


def test_priors_are_shrunken_log_odds_of_rise_and_fall():
    log_odds = np.linspace(-0.5, 0.5, C)
    priors = class_priors(residuals(log_odds, np.full(C, 500.0)), classes=C, noise=0.0)
    np.testing.assert_allclose(priors[:, 0], log_odds, atol=0.01)
    np.testing.assert_allclose(priors[:, 1], -log_odds, atol=0.01)
    np.testing.assert_allclose(priors.mean(0), 0, atol=1e-6)


def test_priors_shrink_with_noise_and_with_rarity():
    log_odds = np.where(np.arange(C) % 2, 0.4, -0.4)
    spreads = [
        class_priors(residuals(log_odds, np.full(C, information)), classes=C, noise=noise).std()
        for information, noise in ((100.0, 0.0), (100.0, 20.0), (3.0, 0.0), (3.0, 20.0))
    ]
    assert spreads[0] > spreads[1] > spreads[3]
    assert spreads[0] > spreads[2] > spreads[3]


def test_unreleased_residuals_and_negative_information_are_harmless():
    assert not class_priors(np.zeros(residual_cells(C)), classes=C, noise=5.0).any()
    rng = np.random.default_rng(3)
    noisy = rng.normal(0, 50, residual_cells(C))
    priors = class_priors(noisy, classes=C, noise=50.0)
    assert np.isfinite(priors).all()
    assert np.abs(priors).max() < 0.5
