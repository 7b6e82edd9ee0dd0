"""A store that deals, forwards or reports wrong shares: it is named, and nobody is exposed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.errors import BadShares, MalformedMessage
from hanse_common.secagg import dealing
from hanse_common.secagg.messages import ShareBundle, Unmasking
from hanse_common.secagg.shamir import PRIME, split
from kits.errors import raises
from kits.federation import Federation, is_wiped

CULPRIT = "store-002"


def only(kind, name, change):
    """Tamper with one kind of message of one store."""

    def tamper(sender, message):
        is_target = sender == name and type(message) is kind
        return change(message) if is_target else message

    return tamper


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# Ciphertexts


def test_a_ciphertext_tampered_on_the_way_to_one_store_costs_that_store_only():
    federation = Federation(7)  # threshold 5
    tampered = only(
        type(federation.up_to("mask")["store-000"]),
        "store-000",
        lambda delivery: replace(
            delivery, sealed=(*delivery.sealed[:-1], flip(delivery.sealed[-1]))
        ),
    )
    federation = Federation(7)
    aggregate = federation.run(to_store=tampered)
    federation.assert_exact(aggregate)
    assert "store-000" not in aggregate.survivors
    ((victim, error),) = federation.errors
    assert victim == "store-000" and isinstance(error, BadShares)
    assert error.culprits == ("store-006",)
    assert is_wiped(federation.stores["store-000"])
    assert federation.coordinator.suspects == frozenset()  # one complaint proves nothing


def deal_garbage(federation):
    """CULPRIT seals garbage for everybody, and signs it."""

    def change(bundle):
        garbled = replace(bundle, sealed=tuple(flip(each) for each in bundle.sealed))
        return garbled.sign(federation.keys[CULPRIT])

    return only(ShareBundle, CULPRIT, change)


def test_a_store_that_seals_garbage_for_all_is_suspected_and_left_out():
    federation = Federation(7)
    with raises("round-failed") as failure:
        federation.run(to_coordinator=deal_garbage(federation))
    assert failure.value.culprits == (CULPRIT,)
    assert federation.coordinator.suspects == {CULPRIT}
    again = federation.next_attempt(excluded=federation.coordinator.suspects)
    aggregate = again.run()
    again.assert_exact(aggregate)
    assert CULPRIT not in aggregate.survivors and len(aggregate.survivors) == 6


def test_ciphertexts_of_a_bundle_swapped():
    federation = Federation(7)

    def swap(bundle):
        first, second, *others = bundle.sealed
        return replace(bundle, sealed=(second, first, *others)).sign(federation.keys[CULPRIT])

    aggregate = federation.run(to_coordinator=only(ShareBundle, CULPRIT, swap))
    federation.assert_exact(aggregate)
    assert {name for name, _ in federation.errors} == {"store-000", "store-001"}
    assert {error.culprits for _, error in federation.errors} == {(CULPRIT,)}
    assert federation.coordinator.suspects == {CULPRIT}


def test_a_ciphertext_redirected_to_another_store():
    """What store-003 sealed for store-001 reaches store-000."""
    federation = Federation(7)
    outgoing = federation.up_to("mask")
    index = 2  # of store-003 among the dealers of both
    stolen = outgoing["store-001"].sealed[index]
    mine = outgoing["store-000"]
    with raises("bad-shares") as refusal:
        federation.stores["store-000"].accept(
            replace(mine, sealed=(*mine.sealed[:index], stolen, *mine.sealed[index + 1 :]))
        )
    assert refusal.value.culprits == ("store-003",)


def test_a_ciphertext_sent_back_to_its_dealer():
    """What store-000 sealed for store-001 comes back as if store-001 had sealed it."""
    federation = Federation(7)
    outgoing = federation.up_to("mask")
    own = outgoing["store-001"].sealed[0]
    mine = outgoing["store-000"]
    with raises("bad-shares") as refusal:
        federation.stores["store-000"].accept(replace(mine, sealed=(own, *mine.sealed[1:])))
    assert refusal.value.culprits == ("store-001",)


def test_altered_digests_do_not_open():
    federation = Federation(7)
    mine = federation.up_to("mask")["store-000"]
    with raises("bad-shares"):
        federation.stores["store-000"].accept(
            replace(mine, digests=(flip(mine.digests[0]), *mine.digests[1:]))
        )


def test_a_dealer_cannot_vouch_for_another_share_than_it_gives(monkeypatch):
    """Well sealed, but with digests of something else: the holder would be blamed later."""
    honest = dealing.keys.share_digests

    def lying(key_share, seed_share, header, dealer, holder):
        if (dealer, holder) == (CULPRIT, "store-000") and seed_share[-1:] != b"\x07":
            seed_share = seed_share[:-1] + b"\x07"
        return honest(key_share, seed_share, header, dealer, holder)

    federation = Federation(7)
    outgoing = federation.up_to("share")
    for name, roster in outgoing.items():
        with monkeypatch.context() as patched:
            if name == CULPRIT:
                patched.setattr(dealing.keys, "share_digests", lying)
            federation.receive(federation.reply(name, roster))
    delivery = federation.coordinator.advance()["store-000"]
    with raises("bad-shares") as refusal:
        federation.stores["store-000"].accept(delivery)
    assert refusal.value.culprits == (CULPRIT,)


@pytest.mark.parametrize("cut", [slice(0, 5), slice(0, 0)])
def test_short_lists_of_shares(cut):
    federation = Federation(7)

    def shorten(bundle):
        return replace(bundle, sealed=bundle.sealed[cut]).sign(federation.keys[CULPRIT])

    aggregate = federation.run(to_coordinator=only(ShareBundle, CULPRIT, shorten))
    federation.assert_exact(aggregate)
    ((_, error),) = federation.errors
    assert isinstance(error, MalformedMessage) and error.culprits == (CULPRIT,)
    assert CULPRIT not in aggregate.survivors


def test_short_shares_are_not_a_message():
    federation = Federation(7)

    def shorten(bundle):
        short = tuple(each[:-1] for each in bundle.sealed)
        return replace(bundle, sealed=short).sign(federation.keys[CULPRIT])

    aggregate = federation.run(to_coordinator=only(ShareBundle, CULPRIT, shorten))
    federation.assert_exact(aggregate)
    ((_, error),) = federation.errors
    assert isinstance(error, MalformedMessage)


# Wrong shares dealt


def dealing_wrong(monkeypatch, which):
    """CULPRIT deals consistent shares of another secret than it committed to."""
    honest = dealing.split
    calls = {"count": 0}

    def lying(secret, **sizes):
        calls["count"] += 1
        # Two splits a store, in roster order of the stores: mask key first, seed second.
        if (calls["count"] - 1) // 2 == 2 and (calls["count"] - 1) % 2 == which:
            return split(b"\x13" * 32, **sizes)
        return honest(secret, **sizes)

    monkeypatch.setattr(dealing, "split", lying)


def test_a_seed_that_does_not_match_its_commitment_names_the_dealer(monkeypatch):
    dealing_wrong(monkeypatch, which=1)
    federation = Federation(7)
    with raises("wrong-share", match=f"'{CULPRIT}' .* seed") as failure:
        federation.run()
    assert failure.value.culprits == (CULPRIT,)


def test_a_mask_key_that_does_not_match_names_the_dealer(monkeypatch):
    dealing_wrong(monkeypatch, which=0)
    federation = Federation(7)
    with raises("wrong-share", match=f"'{CULPRIT}' .* mask key") as failure:
        federation.run(drop={"mask": {CULPRIT}})
    assert failure.value.culprits == (CULPRIT,)


def test_a_wrong_mask_key_of_a_survivor_is_never_needed(monkeypatch):
    dealing_wrong(monkeypatch, which=0)
    federation = Federation(7)
    federation.assert_exact(federation.run())


def test_after_a_wrong_dealer_the_next_round_goes_on_without_it(monkeypatch):
    dealing_wrong(monkeypatch, which=1)
    federation = Federation(7)
    with raises("wrong-share") as failure:
        federation.run()
    header = replace(federation.attempt.header, round=federation.attempt.header.round + 1)
    following = Federation(
        7,
        header=header,
        authority=federation.authority,
        keys=federation.keys,
        journals=federation.journals,
        excluded=failure.value.culprits,
    )
    aggregate = following.run()
    following.assert_exact(aggregate)
    assert len(aggregate.survivors) == 6


# Wrong shares reported


def report(federation, name, **changes):
    def change(message):
        altered = {
            field: tuple(alter(share) for share in getattr(message, field))
            for field, alter in changes.items()
        }
        return replace(message, **altered).sign(federation.keys[name])

    return only(Unmasking, name, change)


def plus_one(share: bytes) -> bytes:
    return ((int.from_bytes(share, "big") + 1) % PRIME).to_bytes(33, "big")


def test_wrong_seed_shares_reported_are_traced_and_the_round_completes():
    federation = Federation(7)
    aggregate = federation.run(to_coordinator=report(federation, "store-001", seed_shares=plus_one))
    federation.assert_exact(aggregate)
    assert aggregate.liars == ("store-001",)
    assert len(aggregate.survivors) == 7


def test_wrong_mask_key_shares_reported_are_traced_and_the_round_completes():
    federation = Federation(7)
    aggregate = federation.run(
        drop={"mask": {"store-006"}},
        to_coordinator=report(federation, "store-001", mask_key_shares=plus_one),
    )
    federation.assert_exact(aggregate)
    assert aggregate.liars == ("store-001",)


def test_several_liars_up_to_the_threshold():
    federation = Federation(9, colluders=2)  # threshold 7
    tamper = [report(federation, name, seed_shares=plus_one) for name in ("store-000", "store-004")]
    aggregate = federation.run(
        to_coordinator=lambda name, message: tamper[1](name, tamper[0](name, message))
    )
    federation.assert_exact(aggregate)
    assert aggregate.liars == ("store-000", "store-004")


def test_too_many_liars_are_all_named():
    federation = Federation(5)  # threshold 4
    tamper = [report(federation, name, seed_shares=plus_one) for name in ("store-000", "store-004")]
    with raises("wrong-share") as failure:
        federation.run(
            to_coordinator=lambda name, message: tamper[1](name, tamper[0](name, message))
        )
    assert failure.value.culprits == ("store-000", "store-004")


def test_fewer_shares_reported_than_peers():
    federation = Federation(7)

    def shorten(message):
        return replace(message, seed_shares=message.seed_shares[1:]).sign(
            federation.keys["store-001"]
        )

    aggregate = federation.run(to_coordinator=only(Unmasking, "store-001", shorten))
    federation.assert_exact(aggregate)
    assert aggregate.missing == {"unmask": ("store-001",)}
    ((_, error),) = federation.errors
    assert isinstance(error, MalformedMessage)


@pytest.mark.parametrize("share", [bytes(32), bytes(34), b"\xff" * 33])
def test_a_share_that_is_no_field_element_is_not_a_message(share):
    federation = Federation(7)
    aggregate = federation.run(
        to_coordinator=report(federation, "store-001", seed_shares=lambda _: share)
    )
    federation.assert_exact(aggregate)
    assert aggregate.missing == {"unmask": ("store-001",)}
