"""A federation of real, enrolled stores behind a Grid that can lose and alter messages.

The stores are the production ClientApp on small synthetic data; each message finds them
"restarted", with nothing in memory. Every reply is kept as the bytes that Flower would send.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto

from hanse_client import app as client_app
from hanse_client.clipping.exactness import check_key
from hanse_client.node import Node, list_nodes
from hanse_client.rounds.secure_exchange import Waiting
from hanse_client.tasks import task_of
from hanse_client.training.statistics import exchanged_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import HanseError
from hanse_common.identity import AuthorityKey, CoordinatorKey
from hanse_common.instructions import ATTEMPT, LOG, MESSAGE, PROOFS, RUN, Instructions
from hanse_common.manifest import SignedManifest
from hanse_common.paths import (
    AUTHORITY_FILE,
    CLIPPING_CHECK_FILE,
    COORDINATOR_KEY_FILE,
    INITIAL_FILE,
    MANIFEST_FILE,
    ROUND_LOG_FILE,
)
from hanse_common.roundlog.records import Announced
from hanse_common.secagg import Attempt, Coordinator
from hanse_common.secagg.messages import decode
from hanse_common.secagg.wire import Message as ProtocolMessage
from hanse_server.app import secure_grid
from hanse_server.checkpoint import write_arrays
from hanse_server.roundlog import RoundLog
from hanse_server.secure_grid import SecureGrid
from hanse_server.store_grid import StoreGrid
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.experiment.prepare import make_nodes
from hanse_simulations.runs.arm_folder import ArmFolder
from kits.apps.local_grid import LocalGrid

Hook = Callable[[str, Message], Message | None]
STAGES = {
    "hello": "train",
    "share": "train.share",
    "mask": "train.mask",
    "confirm": "query.confirm",
    "unmask": "query.unmask",
}
"""Message types by what the coordinator calls the stage that they begin."""


@dataclass(frozen=True)
class Sent:
    """A reply of a store, as the bytes that Flower would send."""

    store: str
    kind: str
    data: bytes


class FaultGrid(LocalGrid):
    """Calls the stores when messages are pushed; hooks may drop or replace what they carry.

    `to_store(store, message)` and `to_server(store, reply)` return what is delivered instead,
    or None to lose it. `around(store, message)` is a context in which that store answers.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(len(names), "hanse_client.app:app")
        self.names = names
        self.sent_by_stores: list[Sent] = []
        self.asked: list[tuple[str, str]] = []
        self._replies: dict[str, Message] = {}
        self._count = 0
        self.heal()

    def heal(self) -> None:
        """Deliver everything as it is, from now on."""
        self.to_store: Hook = lambda _, message: message
        self.to_server: Hook = lambda _, message: message
        self.around: Callable[[str, Message], AbstractContextManager[Any]] = lambda _, message: (
            nullcontext()
        )

    def name(self, node: int) -> str:
        return self.names[self.contexts[node].node_config["partition-id"]]

    def node_of(self, name: str) -> int:
        return next(node for node in self.contexts if self.name(node) == name)

    def push_messages(self, messages):
        identifiers = []
        for message in messages:
            self._count += 1
            identifier = f"m{self._count}"
            message.metadata.__dict__["_message_id"] = identifier
            identifiers.append(identifier)
            reply = self.deliver(message)
            if reply is not None:
                self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids):
        wanted = [identifier for identifier in message_ids if identifier in self._replies]
        return [self._replies.pop(identifier) for identifier in wanted]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def deliver(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        store, kind = self.name(node), message.metadata.message_type
        altered = self.to_store(store, message)
        if altered is None:
            return None
        self.asked.append((store, kind))
        client_app._node.cache_clear()
        with self.around(store, altered):
            reply = self.client(altered, self.contexts[node])
        self.sent_by_stores.append(Sent(store, kind, message_to_proto(reply).SerializeToString()))
        return self.to_server(store, reply)


class SecureFederation:
    """Stores, coordinator's folder and grid, ready for a round."""

    def __init__(self, folder: Path, settings, prepared) -> None:
        self.settings = settings
        self.folder = ArmFolder(folder)
        make_nodes(prepared, self.folder, settings, salt="test")
        task = task_of(settings.task)
        model = task.load_model(prepared.base_model)
        task.freeze(model, settings)
        arrays = exchanged_arrays(task, model, settings)
        self.arrays = settings.schedule.known(arrays, after=0)
        self.all_arrays = arrays
        """With the sums that are released later, all zero."""
        write_arrays(folder / INITIAL_FILE, arrays)
        enrol_stores(self.folder, settings, arrays)
        self.names = [node.name for node in self.nodes()]
        self.faults = FaultGrid(self.names)
        self.vectors: dict[str, np.ndarray] = {}

    def skip_clipping_check(self) -> None:
        """Let the stores have checked clipping before; it is half of a small round's time."""
        for node in self.nodes():
            remember_clipping_check(node, self.settings)

    def nodes(self) -> list[Node]:
        return [Node(path) for path in list_nodes(self.folder.stores_dir)]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes() if node.name == name)

    def grid(self, *, stage_seconds: float = 0.05, measures_at_home: bool = False) -> SecureGrid:
        path, stores = self.folder.path, StoreGrid(self.faults, expected_stores=len(self.names))
        return secure_grid(
            stores, path, path, stage_seconds=stage_seconds, measures_at_home=measures_at_home
        )

    def waiting(self, name: str) -> Waiting | None:
        path = self.node(name).folder / "secagg" / "waiting"
        return Waiting.decode(path.read_bytes()) if path.exists() else None

    def remember_vectors(self) -> None:
        """Keep what each store is about to mask, as only the store itself can see it."""
        before = self.faults.to_store

        def to_store(store: str, message: Message) -> Message | None:
            if message.metadata.message_type == "train.share":
                found = self.waiting(store)
                if found is not None:
                    self.vectors[store] = found.vector
            return before(store, message)

        self.faults.to_store = to_store

    def content(self, *, arrays=None, changes: Mapping[str, Any] = {}, **config: Any) -> RecordDict:
        """What a strategy sends at the beginning of a round."""
        settings = self.settings.with_changes(dict(changes)).model_dump_json()
        found = self.arrays if arrays is None else arrays
        record = ArrayRecord({name: Array(np.asarray(a)) for name, a in found.items()})
        entries = {"settings": settings, "server-round": 1, **config}
        return RecordDict({"arrays": record, "config": ConfigRecord(entries)})

    def messages(self, kind: str = "train", **content: Any) -> list[Message]:
        """One message to every store, as a strategy makes them."""
        record = self.content(**content)
        return [Message(record, node, kind) for node in self.faults.contexts]

    def tell(self, store: str, kind: str = "train", **content: Any) -> Message:
        """Give one store an order, as a coordinator of any intent can; return its reply."""
        return self.give(store, self.announced(self.order(**content), kind), kind)

    def give(self, store: str, record: RecordDict, kind: str = "train") -> Message:
        """Give one store an order as it is; return its reply."""
        return self._deliver(Message(record, self.faults.node_of(store), kind))

    def tell_nothing(self, store: str) -> Message:
        """Ask one store for its name."""
        return self._deliver(Message(RecordDict(), self.faults.node_of(store), "query.describe"))

    def order(self, **content: Any) -> RecordDict:
        """What a coordinator sends in the first attempt of run 1, unless told otherwise."""
        return self.content(**{RUN: 1, ATTEMPT: 1, **content})

    def key(self) -> CoordinatorKey:
        """What signs the round log."""
        return CoordinatorKey.load(self.folder.path / COORDINATOR_KEY_FILE)

    def log(self, name: str = ROUND_LOG_FILE) -> RoundLog:
        """The coordinator's round log as it lies on the disk, or another one by its key."""
        return RoundLog.open(self.folder.path / name, self.key())

    def announced(
        self, record: RecordDict, kind: str = "train", *, log: RoundLog | None = None
    ) -> RecordDict:
        """Announce an order in a log, unless it ends with it, and add what proves it."""
        arrays = {name: array.numpy() for name, array in record["arrays"].items()}
        config = dict(record["config"])
        log = log or self.log()
        try:
            told = Instructions.read(config, arrays, kind=kind)
            if not log.records or log.records[-1] != Announced.of(told):
                log.announce(told)
        except HanseError:
            return record  # what is no order cannot be announced either
        config[LOG] = log.checkpoint.encode()
        config[PROOFS] = log.proofs(range(1, log.checkpoint.size)).encode()
        return RecordDict({**record, "config": ConfigRecord(config)})

    def relay(self, store: str, stage: str, data: bytes) -> Message:
        """Give one store the bytes of a later stage."""
        record = RecordDict({"config": ConfigRecord({MESSAGE: data})})
        return self._deliver(Message(record, self.faults.node_of(store), STAGES[stage]))

    def _deliver(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = "by-hand"
        reply = self.faults.deliver(message)
        assert reply is not None
        return reply

    def manifest(self):
        return SignedManifest.load(self.folder.path / MANIFEST_FILE).unchecked

    def charged(self, store: str) -> int:
        """Private steps that a store has written down as spent."""
        return sum(steps.count for steps in self.node(store).spent())

    def steps_trained(self, store: str) -> int:
        path = self.node(store).folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return sum("step" in json.loads(line) for line in lines)

    def sign_again(self, authority: AuthorityKey | None = None, **changes) -> AuthorityKey:
        """Let an authority, a new one if unset, sign changed terms and certify the same stores."""
        old = SignedManifest.load(self.folder.path / MANIFEST_FILE).unchecked
        manifest = old.model_validate({**old.model_dump(), **changes})
        authority = authority or AuthorityKey.generate()
        signed = SignedManifest.sign(manifest, authority)
        signed.save(self.folder.path / MANIFEST_FILE)
        (self.folder.path / AUTHORITY_FILE).write_text(authority.public.hex())
        for node in self.nodes():
            enrolment = node.enrolment
            folder = enrolment.folder
            certificate = authority.certify(
                enrolment.certificate.store_id,
                enrolment.key.public,
                valid_from=enrolment.certificate.valid_from,
                valid_until=enrolment.certificate.valid_until,
            )
            certificate.save(folder / "certificate")
            signed.save(folder / "manifest.json")
            policy = (folder / "policy.toml").read_text()
            lines = [line for line in policy.splitlines() if not line.startswith("authority")]
            lines.append(f'authority = "{authority.public.hex()}"')
            (folder / "policy.toml").write_text("\n".join(lines) + "\n")
        return authority


def remember_clipping_check(node: Node, settings: RunSettings) -> None:
    """Write down that a node has checked clipping under these settings."""
    task = task_of(settings.task)
    model = task.load_model(node.settings.base_model)
    task.freeze(model, settings)
    (node.folder / CLIPPING_CHECK_FILE).write_text(
        json.dumps({check_key(node, model, settings): {}})
    )


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a store trains, judges or noises anything from now on."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the store began to work")

    for place in (
        "hanse_client.training.train.train_round",
        "hanse_client.training.evaluate.evaluate_round",
        "hanse_client.rounds.local_update.statistics_sum",
        "hanse_client.rounds.local_update.encode_statistics",
        "hanse_client.rounds.local_update.training_vector",
        "hanse_client.rounds.local_update.evaluation_vector",
    ):
        monkeypatch.setattr(place, fail)


class ByHand:
    """An attempt whose coordinator is a test: it may stop, repeat and alter what it likes."""

    def __init__(
        self,
        federation: SecureFederation,
        kind: str = "train",
        *,
        run: int = 1,
        attempt: int = 1,
        log: RoundLog | None = None,
        **content: Any,
    ) -> None:
        self.federation, self.kind = federation, kind
        order = federation.content(**{**content, RUN: run, ATTEMPT: attempt})
        self.order = record = federation.announced(order, kind, log=log)
        arrays = {name: array.numpy() for name, array in record["arrays"].items()}
        told = Instructions.read(dict(record["config"]), arrays, kind=kind)
        manifest = federation.manifest()
        authority = bytes.fromhex((federation.folder.path / AUTHORITY_FILE).read_text().strip())
        attempt_terms = Attempt(
            header=told.header(manifest.digest()),
            terms=manifest.terms(manifest.schedule.kind(kind, told.round)),
            authority=authority,
            now=int(time.time()),
        )
        self.coordinator = Coordinator(attempt_terms)
        self.messages: dict[str, ProtocolMessage] = {}

    def open(self) -> dict[str, Message]:
        """Stage 0."""
        names = self.federation.names
        return self._take({n: self.federation.give(n, self.order, self.kind) for n in names})

    def next(self, stage: str) -> dict[str, Message]:
        """Close the stage before, run the next one with all stores."""
        self.messages = self.coordinator.advance()
        replies = {
            name: self.federation.relay(name, stage, message.encode())
            for name, message in self.messages.items()
        }
        return self._take(replies)

    def upto(self, stage: str) -> ByHand:
        """Run all stages up to and with this one."""
        for name in STAGES:
            if name == "hello":
                self.open()
            else:
                self.next(name)
            if name == stage:
                return self
        raise ValueError(stage)

    def _take(self, replies: dict[str, Message]) -> dict[str, Message]:
        for reply in replies.values():
            self.coordinator.receive(said(reply))
        return replies


def said(reply: Message) -> ProtocolMessage:
    """The protocol's message in a reply."""
    assert not reply.has_error(), reply.error.reason
    return decode(reply.content["config"][MESSAGE])
