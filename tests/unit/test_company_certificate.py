"""A store that a company's certificate vouches for, and everything that does not vouch."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hanse_common.admission import Request, public_pem
from hanse_common.company_certificate import CompanyProof
from hanse_common.identity import StoreKey
from kits.company import KEYS, Company
from kits.errors import raises

NOW = int(time.time())
NODE = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())


@pytest.fixture(scope="module")
def company():
    return Company()


def ask(files, *, store="luebeck", key=None):
    key = key or StoreKey.generate()
    made = Request.make(store, key, node_key=NODE, created=NOW, certificate=files)
    again = Request.decode(made.encode())
    assert again == made
    again.check(now=NOW)
    return again


def check(request, company, *, now=NOW):
    roots = [company.root]
    proof = request.company
    return proof.check(request.payload(), store_id=request.store_id, roots=roots, now=now)


@pytest.mark.parametrize("kind", KEYS)
def test_a_certificate_of_each_kind_of_key_vouches_for_its_store(company, tmp_path, kind):
    request = ask(company.certify(tmp_path, kind=kind))
    assert check(request, company) == "CN=Shop 7"


@pytest.mark.parametrize(
    ("names", "vouches"),
    [
        ({"dns": "luebeck"}, True),
        ({"dns": "luebeck.example.org"}, True),
        ({"dns": "x.example.org", "common": "luebeck"}, True),
        ({"dns": "luebeck-2.example.org"}, False),
        ({"dns": "shop.luebeck.example.org"}, False),
        ({"dns": "example.org", "common": "Luebeck"}, False),
    ],
)
def test_the_stores_name_has_to_stand_in_it(company, tmp_path, names, vouches):
    request = ask(company.certify(tmp_path, **names))
    if vouches:
        check(request, company)
        return
    with raises("bad-enrolment-request", match="names"):
        check(request, company)


def test_what_does_not_vouch_is_refused(company, tmp_path):
    for case, options in enumerate(
        ({"days": (-9, -2)}, {"days": (2, 9)}, {"server": True}),
    ):
        request = ask(company.certify(tmp_path / str(case), **options))
        with raises("bad-enrolment-request", match="not of the company's authority"):
            check(request, company)
    request = ask(company.certify(tmp_path / "good"))
    with raises("bad-enrolment-request", match="not of the company's authority"):
        check(request, Company())
    with raises("bad-enrolment-request", match="not of the company's authority"):
        check(request, company, now=NOW + 200 * 86_400)
    without_issuer = replace(request.company, chain=request.company.chain[:1])
    with raises("bad-enrolment-request"):
        check(replace(request, company=without_issuer), company)


def test_a_proof_is_valid_for_its_own_request_only(company, tmp_path):
    """One who copies a proof cannot put another key under it."""
    files = company.certify(tmp_path)
    stolen, own = ask(files).company, ask(files)
    with raises("bad-enrolment-request", match="has not signed"):
        check(replace(own, company=stolen), company)
    bent = replace(own.company, signature=own.company.signature[:-1] + b"\0")
    with raises("bad-enrolment-request", match="has not signed"):
        check(replace(own, company=bent), company)


def test_a_key_that_is_open_locked_or_anothers_signs_nothing(company, tmp_path):
    chain, key = company.certify(tmp_path / "a", password=b"secret")
    with raises("key-file", match="passphrase"):
        ask((chain, key))
    chain, key = company.certify(tmp_path / "b")
    key.chmod(0o644)
    with raises("key-file", match="can be read by others"):
        ask((chain, key))
    _, other = company.certify(tmp_path / "c")
    with raises("key-file", match="not the private key"):
        ask((chain, other))
    with raises("key-file"):
        ask((tmp_path / "none", other))
    with raises("key-file", match="private key"):
        ask((other, other))


@pytest.mark.parametrize(
    "changes",
    [
        {"certificates": "not PEM"},
        {"certificates": ""},
        {"signature": "zz"},
        {"signature": ""},
        {"extra": 1},
    ],
)
def test_a_proof_that_cannot_be_read_is_refused(company, tmp_path, changes):
    table = json.loads(ask(company.certify(tmp_path)).encode())
    table["company"] |= changes
    with raises("bad-enrolment-request"):
        Request.decode(json.dumps(table).encode())
    table["company"]["certificates"] *= 4
    with raises("bad-enrolment-request"):
        Request.decode(json.dumps(table).encode())


def test_a_proof_shows_no_private_key(company, tmp_path):
    chain, key = company.certify(tmp_path)
    proof = CompanyProof.sign(chain, key, b"request")
    assert "PRIVATE" not in proof.pem and key.read_text().splitlines()[1] not in repr(proof)
