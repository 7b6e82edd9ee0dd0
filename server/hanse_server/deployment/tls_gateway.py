"""The gate before the SuperLink: TLS for stores, and nothing but Flower's fleet calls.

A SuperLink serves three APIs on one port, and the two that stores have no business with ask
for no credential: whoever reaches them starts and stops runs. It also reads every body whole
before it asks who sent it. This is a small reverse proxy that knows the ten calls of a
store's node, and passes those on whose headers an admitted node has signed:

    store's node --TLS--> front (0.0.0.0:9443) --TLS, loopback--> SuperLink (127.0.0.1:9444)

Calls are compared whole, never by prefix, and the address that is called behind is written
here, not taken from the request: no spelling of a path leads anywhere else.

| refusal | why |
|---|---|
| 404 | not one of the ten calls |
| 411 | a body without its length |
| 413 | a body beyond what its call may have |
| 431 | headers beyond 16 KiB |
| 401 | not signed by an admitted store's node |
| 503 | too many connections, or the SuperLink does not answer; nodes try again |
| 429 | too many requests of one node at once; nodes try again |
| 408 | headers or body took too long; nodes try again |

Guarantees:
    Of a request that is not signed by an admitted node, no byte of the body is read, and
    none of it reaches the SuperLink. Of one that is, no more than the buffers of one
    connection is held: the body is passed on as it comes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hanse_server.deployment.connections import CONNECTION, Connections, GateServer, Limits
from hanse_server.deployment.node_signature import AdmittedNodes

_SMALL = 64 * 1024
_SEVERAL = 2**20
CALLS = {
    "/v1/fleet/activate-node": _SMALL,
    "/v1/fleet/deactivate-node": _SMALL,
    "/v1/fleet/send-node-heartbeat": _SMALL,
    "/v1/fleet/pull-messages": _SMALL,
    # The names of all pieces of a reply, 140 bytes each: enough for 7,000.
    "/v1/fleet/push-messages": _SEVERAL,
    "/v1/fleet/get-run": _SMALL,
    "/v1/fleet/get-fab": _SMALL,
    "/v1/fleet/push-object": None,
    "/v1/fleet/pull-object": _SMALL,
    "/v1/fleet/confirm-message-received": _SMALL,
}
"""What a node calls, and most bytes of its body; None is `fleet.largest_request`.

Registering is the coordinator's: `register-node` is not among them."""

_FOR_ONE_HOP = frozenset(
    (
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "host", "content-length", "expect"),
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    )
)
"""Headers that are not passed on."""

BEHIND = 512
"""Most connections to the SuperLink, each with one request; others wait for their turn."""
_SECONDS = httpx.Timeout(60.0, connect=5.0)
_REFUSALS_APART = 300.0
_ADDRESSES = 1024
"""Seconds between two lines on refused nodes of one address; addresses that are remembered."""

_log = logging.getLogger(__name__)


def gate(
    superlink: str,
    root: Path,
    *,
    certificate: Path,
    key: Path,
    nodes: AdmittedNodes,
    largest_request: int,
    limits: Limits,
) -> GateServer:
    """Make the gate; its `serve` takes the sockets that it listens on.

    Args:
        superlink: `https://127.0.0.1:PORT`.
        root: PEM of the root that the SuperLink's certificate is checked by.
        certificate: PEM that stores check the gate by.
        key: Its private key, PEM.
        nodes: Whose requests are passed on.
        largest_request: Most bytes of one request's body.
        limits: How many connections, and how long each part may take.
    """
    connections = Connections(limits)
    front = Front(
        superlink,
        root,
        nodes=nodes,
        connections=connections,
        limits=limits,
        largest_request=largest_request,
    )
    config = uvicorn.Config(
        front,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        # Warnings are of requests that strangers make: no line of the log is theirs to write.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=math.ceil(limits.idle_seconds),
        timeout_graceful_shutdown=2,
    )
    config.load()
    return GateServer(config, connections=connections, limits=limits, close=front.close)


class Front:
    """An ASGI application that passes stores' calls on to the SuperLink.

    Args:
        superlink: `https://127.0.0.1:PORT`.
        root: PEM of the root that the SuperLink's certificate is checked by.
        nodes: Whose requests are passed on.
        connections: Of the server that this application answers for.
        limits: How long a body may take, and how large headers may be.
        largest_request: Most bytes of one request's body.
    """

    def __init__(
        self,
        superlink: str,
        root: Path,
        *,
        nodes: AdmittedNodes,
        connections: Connections,
        limits: Limits,
        largest_request: int,
    ) -> None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(root)
        self._nodes = nodes
        self._connections = connections
        self._limits = limits
        self._largest = largest_request
        self._refused: dict[str, float] = {}
        self._client = httpx.AsyncClient(
            base_url=superlink,
            verify=trust,
            timeout=_SECONDS,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=BEHIND, max_keepalive_connections=64),
        )

    async def close(self) -> None:
        """End the connections to the SuperLink."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            await self._answer(request, send)
        except ClientDisconnect:
            return
        except _Refused as refused:
            # Closed, so that what was sent and not read is dropped with the connection.
            answer = PlainTextResponse(
                f"{refused}\n", refused.status, headers={"connection": "close"}
            )
            await answer(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> None:
        path = request.scope["path"]
        if path not in CALLS or request.method != "POST" or request.url.query:
            raise _Refused(404, "not found")
        size = self._size(request, CALLS[path])
        key = await self._nodes.signer(request.headers)
        if key is None:
            self._say_refused(request)
            raise _Refused(401, "not signed by an admitted node")
        if not self._connections.recognise(request.scope["state"][CONNECTION]):
            raise _Refused(503, "too many connections")
        with self._connections.request(key) as allowed:
            if not allowed:
                raise _Refused(429, "too many requests at once")
            response = await self._passed_on(request, path, size)
            await response(request.scope, request.receive, send)

    def _size(self, request: Request, most: int | None) -> int:
        """The length of a body, which is refused if it is not said or too much."""
        headers = request.headers
        if sum(len(name) + len(value) for name, value in headers.raw) > self._limits.header_bytes:
            raise _Refused(431, "headers too large")
        if "transfer-encoding" in headers:
            raise _Refused(411, "length required")
        size = int(headers.get("content-length", "0"))  # the parser lets twenty digits pass
        if size > (self._largest if most is None else most):
            raise _Refused(413, "request too large")
        return size

    async def _passed_on(self, request: Request, path: str, size: int) -> Response:
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in _FOR_ONE_HOP
        ]
        passed = self._client.build_request(
            "POST",
            path,
            headers=[*headers, (b"content-length", str(size).encode("ascii"))],
            content=self._body(request, size),
        )
        try:
            answer = await self._client.send(passed, stream=True)
        except httpx.PoolTimeout as error:
            raise _Refused(503, "too many requests at once") from error
        except httpx.TransportError as error:
            _log.warning("the SuperLink does not answer: %r", error)
            # Nodes try again after 503, as they do while a SuperLink restarts.
            raise _Refused(503, "the SuperLink does not answer") from error
        if answer.status_code == httpx.codes.UNAUTHORIZED or (
            path.endswith("/activate-node") and answer.is_client_error
        ):
            self._say_refused(request)
        response = StreamingResponse(_raw(answer), status_code=answer.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.decode("latin-1").lower() not in _FOR_ONE_HOP - {"content-length"}
        ]
        return response

    async def _body(self, request: Request, size: int) -> AsyncIterator[bytes]:
        """A body as it comes, in pieces of what a connection buffers."""
        deadline = asyncio.get_running_loop().time() + self._limits.body_deadline(size)
        stream = request.stream()
        while True:
            try:
                # Around the reading alone: a pause of the SuperLink is not the node's fault.
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise _Refused(408, "the body took too long") from error
            yield chunk

    def _say_refused(self, request: Request) -> None:
        """Tell the operator of a node that nobody admitted, once a while: it tries again."""
        address = request.client.host if request.client else "somewhere"
        now = time.monotonic()
        if now - self._refused.get(address, -math.inf) < _REFUSALS_APART:
            return
        if len(self._refused) >= _ADDRESSES:
            self._refused.clear()
        self._refused[address] = now
        _log.warning(
            "refused a node at %s: its key is not of an admitted store, its clock differs, or it "
            "is connected already",
            address,
        )


class _Refused(Exception):
    """A request that is answered here."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
