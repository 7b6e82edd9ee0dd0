"""Stores without a valid certificate, swapped keys, and one store under several names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.errors import ProtocolError
from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.secagg import Journal, Store, _edwards
from hanse_common.secagg.messages import Roster
from kits.errors import raises
from kits.federation import NOW, Federation, header, is_wiped


@pytest.fixture
def federation():
    federation = Federation(6)
    for name in federation.names:
        federation.start(name)
    return federation


def both_refuse(federation, hello, code, match=None, *, name="store-005"):
    """Coordinator and store refuse alike; the coordinator goes on, the store leaves."""
    with raises(code, match=match):
        federation.receive(hello)
    hellos = [store.hello for other, store in federation.stores.items() if other != name]
    roster = Roster(
        header_digest=federation.attempt.header.digest(),
        hellos=tuple(sorted([*hellos, hello], key=lambda each: each.store_id)),
    )
    victim = federation.stores["store-000"]
    with raises(code, match=match):
        victim.share(roster)
    assert is_wiped(victim)


def test_a_foreign_certificate(federation):
    mallory = AuthorityKey.generate()
    certificate = mallory.certify(
        "store-005", federation.keys["store-005"].public, valid_from=0, valid_until=NOW + 1
    )
    hello = federation.forged_hello("store-005", certificate=certificate)
    both_refuse(federation, hello, "bad-certificate", "'store-005' is not signed by the enrolment")


def test_an_altered_certificate(federation):
    certificate = replace(federation.certificate("store-005"), valid_until=NOW + 10**6)
    hello = federation.forged_hello("store-005", certificate=certificate)
    both_refuse(federation, hello, "bad-certificate")


def test_a_certificate_with_a_swapped_key(federation):
    other = StoreKey.generate()
    certificate = replace(federation.certificate("store-005"), public_key=other.public)
    hello = replace(federation.stores["store-005"].hello, certificate=certificate).sign(other)
    both_refuse(federation, hello, "bad-certificate")


@pytest.mark.parametrize(
    ("period", "words"),
    [
        ({"valid_from": 0, "valid_until": NOW}, "is valid until"),
        ({"valid_from": NOW + 1, "valid_until": NOW + 9}, "is valid from"),
    ],
)
def test_a_certificate_out_of_time(federation, period, words):
    certificate = federation.certificate("store-005", **period)
    hello = federation.forged_hello("store-005", certificate=certificate)
    both_refuse(federation, hello, "expired-certificate", words)


def test_no_certificate(federation):
    data = federation.stores["store-005"].hello.encode()
    certificate = federation.stores["store-005"].hello.certificate.encode()
    size = len(certificate).to_bytes(4, "big")
    bare = data.replace(size + certificate, bytes(4))
    with raises("malformed-message", match="certificate"):
        federation.receive(bare)


def test_a_store_that_the_manifest_does_not_list(federation):
    listed = frozenset(federation.names[:5])
    with raises("store-excluded", match="'store-005'"):
        Federation(6, stores=listed).start("store-005")
    narrow = replace(federation.attempt.terms, stores=listed)
    for party in (federation.coordinator, federation.stores["store-000"]):
        party.attempt = replace(federation.attempt, terms=narrow)
    both_refuse(federation, federation.stores["store-005"].hello, "store-excluded", "manifest")


@pytest.mark.parametrize("field", ["mask_public", "share_public", "commitment"])
def test_a_key_swapped_by_the_coordinator(federation, field):
    mine = federation.stores["store-004"].hello
    hello = replace(federation.stores["store-005"].hello, **{field: getattr(mine, field)})
    both_refuse(federation, hello, "bad-signature", "store-005")


def test_ones_own_entry_swapped(federation):
    """The coordinator sits in the middle of store-000 itself, with another store's identity."""
    roster = Roster(
        header_digest=federation.attempt.header.digest(),
        hellos=tuple(federation.stores[name].hello for name in federation.names[1:]),
    )
    with raises("bad-roster", match="'store-000'"):
        federation.stores["store-000"].share(roster)


def test_two_stores_with_one_mask_key(federation):
    for name in federation.names[:5]:
        federation.receive(federation.stores[name].hello)
    copied = federation.stores["store-004"].hello.mask_public
    hello = federation.forged_hello("store-005", mask_public=copied)
    both_refuse(federation, hello, "bad-roster", "'store-004' and 'store-005' show the same key")


def test_a_share_key_of_another_store(federation):
    other = federation.stores["store-004"].hello
    stolen = {"share_public": other.share_public, "possession": other.possession}
    hello = federation.forged_hello("store-005", **stolen)
    both_refuse(federation, hello, "weak-key", "'store-005' does not prove that it holds")


def test_a_proof_of_possession_from_another_attempt(federation):
    store = federation.stores["store-005"]
    earlier = store._state.share_key.prove_possession(header(round=2).digest(), "store-005")
    hello = federation.forged_hello("store-005", possession=earlier)
    both_refuse(federation, hello, "weak-key", "'store-005' does not prove that it holds")


def test_a_share_key_made_from_another_stores(federation):
    """An honest key plus the base point: what it agrees on would betray the honest one."""
    honest = _edwards.decode(federation.stores["store-004"].hello.share_public)
    rogue = _edwards.encode(_edwards.add(honest, _edwards.BASE))
    hello = federation.forged_hello("store-005", share_public=rogue)
    both_refuse(federation, hello, "weak-key", "'store-005' does not prove that it holds")


def test_one_identity_under_two_names(federation):
    for name in federation.names[:5]:
        federation.receive(federation.stores[name].hello)
    key = federation.keys["store-004"]
    certificate = federation.authority.certify(
        "store-005", key.public, valid_from=0, valid_until=NOW + 1
    )
    hello = replace(federation.stores["store-005"].hello, certificate=certificate).sign(key)
    both_refuse(federation, hello, "bad-roster", "show the same key")


def test_one_key_for_two_purposes(federation):
    own = federation.stores["store-005"].hello.share_public
    both_refuse(federation, federation.forged_hello("store-005", mask_public=own), "bad-roster")


@pytest.mark.parametrize("order", ["repeated", "unsorted"])
def test_ids_repeat_or_are_unsorted(federation, order):
    hellos = [store.hello for store in federation.stores.values()]
    hellos = [*hellos[:5], hellos[4]] if order == "repeated" else hellos[::-1]
    roster = Roster(header_digest=federation.attempt.header.digest(), hellos=tuple(hellos))
    with raises("bad-roster", match="sorted"):
        federation.stores["store-000"].share(roster)
    assert is_wiped(federation.stores["store-000"])


def test_a_message_in_another_stores_name():
    """store-001 sends a vector as store-000; the honest vector still counts."""
    federation = Federation(5)

    def impersonate(name, message):
        if name == "store-001" and type(message).__name__ == "MaskedVector":
            forged = replace(message, store_id="store-000").sign(federation.keys[name])
            with raises("bad-signature", "out-of-turn"):
                federation.receive(forged)
        return message

    swapped = federation.names
    swapped[0], swapped[1] = swapped[1], swapped[0]
    federation.assert_exact(federation.run(to_coordinator=impersonate))


def test_a_stranger_mid_round():
    federation = Federation(5)
    federation.up_to("mask")
    stranger = Federation(6, authority=federation.authority)
    stranger.up_to("mask")
    bundle = stranger.stores["store-005"]
    message = bundle.refuse(ProtocolError("x", code="bad-roster"))
    with raises("bad-roster", match="hello"):
        federation.receive(message)


def test_an_excluded_store():
    federation = Federation(6, excluded={"store-002"})
    aggregate = federation.run()
    assert [error.code for _, error in federation.errors] == ["store-excluded"]
    assert "store-002" not in aggregate.survivors


def test_a_store_with_another_stores_certificate_does_not_start(federation):
    with raises("bad-certificate", match="another key"):
        Store.start(
            federation.attempt,
            key=StoreKey.generate(),
            certificate=federation.certificate("store-000"),
            journal=Journal(),
        )


def test_a_store_with_an_expired_certificate_does_not_start(federation):
    with raises("expired-certificate"):
        Store.start(
            federation.attempt,
            key=federation.keys["store-000"],
            certificate=federation.certificate("store-000", valid_from=0, valid_until=5),
            journal=Journal(),
        )


def test_the_round_completes_without_the_uncertified_store():
    federation = Federation(6)
    mallory = AuthorityKey.generate()

    def forge(name, message):
        if name == "store-003" and type(message).__name__ == "Hello":
            certificate = mallory.certify(
                name, federation.keys[name].public, valid_from=0, valid_until=NOW + 1
            )
            return federation.forged_hello(name, certificate=certificate)
        return message

    aggregate = federation.run(to_coordinator=forge)
    federation.assert_exact(aggregate)
    assert "store-003" not in aggregate.survivors


def test_a_store_beyond_the_largest_cohort_waits_for_the_next_round():
    federation = Federation(6, maximum_cohort=5)
    aggregate = federation.run()
    federation.assert_exact(aggregate)
    ((name, error),) = federation.errors
    assert (name, error.code) == ("store-005", "store-excluded")
    assert "the roster is full" in error.message
