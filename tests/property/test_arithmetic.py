"""Quantisation, masks and shares: unbiased, uniform, exact, and never overflowing."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hanse_common.errors import BadSum, ProtocolError
from hanse_common.secagg import Header, Layout, Section, Terms, dequantize, quantize
from hanse_common.secagg import keys as derivations
from hanse_common.secagg.layout import LARGEST_SUM
from hanse_common.secagg.masking import CHUNK_BYTES, Keystream, add_masks
from hanse_common.secagg.shamir import PRIME, Weights, split
from kits.errors import raises
from kits.federation import HEADER, Federation


def drbg(seed: int):
    """Random bytes that are the same on every run."""
    stream = Keystream(seed.to_bytes(32, "big"))
    return lambda size: stream.take(-(-size // 4)).tobytes()[:size]


def bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8))


# Quantisation


def test_rounding_is_unbiased():
    section = Section("update", 200_000, clip=1e4, scale=4)
    for value in (0.1, -0.1, 0.7, -0.7, 2.2):
        integers = quantize(np.full(section.length, value), section, entropy=drbg(1))
        assert set(np.unique(integers)) == {np.floor(4 * value), np.ceil(4 * value)}
        error = dequantize(integers, section).mean() - value
        deviation = 0.125 / np.sqrt(section.length)  # of a fair coin between two steps
        assert abs(error) < 5 * deviation


def test_rounding_differs_each_time():
    section = Section("update", 100, clip=100.0, scale=3)
    first, second = (quantize(np.full(100, 0.5), section) for _ in range(2))
    assert not np.array_equal(first, second)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    clip=st.floats(1e-6, 1e4),
    scale=st.integers(1, 2**17),
    headroom=st.integers(0, 1000),
)
def test_no_finite_input_exceeds_the_declared_bounds(values, clip, scale, headroom):
    section = Section("update", len(values), clip=clip, scale=scale, headroom=headroom)
    integers = quantize(np.array(values), section)
    assert np.abs(integers).max() <= section.bound - headroom
    assert np.linalg.norm(integers.astype(float)) <= section.l2_bound * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64])
def test_every_real_type_is_taken(dtype):
    section = Section("update", 4, clip=100.0)
    values = np.array([1, -2, 3, 0], dtype)
    np.testing.assert_array_equal(dequantize(quantize(values, section), section), values)


@settings(max_examples=200, deadline=None)
@given(clip=st.floats(1e-3, 1e3), scale=st.integers(1, 2**20), headroom=st.integers(0, 2**20))
def test_sums_of_the_largest_cohort_never_overflow(clip, scale, headroom):
    section = Section("update", 1, clip=clip, scale=scale, headroom=headroom)
    cohort = Layout((section,)).largest_cohort()
    assert cohort * section.bound <= LARGEST_SUM
    for extreme in (section.bound, -section.bound):
        words = np.array([extreme]).astype(np.uint32)
        total = np.array([(int(words[0]) * cohort) % 2**32], np.uint32).view(np.int32)
        assert int(total[0]) == extreme * cohort


def test_a_manifest_whose_largest_cohort_could_overflow_does_not_exist():
    section = Section("update", 1, clip=1.0)
    assert Layout((section,)).largest_cohort() == 2047
    Terms(layout=Layout((section,)), maximum_cohort=2047)
    with raises("unsafe-terms", match="2047"):
        Terms(layout=Layout((section,)), maximum_cohort=2048)


@pytest.mark.parametrize("sign", [1, -1])
def test_everybody_at_the_bound_sums_exactly_through_the_protocol(sign):
    """The largest cohort that these bounds allow, every coordinate at its limit."""
    section = Section("update", 8, clip=float(LARGEST_SUM // 9), scale=1)
    federation = Federation(9, layout=Layout((section,)), maximum_cohort=9)
    assert federation.attempt.terms.layout.largest_cohort() == 9
    for name in federation.names:
        federation.vectors[name] = np.full(8, sign * section.bound)
    aggregate = federation.run()
    np.testing.assert_array_equal(aggregate.total, np.full(8, sign * 9 * section.bound))
    assert aggregate.beyond == ("update",)  # no store clips to such a norm


@pytest.mark.parametrize(
    "section",
    [
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"clip": 1e300},
        {"clip": 4096.0},
        {"scale": 0},
        {"scale": 2**32},
        {"headroom": -1},
        {"headroom": 2**31},
        {"length": 0},
        {"name": "not an identifier"},
    ],
    ids=str,
)
def test_unsafe_sections_do_not_exist(section):
    with raises("unsafe-terms"):
        Section(**({"name": "update", "length": 3, "clip": 1.0} | section))


# Masks


def test_masked_vectors_are_uniform():
    """Chi-square over all bytes of the vectors of stores that hold nothing but zeros."""
    federation = Federation(5, length=60_000)
    federation.vectors = dict.fromkeys(federation.names, np.zeros(60_000, np.int64))
    seen: dict[str, np.ndarray] = {}

    def note(name, message):
        if hasattr(message, "body"):
            seen[name] = np.frombuffer(message.body, np.uint8)
        return message

    federation.run(to_coordinator=note)
    for data in seen.values():
        for place in range(4):
            counts = np.bincount(data[place::4], minlength=256)
            # 20 tests a run: a true uniform fails one in half a million runs.
            assert stats.chisquare(counts).pvalue > 1e-7
    first, second, *_ = seen.values()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_the_keystream_is_uniform():
    counts = np.bincount(Keystream(bytes(32)).take(1_000_000).view(np.uint8), minlength=256)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


@pytest.mark.parametrize("byte", range(len(HEADER.encode())))
def test_one_bit_of_the_header_gives_unrelated_masks(byte):
    for bit in range(8):
        data = bytearray(HEADER.encode())
        data[byte] ^= 1 << bit
        try:
            other = Header.decode(bytes(data))
        except ProtocolError:
            continue  # a version or an attempt that does not exist
        for derive in (pair_key, self_key):
            one, two = (Keystream(derive(header)).take(4096) for header in (HEADER, other))
            assert np.count_nonzero(one == two) == 0
            assert abs((bits(one) ^ bits(two)).mean() - 0.5) < 0.01


def pair_key(header: Header) -> bytes:
    return derivations.pair_mask_key(b"\x42" * 32, header.digest(), b"\x01" * 32, "a", "b")


def self_key(header: Header) -> bytes:
    return derivations.self_mask_key(b"\x42" * 32, header.digest(), "a")


def test_a_store_with_another_model_leaves_masks_that_do_not_cancel():
    headers = [HEADER, replace(HEADER, model_digest=b"V" * 32)]
    keys = [derivations.pair_mask_key(b"s" * 32, h.digest(), b"c" * 32, "a", "b") for h in headers]
    vector = np.zeros(1000, np.uint32)
    add_masks(vector, plus=[keys[0]], minus=[keys[1]])
    assert np.unique(vector).size == 1000


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([0, 1, 3, 4, 5, 1000]),
    plus=st.lists(st.binary(min_size=32, max_size=32), max_size=5),
    minus=st.lists(st.binary(min_size=32, max_size=32), max_size=5),
)
def test_masks_are_the_sum_of_their_streams(length, plus, minus):
    vector = np.arange(length, dtype=np.uint32)
    add_masks(vector, plus=plus, minus=minus)
    expected = np.arange(length, dtype=np.uint32)
    for key in plus:
        expected = expected + Keystream(key).take(length)
    for key in minus:
        expected = expected - Keystream(key).take(length)
    np.testing.assert_array_equal(vector, expected)


@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
@pytest.mark.parametrize("streams", [1, 300])
def test_masks_across_chunks_and_groups_cancel(extra, streams):
    vector = np.zeros(CHUNK_BYTES // 4 + extra, np.uint32)
    keys = [index.to_bytes(32, "big") for index in range(streams)]
    add_masks(vector, plus=keys)
    assert vector.any()
    if streams == 1:
        np.testing.assert_array_equal(vector, Keystream(keys[0]).take(vector.size))
    add_masks(vector, minus=keys[::-1])
    assert not vector.any()


# Shares


@settings(max_examples=60, deadline=None)
@given(st.data(), st.binary(min_size=32, max_size=32), st.integers(1, 12))
def test_any_threshold_of_shares_gives_the_secret(data, secret, count):
    threshold = data.draw(st.integers(1, count))
    shares = split(secret, threshold=threshold, count=count)
    points = data.draw(st.permutations(range(1, count + 1)))[:threshold]
    assert Weights(points).combine([shares[x - 1] for x in points]) == secret


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 12))
def test_fewer_shares_do_not(secret, threshold):
    shares = split(secret, threshold=threshold, count=threshold)
    with contextlib.suppress(BadSum):  # a value above 2^256
        assert Weights(range(1, threshold)).combine(shares[:-1]) != secret


def test_fewer_shares_fit_every_secret():
    """For t - 1 shares and any secret there is a t-th share: they say nothing about it."""
    shares = split(b"\x01" * 32, threshold=3, count=3)
    for secret in (b"\x02" * 32, bytes(32), b"\xff" * 32):
        weights = Weights((1, 2, 3))._weights
        known = sum(
            w * int.from_bytes(s, "big") for w, s in zip(weights[:2], shares[:2], strict=True)
        )
        third = (int.from_bytes(secret, "big") - known) * pow(weights[2], -1, PRIME) % PRIME
        assert Weights((1, 2, 3)).combine([*shares[:2], third.to_bytes(33, "big")]) == secret


@pytest.mark.parametrize("points", [(), (1, 1), (0, 1), (PRIME, 1)])
def test_points_that_determine_nothing(points):
    with raises("unsafe-terms"):
        Weights(points)


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (4, 3), (1, 0)])
def test_impossible_splits(threshold, count):
    with raises("unsafe-terms"):
        split(bytes(32), threshold=threshold, count=count)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_of_another_size(size):
    with raises("unsafe-terms"):
        split(bytes(size), threshold=1, count=1)


# Terms


@settings(max_examples=300, deadline=None)
@given(cohort=st.integers(3, 2000), colluders=st.integers(0, 700), top=st.integers(1, 99))
def test_every_threshold_beats_two_disjoint_groups(cohort, colluders, top):
    layout = Layout((Section("update", 1, clip=1.0),))
    try:
        terms = Terms(
            layout=layout,
            minimum_cohort=cohort,
            maximum_cohort=2047,
            colluders=colluders,
            threshold_fraction=(top, 100),
        )
    except ProtocolError as error:
        assert error.code == "unsafe-terms"
        assert top < 50 or colluders > cohort - 2 or cohort > 2047
        return
    for size in (cohort, cohort + 1, 2047):
        threshold = terms.threshold(size)
        assert 2 * threshold > size + colluders
        assert threshold <= terms.survivors(size) <= size
        assert terms.survivors(size) - colluders >= 2
        # The honest releasers of one attempt are missing from the next: at least two.
        assert threshold - colluders >= 2
