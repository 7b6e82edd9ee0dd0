"""Certificates that were replaced, and whose time is not over: no shares go to the old key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.identity import StoreKey
from hanse_common.secagg import Journal
from kits.errors import raises
from kits.federation import NOW, Federation, header, is_wiped

OLD, LOST = "store-005", "store-000"


def following(federation, *, round):
    """The same people and journals in a later round, all certificates as in the first."""
    return Federation(
        6,
        header=header(round=round),
        authority=federation.authority,
        keys=federation.keys,
        journals=federation.journals,
    )


def with_certificate(federation, key, valid_from):
    """A federation in which OLD takes part with this key and certificate."""
    federation.keys[OLD] = key
    real = federation.certificate

    def certificate(name, **changes):
        return real(name, **({"valid_from": valid_from} if name == OLD else {}), **changes)

    federation.certificate = certificate
    return federation


@pytest.fixture
def replaced():
    """OLD's key was stolen and replaced, and everybody met it with the new one."""
    federation = Federation(6)
    stolen = federation.keys[OLD]
    with_certificate(federation, StoreKey.generate(), NOW - 5)
    federation.assert_exact(federation.run())
    return federation, stolen


def test_nobody_deals_shares_to_a_key_that_was_replaced(replaced):
    """The coordinator shows the stolen key, which the authority certified and may still be used."""
    federation, stolen = replaced
    later = with_certificate(following(federation, round=4), stolen, NOW - 10)
    # Whoever holds the stolen key begins with no memory of the attempts before.
    later.journals = dict(later.journals) | {OLD: Journal()}
    roster = later.up_to("share")["store-000"]
    for name in later.names[:5]:
        with raises("bad-roster", match=f"'{OLD}' .*key") as refusal:
            later.stores[name].share(roster)
        assert refusal.value.culprits == (OLD,)
        assert is_wiped(later.stores[name])


def test_the_new_key_goes_on(replaced):
    federation, _ = replaced
    later = with_certificate(following(federation, round=4), federation.keys[OLD], NOW - 5)
    later.assert_exact(later.run())


def test_a_third_key_replaces_the_second(replaced):
    federation, _ = replaced
    later = with_certificate(following(federation, round=4), StoreKey.generate(), NOW - 2)
    later.assert_exact(later.run())


def test_an_older_certificate_of_the_same_key_is_no_replaced_key(replaced):
    """A certificate that was prolonged: a store that lost the new one uses the old one."""
    federation, _ = replaced
    later = with_certificate(following(federation, round=4), federation.keys[OLD], NOW - 8)
    later.assert_exact(later.run())
    met = later.journals["store-000"].met[OLD]
    assert met.valid_from == NOW - 5


def test_a_store_that_never_met_the_new_key_cannot_know():
    federation = Federation(6)
    certificate = federation.certificate(OLD)
    assert Journal().meet([certificate]).met[OLD].public_key == certificate.public_key


def test_what_was_seen_is_in_the_journal_before_the_shares_leave():
    federation = Federation(6)
    federation.up_to("mask")
    met = Journal.decode(federation.journals["store-000"].encode()).met
    assert set(met) == set(federation.names)


def test_a_roster_that_is_refused_teaches_nothing():
    federation = Federation(6)
    roster = federation.up_to("share")["store-000"]
    forged = replace(roster.hellos[-1], commitment=bytes(32))
    store = federation.stores["store-000"]
    with raises("bad-signature"):
        store.share(replace(roster, hellos=(*roster.hellos[:-1], forged)))
    assert store.journal.met == {}


def test_every_store_is_met_once():
    federation = Federation(6)
    journal = Journal()
    for valid_from in range(NOW - 9, NOW):
        certificates = [
            federation.certificate(name, valid_from=valid_from) for name in federation.names
        ]
        journal = journal.meet(certificates)
    assert len(journal.met) == 6
