"""A store's folder: its files, and their creation by `hanse store init`.

    <folder>/node.json          the node's name and the paths of its parts
    <folder>/store.toml         where the store's data are
    <folder>/customer.key       the pseudonym key (0600)
    <folder>/node.key           EC key by which Flower authenticates the node (0600)
    <folder>/node.pub           its public key
    <folder>/enrolment/         store.key (0600), policy.toml; later certificate, manifest.json
    <folder>/invitation.json    the federation's address and authority
    <folder>/settings.json      the run's settings, as the manifest names them
    <folder>/model/             the initial model
    <folder>/histories.npz      the store's prepared data, of whichever task, with prepared.json

The files that a node writes while it takes part are in `hanse_client.node`. Private keys are
generated here and never leave the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from hanse_client.deployment.templates import policy_toml, store_toml
from hanse_client.enrolment import Enrolment
from hanse_client.node import Node, NodeSettings
from hanse_common.admission import Invitation
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import DataError, KeyFileError, StoreNotReady
from hanse_common.identity import KEY_FAULTS, StoreKey, check_store_id, read_private, save_private
from hanse_common.paths import (
    CERTIFICATE_FILE,
    CUSTOMER_KEY_FILE,
    ENROLMENT_FOLDER,
    HISTORIES_FILE,
    INVITATION_FILE,
    MANIFEST_FILE,
    MODEL_FOLDER,
    NODE_FILE,
    NODE_KEY_FILE,
    NODE_PUBLIC_FILE,
    POLICY_FILE,
    SETTINGS_FILE,
    STORE_FILE,
    STORE_KEY_FILE,
)
from hanse_common.settings_files import read_json


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """Paths of one store's files."""

    path: Path

    @property
    def store_toml(self) -> Path:
        """The description of the store's data."""
        return self.path / STORE_FILE

    @property
    def enrolment(self) -> Path:
        """The folder of key, certificate, policy and manifest."""
        return self.path / ENROLMENT_FOLDER

    @property
    def store_key(self) -> Path:
        """The store's signing key."""
        return self.enrolment / STORE_KEY_FILE

    @property
    def certificate(self) -> Path:
        """The authority's certificate of the store's key."""
        return self.enrolment / CERTIFICATE_FILE

    @property
    def policy(self) -> Path:
        """The store's own limits."""
        return self.enrolment / POLICY_FILE

    @property
    def manifest(self) -> Path:
        """The federation's signed terms."""
        return self.enrolment / MANIFEST_FILE

    @property
    def node_key(self) -> Path:
        """The key by which Flower authenticates the node."""
        return self.path / NODE_KEY_FILE

    @property
    def node_public(self) -> Path:
        """The node key's public key."""
        return self.path / NODE_PUBLIC_FILE

    @property
    def model(self) -> Path:
        """The folder of the initial model."""
        return self.path / MODEL_FOLDER

    @property
    def histories(self) -> Path:
        """The store's prepared data, of whichever task."""
        return self.path / HISTORIES_FILE

    def node(self) -> Node:
        """Open the node.

        Raises:
            StoreNotReady: The folder contains no node.
        """
        if not (self.path / NODE_FILE).exists():
            raise StoreNotReady(
                f"{self.path} is no store's folder",
                hint="`hanse store init NAME --folder DIR` makes one",
            )
        return Node(self.path)

    def invitation(self) -> Invitation:
        """Read the invitation.

        Raises:
            StoreNotReady: There is none yet.
            ProtocolError [bad-invitation]: It is damaged.
        """
        path = self.path / INVITATION_FILE
        if not path.exists():
            raise StoreNotReady(
                "this store has no invitation",
                hint="`hanse store enrol --invitation FILE`, with the coordinator's file",
            )
        return Invitation.load(path)

    def settings(self) -> RunSettings:
        """Read the run's settings.

        Raises:
            StoreNotReady: There are none yet.
            ConfigError: They are damaged.
        """
        path = self.path / SETTINGS_FILE
        if not path.exists():
            raise StoreNotReady(
                "this store has no settings of the run",
                hint="`hanse store enrol --settings FILE`, with the coordinator's settings.json",
            )
        return RunSettings.parse(read_json(path))

    def membership(self) -> Enrolment:
        """The store's membership in a federation.

        Raises:
            StoreNotReady: Certificate or manifest are missing; says which.
        """
        for path, name in ((self.certificate, "certificate"), (self.manifest, "manifest")):
            if not path.exists():
                raise StoreNotReady(
                    f"this store has no {name} yet",
                    hint=f"`hanse store enrol --{name} FILE`, with what came back for the request",
                )
        return Enrolment(self.enrolment)


def create(folder: StoreFolder, name: str) -> None:
    """Create a store's folder: keys, and templates to fill in.

    Args:
        folder: The folder, which is created if it does not exist.
        name: The store's id: 1 to 64 of `a-z 0-9 . _ -`.

    Raises:
        MalformedMessage: The name is not an id.
        KeyFileError: One of the files exists already; nothing is overwritten.
        DataError: The folder cannot be written.
    """
    from hanse_client.ingest.pseudonyms import load_or_make_key  # imported on use: polars

    check_store_id(name)
    places = (
        folder.path / NODE_FILE,
        *(folder.store_toml, folder.store_key, folder.policy),
        *(folder.node_key, folder.node_public),
    )
    for path in places:
        if path.exists():
            raise KeyFileError(
                f"{path} exists already",
                hint="a store is created once; for new keys use `hanse store keys rotate`",
            )
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.enrolment.mkdir(mode=0o700, exist_ok=True)
        write_durably(folder.store_toml, store_toml(name))
        write_durably(folder.policy, policy_toml())
        load_or_make_key(folder.path / CUSTOMER_KEY_FILE)
        StoreKey.generate().save(folder.store_key)
        make_node_key(folder.node_key, folder.node_public)
        settings = NodeSettings(
            name=name,
            histories=Path(HISTORIES_FILE),
            base_model=Path(MODEL_FOLDER),
            enrolment=Path(ENROLMENT_FOLDER),
        )
        # Last, so that a folder with node.json is complete even after a crash.
        write_durably(folder.path / NODE_FILE, settings.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise DataError(
            f"cannot create {folder.path}: {error.strerror}",
            hint="name a folder that this user can write",
        ) from error


def make_node_key(private: Path, public: Path) -> None:
    """Generate the key pair by which Flower authenticates a node, in its tools' formats.

    Raises:
        KeyFileError: The private key exists already, or cannot be written.
    """
    # The curve and the OpenSSH format that Flower's SuperNode authentication uses.
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    save_private(private, text.decode("ascii"))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_durably(public, line + b"\n")


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key by which Flower authenticates the node.

    Raises:
        KeyFileError: The file is missing, readable by others, or not such a key.
    """
    text = read_private(path)
    try:
        key = load_ssh_private_key(text.encode("ascii"), None)
    except KEY_FAULTS:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(
            f"{path} is not an EC private key in OpenSSH's format",
            hint="restore it from its backup, or `hanse store keys rotate --node-key`",
        )
    return key
