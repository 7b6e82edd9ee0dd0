"""What a sum of honest vectors can reach: never called forged, and little beyond it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms
from hanse_common.secagg import Layout, Section, quantize
from hanse_common.secagg.reach import CHANCE, _tail, largest_coordinate, largest_norm, measure
from hanse_common.vector import skellam_noise
from kits.errors import raises


def section(length: int, clip: float, variance: float, *, scale: int = 1000) -> Section:
    headroom = math.ceil(10 * math.sqrt(variance))
    return Section("update", length, clip, scale, headroom, variance)


def extreme(part: Section, shape: str, seed: int) -> np.ndarray:
    """A vector of the largest norm that a store may send, in one of the worst directions."""
    values = np.zeros(part.length)
    if shape == "peak":
        values[0] = 1
    elif shape == "flat":
        values[:] = 1
    else:
        values[:] = np.random.default_rng(seed).normal(size=part.length)
    # Far beyond the clip, so that clipping puts it on the sphere.
    return quantize(1e3 * part.clip * values / np.linalg.norm(values), part)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    length=st.sampled_from([1, 2, 3, 50, 2000]),
    stores=st.integers(3, 30),
    clip=st.sampled_from([0.01, 1.0, 30.0]),
    variance=st.sampled_from([0.0, 0.3, 40.0, 1e6]),
    shape=st.sampled_from(["peak", "flat", "random"]),
    seed=st.integers(0, 2**32),
)
def test_a_sum_of_honest_stores_at_their_largest_is_never_beyond(
    length, stores, clip, variance, shape, seed
):
    part = section(length, clip, variance)
    rng = np.random.default_rng(seed)
    one = extreme(part, shape, seed)
    total = sum(one + skellam_noise(rng, variance, length) for _ in range(stores))
    assert measure(Layout((part,)), total, stores) == ()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    length=st.sampled_from([1, 2, 50, 2000]),
    stores=st.integers(3, 30),
    clip=st.sampled_from([0.01, 1.0, 30.0]),
    variance=st.sampled_from([0.0, 0.3, 40.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_a_little_above_the_bound_is_beyond(length, stores, clip, variance, seed):
    part = section(length, clip, variance)
    flat = np.full(length, math.ceil(1.001 * largest_norm(part, stores) / math.sqrt(length)))
    (excess,) = measure(Layout((part,)), flat, stores)
    assert excess.norm > excess.norm_bound
    peak = np.zeros(length, np.int64)
    peak[seed % length] = -math.ceil(1.001 * largest_coordinate(part, stores))
    (excess,) = measure(Layout((part,)), peak, stores)
    assert excess.largest > excess.largest_bound


@pytest.mark.parametrize("variance", [0.0, 1e4, 1e8])
def test_random_words_are_beyond(variance):
    part = section(1000, 1.0, variance)
    words = np.random.default_rng(4).integers(0, 2**32, 1000).astype(np.uint32)
    assert measure(Layout((part,)), words.view(np.int32).astype(np.int64), 12)


def test_what_is_left_to_a_forger_is_little_more_than_what_honest_stores_have():
    """Many parameters and much noise: what the noise's spread leaves is a fraction of it.

    With room for noise in every coordinate at once, as before, a forged vector of thirty
    times the noise's norm went unseen.
    """
    part = section(137_636, 1.0, 2.0e6, scale=1000)
    stores = 122
    noise = math.sqrt(stores * part.noise_variance * part.length)
    left = math.sqrt(largest_norm(part, stores) ** 2 - noise**2)
    assert left < 0.2 * noise
    headroom = stores * math.sqrt(part.length) * part.headroom
    assert largest_norm(part, stores) < 0.03 * headroom


@pytest.mark.parametrize("variance", [0.01, 0.5, 3.0, 50.0, 1e4])
@pytest.mark.parametrize("exponent", [8.0, 22.0])
def test_the_tail_is_an_upper_bound_and_a_near_one(variance, exponent):
    exact = stats.skellam.sf(math.floor(_tail(variance, exponent)), variance / 2, variance / 2)
    assert exact <= math.exp(-exponent)
    if variance >= 50:
        near = stats.skellam.sf(_tail(variance, exponent) * 0.8, variance / 2, variance / 2)
        assert near > math.exp(-exponent)


def test_the_tail_stays_exact_at_the_largest_variances():
    for variance in (2.0**42, 1e4 * 2.0**42):
        gaussian = math.sqrt(2 * variance * 22)
        assert _tail(variance, 22.0) == pytest.approx(gaussian, rel=1e-6)


def test_the_chance_of_a_false_alarm_is_what_the_module_says():
    """The three events of the derivation at a chance that a test can count: none fails more."""
    assert CHANCE == 1e-9
    rng, variance, length, trials = np.random.default_rng(8), 3.0, 20, 200_000
    noise = skellam_noise(rng, variance, trials * length).reshape(trials, length)
    log_chance = math.log(100)
    coordinate = _tail(variance, log_chance + math.log(2 * length))
    assert np.mean(np.abs(noise).max(axis=1) > coordinate) < 0.01
    third = coordinate**2 * log_chance / 3
    spread = math.sqrt(2 * length * (2 * variance**2 + variance) * log_chance)
    limit = length * variance + third + math.hypot(third, spread)
    assert np.mean((noise**2).sum(axis=1) > limit) < 0.01
    for direction in (np.eye(length)[0], np.full(length, length**-0.5)):
        assert np.mean(noise @ direction > _tail(variance, log_chance)) < 0.01


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf])
def test_variances_that_are_none(variance):
    with raises("unsafe-terms", match="noise_variance"):
        Section("update", 3, 1.0, noise_variance=variance)


def test_the_manifest_says_what_noise_there_is():
    terms = SectionTerms(name="update", length=10, clip=1.0, headroom=50, noise_variance=25.0)
    manifest = Manifest(
        federation="baltic",
        stores=("bremen", "hamburg", "luebeck", "rostock", "wismar"),
        sections=(terms,),
        arrays={"w": (terms.length,)},
        model_digest="ab" * 32,
        rounds=5,
        privacy=PrivacyTerms(mode="none"),
    )
    (part,) = manifest.terms().layout.sections
    assert part.noise_variance == 25.0 and part.headroom == 50
    quiet = Layout((Section("update", 10, 1.0, headroom=50),))
    assert manifest.terms().layout.encode() != quiet.encode()
