"""A coordinator that wants both shares of one store: its seed and its mask key."""

from __future__ import annotations

from dataclasses import replace

from hanse_common.errors import ProtocolError
from hanse_common.secagg import Stage
from hanse_common.secagg.keys import seed_commitment
from hanse_common.secagg.messages import Survivors, Unmasking, UnmaskRequest
from hanse_common.secagg.shamir import Weights
from kits.errors import raises
from kits.federation import Federation, is_wiped


def confirm_all(federation, requests, survivors_of):
    """Show every store its own list of survivors; return who signed what."""
    signed = {}
    for name, honest in requests.items():
        shown = replace(honest, survivors=survivors_of(name))
        signed[name] = federation.stores[name].confirm(shown)
    return signed


def test_a_store_gives_exactly_one_share_per_peer():
    federation = Federation(7)
    requests = federation.up_to("unmask", drop={"mask": {"store-003"}})
    for name, request in requests.items():
        reply = federation.stores[name].unmask(request)
        assert isinstance(reply, Unmasking)
        assert len(reply.seed_shares) == 6
        assert len(reply.mask_key_shares) == 1


def test_no_message_can_ask_for_a_kind_of_share():
    """What is given follows from the signed survivors alone; a request names no kind."""
    assert set(UnmaskRequest.__slots__) == {
        "header_digest",
        "roster_digest",
        "signers",
        "signatures",
    }


def test_two_lists_of_survivors_cannot_both_reach_the_threshold():
    """Half of the stores are told that store-000 survived, half that it dropped out."""
    federation = Federation(8)  # threshold 6
    requests = federation.up_to("confirm")
    full = tuple(range(8))
    without = tuple(range(1, 8))
    told_dropped = {"store-004", "store-005", "store-006", "store-007"}
    signed = confirm_all(
        federation, requests, lambda name: without if name in told_dropped else full
    )
    shares: dict[str, list[bytes]] = {"seed": [], "mask key": []}
    for name, store in federation.stores.items():
        mine = [other for other in signed if (other in told_dropped) == (name in told_dropped)]
        request = UnmaskRequest(
            header_digest=signed[name].header_digest,
            roster_digest=signed[name].roster_digest,
            signers=tuple(federation.names.index(other) for other in mine),
            signatures=tuple(signed[other].signature for other in mine),
        )
        with raises("too-few-confirmations"):
            shares["seed"].append(store.unmask(request).seed_shares[0])
        assert store.stage is Stage.ABORTED and is_wiped(store)
    assert shares == {"seed": [], "mask key": []}


def test_signatures_on_another_list_do_not_count():
    """Mixing signatures of both groups to fill the threshold fails on the first foreign one."""
    federation = Federation(8)
    requests = federation.up_to("confirm")
    full, without = tuple(range(8)), tuple(range(1, 8))
    signed = confirm_all(
        federation, requests, lambda name: without if name >= "store-004" else full
    )
    everybody = UnmaskRequest(
        header_digest=signed["store-000"].header_digest,
        roster_digest=signed["store-000"].roster_digest,
        signers=full,
        signatures=tuple(signed[name].signature for name in federation.names),
    )
    for store in federation.stores.values():
        with raises("bad-signature", "too-few-confirmations"):
            store.unmask(everybody)
        assert is_wiped(store)


def test_a_second_unmask_finds_nothing():
    federation = Federation(5)
    requests = federation.up_to("unmask")
    store = federation.stores["store-001"]
    store.unmask(requests["store-001"])
    with raises("out-of-turn"):
        store.unmask(requests["store-001"])
    assert is_wiped(store)


def test_a_second_confirm_is_refused_and_the_first_stands():
    federation = Federation(8)
    requests = federation.up_to("confirm")
    store = federation.stores["store-001"]
    store.confirm(requests["store-001"])
    with raises("out-of-turn"):
        store.confirm(replace(requests["store-001"], survivors=(0, 1, 2, 3, 4, 5)))
    assert store._state.survivors == tuple(range(8))


def test_colluders_below_the_threshold_cannot_open_a_seed():
    """t - 1 shares, all that C colluders and a lying coordinator could hold, are not enough."""
    federation = Federation(5)  # threshold 4
    federation.up_to("confirm")
    held = [
        federation.stores[name]._state.seed_shares[0].reveal()
        for name in ("store-001", "store-002", "store-003")
    ]
    secret = Weights((2, 3, 4)).combine
    try:
        guess = secret(held)
    except ProtocolError:
        return
    peer = federation.stores["store-001"]._state.cohort.peers[0]
    header = federation.attempt.header.digest()
    assert seed_commitment(guess, header, "store-000") != peer.commitment


def test_a_store_declared_dead_refuses_to_help():
    federation = Federation(8)
    requests = federation.up_to("confirm")
    message = requests["store-000"]
    assert isinstance(message, Survivors)
    with raises("bad-survivors", match="'store-000'"):
        federation.stores["store-000"].confirm(replace(message, survivors=tuple(range(1, 8))))
    assert is_wiped(federation.stores["store-000"])
