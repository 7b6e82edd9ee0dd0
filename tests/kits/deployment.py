"""A coordinator's folder and stores' requests, made by the commands that operators use.

Processes are real: `python -m hanse_server`, and Flower's SuperLink behind it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hanse_common.admission import Request, public_pem
from hanse_common.identity import StoreKey
from hanse_common.paths import STORE_KEY_FILE

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
        self.key.save(folder / "enrolment" / STORE_KEY_FILE)
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


def as_toml(table: Mapping[str, Any]) -> str:
    """Settings as TOML."""
    return tomli_w.dumps(table)


def wait_for(claim: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait until something holds; fail with what it was."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.3)
