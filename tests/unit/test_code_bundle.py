"""A store answers under one app bundle only, and runs none of it."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from hanse_client.deployment.code_bundle import Bundle, check_bundle
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.policy import StorePolicy
from kits.apps.deployment import bundle
from kits.errors import raises

THIN = bundle()
DIGEST = hashlib.sha256(THIN).hexdigest()


def terms(manifest_digest, policy_digest) -> SimpleNamespace:
    """What of a membership the pin looks at."""
    authority = AuthorityKey.generate()
    manifest = Manifest(
        federation="baltic",
        stores=("bremen", "luebeck", "rostock", "stettin", "wismar"),
        sections=(SectionTerms(name="update", length=1, clip=1.0),),
        arrays={"w": (1,)},
        model_digest="00" * 32,
        fab_digest=manifest_digest,
        log_key="cd" * 32,
        rounds=1,
        privacy=PrivacyTerms(mode="local", target_epsilon=4.0, target_delta=1e-6),
    )
    policy = StorePolicy(authority=authority.public.hex(), fab_digest=policy_digest)
    signed = SignedManifest.sign(manifest, authority)
    return SimpleNamespace(policy=policy, manifest=policy.check(signed))


def test_the_pinned_bundle_passes():
    check_bundle(Bundle.read(THIN), terms(DIGEST, None).manifest)


@pytest.mark.parametrize("policy", [DIGEST, None])
def test_the_manifest_names_it(policy):
    check_bundle(Bundle.read(THIN), terms(DIGEST, policy).manifest)


def test_terms_that_name_no_bundle_answer_nobody():
    with raises("foreign-code"):
        check_bundle(Bundle.read(THIN), terms(None, None).manifest)


def test_an_engine_that_shows_no_bundle_is_refused_where_the_terms_name_one():
    with raises("foreign-code"):
        check_bundle(None, terms(DIGEST, None).manifest)
    check_bundle(None, terms(None, None).manifest)  # a simulation has none, and names none


def test_a_bundle_reaches_the_process_that_answers():
    found = Bundle.read(bundle({"torch/__init__.py": ""}))
    context = SimpleNamespace(node_config={"node": "n", **found.as_config()})
    assert Bundle.of(context) == found
    assert Bundle.of(SimpleNamespace(node_config={"node": "n"})) is None


def test_a_policy_that_names_another_bundle_wins():
    with raises("policy-violation", match="fab_digest"):
        terms(DIGEST, "ab" * 32)


def test_the_hash_is_of_the_bytes_and_not_of_what_the_server_says():
    with raises("foreign-code", match=DIGEST[:12]):
        check_bundle(Bundle.read(THIN + b" "), terms(DIGEST, None).manifest)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"torch/__init__.py": ""}, "it brings 'torch/__init__.py'"),
        ({"hanse_client/app.py": ""}, "it brings 'hanse_client/app.py'"),
        ({"sitecustomize.py": ""}, "it brings 'sitecustomize.py'"),
        (dict.fromkeys([f"m{i}.py" for i in range(5)], ""), "and 2 more"),
        ({"x\x1b[2J\n.py": ""}, r"x\\x1b[2J\\n.py"),
        ({"LICENSE": "other"}, "it holds no code"),
    ],
)
def test_code_that_it_would_have_brought_is_named_and_harmless_to_print(files, words):
    with raises("foreign-code") as refusal:
        check_bundle(Bundle.read(bundle(files)), terms(DIGEST, None).manifest)
    assert words.replace(r"\\", "\\") in str(refusal.value)
    assert "\x1b" not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", THIN[:100], b"\x00" * 1000])
def test_what_is_no_bundle_at_all_is_refused_in_the_same_way(data):
    with raises("foreign-code"):
        check_bundle(Bundle.read(data), terms(DIGEST, None).manifest)
