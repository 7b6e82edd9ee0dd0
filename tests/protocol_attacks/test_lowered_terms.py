"""Minimum, threshold and bounds lowered: by the coordinator, and by a manifest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hanse_common.identity import AuthorityKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.policy import StorePolicy
from hanse_common.secagg import Layout, Section, Terms
from kits.errors import raises
from kits.federation import Federation, is_wiped


def offer(**changes):
    fields = {
        "federation": "baltic",
        "stores": tuple(f"store-{index:03}" for index in range(12)),
        "sections": (SectionTerms(name="update", length=100, clip=1.0),),
        "arrays": {"w": (100,)},
        "model_digest": "ab" * 32,
        "log_key": "12" * 32,
        "rounds": 50,
        "privacy": PrivacyTerms(mode="local", target_epsilon=4.0, target_delta=1e-6),
    }
    return Manifest(**(fields | changes))


# The coordinator, under an honest manifest


def test_a_roster_below_the_minimum():
    federation = Federation(8, minimum_cohort=8)
    roster = federation.up_to("share")["store-000"]
    with raises("cohort-too-small", match="minimum_cohort is 8"):
        federation.stores["store-000"].share(replace(roster, hellos=roster.hellos[:7]))
    assert is_wiped(federation.stores["store-000"])


def test_a_roster_above_the_maximum():
    federation = Federation(8)
    roster = federation.up_to("share")["store-000"]
    store = federation.stores["store-000"]
    store.attempt = replace(store.attempt, terms=replace(store.attempt.terms, maximum_cohort=7))
    with raises("bad-roster", match="maximum_cohort is 7"):
        store.share(roster)


def test_a_coordinator_with_a_lower_threshold_gets_no_shares():
    """It believes in 1/2; the stores hold the manifest's 2/3, and ask for seven signatures."""
    federation = Federation(9)
    weaker = replace(federation.attempt.terms, threshold_fraction=(1, 2))
    federation.coordinator.attempt = replace(federation.attempt, terms=weaker)
    requests = federation.up_to("unmask")
    assert len(requests["store-000"].signers) == 6
    for name, request in requests.items():
        with raises("too-few-confirmations", match="threshold is 7"):
            federation.stores[name].unmask(request)
        assert is_wiped(federation.stores[name])


def test_a_coordinator_with_another_manifest_has_another_header():
    lowered, signed = offer(minimum_cohort=3), offer()
    assert lowered.digest() != signed.digest()
    federation = Federation(5)
    other = replace(federation.attempt.header, manifest_digest=lowered.digest())
    federation.coordinator.attempt = replace(federation.attempt, header=other)
    with raises("wrong-header", match="manifest_digest="):
        federation.receive(federation.start("store-000").hello)


# The manifest itself


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"minimum_cohort": 2}, "minimum_cohort=2"),
        ({"minimum_cohort": 6, "maximum_cohort": 5}, "minimum_cohort=6"),
        ({"maximum_cohort": 100_000}, "maximum_cohort=100000"),
        ({"threshold_fraction": (1, 3)}, "threshold_fraction=1/3"),
        ({"threshold_fraction": (1, 1)}, "threshold_fraction=1/1"),
        ({"threshold_fraction": (-1, -1)}, "threshold_fraction=-1/-1"),
        ({"threshold_fraction": (1, 0)}, "threshold_fraction=1/0"),
        ({"colluders": -1}, "colluders=-1"),
        ({"colluders": 4}, "colluders=4"),
        ({"minimum_survivors": 6}, "minimum_survivors=6"),
    ],
)
def test_terms_that_cannot_keep_the_promises_do_not_exist(terms, words):
    layout = Layout((Section("update", 10, clip=1.0),))
    with raises("unsafe-terms", match=words):
        Terms(layout=layout, **({"maximum_cohort": 10} | terms))


@pytest.mark.parametrize(
    "changes", [{"minimum_cohort": 3}, {"colluders": 0}, {"rounds": 10**6}, {"federation": "x"}]
)
def test_an_altered_manifest_loses_its_signature(changes):
    authority = AuthorityKey.generate()
    signed = SignedManifest.sign(offer(), authority)
    with raises("bad-manifest", match="not signed"):
        SignedManifest(offer(**changes), signed.signature).check(authority.public)


def test_a_manifest_of_another_authority():
    with raises("bad-manifest"):
        SignedManifest.sign(offer(), AuthorityKey.generate()).check(AuthorityKey.generate().public)


FLOORS = [
    ({"minimum_cohort": 5}, {"minimum_cohort": 8}, r"minimum_cohort=5.*at least 8"),
    ({"colluders": 0}, {}, r"colluders=0.*at least 1"),
    ({"threshold_fraction": (1, 2)}, {}, r"threshold_fraction=1/2.*at least 2/3"),
    ({}, {"minimum_survivors": 4}, r"minimum_survivors=0.*at least 4"),
    (
        {"privacy": PrivacyTerms(mode="local", target_epsilon=9.0, target_delta=1e-6)},
        {},
        r"privacy.target_epsilon=9.0.*at most 8.0",
    ),
    (
        {"privacy": PrivacyTerms(mode="local", target_epsilon=1.0, target_delta=1e-3)},
        {},
        r"privacy.target_delta=0.001.*at most 1e-05",
    ),
    (
        {"privacy": PrivacyTerms(mode="none")},
        {},
        r"privacy.mode=none.*local or distributed",
    ),
    ({}, {"max_rounds": 10}, r"rounds=50.*at most 10"),
    ({}, {"max_length": 99}, r"sections.length=100.*at most 99"),
    ({}, {"federation": "hanse"}, r"federation=baltic.*requires hanse"),
    ({}, {"model_digest": "cd" * 32}, r"model_digest=abab.*requires cdcd"),
    ({}, {"fab_digest": "cd" * 32}, r"fab_digest=None.*requires cdcd"),
]


@pytest.mark.parametrize(("offered", "own", "words"), FLOORS)
def test_a_signed_manifest_below_a_stores_floors_is_refused(offered, own, words):
    """Even the authority's signature does not move a store's own limits."""
    authority = AuthorityKey.generate()
    policy = StorePolicy(authority=authority.public.hex(), **own)
    signed = SignedManifest.sign(offer(**offered), authority)
    with raises("policy-violation", match=words) as refusal:
        policy.check(signed)
    assert "ask the federation" in refusal.value.hint


def test_several_violations_are_counted():
    authority = AuthorityKey.generate()
    policy = StorePolicy(authority=authority.public.hex(), minimum_cohort=8, max_rounds=10)
    with raises("policy-violation", match="minimum_cohort=5"):
        policy.check(SignedManifest.sign(offer(), authority))


def test_a_manifest_within_the_policy_is_accepted():
    authority = AuthorityKey.generate()
    manifest = offer()
    policy = StorePolicy(authority=authority.public.hex(), minimum_cohort=5, max_epsilon=4.0)
    assert policy.check(SignedManifest.sign(manifest, authority)) == manifest
