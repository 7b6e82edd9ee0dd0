"""The real TLS gateway in threads of this process, before a server that records what arrives."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from hanse_server.deployment.connections import Connections, Limits
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.node_signature import AdmittedNodes
from hanse_server.deployment.node_versions import NodeVersions
from hanse_server.deployment.tls_gateway import gate
from kits.deployment import StoreFiles, wait_for

LARGEST = 2**20
"""Bytes of the largest request that the gateway passes on."""


class Behind:
    """What stands in for the SuperLink: writes down every request's body, or waits with it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.chunks = 0
        self.go_on = threading.Event()
        self.go_on.set()

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            self.chunks += 1
            if not message["more_body"]:
                break
        self.bodies.append(body)
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"taken"})


class Serving:
    """A server in a thread of its own."""

    def __init__(self, make) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server: uvicorn.Server | None = None
        self._make = make
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        wait_for(lambda: self.server is not None and self.server.started, "the server")

    async def _run(self) -> None:
        self.server = self._make()
        await self.server.serve([self.socket])

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(timeout=30)


class Gate:
    """The gate with its limits, and a way to talk to it byte by byte."""

    def __init__(self, folder: FederationFolder, store: StoreFiles, limits: Limits) -> None:
        self.folder, self.store, self.behind = folder, store, Behind()
        tls = folder.tls
        config = uvicorn.Config(
            self.behind,
            ssl_certfile=str(tls / "loopback.crt"),
            ssl_keyfile=str(tls / "loopback.key"),
            log_level="error",
            lifespan="off",
        )
        self.upstream = Serving(lambda: uvicorn.Server(config))
        self.serving = Serving(
            lambda: gate(
                f"https://127.0.0.1:{self.upstream.port}",
                tls / "loopback-ca.crt",
                certificate=tls / "server.crt",
                key=tls / "server.key",
                nodes=AdmittedNodes(folder),
                versions=NodeVersions(folder.state),
                largest_request=LARGEST,
                limits=limits,
            )
        )
        self.trust = ssl.create_default_context(cafile=str(tls / "ca.crt"))

    @property
    def connections(self) -> Connections:
        return self.serving.server._connections

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.serving.port), timeout=20)

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(self.plain(), server_hostname="127.0.0.1")

    def signed(self, key_file: Path | None = None, *, age: float = 0.0) -> dict[str, str]:
        """Headers as Flower's node makes them."""
        private = load_ssh_private_key((key_file or self.store.node_key).read_bytes(), None)
        stamp = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        signature = private.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": b64encode(public_key_to_bytes(private.public_key())).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": b64encode(signature).decode(),
        }

    def stop(self) -> None:
        self.behind.go_on.set()
        self.serving.stop()
        self.upstream.stop()
