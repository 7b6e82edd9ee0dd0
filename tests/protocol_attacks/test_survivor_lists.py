"""A coordinator that lies about who survived."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.secagg.messages import Survivors
from kits.errors import raises
from kits.federation import Federation, is_wiped


@pytest.fixture
def at_confirm():
    federation = Federation(9)  # threshold 7
    outgoing = federation.up_to("confirm", drop={"share": {"store-008"}})
    return federation, outgoing["store-000"]


def test_an_outsider_of_the_roster(at_confirm):
    federation, message = at_confirm
    with raises("bad-survivors", match=r"\[11\]"):
        federation.stores["store-000"].confirm(replace(message, survivors=(*range(8), 11)))
    assert is_wiped(federation.stores["store-000"])


def test_a_store_that_shared_nothing(at_confirm):
    federation, message = at_confirm
    with raises("bad-survivors", match=r"\[8\]"):
        federation.stores["store-000"].confirm(replace(message, survivors=tuple(range(9))))
    assert is_wiped(federation.stores["store-000"])


def test_without_oneself(at_confirm):
    federation, message = at_confirm
    with raises("bad-survivors", match="'store-000'"):
        federation.stores["store-000"].confirm(replace(message, survivors=tuple(range(1, 8))))
    assert is_wiped(federation.stores["store-000"])


@pytest.mark.parametrize("count", [1, 2, 6])
def test_too_few(at_confirm, count):
    federation, message = at_confirm
    with raises("cohort-too-small", match=f"{count} survivors .* 7"):
        federation.stores["store-000"].confirm(replace(message, survivors=tuple(range(count))))
    assert is_wiped(federation.stores["store-000"])


def test_fewer_than_two_honest_stores_can_never_be_enough():
    federation = Federation(5, colluders=2)
    message = federation.up_to("confirm")["store-000"]
    assert federation.attempt.terms.survivors(5) == 4
    with raises("cohort-too-small"):
        federation.stores["store-000"].confirm(replace(message, survivors=(0, 1, 2)))


def test_the_smallest_sum_of_the_manifest_holds():
    """Noise was calibrated for at least 8 stores; 7 are the threshold of 9."""
    federation = Federation(9, minimum_cohort=9, minimum_survivors=8)
    message = federation.up_to("confirm")["store-000"]
    with raises("cohort-too-small", match="needed are 8"):
        federation.stores["store-000"].confirm(replace(message, survivors=tuple(range(7))))


@pytest.mark.parametrize("indices", [(0, 0, 1), (1, 0), (3, 3)])
def test_unsorted_or_repeated_indices_are_not_a_message(at_confirm, indices):
    _, message = at_confirm
    data = replace(message, survivors=indices).encode()
    with raises("malformed-message", match="increasing"):
        Survivors.decode(data)
