"""Updates that are broken, oversized or lies: refused at the store, bounded, or caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hanse_common.errors import MalformedMessage
from hanse_common.secagg import Layout, Section, dequantize, quantize
from hanse_common.secagg.messages import MaskedVector
from kits.errors import raises
from kits.federation import Federation, is_wiped

SECTION = Section("update", 16, clip=1.0)
LAYOUT = Layout((SECTION, Section("weight", 1, clip=500.0, scale=1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15])
def test_nan_and_infinity_never_leave_the_store(bad, place):
    values = np.zeros(16)
    values[place] = bad
    with raises("bad-vector", match="NaN"):
        quantize(values, SECTION)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_another_length(length):
    with raises("bad-vector", match=rf"shape \({length},\)"):
        quantize(np.zeros(length), SECTION)


@pytest.mark.parametrize("dtype", [bool, complex, "datetime64[s]", object, "U3"])
def test_another_type(dtype):
    with raises("bad-vector"):
        quantize(np.zeros(16).astype(dtype), SECTION)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(15, np.int64),
        np.zeros((16, 1), np.int64),
        np.zeros(16, np.float64),
        np.zeros(16, np.uint32),
        np.full(16, SECTION.bound + 1),
        np.full(16, -SECTION.bound - 1),
        np.full(16, np.iinfo(np.int64).min),
    ],
    ids=lambda vector: f"{vector.dtype}{vector.shape}{vector.flat[0]}",
)
def test_the_protocol_refuses_what_was_not_quantised(vector):
    federation = Federation(5, layout=Layout((SECTION,)))
    delivery = federation.up_to("mask")["store-000"]
    store = federation.stores["store-000"]
    store.accept(delivery)
    with raises("bad-vector"):
        store.mask(vector)
    assert is_wiped(store)


@pytest.mark.parametrize("factor", [1e3, 1e30, 1e308])
def test_an_update_times_1000_counts_as_much_as_any_other(factor):
    direction = np.full(16, 0.25)  # norm 1
    honest = dequantize(quantize(direction, SECTION), SECTION)
    scaled = dequantize(quantize(direction * factor, SECTION), SECTION)
    np.testing.assert_allclose(scaled, honest, atol=2**-19)


def test_a_lying_weight_counts_at_most_its_bound():
    weight = LAYOUT.sections[1]
    assert quantize(np.array([1e9]), weight).item() == 500
    assert quantize(np.array([-1e9]), weight).item() == -500


@pytest.mark.parametrize("size", [0, 4, 4 * 15, 4 * 17, 63])
def test_a_masked_vector_of_another_length_costs_only_its_sender(size):
    federation = Federation(7)

    def resize(name, message):
        if name == "store-003" and type(message) is MaskedVector:
            return replace(message, body=bytes(size)).sign(federation.keys[name])
        return message

    aggregate = federation.run(to_coordinator=resize)
    federation.assert_exact(aggregate)
    assert "store-003" not in aggregate.survivors
    ((_, error),) = federation.errors
    assert (error.code, error.culprits) == ("bad-vector", ("store-003",))


def test_a_vector_altered_on_the_way_costs_only_its_sender():
    federation = Federation(7)

    def alter(name, message):
        if name == "store-003" and type(message) is MaskedVector:
            return replace(message, body=b"\xff" + message.body[1:])
        return message

    aggregate = federation.run(to_coordinator=alter)
    federation.assert_exact(aggregate)
    assert "store-003" not in aggregate.survivors


def test_a_truncated_message_costs_only_its_sender():
    federation = Federation(7)

    def cut(name, message):
        return message.encode()[:-1] if name == "store-003" else message

    aggregate = federation.run(to_coordinator=cut)
    federation.assert_exact(aggregate)
    assert "store-003" not in aggregate.survivors
    assert all(isinstance(error, MalformedMessage) for _, error in federation.errors)


def test_a_forged_vector_that_blows_up_the_sum_is_an_outcome_and_no_error():
    """A store that skips quantisation and masking altogether: the sum is noise.

    Whoever carries the round decides what is lost; the core says what it measured.
    """
    federation = Federation(7, length=1000)

    def forge(name, message):
        if name == "store-003" and type(message) is MaskedVector:
            body = np.random.default_rng(5).bytes(4000)
            return replace(message, body=body).sign(federation.keys[name])
        return message

    aggregate = federation.run(to_coordinator=forge)
    assert aggregate.beyond == ("update",)
    (excess,) = aggregate.excesses
    assert excess.norm > excess.norm_bound and excess.largest > excess.largest_bound
    assert len(aggregate.survivors) == 7 and aggregate.total.shape == (1000,)


@pytest.mark.parametrize("place", [0, 1])
def test_only_the_section_that_was_forged_is_beyond(place):
    federation = Federation(7, layout=LAYOUT)
    zero = np.zeros(LAYOUT.length, np.int64)
    federation.vectors = dict.fromkeys(federation.names, zero)

    def forge(name, message):
        if name == "store-003" and type(message) is MaskedVector:
            words = np.frombuffer(message.body, "<u4").copy()
            words[-place] += np.uint32(2**24)
            return replace(message, body=words.tobytes()).sign(federation.keys[name])
        return message

    aggregate = federation.run(to_coordinator=forge)
    assert aggregate.beyond == (LAYOUT.sections[place].name,)


def test_sections_ride_together_and_come_apart():
    federation = Federation(5, layout=LAYOUT)
    rng = np.random.default_rng(2)
    updates = {name: rng.normal(0, 0.1, 16) for name in federation.names}
    for index, (name, update) in enumerate(updates.items()):
        federation.vectors[name] = LAYOUT.join(
            {
                "update": quantize(update, SECTION),
                "weight": quantize(np.array([100 + index]), LAYOUT.sections[1]),
            }
        )
    parts = LAYOUT.split(federation.run().total)
    assert parts["weight"].item() == 510
    total = dequantize(parts["update"], SECTION)
    np.testing.assert_allclose(total, sum(updates.values()), atol=5 * 2**-20)


@pytest.mark.parametrize("parts", [{}, {"update": 16}, {"update": 16, "weight": 1, "other": 1}])
def test_missing_or_unknown_sections(parts):
    with raises("bad-vector"):
        LAYOUT.join({name: np.zeros(length, np.int64) for name, length in parts.items()})
