"""Altered bytes given to the real parties, past the decoders: each fails by name, or not at all.

What a coordinator sends is altered on the way to a store, what a store sends on the way to the
coordinator, and what a store keeps while it waits. Signatures are made good again where the
sender could have made them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_common.errors import HanseError, MalformedMessage
from hanse_common.secagg import Coordinator, Store, check_accusation, decode
from hanse_common.secagg.dispute import accuse
from hanse_common.secagg.messages import StoreMessage
from kits.federation import STAGES, Federation

NAME = "store-000"
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3)


@cache
def waiting(stage):
    """A federation at a stage: the message for NAME, and NAME's encoded state and journal."""
    federation = Federation(5)
    message = federation.up_to(stage)[NAME]
    store = federation.stores[NAME]
    return federation, message.encode(), store.encode(), store.journal


def edited(data: bytes, edits, cut: int) -> bytes:
    altered = bytearray(data)
    for place, value in edits:
        altered[place % len(altered)] = value
    if cut % 7 == 0:
        del altered[cut % len(altered) :][: cut % 5]
    return bytes(altered)


def answer(federation, state, journal, data):
    """What NAME says to these bytes, from this state; only named errors may come of it."""
    try:
        store = Store.resume(federation.attempt, state, key=federation.keys[NAME], journal=journal)
        message = decode(data)
        match type(message).__name__:
            case "Roster":
                return store.share(message)
            case "Delivery":
                store.accept(message)
                return store.mask(federation.vectors[NAME])
            case "Survivors":
                return store.confirm(message)
            case "UnmaskRequest":
                return store.unmask(message)
    except HanseError as error:
        assert error.message
    return None


@pytest.mark.parametrize("stage", STAGES[1:])
@settings(max_examples=60, deadline=None)
@given(edits=EDITS, cut=st.integers(1, 10**6))
def test_a_store_that_is_sent_altered_bytes(stage, edits, cut):
    federation, message, state, journal = waiting(stage)
    answer(federation, state, journal, edited(message, edits, cut))


@pytest.mark.parametrize("stage", STAGES[1:])
@settings(max_examples=60, deadline=None)
@given(edits=EDITS, cut=st.integers(1, 10**6))
def test_a_store_whose_state_was_altered(stage, edits, cut):
    federation, message, state, journal = waiting(stage)
    answer(federation, edited(state, edits, cut), journal, message)


@cache
def sent(stage):
    """What NAME answers at a stage; its coordinator has not received it."""
    federation, message, state, journal = waiting(stage)
    return answer(federation, state, journal, message)


@pytest.mark.parametrize("resigned", [False, True])
@pytest.mark.parametrize("stage", [*STAGES, "refusal"])
@settings(max_examples=40, deadline=None)
@given(edits=EDITS, cut=st.integers(1, 10**6))
def test_a_coordinator_that_is_sent_altered_bytes(stage, resigned, edits, cut):
    if stage == "hello":
        federation = waiting("share")[0]
        message = federation.stores[NAME].hello
        coordinator = Coordinator(federation.attempt)
    else:
        at = "mask" if stage == "refusal" else stage
        federation, *_ = waiting(at)
        message = refusal() if stage == "refusal" else sent(at)
        coordinator = deepcopy(federation.coordinator)
    try:
        read = decode(edited(message.encode(), edits, cut))
        if resigned and isinstance(read, StoreMessage):
            read = read.sign(federation.keys[NAME])
        coordinator.receive(read)
    except HanseError as error:
        assert error.message


@pytest.mark.parametrize("stage", [*STAGES[1:], "refusal"])
def test_unaltered_they_are_taken(stage):
    """Else the tests above would alter what is refused in any case."""
    at = "mask" if stage == "refusal" else stage
    coordinator = deepcopy(waiting(at)[0].coordinator)
    coordinator.receive(refusal() if stage == "refusal" else sent(at))
    assert NAME not in coordinator.waiting_for


@cache
def refusal():
    """A refusal of NAME that holds evidence."""
    federation, _, state, journal = waiting("mask")
    store = Store.resume(federation.attempt, state, key=federation.keys[NAME], journal=journal)
    cohort = federation.coordinator._cohort
    evidence = accuse(cohort, 0, 1, store._state.share_key)
    said = replace(store.refuse(MalformedMessage("x")), code="bad-shares", culprits=("store-001",))
    return replace(said, accusations=(evidence,)).sign(federation.keys[NAME])


@settings(max_examples=60, deadline=None)
@given(edits=EDITS)
def test_evidence_of_any_bytes(edits):
    federation, *_ = waiting("mask")
    cohort, bundle = federation.coordinator._cohort, federation.coordinator._bundles[1]
    (accusation,) = refusal().accusations
    field = ("shared", "challenge", "response")[edits[0][0] % 3]
    forged = replace(accusation, **{field: edited(getattr(accusation, field), edits, 1)})
    with pytest.raises(HanseError):
        check_accusation(cohort, NAME, forged, bundle)
