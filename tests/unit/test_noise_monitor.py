"""What the coordinator sees of the stores' noise: absence, and nothing else."""

import re

import numpy as np
import pytest

from hanse_common.errors import BadSum, PrivacyError
from hanse_common.vector import skellam_noise
from hanse_server.sums import NoiseMonitor
from kits.errors import raises

STORES, COORDINATES, VARIANCE = 50, 4096, 1e9


def summed(rng, adding, coordinates=COORDINATES):
    """The noise-only coordinates of a sum in which so many stores add theirs.

    Skellam noise of this variance adds up to what is normal to a millionth.
    """
    return np.rint(rng.normal(0.0, np.sqrt(adding * VARIANCE), coordinates)).astype(np.int64)


def rounds_until_caught(rng, adding, most):
    monitor = NoiseMonitor()
    for number in range(1, most + 1):
        try:
            monitor.take(summed(rng, adding), stores=STORES, variance=VARIANCE)
        except (BadSum, PrivacyError) as error:
            return number, error
    return None, None


def test_two_thousand_honest_rounds_raise_no_alarm():
    rng, monitor = np.random.default_rng(1), NoiseMonitor()
    for _ in range(2000):
        monitor.take(summed(rng, STORES), stores=STORES, variance=VARIANCE)
    assert monitor.share == pytest.approx(1.0, abs=5 * np.sqrt(2 / (2000 * COORDINATES)))


def test_skellam_noise_of_real_stores_raises_none_either():
    rng, monitor = np.random.default_rng(2), NoiseMonitor()
    for _ in range(60):
        total = np.sum([skellam_noise(rng, 40.0, COORDINATES) for _ in range(9)], axis=0)
        monitor.take(total, stores=9, variance=40.0)
    assert monitor.share == pytest.approx(1.0, abs=0.02)


def test_five_of_fifty_stores_without_noise_are_caught_within_five_rounds():
    caught = [rounds_until_caught(np.random.default_rng(s), 45, 5) for s in range(100)]
    assert sum(number is not None for number, _ in caught) >= 99
    counts = [
        int(re.search(r"about (\d+) of 50 stores add none", error.message)[1])
        for _, error in caught
        if error is not None
    ]
    # The alarm comes at the first round that is unlikely, so that its estimate errs upwards.
    assert 4 <= np.median(counts) <= 7
    assert all(3 <= count <= 9 for count in counts)


def test_two_of_fifty_are_caught_within_sixty_rounds():
    caught = [rounds_until_caught(np.random.default_rng(s), 48, 60)[0] for s in range(60)]
    assert None not in caught
    assert np.median(caught) < 20


def test_half_the_stores_without_noise_are_caught_at_once():
    for seed in range(20):
        number, error = rounds_until_caught(np.random.default_rng(seed), 25, 1)
        assert number == 1
        assert re.search(r"about 2[4-6] of 50 stores add none", error.message)


def test_more_noise_than_promised_is_no_alarm():
    rng, monitor = np.random.default_rng(3), NoiseMonitor()
    for _ in range(50):
        monitor.take(summed(rng, 2 * STORES), stores=STORES, variance=VARIANCE)
    assert monitor.share == pytest.approx(2.0, rel=0.02)


def test_what_was_seen_before_counts():
    """Each round alone is unsuspicious; together they are not."""
    rng = np.random.default_rng(5)
    totals = [summed(rng, 48) for _ in range(40)]
    for total in totals:
        NoiseMonitor().take(total, stores=STORES, variance=VARIANCE)  # alone: no alarm
    monitor = NoiseMonitor()
    with raises("noise-missing", "round-noise-missing") as caught:
        for total in totals:
            monitor.take(total, stores=STORES, variance=VARIANCE)
    assert "the model is unchanged" in caught.value.hint


def test_smaller_rounds_are_measured_by_the_stores_that_are_in_them():
    rng, monitor = np.random.default_rng(6), NoiseMonitor()
    for stores in (50, 45, 47, 50, 46) * 10:
        monitor.take(summed(rng, stores), stores=stores, variance=VARIANCE)
    assert monitor.share == pytest.approx(1.0, abs=0.02)


def test_no_noise_at_all_is_caught_by_a_single_coordinate():
    with raises("round-noise-missing", match=r"0\.0% .* 5 of 5"):
        NoiseMonitor().take(np.zeros(1, np.int64), stores=5, variance=VARIANCE)


def test_noise_in_these_coordinates_alone_is_not_told_from_honesty():
    """The monitor finds faults, not malice, and says so: this is its limit."""
    rng, monitor = np.random.default_rng(7), NoiseMonitor()
    for _ in range(20):
        monitor.take(summed(rng, STORES), stores=STORES, variance=VARIANCE)  # the update: untouched
    assert monitor.share > 0.99


def test_stores_that_stop_late_are_found_later_than_ones_that_never_began():
    """All rounds weigh alike, so honest ones before delay the alarm: how much is measured."""
    rng, monitor, taken = np.random.default_rng(8), NoiseMonitor(), 0
    for _ in range(60):
        monitor.take(summed(rng, STORES), stores=STORES, variance=VARIANCE)
    with raises("noise-missing"):
        for _ in range(60):
            taken += 1
            monitor.take(summed(rng, 48), stores=STORES, variance=VARIANCE)
    assert taken > 8


def test_a_store_without_noise_ends_no_run_while_the_promise_holds():
    """Twelve stores, of which eleven must add theirs: one that adds none breaks no promise."""
    rng, monitor = np.random.default_rng(1), NoiseMonitor(needed=11)
    for _ in range(80):
        monitor.take(rng.normal(0.0, (11 * VARIANCE) ** 0.5, 4096), stores=12, variance=VARIANCE)
    assert monitor.share == pytest.approx(11 / 12, abs=0.01)
    assert "holds" in monitor.warning
    with raises("noise-missing", "round-noise-missing"):
        for _ in range(800):
            monitor.take(
                rng.normal(0.0, (10 * VARIANCE) ** 0.5, 4096), stores=12, variance=VARIANCE
            )
