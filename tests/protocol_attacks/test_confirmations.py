"""A coordinator that unmasks without the stores' agreement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kits.errors import raises
from kits.federation import Federation, header, is_wiped


@pytest.fixture
def at_unmask():
    federation = Federation(9)  # threshold 7
    return federation, federation.up_to("unmask")["store-000"]


def refused(federation, request, code, match=None):
    store = federation.stores["store-000"]
    with raises(code, match=match):
        store.unmask(request)
    assert is_wiped(store)


def test_none(at_unmask):
    federation, request = at_unmask
    refused(federation, replace(request, signers=(), signatures=()), "too-few-confirmations")


def test_one_fewer_than_the_threshold(at_unmask):
    federation, request = at_unmask
    short = replace(request, signers=request.signers[:-1], signatures=request.signatures[:-1])
    refused(federation, short, "too-few-confirmations", "6 of 6 .* threshold is 7")


def test_forged_signature(at_unmask):
    federation, request = at_unmask
    forged = (*request.signatures[:-1], b"\x01" * 64)
    refused(federation, replace(request, signatures=forged), "bad-signature", "store-006")


def test_one_signature_for_everybody(at_unmask):
    federation, request = at_unmask
    repeated = (request.signatures[0],) * 7
    refused(federation, replace(request, signatures=repeated), "bad-signature", "store-001")


def test_signers_without_signatures(at_unmask):
    federation, request = at_unmask
    refused(federation, replace(request, signatures=request.signatures[:-1]), "malformed-message")


def test_signers_outside_the_survivors():
    federation = Federation(9)
    request = federation.up_to("unmask", drop={"mask": {"store-008"}})["store-000"]
    refused(
        federation,
        replace(request, signers=(*request.signers[:-1], 8)),
        "too-few-confirmations",
        "6 of 7 confirmations are of survivors",
    )


def test_signatures_of_an_earlier_round():
    people = Federation(9)
    old = people.up_to("unmask")["store-000"]
    later = Federation(9, header=header(round=4), authority=people.authority, keys=people.keys)
    new = later.up_to("unmask")["store-000"]
    refused(later, replace(new, signatures=old.signatures), "bad-signature")
