"""What strangers cost a coordinator's memory, and that a store's uploads still pass.

`hanse server up` is the real process, with Flower's SuperLink behind it. Its resident memory is
printed (`pytest -s`); what is held against a bound is generous, since allocators differ.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from hanse_server.deployment.connections import Limits
from hanse_server.deployment.folder import FederationFolder
from kits.deployment import StoreFiles, found, server, succeed

pytestmark = pytest.mark.slow

MIB = 2**20
BODY = 15 * MIB
PIECE, PIECES = 5 * MIB, 8
"""Flower's; ten million parameters of 4 bytes are eight pieces."""
PER_CONNECTION = 2 * MIB
"""Twice what a waiting connection may hold at most; 15 MiB were held before."""
SLACK = 40 * MIB


class Up:
    """A federation that is up, with one admitted store."""

    def __init__(self, root: Path) -> None:
        found(root / "federation")
        self.store = StoreFiles(root / "luebeck", "luebeck")
        succeed(server(root / "federation", "admit", self.store.request, "--yes"))
        self.pid = int(succeed(server(root / "federation", "up", "--detach")).out)
        self.folder = FederationFolder(root / "federation")
        self.ca = self.folder.tls / "ca.crt"
        self._trust = ssl.create_default_context(cafile=str(self.ca))

    def resident(self) -> int:
        """Bytes of the gate's process, without the SuperLink's."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        return int(line.split()[1]) * 1024

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.folder.file.fleet.port), timeout=20)
        return self._trust.wrap_socket(plain, server_hostname="127.0.0.1")

    def client(self) -> FleetHttpClient:
        key = load_ssh_private_key(self.store.node_key.read_bytes(), None)
        return FleetHttpClient.from_server_address(
            self.folder.file.fleet.address,
            insecure=False,
            root_certificates=self.ca.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )


@pytest.fixture(scope="module")
def up(tmp_path_factory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("gate-memory"))
    yield made
    succeed(server(made.folder.path, "down"))


def flood(up: Up, held: ExitStack, *, with_a_body: bool) -> None:
    """One connection without a key: 15 of 16 MiB of a body, or half of a request's headers."""
    with suppress(OSError):
        connection = held.enter_context(up.connect())
        if not with_a_body:
            connection.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nX: " + b"y" * 8000)
            return
        length = 16 * MIB
        connection.sendall(
            b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
        )
        for _ in range(BODY // MIB):
            connection.sendall(bytes(MIB))


@pytest.mark.parametrize("with_a_body", [True, False], ids=["bodies", "headers"])
@pytest.mark.parametrize("count", [30, 300])
def test_connections_without_a_key_cost_no_memory_to_speak_of(up, count, with_a_body):
    before = up.resident()
    with ExitStack() as held:
        for _ in range(count):
            flood(up, held, with_a_body=with_a_body)
        during = up.resident()
    what = "bodies" if with_a_body else "headers"
    print(f"\n{count} {what}: {before / MIB:.0f} -> {during / MIB:.0f} MiB")
    most = min(count, Limits().waiting_per_address)
    assert during - before < most * PER_CONNECTION + SLACK


def test_ten_million_parameters_of_an_admitted_store_pass(up):
    """All of it reaches the SuperLink, which answers that it knows no such run."""
    before = up.resident()
    piece = PushObjectRequest(
        node=Node(node_id=1), object_id="0" * 64, object_content=bytes(PIECE), run_id=1
    )

    def push(client: FleetHttpClient) -> int:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.PushObject(piece)
        assert "admitted node" not in refused.value.response.text, "refused by the gate"
        return refused.value.response.status_code

    with up.client() as client, ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(push, [client] * PIECES))
    print(f"\n{PIECES} pieces: {before / MIB:.0f} -> {up.resident() / MIB:.0f} MiB, {statuses}")
    assert statuses == {401}, "of a node that the SuperLink knows under another id"
    with up.client() as client, pytest.raises(httpx.HTTPStatusError) as large:
        client.PushObject(
            PushObjectRequest(node=Node(node_id=1), object_content=bytes(17 * MIB), run_id=1)
        )
    assert large.value.response.status_code == 413
