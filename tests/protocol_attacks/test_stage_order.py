"""Stages skipped, repeated or re-ordered, on either side."""

from __future__ import annotations

import copy
import itertools

import pytest

from hanse_common.secagg import Coordinator, Phase
from hanse_common.secagg.messages import Message, StoreMessage
from kits.errors import raises
from kits.federation import STAGES, Federation, unchanged


@pytest.mark.parametrize(
    ("reached", "asked"),
    itertools.product(STAGES, STAGES[1:]),
)
def test_a_store_answers_each_stage_once_and_in_order(reached, asked):
    """`reached` is the last stage that the store answered; only the next one is in turn."""
    federation = Federation(5)
    messages: dict[str, Message] = {}
    for stage in STAGES[: STAGES.index(reached) + 1]:
        for name in federation.names:
            if stage == "hello":
                federation.receive(federation.start(name).hello)
            else:
                federation.receive(federation.reply(name, messages[f"{stage}/{name}"]))
        if stage != "unmask":
            following = STAGES[STAGES.index(stage) + 1]
            for name, message in federation.coordinator.advance().items():
                messages[f"{following}/{name}"] = message
    if f"{asked}/store-000" not in messages:  # a stage ahead: from another run of this round
        messages[f"{asked}/store-000"] = Federation(5).up_to(asked)["store-000"]
    message = messages[f"{asked}/store-000"]
    if STAGES.index(asked) == STAGES.index(reached) + 1:
        federation.reply("store-000", message)
        return
    before = federation.stores["store-000"].encode()
    with raises("out-of-turn"):
        federation.reply("store-000", message)
    assert federation.stores["store-000"].encode() == before


def test_masking_needs_accepted_shares():
    federation = Federation(5)
    federation.up_to("mask")
    with raises("out-of-turn"):
        federation.stores["store-000"].mask(federation.vectors["store-000"])


def test_masking_happens_once():
    federation = Federation(5)
    delivery = federation.up_to("mask")["store-000"]
    federation.reply("store-000", delivery)
    with raises("out-of-turn"):
        federation.stores["store-000"].mask(federation.vectors["store-000"])
    with raises("out-of-turn"):
        federation.stores["store-000"].accept(delivery)


def test_the_coordinator_takes_each_message_at_its_stage_and_once():
    """Snapshots of one coordinator, before each stage, are offered every message of the round."""
    federation = Federation(5)
    snapshots: dict[str, Coordinator] = {}
    messages: dict[str, StoreMessage] = {}

    def note(name, message):
        if name == "store-001":
            messages[STAGES[federation.coordinator.phase]] = message
        return message

    outgoing = {}
    for stage in STAGES:
        snapshots[stage] = copy.deepcopy(federation.coordinator)
        for name in federation.names:
            federation._one(stage, name, outgoing.get(name), unchanged, note)
        if stage != "unmask":
            outgoing = federation.coordinator.advance()
    federation.coordinator.finish()
    snapshots["done"] = federation.coordinator
    for (phase, snapshot), (kind, message) in itertools.product(
        snapshots.items(), messages.items()
    ):
        if phase == kind:
            snapshot.receive(message)
        with raises("out-of-turn"):
            snapshot.receive(message)


def test_a_duplicate_changes_nothing():
    federation = Federation(5)

    def twice(name, message):
        federation.receive(message)
        return message

    aggregate = federation.run(to_coordinator=twice)
    federation.assert_exact(aggregate)
    assert {error.code for _, error in federation.errors} == {"out-of-turn"}


def test_the_coordinator_cannot_be_advanced_past_its_end_or_finished_early():
    federation = Federation(5)
    with raises("out-of-turn"):
        federation.coordinator.finish()
    federation.up_to("end")
    with raises("out-of-turn"):
        federation.coordinator.advance()
    federation.coordinator.finish()
    assert federation.coordinator.phase is Phase.DONE
    with raises("out-of-turn"):
        federation.coordinator.finish()
