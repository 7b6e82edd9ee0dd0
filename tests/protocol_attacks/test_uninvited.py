"""Signed messages of stores that are not in turn: lost earlier, or speaking for others."""

from __future__ import annotations

from dataclasses import replace

from hanse_common.errors import ProtocolError
from hanse_common.secagg.messages import Confirmation, MaskedVector, Refusal
from kits.errors import raises
from kits.federation import Federation, is_wiped


def uninvited_vector(federation, name):
    cohort = federation.coordinator._cohort
    return MaskedVector(
        header_digest=cohort.header_digest,
        roster_digest=cohort.roster_digest,
        store_id=name,
        body=b"\xff" * 64,
    ).sign(federation.keys[name])


def test_a_vector_of_a_store_that_dealt_no_shares():
    federation = Federation(7)
    sent = []

    def intrude(name, message):
        if type(message) is MaskedVector and not sent:
            sent.append(uninvited_vector(federation, "store-006"))
            with raises("out-of-turn", match="'store-006'"):
                federation.receive(sent[0])
        return message

    aggregate = federation.run(drop={"share": {"store-006"}}, to_coordinator=intrude)
    assert sent
    federation.assert_exact(aggregate)


def test_a_vector_of_a_store_that_refused():
    federation = Federation(7)
    federation.up_to("mask")
    refusal = federation.stores["store-006"].refuse(ProtocolError("x", code="bad-roster"))
    federation.receive(refusal)
    assert "store-006" not in federation.coordinator.waiting_for
    with raises("out-of-turn"):
        federation.receive(uninvited_vector(federation, "store-006"))


def test_a_refusal_in_another_stores_name():
    federation = Federation(7)
    federation.up_to("mask")
    forged = Refusal(
        header_digest=federation.attempt.header.digest(), store_id="store-001", code="protocol"
    ).sign(federation.keys["store-006"])
    with raises("bad-signature"):
        federation.receive(forged)
    assert federation.coordinator.reasons == {}


def test_a_refusal_of_another_attempt():
    federation = Federation(7)
    federation.up_to("mask")
    stale = replace(
        federation.stores["store-001"].refuse(ProtocolError("x", code="bad-roster")),
        header_digest=bytes(32),
    ).sign(federation.keys["store-001"])
    with raises("wrong-header"):
        federation.receive(stale)


def test_complaints_of_as_many_as_may_collude_blame_nobody():
    federation = Federation(9, colluders=2)
    federation.up_to("mask")
    for count, name in enumerate(("store-000", "store-001", "store-002"), start=1):
        complaint = Refusal(
            header_digest=federation.attempt.header.digest(),
            store_id=name,
            code="bad-shares",
            culprits=("store-008",),
        ).sign(federation.keys[name])
        federation.receive(complaint)
        federation.receive(complaint)  # said twice, counted once
        assert federation.coordinator.suspects == ({"store-008"} if count > 2 else set())


def test_a_signer_too_many_who_did_not_survive():
    federation = Federation(9)  # threshold 7
    requests = federation.up_to("unmask", drop={"mask": {"store-008"}})
    request, store = requests["store-000"], federation.stores["store-000"]
    padded = replace(
        request, signers=(*request.signers, 8), signatures=(*request.signatures, bytes(64))
    )
    with raises("too-few-confirmations", match="7 of 8"):
        store.unmask(padded)
    assert is_wiped(store)


def test_after_masking_a_store_holds_nothing_that_masks():
    federation = Federation(5)
    federation.up_to("confirm")
    for store in federation.stores.values():
        state = store._state
        assert (state.mask_key, state.share_key, state.seed) == (None, None, None)
        assert state.channels == {} and state.pairs == {}
        assert len(state.seed_shares) == len(state.mask_key_shares) == 5


def test_a_confirmation_of_other_survivors():
    federation = Federation(7)

    def differ(name, message):
        if name == "store-003" and type(message) is Confirmation:
            return replace(message, survivors_digest=bytes(32)).sign(federation.keys[name])
        return message

    aggregate = federation.run(to_coordinator=differ)
    federation.assert_exact(aggregate)
    assert [error.code for _, error in federation.errors] == ["bad-survivors"]
    assert aggregate.missing == {"confirm": ("store-003",)}
    assert "store-003" not in aggregate.confirmations
