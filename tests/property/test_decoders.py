"""Whatever bytes come in, a decoder gives a value or its own kind of error."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_common.codec import Reader
from hanse_common.errors import MalformedMessage, ProtocolError, RoundLogError
from hanse_common.identity import Certificate
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.roundlog import records as roundlog
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import Proofs
from hanse_common.roundlog.receipt import Receipt
from hanse_common.secagg import Header, Journal, Mark, Stage, decode
from hanse_common.secagg.state import StoreState
from kits.federation import STAGES, Federation
from kits.vectors import (
    AUTHORITY,
    CERTIFICATE,
    CHECKPOINT,
    HEADER,
    RECEIPT,
    messages,
    records,
)


def state(stage: str) -> bytes:
    """A store's state as it waits for the message of a stage; after the last, for "hello"."""
    federation = Federation(5)
    federation.up_to("end" if stage == "hello" else stage)
    return federation.stores["store-000"].encode()


def journal() -> Journal:
    """Several runs, manifests, attempts and stores."""
    second = replace(HEADER, run=8, manifest_digest=b"\x12" * 32)
    journal = Journal().admit(HEADER).admit(second).admit(replace(second, round=4, attempt=2))
    journal = journal.reach(replace(second, round=4, attempt=2), Stage.MASKED)
    other = AUTHORITY.certify("wismar", bytes(32), valid_from=5, valid_until=9)
    return journal.meet([CERTIFICATE, other])


def manifest() -> bytes:
    terms = Manifest(
        federation="baltic",
        stores=("bremen", "hamburg", "luebeck", "rostock", "wismar"),
        sections=(SectionTerms(name="update", length=10, clip=1.0),),
        arrays={"w": (10,)},
        model_digest="ab" * 32,
        rounds=5,
        privacy=PrivacyTerms(mode="none"),
    )
    return SignedManifest.sign(terms, AUTHORITY).encode()


DECODERS = {
    **{name: (decode, message.encode()) for name, message in messages().items()},
    "certificate": (Certificate.decode, CERTIFICATE.encode()),
    "header": (Header.decode, HEADER.encode()),
    "journal": (Journal.decode, journal().encode()),
    "mark": (Mark.decode, journal().mark.encode()),
    **{f"state {stage}": (StoreState.decode, state(stage)) for stage in STAGES},
    "manifest": (SignedManifest.decode, manifest()),
    **{name: (roundlog.decode, record.encode()) for name, record in records().items()},
    "checkpoint": (Checkpoint.decode, CHECKPOINT.encode()),
    "receipt": (Receipt.decode, RECEIPT.encode()),
}


ERRORS = dict.fromkeys(records(), RoundLogError)


def accepted(name: str, data: bytes) -> bool:
    decoder, _ = DECODERS[name]
    try:
        value = decoder(data)
    except ERRORS.get(name, ProtocolError) as error:
        assert error.message and type(error) is not Exception
        return False
    if name != "manifest":  # a manifest is JSON: blanks may differ, what is signed does not
        assert value.encode() == data, "two encodings of one value"
    return True


@pytest.mark.parametrize("name", DECODERS)
def test_valid_bytes_come_back(name):
    assert accepted(name, DECODERS[name][1])


@pytest.mark.parametrize("name", DECODERS)
def test_every_prefix_is_refused(name):
    data = DECODERS[name][1]
    for size in range(len(data) - 1):
        assert not accepted(name, data[:size])


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_random_bytes(name, data):
    accepted(name, data)
    accepted(name, DECODERS[name][1][:7] + data)


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 10**6),
)
def test_edited_bytes(name, edits, cut):
    data = bytearray(DECODERS[name][1])
    for place, value in edits:
        data[place % len(data)] = value
    if cut % 3 == 0:
        place = cut % len(data)
        del data[place : place + 4]
    if cut % 5 == 0:
        data[cut % len(data) : cut % len(data)] = b"\x00" * (cut % 9)
    accepted(name, bytes(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(sorted(json.loads(manifest())["manifest"])), value=JSON)
def test_any_value_in_any_field_of_a_manifest(field, value):
    table = json.loads(manifest())
    table["manifest"][field] = value
    accepted("manifest", json.dumps(table).encode())


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e308, 10**400])
@pytest.mark.parametrize("place", [("privacy", "target_epsilon"), ("sections", 0, "clip")])
def test_numbers_that_are_none_in_a_manifest(place, value):
    table = json.loads(manifest())
    node = table["manifest"]
    node["privacy"] = {"mode": "local", "target_epsilon": 1.0, "target_delta": 1e-6}
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    accepted("manifest", json.dumps(table).encode())


@settings(max_examples=100, deadline=None)
@given(value=JSON)
def test_any_json_for_a_manifest(value):
    accepted("manifest", json.dumps(value).encode())
    accepted("manifest", json.dumps({"manifest": value, "signature": value}).encode())


@settings(max_examples=300, deadline=None)
@given(
    inclusion=JSON,
    consistency=JSON | st.dictionaries(st.sampled_from(["1", "2", "-1", "x"]), JSON),
)
def test_any_json_for_proofs_of_a_round_log(inclusion, consistency):
    text = json.dumps({"inclusion": inclusion, "consistency": consistency})
    for data in (text, json.dumps(consistency)):
        try:
            proofs = Proofs.decode(data)
        except MalformedMessage:
            continue
        assert Proofs.decode(proofs.encode()) == proofs


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=64),
    st.lists(st.sampled_from(["u8", "u16", "u32", "u64", "blob", "text", "rest", "end"])),
)
def test_the_reader_raises_nothing_else(data, fields):
    reader = Reader(data)
    try:
        for field in fields:
            getattr(reader, field)()
    except ProtocolError:
        pass
