"""A coordinator's folder and five small stores, made by the commands that operators use.

Processes are real: `python -m hanse_server`, Flower's SuperLink behind it, and, where a test
says so, Flower's own SuperNode for each store.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hanse_client.enrolment import CERTIFICATE, KEY, MANIFEST, POLICY
from hanse_common.admission import Request, public_pem
from hanse_common.identity import StoreKey

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "OMP_NUM_THREADS": "1",
}
PROGRAMS = Path(sys.executable).parent


class Done:
    """A command that has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def server(folder: Path, *arguments: object, timeout: float = 240) -> Done:
    """Run `hanse server …` on a folder, as a process."""
    words = [str(word) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "hanse_server", *words, "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(done: Done) -> Done:
    assert done.status == 0, done.err + done.out
    return done


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()


def found(folder: Path, *more: object) -> Done:
    """Found a federation on loopback ports that are free now."""
    fleet, superlink = free_ports(2)
    return succeed(
        server(
            folder,
            "init",
            *("--name", "baltic"),
            *("--address", f"127.0.0.1:{fleet}"),
            *("--bind", "127.0.0.1"),
            *("--superlink-port", superlink),
            *more,
        )
    )


class StoreFiles:
    """A store's keys and request, as `hanse store init` and `enrol` make them."""

    def __init__(self, folder: Path, store_id: str, *, created: int | None = None) -> None:
        self.folder, self.store_id = folder, store_id
        (folder / "enrolment").mkdir(parents=True, exist_ok=True)
        self.key = StoreKey.generate()
        self.key.save(folder / "enrolment" / KEY)
        node = ec.generate_private_key(ec.SECP384R1())
        self.node_pem = public_pem(node.public_key())
        self.node_key = folder / "node.key"
        self.node_key.write_bytes(
            node.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
        now = int(time.time()) if created is None else created
        self.wish = Request.make(store_id, self.key, node_key=self.node_pem, created=now)
        self.request = folder / self.wish.file_name
        self.wish.save(self.request)

    def take(self, federation: Path) -> None:
        """Import the certificate and the manifest, under a policy that allows its terms."""
        enrolment = self.folder / "enrolment"
        certificate = federation / "certificates" / self.store_id
        (enrolment / CERTIFICATE).write_bytes(certificate.read_bytes())
        (enrolment / MANIFEST).write_bytes((federation / "manifest.json").read_bytes())
        authority = (federation / "authority").read_text().strip()
        (enrolment / POLICY).write_text(f'authority = "{authority}"\nminimum_cohort = 3\n')


class Deployment:
    """A federation's folder with admitted stores, and the processes that a test starts."""

    def __init__(self, root: Path, settings: Any, prepared: Any) -> None:
        self.root, self.folder = root, root / "federation"
        self.settings, self.prepared = settings, prepared
        self.processes: list[subprocess.Popen[bytes]] = []
        found(self.folder)
        self._write_settings(settings)
        self._write_model(prepared, settings)
        self.stores = [self._store(i) for i in range(len(prepared.names))]
        for store in self.stores:
            succeed(server(self.folder, "admit", store.request, "--yes"))
        succeed(server(self.folder, "manifest", "sign"))
        for store in self.stores:
            store.take(self.folder)

    @property
    def address(self) -> str:
        return json.loads((self.folder / "invitation.json").read_text())["fleet"]

    def status(self) -> Any:
        return succeed(server(self.folder, "status", "--format", "json")).json

    def row(self, store_id: str) -> Any:
        return next(row for row in self.status()["stores"] if row["store"] == store_id)

    def join(self, store: StoreFiles, **environment: str) -> subprocess.Popen[bytes]:
        """Start a store's SuperNode, as Flower ships it."""
        log = (store.folder / "node.log").open("ab")
        process = subprocess.Popen(
            [
                str(PROGRAMS / "flower-supernode"),
                *("--superlink", self.address),
                *("--root-certificates", str(self.folder / "tls" / "ca.crt")),
                *("--auth-supernode-private-key", str(store.node_key)),
                *("--node-config", f'node="{store.folder}"'),
                *("--host", "127.0.0.1"),
                *("--port", str(free_ports(1)[0])),
                *("--max-retries", "20"),
            ],
            env=os.environ | QUIET | {"FLWR_HOME": str(store.folder / "flower")} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.processes.append(process)
        return process

    def close(self) -> None:
        server(self.folder, "down")
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write_settings(self, settings: Any) -> None:
        table = settings.model_dump(mode="json", exclude_none=True)
        (self.folder / "settings.toml").write_text(as_toml(table))

    def _write_model(self, prepared: Any, settings: Any) -> None:
        from hanse_client.train import trained_arrays
        from hanse_common.model import InterestModel
        from hanse_server.checkpoint import replace_arrays
        from hanse_server.rounds import INITIAL

        model = InterestModel.from_pretrained(prepared.base_model)
        model.train_only(settings.model.trainable)
        (self.folder / "model").mkdir()
        replace_arrays(self.folder / "model" / INITIAL, trained_arrays(model))

    def _store(self, index: int) -> StoreFiles:
        store_id = f"store-{index + 1}"
        folder = self.root / "stores" / store_id
        store = StoreFiles(folder, store_id)
        node = {
            "name": store_id,
            "histories": str(self.prepared.histories[index].absolute()),
            "base_model": str(self.prepared.base_model.absolute()),
            "enrolment": str(folder / "enrolment"),
        }
        (folder / "node.json").write_text(json.dumps(node))
        # As after a first round; the check on clipping is half of a small round's time.
        (folder / "clipping-check.json").write_text("{}")
        return store


def as_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Plain settings as TOML; JSON's scalars and lists are TOML's."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{key}]", as_toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


def wait_for(claim: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait until something holds; fail with what it was."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.3)
