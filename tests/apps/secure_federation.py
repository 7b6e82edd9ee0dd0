"""A federation of real, enrolled stores behind a Grid that can lose and alter messages.

The stores are the production ClientApp on small synthetic data; each message finds them
"restarted", with nothing in memory. Every reply is kept as the bytes that Flower would send.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.common.serde import recorddict_to_proto

from apps.local_grid import LocalGrid
from hanse_client import app as client_app
from hanse_client.node import Node, list_nodes
from hanse_client.secure import Waiting
from hanse_client.train import trained_arrays
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import SignedManifest
from hanse_common.model import InterestModel
from hanse_server.app import AUTHORITY, MANIFEST, secure_grid
from hanse_server.checkpoint import replace_arrays
from hanse_server.grid import SecureGrid
from hanse_server.rounds import INITIAL
from hanse_server.stores import StoreGrid
from hanse_simulations.arm_folder import ArmFolder
from hanse_simulations.enrol import enrol_stores
from hanse_simulations.prepare import make_nodes

Hook = Callable[[str, Message], Message | None]


class FaultGrid(LocalGrid):
    """Calls the stores when messages are pushed; hooks may drop or replace what they carry.

    `to_store(store, message)` and `to_server(store, reply)` return what is delivered instead,
    or None to lose it.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(len(names), "hanse_client.app:app")
        self.names = names
        self.to_store: Hook = lambda _, message: message
        self.to_server: Hook = lambda _, message: message
        self.sent_by_stores: list[tuple[str, str, bytes, str]] = []
        self._replies: dict[str, Message] = {}
        self._count = 0

    def name(self, node: int) -> str:
        return self.names[self.contexts[node].node_config["partition-id"]]

    def push_messages(self, messages):
        identifiers = []
        for message in messages:
            self._count += 1
            identifier = f"m{self._count}"
            message.metadata.__dict__["_message_id"] = identifier
            identifiers.append(identifier)
            reply = self._deliver(message)
            if reply is not None:
                self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids):
        wanted = [identifier for identifier in message_ids if identifier in self._replies]
        return [self._replies.pop(identifier) for identifier in wanted]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        store, kind = self.name(node), message.metadata.message_type
        altered = self.to_store(store, message)
        if altered is None:
            return None
        client_app._node.cache_clear()
        reply = self.client(altered, self.contexts[node])
        content = b"" if reply.has_error() else recorddict_to_proto(reply.content)
        data = content if isinstance(content, bytes) else content.SerializeToString()
        reason = reply.error.reason if reply.has_error() else ""
        self.sent_by_stores.append((store, kind, data, reason))
        return self.to_server(store, reply)


class SecureFederation:
    """Stores, coordinator's folder and grid, ready for a round."""

    def __init__(self, folder: Path, settings, prepared) -> None:
        self.settings = settings
        self.folder = ArmFolder(folder)
        make_nodes(prepared, self.folder, settings, salt="test")
        model = InterestModel.from_pretrained(prepared.base_model)
        model.train_only(settings.model.trainable)
        self.arrays = trained_arrays(model)
        replace_arrays(folder / INITIAL, self.arrays)
        enrol_stores(self.folder, settings, self.arrays)
        os.environ["HANSE_FEDERATION"] = str(self.folder.stores_dir)
        self.names = [node.name for node in self.nodes()]
        self.faults = FaultGrid(self.names)
        self.vectors: dict[str, np.ndarray] = {}

    def nodes(self) -> list[Node]:
        return [Node(path) for path in list_nodes(self.folder.stores_dir)]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes() if node.name == name)

    def grid(self, *, stage_seconds: float = 0.05) -> SecureGrid:
        stores = StoreGrid(self.faults, expected_stores=len(self.names))
        return secure_grid(stores, self.folder.path, stage_seconds=stage_seconds)

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

    def sign_again(self, **changes) -> None:
        """Let a new authority sign changed terms and certify the same stores."""
        old = SignedManifest.load(self.folder.path / MANIFEST).unchecked
        manifest = old.model_validate({**old.model_dump(), **changes})
        authority = AuthorityKey.generate()
        signed = SignedManifest.sign(manifest, authority)
        signed.save(self.folder.path / MANIFEST)
        (self.folder.path / AUTHORITY).write_text(authority.public.hex())
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
