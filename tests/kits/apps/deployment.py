"""A coordinator made of Flower's own SuperLink, and store folders that join it by command."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from hanse_client.deployment.folder import StoreFolder, create
from hanse_common.admission import Invitation, Request
from hanse_common.flower import environment
from hanse_common.identity import AuthorityKey, CoordinatorKey
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_terms import manifest_for
from hanse_common.paths import (
    AUTHORITY_FILE,
    COORDINATOR_KEY_FILE,
    INITIAL_FILE,
    MANIFEST_FILE,
    SETTINGS_FILE,
)
from hanse_server.checkpoint import write_arrays
from kits.deployment import wait_for

APP = """\
[project]
name = "test-app"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<2"]

[tool.flwr.app]
publisher = "hanse"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "hanse_server.app:app"
clientapp = "hanse_client.app:app"

[tool.flwr.app.config]
run-dir = ""
federation = ""
stores = 0
timeout = 0.0
stage-timeout = 0.0
"""
PATIENCE = 240.0
_STORE = """\
from hanse_client.deployment.cli import app
from hanse_common import cli
cli.app = app
cli.main()
"""
"""`hanse store`, also where the command was not installed anew since it is there."""


def bundle(files: Mapping[str, str] | None = None) -> bytes:
    """An app bundle in Flower's format: the thin one, and what else it is to bring."""
    members = {"pyproject.toml": APP, "LICENSE": "Apache-2.0\n", **(files or {})}
    lines = [
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text.encode())}"
        for name, text in members.items()
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**members, ".info/CONTENT": "\n".join(lines)}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def make_tls(folder: Path) -> None:
    """A root and a server certificate for this machine: ca.crt, server.crt, server.key."""
    now = datetime.now(UTC)

    def build(subject: str, issuer: str, key, signer, *, root: bool):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if root:
            usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)

    folder.mkdir()
    root, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / "ca.crt").write_bytes(build("root", "root", root, root, root=True))
    (folder / "server.crt").write_bytes(build("server", "root", server, root, root=False))
    (folder / "server.key").write_bytes(
        server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Coordinator:
    """A SuperLink with TLS and node authentication, and an enrolment authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = AuthorityKey.generate()
        folder.mkdir()
        make_tls(folder / "tls")
        self.log = (folder / "superlink.log").open("ab")
        self.process = self._start()
        self.control = ControlHttpClient.from_server_address(
            self.address,
            insecure=False,
            root_certificates=(folder / "tls" / "ca.crt").read_bytes(),
            interceptors=(),
        )
        self.wait_until_up()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        tls = self.folder / "tls"
        command = [
            *(sys.executable, "-c", "from flwr.superlink.cli import flower_superlink as f; f()"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-certfile", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
            *("--ssl-ca-certfile", str(tls / "ca.crt"), "--enable-supernode-auth"),
            *("--database", str(self.folder / "state.db")),
            "--disable-runtime-dependency-installation",
        ]
        return subprocess.Popen(
            command,
            stdout=self.log,
            stderr=self.log,
            env=environment(self.folder / "flower") | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def wait_until_up(self) -> None:
        def answers() -> bool:
            try:
                self.control.ListNodes(ListNodesRequest())
            except Exception:
                return False
            return True

        wait_for(answers, "the SuperLink", PATIENCE)

    def invitation(self, *, root: bytes | None = None) -> Invitation:
        ca = root or (self.folder / "tls" / "ca.crt").read_bytes()
        return Invitation(
            federation="test",
            authority=self.authority.public.hex(),
            fleet=self.address,
            ca=ca.decode(),
        )

    def admit(self, request: Path, *, days: float = 30.0, register: bool = True) -> Path:
        """Check a request, certify its keys, and tell the SuperLink of the node's."""
        asked = Request.load(request)
        asked.check(now=int(time.time()))
        now = int(time.time())
        certificate = self.authority.certify(
            asked.store_id,
            asked.public_key,
            node_key=asked.node_digest,
            valid_from=now - 3600,
            valid_until=now + int(days * 86_400),
        )
        path = self.folder / "certificates" / asked.store_id
        path.parent.mkdir(exist_ok=True)
        certificate.save(path)
        if register:
            self.control.RegisterNode(
                RegisterNodeRequest(public_key=asked.node_key.encode(), name=asked.store_id)
            )
        return path

    def revoke(self, store: str) -> None:
        nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
        node = next(found.node_id for found in nodes if found.name == store)
        self.control.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def online(self) -> set[str]:
        nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
        return {node.name for node in nodes if node.status == "online"}

    def found_run(self, name: str, settings: Any, arrays: Any, stores: list[str], **terms) -> Path:
        """A run's folder, with a manifest of these stores."""
        folder = self.folder / name
        folder.mkdir()
        key = CoordinatorKey.generate()
        key.save(self.folder / COORDINATOR_KEY_FILE)
        draft = manifest_for(settings, arrays, stores, federation="test", log_key=key.public)
        digest = hashlib.sha256(bundle()).hexdigest()
        manifest = Manifest.model_validate({**draft.model_dump(), "fab_digest": digest, **terms})
        SignedManifest.sign(manifest, self.authority).save(folder / MANIFEST_FILE)
        (folder / SETTINGS_FILE).write_text(settings.model_dump_json())
        (folder / AUTHORITY_FILE).write_text(self.authority.public.hex())
        write_arrays(folder / INITIAL_FILE, arrays)
        return folder

    def start_run(self, run: Path, *, fab: bytes | None = None, **config: Any) -> int:
        content = bundle() if fab is None else fab
        found = Fab(hashlib.sha256(content).hexdigest(), content, {})
        table = {"run-dir": str(run), "federation": str(self.folder), **config}
        request = StartRunRequest(
            fab=fab_to_proto(found), override_config=user_config_to_proto(table)
        )
        return self.control.StartRun(request).run_id

    def status(self, run_id: int) -> Any:
        return self.control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id].status

    def wait_for_run(self, run_id: int) -> Any:
        wait_for(lambda: self.status(run_id).status == "finished", f"run {run_id}", PATIENCE)
        return self.status(run_id)

    def logged(self) -> str:
        return (self.folder / "superlink.log").read_text(errors="replace")

    def stop(self) -> None:
        self.control.close()
        end(self.process)
        self.log.close()


class Joined:
    """A `hanse store join` process."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        program: Sequence[str] = ("-c", _STORE),
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._log = (folder / "join.log").open("ab")
        command = [
            *(*prefix, sys.executable, *program, "join", "--folder", str(folder), *arguments),
        ]
        self.process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
        )

    def said(self) -> str:
        return (self.folder / "join.log").read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        def there() -> bool:
            if words in self.said():
                return True
            assert self.process.poll() is None, self.said()
            return False

        wait_for(there, f"{words!r} in\n{self.said()}", PATIENCE)

    def wait_for_end(self) -> int:
        self.process.wait(PATIENCE)
        return self.process.returncode

    def kill(self) -> None:
        """End the node and whatever it started at once, as a loss of power does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        end(self.process)
        self._log.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and whatever it started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        for _ in range(100):  # until the last of them has let go of its files
            os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.1)


def lay_out_store(folder: Path, name: str, data: Path) -> StoreFolder:
    """A store's folder as `init` makes it, with somebody's data filled in."""
    store = StoreFolder(folder)
    create(store, name)
    fill_in(store, name, data)
    policy = store.policy.read_text().replace("minimum_cohort = 5", "minimum_cohort = 3")
    store.policy.write_text(policy)
    return store


def fill_in(store: StoreFolder, name: str, data: Path) -> None:
    """Say in a store's store.toml where somebody's data are."""
    text = (data / "store.toml").read_text()
    lines = [f'name = "{name}"', *(x for x in text.splitlines() if not x.startswith("name"))]
    found = "\n".join(lines).replace('"events.parquet"', json.dumps(str(data / "events.parquet")))
    catalogue = json.dumps(str(data.parent / "catalogue.parquet"))
    home = json.dumps(str(data / "home.key"))
    found = found.replace('"../catalogue.parquet"', catalogue).replace('"home.key"', home)
    store.store_toml.write_text(found + "\n")
