"""Every byte that a whole run makes a store send is public, random, or under a mask.

The lists below name each field that may leave a store and say why it may. A field that is
not on them fails the test, whoever adds it.
"""

import json
from dataclasses import fields

import numpy as np
import pytest
from flwr.proto.message_pb2 import Message as WireMessage
from scipy.stats import chisquare

from hanse_common import errors
from hanse_common.instructions import MESSAGE
from hanse_common.roundlog.evidence import COSIGNATURE, LOG_SIZE, RECEIPT
from hanse_common.roundlog.receipt import Receipt
from hanse_common.secagg.messages import (
    Confirmation,
    Hello,
    MaskedVector,
    Refusal,
    ShareBundle,
    Unmasking,
    decode,
)
from hanse_common.vector import flatten
from hanse_common.versions import VERSION_FIELD, own_version
from hanse_server.rounds import run_rounds
from hanse_simulations.engines import CLIENT_APP as SIMULATED
from hanse_simulations.engines.client import AnsweringClientApp
from kits.apps.secure_federation import STAGES, ByHand, Sent

ADA = "ADA-LOVELACE-77"

MAY_LEAVE = {
    Hello: {
        "header": "what the coordinator sent, and the public manifest's digest",
        "certificate": "public: id, key and validity, signed by the authority",
        "mask_public": "random: a fresh key",
        "share_public": "random: a fresh key",
        "possession": "over the fields above, by that fresh key",
        "commitment": "random: a digest of 32 fresh random bytes",
        "signature": "over the fields above",
    },
    ShareBundle: {
        "header_digest": "of the Hello's header",
        "roster_digest": "of what the coordinator sent",
        "store_id": "public",
        "sealed": "random: fresh secrets' shares, encrypted",
        "vouched": "signatures over what is sealed",
        "digests": "random: of fresh secrets' shares, a secret polynomial's values",
        "signature": "over the fields above",
    },
    MaskedVector: {
        "header_digest": "of the Hello's header",
        "roster_digest": "of what the coordinator sent",
        "store_id": "public",
        "body": "the vector plus masks: uniform to whoever lacks the masks",
        "signature": "over the fields above",
    },
    Confirmation: {
        "header_digest": "of the Hello's header",
        "roster_digest": "of what the coordinator sent",
        "sharers_digest": "of what the coordinator sent",
        "survivors_digest": "of what the coordinator sent",
        "store_id": "public",
        "signature": "over the fields above",
    },
    Unmasking: {
        "header_digest": "of the Hello's header",
        "roster_digest": "of what the coordinator sent",
        "store_id": "public",
        "seed_shares": "random: of the survivors' fresh seeds",
        "mask_key_shares": "random: of the drop-outs' fresh keys",
        "signature": "over the fields above",
    },
    Refusal: {
        "header_digest": "of the Hello's header",
        "store_id": "public",
        "code": "one of the protocol's error codes",
        "culprits": "public ids",
        "accusations": "public ids, and secrets of fresh keys between the two",
        "signature": "over the fields above",
    },
    Receipt: {
        "store_id": "public",
        "header_digest": "of the Hello's header",
        "roster_digest": "of what the coordinator sent",
        "sequence": "how many charges and refusals the store has had: the coordinator's asking",
        "entry_hash": "of the charge; it covers commitments with secret salts",
        "signature": "over the fields above",
    },
}
WITH = {Hello: {COSIGNATURE, VERSION_FIELD}, MaskedVector: {RECEIPT}}
"""What goes with a message: a signature over the coordinator's own bytes, the version of the
program, and a receipt."""

# Of a Flower message, beside its content: all set by Flower from the question.
METADATA = {
    *("run_id", "src_node_id", "dst_node_id", "reply_to_message_id", "ttl", "message_type"),
    *("created_at", "message_id", "group_id", "src_task_id", "dst_task_id"),
}


def all_names(message) -> set[str]:
    return {descriptor.name for descriptor, _ in message.ListFields()}


def records(sent: Sent) -> dict[str, dict]:
    """Take a reply apart, and fail on anything that is not on the lists."""
    wire = WireMessage.FromString(sent.data)
    assert wire.SerializeToString() == sent.data
    assert all_names(wire) <= {"metadata", "content", "error"}
    assert all_names(wire.metadata) <= METADATA
    found = {}
    for item in wire.content.items:
        assert all_names(item) in ({"key", "config_record"}, {"key", "metric_record"})
        record = item.config_record if item.HasField("config_record") else item.metric_record
        entries = {}
        for entry in record.items:
            assert all_names(entry) == {"key", "value"}
            (kind,) = all_names(entry.value)
            assert kind in ("string", "bytes", "sint64")
            entries[entry.key] = getattr(entry.value, kind)
        found[item.key] = entries
    return found


def protocol_message(sent: Sent):
    """The protocol's message in a reply, canonical and with no field beside the listed."""
    data = records(sent)["config"][MESSAGE]
    message = decode(data)
    assert message.encode() == data
    assert {field.name for field in fields(message)} == set(MAY_LEAVE[type(message)])
    return message


def check_reply(sent: Sent, names: list[str]) -> object | None:
    """Account for every byte of a reply; return its protocol message, if it has one."""
    found = records(sent)
    assert not WireMessage.FromString(sent.data).HasField("error")
    if sent.kind == "query.describe":
        assert found == {"config": {"store": sent.store, LOG_SIZE: 0}}
        return None
    if set(found) == {"metrics"}:
        assert sent.kind == "evaluate"
        assert found["metrics"] == {"num-examples": 1}
        return None
    assert set(found) == {"config"}
    message = protocol_message(sent)
    assert message.store_id == sent.store
    assert set(found["config"]) == {MESSAGE} | WITH.get(type(message), set())
    assert found["config"].get(VERSION_FIELD, own_version().encode()) == own_version().encode()
    if RECEIPT in found["config"]:
        receipt = Receipt.decode(found["config"][RECEIPT])
        assert receipt.encode() == found["config"][RECEIPT]
        assert {field.name for field in fields(receipt)} == set(MAY_LEAVE[Receipt])
    assert len(found["config"].get(COSIGNATURE, bytes(64))) == 64
    return message


@pytest.fixture(scope="module", params=["local", "distributed"])
def whole_run(request, secure_stores, tmp_path_factory):
    """A run with masked evaluations, to its end: all replies, and what was never to be seen."""
    from kits.apps.secure_federation import SecureFederation

    settings, prepared = secure_stores
    settings = settings.with_changes(
        {
            "privacy.mode": request.param,
            "training.local_steps": 1,
            "privacy.evaluation_noise_multiplier": 40.0,
            "federation.evaluate_every": 1,
        }
    )
    federation = SecureFederation(tmp_path_factory.mktemp("clear"), settings, prepared)
    secrets: list[np.ndarray] = []
    vectors: dict[tuple[str, bytes], np.ndarray] = {}

    def to_store(store, message):
        if message.metadata.message_type == STAGES["share"]:
            waiting = federation.waiting(store)
            vectors[store, waiting.header.digest()] = waiting.vector
        return message

    federation.faults.to_store = to_store
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
        _spy_on_updates(patch, secrets)
        run_rounds(federation.grid(), federation.folder.path, settings)
    return federation, secrets, vectors


def _spy_on_updates(patch, secrets):
    """Keep the exact updates, counts and sums that the production code works with."""
    from hanse_client.rounds import local_update

    real_training, real_evaluation = local_update.training_vector, local_update.evaluation_vector

    def training(node, trained, *args, **kwargs):
        secrets.extend([flatten(trained.update), np.array([trained.drawn, trained.losses])])
        return real_training(node, trained, *args, **kwargs)

    def evaluation(node, sums, *args, **kwargs):
        secrets.append(np.array(list(sums.values()), np.float64))
        return real_evaluation(node, sums, *args, **kwargs)

    patch.setattr(local_update, "training_vector", training)
    patch.setattr(local_update, "evaluation_vector", evaluation)


def test_every_byte_of_a_whole_run_is_on_the_list(whole_run):
    federation, _, vectors = whole_run
    count = {}
    for sent in federation.faults.sent_by_stores:
        message = check_reply(sent, federation.names)
        name = "nothing" if message is None else type(message).__name__
        count[sent.kind, name] = count.get((sent.kind, name), 0) + 1
    # Two training rounds; evaluations before, after each, and on the test weeks.
    assert len(vectors) == 5 * 6
    assert count == {
        ("query.describe", "nothing"): 5,
        ("train", "Hello"): 5 * 2,
        ("evaluate", "Hello"): 5 * 4,
        ("train.share", "ShareBundle"): 5 * 6,
        ("train.mask", "MaskedVector"): 5 * 6,
        ("query.confirm", "Confirmation"): 5 * 6,
        ("query.unmask", "Unmasking"): 5 * 6,
    }


def test_public_fields_hold_what_everybody_can_compute(whole_run):
    federation, _, _ = whole_run
    manifest = federation.manifest()
    enrolments = {node.name: node.enrolment for node in federation.nodes()}
    headers = set()
    digests = {}
    for sent in federation.faults.sent_by_stores:
        message = check_reply(sent, federation.names)
        if isinstance(message, Hello):
            assert message.certificate == enrolments[sent.store].certificate
            assert message.header.manifest_digest == manifest.digest()
            headers.add(message.header)
        elif message is not None:
            public = [
                (name, getattr(message, name))
                for name in ("roster_digest", "sharers_digest", "survivors_digest")
                if hasattr(message, name)
            ]
            for name, value in public:
                digests.setdefault((message.header_digest, name), set()).add(value)
    # One header an exchange, the same from every store; and one view of each list.
    assert len(headers) == 6
    assert {header.digest() for header in headers} == {header for header, _ in digests}
    assert all(len(values) == 1 for values in digests.values())


def test_no_length_depends_on_a_stores_data(whole_run):
    federation, _, _ = whole_run
    lengths = {}
    for sent in federation.faults.sent_by_stores:
        message = check_reply(sent, federation.names)
        if message is not None:
            split = len(message.body) if isinstance(message, MaskedVector) else 0
            lengths.setdefault((sent.kind, split), set()).add(len(message.encode()))
    assert all(len(found) == 1 for found in lengths.values())


def test_masked_vectors_are_uniform(whole_run):
    """Chi-square over all bytes, and over each word's highest, which tells a sign apart."""
    federation, _, vectors = whole_run
    words = []
    for sent in federation.faults.sent_by_stores:
        if sent.kind == STAGES["mask"]:
            message = check_reply(sent, federation.names)
            found = message.words(len(message.body) // 4)
            true = vectors[sent.store, message.header_digest].astype(np.uint32)
            assert not (found == true).any()
            words.append(found)
    every = np.concatenate(words).astype("<u4").view(np.uint8)
    highest = every[3::4]
    for found in (every, highest):
        assert chisquare(np.bincount(found, minlength=256)).pvalue > 1e-7
    # The same test sees a vector without its mask.
    open_words = np.concatenate(list(vectors.values())).astype("<u4").view(np.uint8)
    assert chisquare(np.bincount(open_words, minlength=256)).pvalue < 1e-100


def test_no_value_of_an_update_appears_in_any_reply(whole_run):
    """As it is or quantised, as int32, int64, float32 or float64, of either byte order."""
    federation, secrets, vectors = whole_run
    everything = b"".join(map(_without_sequence, federation.faults.sent_by_stores))
    windows = {everything[i : i + 8] for i in range(len(everything) - 7)}
    looked_for = 0
    for values in [*secrets, *vectors.values()]:
        for kind in ("i4", "i8", "f4", "f8"):
            for order in "<>":
                data = values.astype(order + kind).tobytes()
                for i in range(0, len(data) - 7, int(kind[1])):
                    part = data[i : i + 8]
                    # Little but zeros says nothing: a certificate's empty node key has 32.
                    if len(set(part)) > 3:
                        looked_for += 1
                        assert part not in windows
    assert looked_for > 10_000


def _without_sequence(sent: Sent) -> bytes:
    """A reply without its receipt's number: seven zeros, a byte, and then a hash's first bytes
    look like any small value."""
    config = records(sent).get("config", {})
    if RECEIPT not in config:
        return sent.data
    receipt = Receipt.decode(config[RECEIPT])
    number = receipt.sequence.to_bytes(8, "big")
    assert sent.data.count(number + receipt.entry_hash) == 1
    return sent.data.replace(number + receipt.entry_hash, receipt.entry_hash)


FAILURES = [
    KeyError(ADA),
    ValueError(f"{ADA} has 31337 visits"),
    errors.DataError(f"store has 31337 customers, one is {ADA}", code="too-few-customers"),
    errors.DataError(f"customer {ADA} bought twice", hint="31337 rows"),
    errors.PrivacyError(f"{ADA} would have spent epsilon=31337"),
    errors.PrivacyError(f"{ADA} is off by 31337", code="inexact-clipping"),
    RecursionError(ADA),
    OSError(13, ADA),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_an_error_leaves_as_its_code_and_constant_words(failure, federation):
    """From training, the data, the budget or anywhere: its own words stay in the store's log."""
    store = federation.names[0]
    told = {}
    for number, place in enumerate(
        (
            "hanse_client.training.train.training_data",
            "hanse_client.training.train.train_round",
            "hanse_client.rounds.local_update.training_vector",
            "hanse_client.node.Node.check_affordable",
        ),
        start=1,
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, _raise(failure))
            reply = federation.tell(store, run=number)
        assert reply.has_error()
        told[place] = reply.error.reason
    with pytest.MonkeyPatch.context() as patch:
        by_hand = ByHand(federation, run=9).upto("share")
        patch.setattr("hanse_client.node.Node.charge", _raise(failure))
        message = by_hand.coordinator.advance()[store]
        reply = federation.relay(store, "mask", message.encode())
    assert reply.has_error()
    told["charge"] = reply.error.reason

    assert len(set(told.values())) == 1
    (reason,) = set(told.values())
    assert reason == errors.UNABLE
    for sent in federation.faults.sent_by_stores:
        assert ADA.encode() not in sent.data
        assert b"31337" not in sent.data
        assert b"Traceback" not in sent.data
    log = (federation.node(store).folder / "log.jsonl").read_text()
    assert log.count(ADA) >= 5  # a failed computation is tried once more, on no data


def _raise(failure):
    def fail(*_, **__):
        raise failure

    return fail


def test_a_store_outside_any_federation_answers_a_simulation_only(federation):
    path = federation.node(federation.names[0]).folder / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "enrolment": None}))
    changes = {"federation.secure_aggregation": False}
    refused = federation.tell(federation.names[0], changes=changes)
    assert refused.error.reason.startswith("[not-answered] ")
    federation.faults.client = AnsweringClientApp(SIMULATED)
    reply = federation.tell(federation.names[0], changes=changes)
    assert set(reply.content) == {"arrays", "metrics"}


def test_a_coordinator_drops_an_open_update_unread(federation):
    """A store that was never enrolled cannot slip its update into a masked round."""
    faults, path = federation.faults, federation.node(federation.names[0]).folder / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "enrolment": None}))
    faults.client = AnsweringClientApp(SIMULATED)  # which knows no better than to answer
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=0.02)
    assert result.aggregate.survivors == tuple(federation.names[1:])
    (reason,) = result.refusals.values()
    assert "its reply was dropped unread" in reason
    assert faults.names[0] in result.refusals
