"""Every file and answer that comes from outside: a value, or an error with a name.

A decoder is a line in `DECODERS`. Valid samples are mutated byte by byte, and by what their
format allows and nobody expects: nesting without end, huge numbers, archives that unpack to
gigabytes, headers that announce more than there is. The encodings of our own protocol have
tests of their own in `test_decoders.py`.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from hanse_client.deployment import alerts as store_alerts
from hanse_client.deployment import code_bundle, leave, metrics, tls_check
from hanse_client.deployment import folder as store_folder
from hanse_client.deployment.budget import read_row
from hanse_client.deployment.inbox import first_message, whole_message
from hanse_client.deployment.templates import AUTHORITY_LINE, policy_toml, store_toml
from hanse_client.features import prepare
from hanse_client.features.array_files import load_npz, save_npz
from hanse_client.inference import card, load
from hanse_client.inference.requests import Request as Asked
from hanse_client.ingest import pseudonyms, store_config
from hanse_client.model import pretrained as model_checkpoint
from hanse_client.node import Node, NodeSettings
from hanse_client.pretraining.base_folder import SHIPPED_BASE, read_base
from hanse_client.rounds.secure_exchange import Waiting
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_common import bundle, company_certificate, config, settings_files
from hanse_common.admission import Invitation, Request
from hanse_common.alerting import watcher
from hanse_common.audit import evidence as audit_evidence
from hanse_common.audit.remembered import Remembered
from hanse_common.audit.spending import BudgetRow
from hanse_common.errors import HanseError
from hanse_common.identity import AuthorityKey, Certificate, CoordinatorKey, StoreKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.paths import (
    BLAME_FILE,
    CONFIG_FILE,
    CRASHES_FILE,
    FAILURE_FILE,
    FLOWER_RUNS_FILE,
    LEAVING_FILE,
    NODE_FILE,
    NODE_VERSIONS_FILE,
    PROGRESS_FILE,
    ROUNDS_FILE,
    TLS_END_FILE,
    WEIGHTS_FILE,
)
from hanse_common.policy import StorePolicy
from hanse_common.privacy import ledger_file
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import Proofs
from hanse_common.run_file import read_run_file
from hanse_server import blame, checkpoint, stage_log
from hanse_server import metrics as server_metrics
from hanse_server.app import read_settings
from hanse_server.deployment import crashes, sign, tls, tls_renewal
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.node_versions import NodeVersions
from hanse_server.deployment.run_record import RunRecord
from hanse_simulations.datasets.item_catalogue import read_item_catalogue
from kits.company import Company
from kits.vectors import AUTHORITY, CERTIFICATE, CHECKPOINT, STORE

SETTINGS: dict[str, Any] = {
    "recipe": "grocery",
    "data": {
        "source": "own",
        "split": {
            "train_until": "2026-01-01T00:00:00",
            "validate_until": "2026-02-01T00:00:00",
            "test_until": "2026-03-01T00:00:00",
        },
    },
    "federation": {"strategy_options": {"x": 1.5}},
}


@dataclass(frozen=True)
class Decoder:
    """One way in.

    Args:
        read: Takes the file that holds the bytes.
        sample: Valid bytes.
        name: What the file is called, where a folder's reader looks for it.
    """

    read: Callable[[Path], object]
    sample: bytes
    name: str = "file"


def of_bytes(decode: Callable[[bytes], object]) -> Callable[[Path], object]:
    return lambda path: decode(path.read_bytes())


def of_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def as_json(table: object) -> bytes:
    return json.dumps(table).encode()


def archive(method: int = zipfile.ZIP_STORED, content: bytes = b"x = 1") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("pyproject.toml", content)
        made.writestr("torch/__init__.py", b"pass")
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Some arrays."""

    values: np.ndarray
    count: int


def npz() -> bytes:
    # A folder of its own: every worker makes the sample while it collects this module.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.npz"
        save_npz(Numbers(values=np.arange(5.0), count=3), path)  # type: ignore[arg-type]
        return path.read_bytes()


def manifest() -> bytes:
    draft = Manifest(
        federation="baltic",
        stores=("bremen", "hamburg", "luebeck", "rostock", "wismar"),
        sections=(SectionTerms(name="update", length=10, clip=1.0),),
        arrays={"w": (10,)},
        model_digest="ab" * 32,
        rounds=5,
        privacy=PrivacyTerms(mode="none"),
    )
    return SignedManifest.sign(draft, AUTHORITY).encode()


def invitation() -> bytes:
    _, root = tls.make_root("test")
    from cryptography.hazmat.primitives.serialization import Encoding

    return Invitation(
        federation="baltic",
        authority=AUTHORITY.public.hex(),
        fleet="hanse.example.org:9443",
        ca=root.public_bytes(Encoding.PEM).decode(),
    ).encode()


def node_key() -> tuple[bytes, str]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public.decode()


NODE_KEY, NODE_PEM = node_key()
TaskIdentity.run_id = TaskIdentity.task_id = 1  # as in a coordinator's process
TaskIdentity.node_id = SUPERLINK_NODE_ID
MESSAGE = Message(
    RecordDict(
        {
            "arrays": ArrayRecord([np.arange(4.0)]),
            "config": ConfigRecord({"round": 1, "names": ["a", "b"], "blob": b"\0\1"}),
        }
    ),
    dst_node_id=7,
    message_type="train",
)


def pulled() -> bytes:
    from flwr.app.message import remove_content_from_message

    MESSAGE.metadata.__dict__["_message_id"] = MESSAGE.object_id
    return PullMessagesResponse(
        messages_list=[message_to_proto(remove_content_from_message(MESSAGE))],
        message_object_trees=[get_object_tree(MESSAGE)],
    ).SerializeToString()


def answer(path: Path) -> object:
    """What a server hands out, as `Fleet.receive` reads it."""
    from google.protobuf.message import DecodeError

    found = PullMessagesResponse()
    try:
        found.ParseFromString(path.read_bytes())
    except DecodeError:
        return None  # Flower's client has refused it by then; see `test_fleet_answers`
    return first_message(found)


OBJECTS = {key: bytes(one.deflate()) for key, one in get_all_nested_objects(MESSAGE).items()}


def content(name: str) -> Decoder:
    """A message one of whose objects is not as it was."""
    (object_id,) = (key for key, data in OBJECTS.items() if data.startswith(name.encode()))

    def read(path: Path) -> object:
        changed = OBJECTS | {object_id: path.read_bytes()}
        tree = get_object_tree(MESSAGE)
        whole = whole_message(tree, changed.__getitem__, lambda _: None)
        return whole.content, whole.metadata

    return Decoder(read, OBJECTS[object_id])


def private(read: Callable[[Path], object]) -> Callable[[Path], object]:
    def protected(path: Path) -> object:
        path.chmod(0o600)
        return read(path)

    return protected


UNUSED = load.Trained(folder=Path("none"), model=None, digest="")  # type: ignore[arg-type]
WEIGHTS = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)})
STATE = {"round": 3, "settings_digest": "00", "settings": {"recipe": "x"}}
PREPARED = {
    **{"sources": "c", "keys": "d", "settings": "e", "read": 1.5},
    **{"model": "a", "observed_from": "2026-01-01T00:00:00"},
    **{"customers": 1, "rows": 2, "rejected": 0, "unranked": 0},
}
REQUEST = Request.make("luebeck", STORE, node_key=NODE_PEM, created=1_750_000_000)
with tempfile.TemporaryDirectory() as _folder:
    COMPANY = Company().certify(Path(_folder))
    VOUCHED = Request.make(
        "luebeck", STORE, node_key=NODE_PEM, created=1_750_000_000, certificate=COMPANY
    )
    COMPANY_KEY = COMPANY[1].read_bytes()


@cache
def model() -> dict[str, bytes]:
    """The files of a small interest model."""
    small = InterestConfig(
        classes=["a", "b", "c"], level="category", vector_size=8, n_layer=1, n_head=2, n_embd=8
    )
    texts = np.eye(8, dtype=np.float32)
    made = InterestModel.fresh(
        small,
        class_texts=texts[:3],
        item_texts=texts,
        class_sizes=np.ones(3, dtype=np.float32),
        seed=3,
    )
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def of_a_model(name: str) -> Decoder:
    def read(path: Path) -> object:
        for other, data in (model() | {name: path.read_bytes()}).items():
            (path.parent / other).write_bytes(data)
        return load.open_model(path.parent)

    return Decoder(read, model()[name], name)


def of_a_base(name: str) -> Decoder:
    def read(path: Path) -> object:
        for other in (CONFIG_FILE, WEIGHTS_FILE):
            if other != name:
                (path.parent / other).write_bytes((SHIPPED_BASE / other).read_bytes())
        return read_base(path.parent)

    return Decoder(read, (SHIPPED_BASE / name).read_bytes(), name)


def checkpointed(name: str) -> Decoder:
    files = {"arrays.safetensors": WEIGHTS, "strategy.safetensors": WEIGHTS}
    files["state.json"] = as_json(STATE)

    def read(path: Path) -> object:
        place = path.parent / "checkpoints" / "round-0003"
        place.mkdir(parents=True, exist_ok=True)
        for other, data in (files | {name: path.read_bytes()}).items():
            (place / other).write_bytes(data)
        return checkpoint.latest_checkpoint(path.parent)

    return Decoder(read, files[name])


def preparation(path: Path) -> object:
    histories = path.parent / "histories.npz"
    histories.touch()
    return prepare.Preparation.load(histories)


FEDERATION = b"""
name = "baltic"
[fleet]
address = "hanse.example.org:9443"
[superlink]
port = 9444
"""
AUTHORITY_HEX = "ab" * 32
POLICY = policy_toml().replace(AUTHORITY_LINE, f'authority = "{AUTHORITY_HEX}"').encode()
KEY_LINE = f"hanse-authority-key-1 {'ab' * 32}\n".encode()

BUDGET = BudgetRow(
    store="a",
    target_delta=1e-6,
    spent=1.0,
    spent_ever=2.0,
    limit=None,
    left=None,
    rounds_left=3,
    covers_stores=1,
    at_stores={1: 2.0},
)

DECODERS = {
    # What a coordinator hands a store, and the store's own files.
    "invitation": Decoder(Invitation.load, invitation()),
    "certificate": Decoder(
        Certificate.load, f"hanse-certificate-1 {CERTIFICATE.encode().hex()}".encode()
    ),
    "manifest": Decoder(SignedManifest.load, manifest()),
    "settings.json": Decoder(
        lambda p: config.RunSettings.parse(settings_files.read_json(p)), as_json(SETTINGS)
    ),
    "settings.toml": Decoder(read_run_file, b'task = "interest"\n[data]\nsource = "synthetic"\n'),
    "policy.toml": Decoder(
        StorePolicy.from_toml,
        policy_toml().replace(AUTHORITY_LINE, f'authority = "{"ab" * 32}"').encode(),
    ),
    "store.toml": Decoder(store_config.load_store, store_toml("luebeck").encode()),
    "catalogue of a store.toml": Decoder(
        store_config.load_catalogue, store_toml("luebeck").encode()
    ),
    "bundle": Decoder(of_bytes(lambda data: code_bundle._described(data)), bundle.build()),
    "bundle with code": Decoder(of_bytes(lambda data: code_bundle._described(data)), archive()),
    "pulled messages": Decoder(answer, pulled()),
    "message": content("Message"),
    "record dict": content("RecordDict"),
    "config record": content("ConfigRecord"),
    "array record": content("ArrayRecord"),
    "array": content("Array "),
    "node.json": Decoder(
        of_folder(Node),
        NodeSettings(name="a", histories=Path("h"), base_model=Path("m"))
        .model_dump_json()
        .encode(),
        NODE_FILE,
    ),
    "leave.json": Decoder(
        of_folder(leave.leaving), b'{"after_round": 3, "left": true}', LEAVING_FILE
    ),
    "prepared.json": Decoder(preparation, as_json(PREPARED), "prepared.json"),
    "histories": Decoder(lambda p: load_npz(Numbers, p, hint="x"), npz()),
    "log.jsonl": Decoder(
        of_folder(metrics._refusals), b'{"time": 1.5, "error": "[data] x"}\n' * 3, "log.jsonl"
    ),
    "customer.key": Decoder(private(pseudonyms.load_or_make_key), bytes(32)),
    "node.key": Decoder(private(store_folder.load_node_key), NODE_KEY),
    "store.key": Decoder(private(StoreKey.load), f"hanse-store-key-1 {'ab' * 32}\n".encode()),
    # What a store hands the coordinator, and the coordinator's own files.
    "request": Decoder(Request.load, REQUEST.encode()),
    "request with a company's certificate": Decoder(Request.load, VOUCHED.encode()),
    "company's key": Decoder(private(company_certificate._private_key), COMPANY_KEY),
    "TLS key": Decoder(private(tls_renewal._read_key), COMPANY_KEY),
    "told.json": Decoder(watcher._read_told, b'{"told": {"run-failed x": ["log", "email"]}}'),
    "tls-end.json": Decoder(
        of_folder(tls_check.read_tls_end), b'{"ends": 1800000000.5}', TLS_END_FILE
    ),
    "refusals": Decoder(
        of_folder(lambda p: list(store_alerts._refusals(store_folder.StoreFolder(p), 4))),
        b'{"time": 1.5, "error": "[data] x"}\n' * 3,
        "log.jsonl",
    ),
    "authority.key": Decoder(private(AuthorityKey.load), KEY_LINE),
    "coordinator.key": Decoder(
        private(CoordinatorKey.load), KEY_LINE.replace(b"authority", b"coordinator")
    ),
    "authority": Decoder(
        of_folder(lambda p: FederationFolder(p).authority), b"ab" * 32, "authority"
    ),
    "federation.toml": Decoder(
        of_folder(lambda p: FederationFolder(p).file), FEDERATION, "federation.toml"
    ),
    "certificate of the gate": Decoder(
        server_metrics.tls_end,
        json.loads(invitation())["ca"].encode(),
    ),
    "TLS certificate": Decoder(tls.read_certificates, json.loads(invitation())["ca"].encode()),
    "initial model": Decoder(checkpoint.read_arrays, WEIGHTS),
    "model of the terms": Decoder(of_folder(sign.read_initial), WEIGHTS, "initial.safetensors"),
    "checkpoint's arrays": checkpointed("arrays.safetensors"),
    "checkpoint's strategy": checkpointed("strategy.safetensors"),
    "checkpoint's state": checkpointed("state.json"),
    "settings of a run": Decoder(of_folder(read_settings), as_json(SETTINGS), "settings.json"),
    "blame.json": Decoder(
        of_folder(lambda folder: blame.Blame(folder).record), b'{"accused": {"a": 2}}', BLAME_FILE
    ),
    "progress.json": Decoder(of_folder(stage_log.read_progress), b'{"round": 1}', PROGRESS_FILE),
    "failure.json": Decoder(of_folder(stage_log.read_failure), b'{"code": "data"}', FAILURE_FILE),
    "flower.json": Decoder(
        of_folder(RunRecord.read), b'{"runs": [1, 2], "stopped": false}', FLOWER_RUNS_FILE
    ),
    "budget.json": Decoder(
        lambda p: read_row(p, "k"),
        as_json({"key": "k", "row": asdict(BUDGET)}),
    ),
    "versions.json": Decoder(
        of_folder(lambda p: NodeVersions(p).of(b"key")), b'{"00": "1 0.1.0"}', NODE_VERSIONS_FILE
    ),
    "crashes.json": Decoder(
        of_folder(crashes.recent), b'{"crashes": [{"time": 1e18, "what": "it"}]}', CRASHES_FILE
    ),
    "rounds.jsonl": Decoder(
        of_folder(stage_log.read_stages), b'{"stage": "train"}\n' * 2, ROUNDS_FILE
    ),
    "federation.toml, watched": Decoder(
        of_folder(server_metrics._federation), FEDERATION, "federation.toml"
    ),
    # What a person hands an analyst, an auditor, a model's user or the service.
    "catalogue of items": Decoder(
        read_item_catalogue,
        b"item_id\ttext\tvector\n17\tOPI | Nails\t0.1 -0.4\n18\t\t1e-3,2\n",
        "items.tsv",
    ),
    "catalogue of items without a header": Decoder(
        read_item_catalogue, b"17\tOPI | Nails\n18\tsoap\n", "items.tsv"
    ),
    "round log's checkpoint": Decoder(Checkpoint.load, CHECKPOINT.line().encode()),
    "round log's proofs": Decoder(
        lambda p: Proofs.decode(p.read_bytes().decode("utf-8", "replace")),
        Proofs(inclusion="{}", consistency={3: "{}"}).encode().encode(),
    ),
    "ledger's head": Decoder(
        lambda p: ledger_file.read_head(p.with_suffix(".sqlite")),
        b"hanse-ledger-head-1 3 " + b"ab" * 32,
        "ledger.head",
    ),
    "earlier audit": Decoder(
        Remembered.read,
        as_json({"stores": [{"store": "a", "head": {"sequence": 1, "hash": "ab"}}], "logs": []}),
    ),
    "node.json of evidence": Decoder(
        lambda p: audit_evidence._evidence(p.parent / "ledger.sqlite", "a", audit_evidence.Files()),
        b'{"enrolment": "x"}',
        NODE_FILE,
    ),
    "settings of a model": Decoder(
        lambda p: load.run_settings(UNUSED, p, p), as_json(SETTINGS), "settings.json"
    ),
    "model card's table": Decoder(card._table, b'{"a": 1}'),
    "weights of a model card": Decoder(card._parameters, WEIGHTS),
    "projections": Decoder(
        of_folder(model_checkpoint._projections), WEIGHTS, "projections.safetensors"
    ),
    "model's config.json": of_a_model("config.json"),
    "model's weights": of_a_model("model.safetensors"),
    "base's config.json": of_a_base("config.json"),
    "base's weights": of_a_base("model.safetensors"),
    "waiting update": Decoder(of_bytes(Waiting.decode), npz()),
}


def deep(opening: bytes, depth: int = 100_000) -> bytes:
    return opening * depth


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**more: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | more}


def claiming(field: int) -> bytes:
    """An archive whose directory says of its members what no member is."""
    data = bytearray(archive())
    place = data.index(b"PK\x01\x02")
    data[place + field] ^= 0x7F
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(npz())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(signature)
        data[place + flags] |= 1
    return bytes(data)


def announcing(shape: str) -> bytes:
    """An .npz whose array says that it is larger than any memory."""
    file = io.BytesIO()
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(file, "w") as made:
        for name in ("values.npy", "count.npy", "vector.npy", "about.npy"):
            made.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return file.getvalue()


def objects() -> bytes:
    """An .npz of pickled objects, which would be code."""
    file = io.BytesIO()
    things = np.array([{"a": 1}], dtype=object)
    np.savez(file, values=things, count=things, vector=things, about=things, allow_pickle=True)
    return file.getvalue()


def bomb() -> bytes:
    """A hundred megabytes of zeros in a hundred kilobytes."""
    file = io.BytesIO()
    np.savez_compressed(file, values=np.zeros(13_000_000), count=1, vector=1, about=1)
    return file.getvalue()


NASTY = {
    "nothing": b"",
    "one zero": b"\0",
    "no UTF-8": b"\xff\xfe\xfa" * 10,
    "a surrogate": b"\xed\xa0\x80",
    "null bytes": b'{"name": "a\\u0000b"}',
    "lone surrogate in JSON": b'{"name": "\\ud800", "recipe": "\\udfff"}',
    "lists without end": deep(b"["),
    "tables without end": deep(b'{"a":'),
    "deep and closed": deep(b"[", 900) + deep(b"]", 900),
    "deep values": b'{"name": ' + deep(b"[", 900) + deep(b"]", 900) + b"}",
    "TOML without end": b"a = " + deep(b"["),
    "TOML tables without end": b"a = " + deep(b"{a ="),
    "a TOML number without end": b"a = " + b"9" * 10_000,
    "a JSON number without end": b'{"round": ' + b"9" * 10_000 + b"}",
    "a large exponent": b'{"round": 1e999, "after_round": 1e999, "time": 1e999}',
    "not a number": b'{"round": NaN, "time": NaN, "seed": -Infinity}',
    "a line that is no object": b"[]\n1\nnull\n",
    "a time that is none": b'{"time": "noon", "error": []}\n{"time": null}\n{"time": {}}\n',
    "a JSON list": b"[1, 2]",
    "a JSON number": b"1",
    "null": b"null",
    "an empty object": b"{}",
    "everything is null": b'{"runs": null, "settings": null, "stores": null, "data": null}',
    "everything is a list": b'{"runs": [[]], "settings": [], "stores": [[]], "data": [[[]]]}',
    "key line of another alphabet": "hanse-store-key-1 ४२".encode(),
    "a number of another alphabet": "hanse-ledger-head-1 ٣ ab".encode(),
    "a PEM without content": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "a PEM of noise": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "an OpenSSH key of noise": NODE_KEY[:60] + b"AAAA" + NODE_KEY[64:],
    "a giant header": struct.pack("<Q", 2**62) + b"{}",
    "a header of lists": safetensors(deep(b"[")),
    "a header of another type": safetensors([1]),
    "overlapping tensors": safetensors(tensor() | {"b": tensor()["a"]}, bytes(8)),
    "offsets beyond the end": safetensors(tensor(data_offsets=[0, 2**60]), bytes(8)),
    "offsets backwards": safetensors(tensor(data_offsets=[8, 0]), bytes(8)),
    "a shape beyond any": safetensors(tensor(shape=[2**62, 2**62]), bytes(8)),
    "another type of number": safetensors(tensor(dtype="BF16", shape=[4]), bytes(8)),
    "eight bits of another kind": safetensors(tensor(dtype="F8_E4M3", shape=[8]), bytes(8)),
    "a type that is none": safetensors(tensor(dtype="X"), bytes(8)),
    "metadata of numbers": safetensors(tensor() | {"__metadata__": {"about": 1}}, bytes(8)),
    "metadata that is a list": safetensors(
        {"__metadata__": {"hanse": "[]", "about": "[]"}} | tensor(), bytes(8)
    ),
    "an encrypted archive": encrypted(),
    "an archive by a method that nobody has": claiming(10),
    "an archive with flags": claiming(8),
    "an archive that begins elsewhere": claiming(42),
    "an archive of a later version": claiming(6),
    "an archive compressed": archive(zipfile.ZIP_DEFLATED, bytes(10**6)),
    "an archive by LZMA": archive(zipfile.ZIP_LZMA),
    "arrays beyond any memory": announcing("(1000000000000,)"),
    "arrays beyond any number": announcing("(99999999999999999999999,)"),
    "arrays that are no shape": announcing("'x'"),
    "arrays of objects": objects(),
    "arrays that unpack to much": bomb(),
}


def read(name: str, data: bytes, folder: Path) -> bool:
    """Whether a decoder takes some bytes; it may refuse them by nothing but an error of ours."""
    decoder = DECODERS[name]
    path = folder / decoder.name
    path.write_bytes(data)
    try:
        decoder.read(path)
    except HanseError as error:
        assert error.message and len(error.message) < 2_000, "a file is not its own error"
        assert type(error) is not HanseError
        return False
    return True


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_valid_is_read(name, tmp_path):
    # Those two are of another kind than the sample, and are here for what they refuse.
    assert read(name, DECODERS[name].sample, tmp_path) or name in ("projections", "waiting update")


@pytest.mark.parametrize("name", DECODERS)
def test_nothing_nasty_is_an_error_without_a_name(name, tmp_path):
    for data in NASTY.values():
        read(name, data, tmp_path)


FAST = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", DECODERS)
@FAST
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 10**6),
    how=st.sampled_from(("edit", "cut", "drop", "repeat", "put in")),
)
def test_no_edit_is_an_error_without_a_name(name, tmp_path, edits, cut, how):
    data = bytearray(DECODERS[name].sample)
    for place, value in edits:
        data[place % len(data)] = value
    place = cut % len(data)
    if how == "cut":
        del data[place:]
    elif how == "drop":
        del data[place : place + 5]
    elif how == "repeat":
        data[place:place] = data[place : place + 40]
    elif how == "put in":
        data[place:place] = b"\xff\0\x1b["
    read(name, bytes(data), tmp_path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "a\0b", 10**400, [[]], "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*at, index))


JSONS = [
    name
    for name, one in DECODERS.items()
    if one.sample.lstrip()[:1] == b"{" and b"\n{" not in one.sample
]


@pytest.mark.parametrize("name", JSONS)
@FAST
@given(place=st.integers(0, 10**6), value=VALUES)
def test_no_value_in_json_is_an_error_without_a_name(name, tmp_path, place, value):
    table = json.loads(DECODERS[name].sample)
    found = list(places(table))
    where = found[place % len(found)]
    if not where:
        table = value
    else:
        inside = table
        for key in where[:-1]:
            inside = inside[key]
        inside[where[-1]] = value
    read(name, json.dumps(table).encode(), tmp_path)


@FAST
@given(data=st.binary(max_size=300))
def test_random_questions_to_the_service(data):
    from pydantic import ValidationError

    for body in (data, *NASTY.values()):
        try:
            Asked.model_validate_json(body)
        except ValidationError:
            continue


CALLS = {
    *("json.loads", "json.load", "tomllib.loads", "tomllib.load", "pickle.loads", "torch.load"),
    *("np.load", "zipfile.ZipFile", "safe_open", "load", "struct.unpack", "bytes.fromhex"),
    *("json_object", "json_lines", "json_file", "b64decode", "message_from_proto"),
    *("model_validate_json", "from_pretrained", "pull_and_inflate_object_from_tree"),
    *("load_pem_x509_certificates", "load_pem_x509_certificate"),
    *("load_pem_public_key", "load_pem_private_key", "load_ssh_private_key"),
}
"""What turns bytes or text into values, as it is called; `load` by itself is safetensors'."""

MODULES: dict[str, str | tuple[str, ...]] = {
    "hanse_client.enrolment": "hexadecimal that the policy has checked",
    "hanse_client.rounds.secure_exchange": ("waiting update",),
    "hanse_client.rounds.witness": "hexadecimal that the manifest has checked",
    "hanse_client.features.array_files": ("histories",),
    "hanse_client.tasks.review.features": "a tokenizer that is installed",
    "hanse_client.ingest.samples": "lines that are no JSON are passed over",
    "hanse_client.ingest.formats.json_lines": "`test_any_bytes_are_rows_or_a_named_error`",
    "hanse_client.ingest.formats.streams": "`test_any_bytes_are_rows_or_a_named_error`",
    "hanse_client.deployment.budget": ("budget.json",),
    "hanse_client.node": ("node.json",),
    "hanse_client.deployment.enrol": "hexadecimal that the policy has checked",
    "hanse_client.deployment.folder": ("node.key",),
    "hanse_client.deployment.inbox": ("pulled messages", "message", "record dict", "array"),
    "hanse_client.deployment.code_bundle": ("bundle", "bundle with code"),
    "hanse_client.tasks.conversion.task": "called by `enrolling.start_of`, under `decoding`",
    "hanse_client.tasks.interest.task": "called by `enrolling.start_of`, under `decoding`",
    "hanse_client.tasks.next_item.task": "called by `enrolling.start_of`, under `decoding`",
    "hanse_client.inference.card": ("model card's table", "weights of a model card"),
    "hanse_client.inference.export": "the same call under `decoding` as `read_arrays`",
    "hanse_client.inference.load": ("model's config.json", "model's weights"),
    "hanse_client.pretraining.base_folder": ("base's config.json", "base's weights"),
    "hanse_client.inference.serve": "`test_random_questions_to_the_service`",
    "hanse_client.deployment.alerts": ("refusals",),
    "hanse_client.deployment.tls_check": ("tls-end.json",),
    "hanse_common.admission": ("invitation", "request"),
    "hanse_common.alerting.watcher": ("told.json",),
    "hanse_common.company_certificate": (
        "request with a company's certificate",
        "company's key",
    ),
    "hanse_common.options": "hexadecimal of an option; tests/cli/test_audit_cli.py",
    "hanse_common.audit.crosscheck": "hexadecimal that the policy has checked",
    "hanse_common.audit.evidence": ("node.json of evidence",),
    "hanse_common.audit.remembered": ("earlier audit",),
    "hanse_common.audit.report.gather": "hexadecimal that the policy has checked",
    "hanse_common.audit.store_checks": "hexadecimal that the policy has checked",
    "hanse_common.bundle.__init__": "writes an archive",
    "hanse_common.config": ("settings.json", "settings.toml"),
    "hanse_common.rotation": ("log.jsonl",),
    "hanse_common.settings_files": ("settings.json", "settings.toml"),
    "hanse_common.decoding": ("node.json", "log.jsonl", "progress.json"),
    "hanse_common.identity": ("certificate", "store.key", "authority.key", "coordinator.key"),
    "hanse_common.manifest": ("manifest",),
    "hanse_client.model.pretrained": ("projections",),
    "hanse_client.model.item_texts": "a text encoder that is installed, and a cache of our own",
    "hanse_client.tasks.review.model": "a text encoder that is installed",
    "hanse_common.policy": ("policy.toml",),
    "hanse_common.privacy.charge": ("waiting update",),
    "hanse_common.privacy.entry": "eight bytes; tests/property/test_ledger_tampering.py",
    "hanse_common.privacy.ledger_file": ("ledger's head",),
    "hanse_common.roundlog.checkpoint": ("round log's checkpoint",),
    "hanse_common.roundlog.evidence": ("round log's proofs",),
    "hanse_common.roundlog.merkle": "tests/property/test_decoders.py",
    "hanse_server.blame": ("blame.json",),
    "hanse_server.app": ("settings of a run",),
    "hanse_server.checkpoint": ("initial model", "checkpoint's state"),
    "hanse_server.deployment.crashes": ("crashes.json",),
    "hanse_server.deployment.folder": ("authority",),
    "hanse_server.deployment.node_signature": "tests/unit/test_tls_gateway.py",
    "hanse_server.deployment.run_record": ("flower.json",),
    "hanse_server.deployment.node_versions": ("versions.json",),
    "hanse_server.deployment.tls": ("TLS certificate",),
    "hanse_server.deployment.tls_renewal": ("TLS key",),
    "hanse_server.sums": "settings that this coordinator has just sent",
    "hanse_server.metrics": ("federation.toml, watched", "certificate of the gate"),
    "hanse_server.stage_log": ("rounds.jsonl", "progress.json", "failure.json"),
}
"""Every module that decodes, with its lines in `DECODERS`, or why it has none."""


def decoding_modules() -> set[str]:
    """Modules of the product that call one of `CALLS`."""
    found = set()
    root = Path(config.__file__).parents[2]
    for package in ("common/hanse_common", "client/hanse_client", "server/hanse_server"):
        for path in (root / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            calls = {ast.unparse(one.func) for one in ast.walk(tree) if isinstance(one, ast.Call)}
            # `Certificate.load` and the like are readers of our own, which are in the table.
            methods = {call.rpartition(".")[2] for call in calls if not call.endswith(".load")}
            if CALLS & (calls | methods):
                relative = path.relative_to((root / package).parent).with_suffix("")
                found.add(".".join(relative.parts))
    return found


def test_every_module_that_decodes_is_in_the_table():
    assert decoding_modules() == set(MODULES)
    named = {name for names in MODULES.values() if isinstance(names, tuple) for name in names}
    assert named <= set(DECODERS)
