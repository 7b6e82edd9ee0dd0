"""The bound on epsilon from right guesses: against the paper, and against known epsilons."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from hanse_simulations.privacy_audit.bound import (
    Guesses,
    best_lower_bound,
    epsilon_lower_bound,
    p_value,
)


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "published"),
    [
        (1000, 100, 75, 1e-4, 0.673),  # appendix D
        (100_000, 1510, 1439, 1e-5, 2.675),  # section 7
    ],
)
def test_the_papers_own_figures_come_out(canaries, guesses, right, delta, published):
    found = epsilon_lower_bound(canaries=canaries, guesses=guesses, right=right, delta=delta)
    assert found == pytest.approx(published, abs=1e-3)


def exact_p_value(m: int, r: int, v: int, odds: int, delta: Fraction) -> Fraction:
    """Theorem 3.1 in rational numbers, for e^eps = `odds`."""
    chance = Fraction(odds, odds + 1)

    def exactly(k: int) -> Fraction:
        return math.comb(r, k) * chance**k * (1 - chance) ** (r - k)

    beta = sum((exactly(k) for k in range(v, r + 1)), Fraction(0))
    alpha = max(
        (sum(exactly(k) for k in range(max(v - i, 0), v)) / i for i in range(1, m + 1)),
        default=Fraction(0),
    )
    return min(Fraction(1), beta + 2 * m * delta * alpha)


@pytest.mark.parametrize(
    ("m", "r", "v", "odds"),
    [(1, 1, 1, 3), (20, 10, 9, 2), (50, 50, 40, 5), (40, 12, 0, 2), (30, 20, 20, 7)],
)
def test_a_p_value_is_the_theorems_in_exact_arithmetic(m, r, v, odds):
    for delta in (Fraction(0), Fraction(1, 1000)):
        found = p_value(canaries=m, guesses=r, right=v, epsilon=math.log(odds), delta=float(delta))
        assert found == pytest.approx(float(exact_p_value(m, r, v, odds, delta)), rel=1e-9)


def test_without_delta_it_is_the_tail_of_randomised_response():
    for right in (0, 60, 75, 100):
        found = p_value(canaries=400, guesses=100, right=right, epsilon=1.0, delta=0.0)
        assert found == pytest.approx(binom.sf(right - 1, 100, 1 / (1 + math.exp(-1.0))))
    # Then canaries of which nothing is guessed cost nothing.
    few = epsilon_lower_bound(canaries=100, guesses=100, right=90, delta=0.0)
    assert few == epsilon_lower_bound(canaries=10_000, guesses=100, right=90, delta=0.0)


def test_it_grows_with_right_guesses_and_shrinks_with_delta_and_confidence():
    def bound(right=80, delta=1e-5, confidence=0.95):
        return epsilon_lower_bound(
            canaries=1000, guesses=100, right=right, delta=delta, confidence=confidence
        )

    by_right = [bound(right) for right in range(0, 101, 5)]
    assert by_right == sorted(by_right)
    assert by_right[10] == 0.0 < by_right[13] < by_right[-1]
    by_delta = [bound(delta=delta) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert by_delta == sorted(by_delta, reverse=True) and by_delta[0] > by_delta[-1]
    assert bound(confidence=0.99) < bound(confidence=0.95) < bound(confidence=0.5)


@pytest.mark.parametrize("truth", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("guesses", [25, 400])
def test_it_exceeds_the_truth_of_randomised_response_in_at_most_5_percent_of_runs(truth, guesses):
    """The worst mechanism there is: every guess right with chance e^eps/(1 + e^eps)."""
    bounds = np.array(
        [
            epsilon_lower_bound(canaries=400, guesses=guesses, right=v, delta=0.0)
            for v in range(guesses + 1)
        ]
    )
    chance = 1 / (1 + math.exp(-truth))
    wrong = binom.pmf(np.flatnonzero(bounds > truth), guesses, chance).sum()
    assert wrong <= 0.05
    # And not by being silent: a little below the truth it refutes far more often than that.
    if truth == 2.0 and guesses == 400:
        seen = bounds[np.random.default_rng(5).binomial(guesses, chance, 2000)]
        assert np.mean(seen > truth) <= 0.05
        assert np.median(seen) > 1.6


def test_the_best_of_several_tries_exceeds_the_truth_in_at_most_5_percent_of_runs():
    """Nested guesses about the same coins, the best bound taken: chosen after looking."""
    truth, canaries, runs = 1.0, 64, 20_000

    @cache
    def too_much(*right: int) -> bool:
        tries = [Guesses(count=n, right=v) for n, v in zip((8, 16, 32), right, strict=True)]
        return best_lower_bound(tries, canaries=canaries, delta=0.0) > truth

    hits = np.random.default_rng(11).random((runs, canaries)) < 1 / (1 + math.exp(-truth))
    wrong = sum(too_much(*(int(one[:n].sum()) for n in (8, 16, 32))) for one in hits)
    assert 0 < wrong / runs <= 0.05


def test_several_tries_pay_for_being_several():
    one = Guesses(count=100, right=90)
    alone = best_lower_bound([one], canaries=200, delta=1e-6)
    assert alone == epsilon_lower_bound(canaries=200, guesses=100, right=90, delta=1e-6)
    assert best_lower_bound([one, one], canaries=200, delta=1e-6) < alone
    assert best_lower_bound([], canaries=200, delta=1e-6) == 0.0


@pytest.mark.parametrize(
    "changes",
    [{"right": 11}, {"guesses": 21}, {"right": -1}, {"delta": 1.5}, {"confidence": 1.0}],
)
def test_impossible_numbers_are_refused(changes):
    terms = {"canaries": 20, "guesses": 10, "right": 5, "delta": 1e-6, **changes}
    with pytest.raises(ValueError, match="="):
        epsilon_lower_bound(**terms)
