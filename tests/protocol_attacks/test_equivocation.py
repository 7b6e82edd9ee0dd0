"""A coordinator that shows different stores different rosters, sharers, survivors or models."""

from __future__ import annotations

from dataclasses import replace

from hanse_common.errors import ProtocolError
from hanse_common.secagg import Journal
from hanse_common.secagg.messages import Delivery, UnmaskRequest
from kits.errors import raises
from kits.federation import Federation, header, is_wiped


def test_different_rosters_are_caught_when_shares_are_opened():
    federation = Federation(8)
    outgoing = federation.up_to("share")
    bundles = {}
    for name, roster in outgoing.items():
        if name >= "store-004":  # these are told that store-000 does not take part
            roster = replace(roster, hellos=roster.hellos[1:])
        bundles[name] = federation.stores[name].share(roster)
    # The coordinator delivers a bundle made under the short roster to a store with the full one.
    victim = federation.stores["store-001"]
    dealers = [bundles[name] for name in federation.names if name != "store-001"]
    delivery = Delivery(
        header_digest=bundles["store-001"].header_digest,
        roster_digest=bundles["store-001"].roster_digest,
        sharers=tuple(range(8)),
        sealed=tuple(bundle.sealed[0] for bundle in dealers),
        vouched=tuple(bundle.vouched[0] for bundle in dealers),
        digests=tuple(bundle.digests[0] for bundle in dealers),
    )
    with raises("bad-shares") as refusal:
        victim.accept(delivery)
    assert is_wiped(victim)
    # Those who dealt for another roster signed for another roster: nothing is shown of them.
    assert victim.refuse(refusal.value).accusations == ()


def test_a_message_for_another_roster_is_refused():
    federation = Federation(6)
    delivery = federation.up_to("mask")["store-002"]
    store = federation.stores["store-002"]
    with raises("bad-roster", match="rosters"):
        store.accept(replace(delivery, roster_digest=b"R" * 32))
    assert is_wiped(store)


def test_different_sharers_leave_masks_that_do_not_cancel_and_no_confirmation():
    """U2 with store-000 for some, without it for others: signatures do not match."""
    federation = Federation(9)  # threshold 7
    outgoing = federation.up_to("mask")
    for name, delivery in outgoing.items():
        if name in ("store-007", "store-008"):
            delivery = replace(
                delivery,
                sharers=delivery.sharers[1:],
                sealed=delivery.sealed[1:],
                vouched=delivery.vouched[1:],
                digests=delivery.digests[1:],
            )
        federation.receive(federation.reply(name, delivery))
    confirmations, honest = {}, federation.coordinator.advance()
    for name, message in honest.items():
        try:
            confirmations[name] = federation.stores[name].confirm(message)
        except ProtocolError as error:
            assert error.code == "bad-survivors"
            assert name in ("store-007", "store-008")
            assert "indices [0], not sharers" in error.message
            assert is_wiped(federation.stores[name])
    # The others go on among themselves; a signature over the other view would not verify.
    first = federation.stores["store-001"]
    forged = UnmaskRequest(
        header_digest=confirmations["store-001"].header_digest,
        roster_digest=confirmations["store-001"].roster_digest,
        signers=(0, 1, 2, 3, 4, 5, 7),
        signatures=(
            *(confirmations[f"store-00{i}"].signature for i in range(6)),
            confirmations["store-006"].signature,
        ),
    )
    with raises("bad-signature", match="store-007"):
        first.unmask(forged)
    assert is_wiped(first)


def test_fewer_sharers_than_the_threshold_are_refused():
    federation = Federation(9)
    delivery = federation.up_to("mask")["store-000"]
    short = replace(
        delivery, sharers=(0, 1, 2), sealed=delivery.sealed[:2], digests=delivery.digests[:2]
    )
    with raises("cohort-too-small", match="3 sharers .* 7"):
        federation.stores["store-000"].accept(short)
    assert is_wiped(federation.stores["store-000"])


def test_sharers_without_oneself_are_refused():
    federation = Federation(9)
    delivery = federation.up_to("mask")["store-000"]
    with raises("bad-roster", match="'store-000'"):
        federation.stores["store-000"].accept(replace(delivery, sharers=tuple(range(1, 9))))


def test_sharers_from_outside_the_roster_are_refused():
    federation = Federation(9)
    delivery = federation.up_to("mask")["store-000"]
    with raises("bad-roster", match="outsider"):
        federation.stores["store-000"].accept(replace(delivery, sharers=(*range(8), 9)))


def test_different_survivors_never_reach_the_threshold_twice():
    federation = Federation(9)
    outgoing = federation.up_to("confirm")
    groups = {name: tuple(range(9)) for name in federation.names[:6]}
    groups |= {name: tuple(range(1, 9)) for name in federation.names[6:]}
    signed = {
        name: federation.stores[name].confirm(replace(message, survivors=groups[name]))
        for name, message in outgoing.items()
    }
    for name, store in federation.stores.items():
        same = [other for other in signed if groups[other] == groups[name]]
        request = UnmaskRequest(
            header_digest=signed[name].header_digest,
            roster_digest=signed[name].roster_digest,
            signers=tuple(federation.names.index(other) for other in same),
            signatures=tuple(signed[other].signature for other in same),
        )
        with raises("too-few-confirmations", match="threshold is 7"):
            store.unmask(request)
        assert is_wiped(store)


def test_a_store_with_another_model_is_refused_by_name_and_field():
    federation = Federation(6)
    other = replace(federation.attempt, header=header(model_digest=b"X" * 32))
    for name in federation.names[:5]:
        federation.receive(federation.start(name).hello)
    with raises("wrong-header", match="model_digest=5858.*5757"):
        federation.receive(federation.start("store-005", other).hello)


def test_a_roster_with_a_store_that_got_another_model_is_refused():
    federation = Federation(6)
    roster = federation.up_to("share")["store-000"]
    federation.journals["store-005"] = Journal()
    other = replace(federation.attempt, header=header(model_digest=b"X" * 32))
    foreign = federation.start("store-005", other).hello
    mixed = replace(roster, hellos=(*roster.hellos[:5], foreign))
    with raises("wrong-header", match="'store-005' .*model_digest="):
        federation.stores["store-000"].share(mixed)
    assert is_wiped(federation.stores["store-000"])


def test_relabelled_hello_of_another_model_fails_its_signature():
    federation = Federation(6)
    roster = federation.up_to("share")["store-000"]
    federation.journals["store-005"] = Journal()
    other = replace(federation.attempt, header=header(model_digest=b"X" * 32))
    foreign = replace(federation.start("store-005", other).hello, header=federation.attempt.header)
    with raises("bad-signature", match="store-005"):
        federation.stores["store-000"].share(replace(roster, hellos=(*roster.hellos[:5], foreign)))


def test_the_coordinator_counts_an_equivocated_store_as_missing():
    federation = Federation(5)
    with raises("round-failed"):
        federation.run(
            to_store=lambda name, message: (
                replace(message, header_digest=b"H" * 32)
                if name <= "store-001" and hasattr(message, "roster_digest")
                else message
            )
        )
    assert {error.code for _, error in federation.errors} == {"wrong-header"}
