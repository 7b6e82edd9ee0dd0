"""The TLS gateway before the SuperLink, which passes only Flower's fleet calls of stores.

A SuperLink serves three APIs on one port. The two that stores do not need ask for no
credentials: anyone who can reach them can start and stop runs. It also reads a complete body
before it checks who sent it. This module is a small reverse proxy that knows the ten calls of
a store's node, and passes on those whose headers an admitted node has signed:

    store's node --TLS--> gateway (0.0.0.0:9443) --TLS, loopback--> SuperLink (127.0.0.1:9444)

A path has to equal one of the calls; a prefix does not suffice. The address of the SuperLink
is fixed, not taken from the request, so no spelling of a path leads anywhere else.

| refusal | why |
|---|---|
| 404 | not one of the ten calls |
| 411 | a body without its length |
| 413 | a body larger than its call may have |
| 431 | headers larger than 16 KiB |
| 401 | not signed by an admitted store's node |
| 426 | signed by a node of another protocol version |
| 503 | too many connections, or the SuperLink does not answer; nodes try again |
| 429 | too many requests of one node at once; nodes try again |
| 408 | headers or body took too long; nodes try again |

The gateway answers one call itself: to a signed GET of `VERSION_PATH` with the version of this
installation, which strangers do not learn.

Guarantees:
    If a request is not signed by an admitted node, no byte of its body is read, and nothing of
    it reaches the SuperLink. If it is, the body is passed on as it arrives, and no more of it
    is in memory than the buffers of one connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hanse_common.versions import (
    OTHER_VERSION_STATUS,
    VERSION_FIELD,
    VERSION_PATH,
    Version,
    other_protocol,
    own_version,
)
from hanse_server.deployment.connections import CONNECTION, Connections, GateServer, Limits
from hanse_server.deployment.node_signature import AdmittedNodes
from hanse_server.deployment.node_versions import NodeVersions

_SMALL = 64 * 1024
_SEVERAL = 2**20
CALLS = {
    "/v1/fleet/activate-node": _SMALL,
    "/v1/fleet/deactivate-node": _SMALL,
    "/v1/fleet/send-node-heartbeat": _SMALL,
    "/v1/fleet/pull-messages": _SMALL,
    # The names of all pieces of a reply, 140 bytes each: 1 MiB is enough for 7,000.
    "/v1/fleet/push-messages": _SEVERAL,
    "/v1/fleet/get-run": _SMALL,
    "/v1/fleet/get-fab": _SMALL,
    "/v1/fleet/push-object": None,
    "/v1/fleet/pull-object": _SMALL,
    "/v1/fleet/confirm-message-received": _SMALL,
}
"""The calls of a node, with the largest body in bytes; None is `fleet.largest_request`.

`register-node` is not among them: only the coordinator registers nodes."""

_FOR_ONE_HOP = frozenset(
    (
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "host", "content-length", "expect"),
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    )
)
"""Headers that hold for one connection only (RFC 9110, section 7.6.1), or that a client could
use to claim another address; they are not passed on."""

BEHIND = 512
"""The most connections to the SuperLink, with one request each; further requests wait."""
_OWN_VERSION = {VERSION_FIELD: own_version().encode()}
_SECONDS = httpx.Timeout(60.0, connect=5.0)
_REFUSALS_APART = 300.0
_ADDRESSES = 1024
"""Seconds between two log lines about one address's refused nodes; addresses remembered."""

_log = logging.getLogger(__name__)


def gate(
    superlink: str,
    root: Path,
    *,
    certificate: Path,
    key: Path,
    nodes: AdmittedNodes,
    versions: NodeVersions,
    largest_request: int,
    limits: Limits,
) -> GateServer:
    """Make the gateway's server; its `serve` takes the listening sockets.

    Args:
        superlink: `https://127.0.0.1:PORT`.
        root: PEM file of the root against which the SuperLink's certificate is checked.
        certificate: PEM file of the certificate that stores see.
        key: PEM file of its private key.
        nodes: The nodes whose requests are passed on.
        versions: Records the version of each of them.
        largest_request: Largest body of a request, in bytes.
        limits: Limits on connections and times.
    """
    connections = Connections(limits)
    proxy = _Proxy(
        superlink,
        root,
        nodes=nodes,
        versions=versions,
        connections=connections,
        limits=limits,
        largest_request=largest_request,
    )
    config = uvicorn.Config(
        proxy,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        # Warnings are about strangers' requests, and strangers must not be able to fill the log.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `X-Forwarded-For` would let a client choose its address
        lifespan="off",
        ws="none",
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=math.ceil(limits.idle_seconds),
        timeout_graceful_shutdown=2,
    )
    config.load()
    return GateServer(config, connections=connections, limits=limits, close=proxy.close)


class _Proxy:
    """An ASGI application that passes stores' calls on to the SuperLink.

    Args:
        superlink: `https://127.0.0.1:PORT`.
        root: PEM file of the root against which the SuperLink's certificate is checked.
        nodes: The nodes whose requests are passed on.
        versions: Records the version of each of them.
        connections: The connections of the server that runs this application.
        limits: The time that a body may take, and the size of headers.
        largest_request: Largest body of a request, in bytes.
    """

    def __init__(
        self,
        superlink: str,
        root: Path,
        *,
        nodes: AdmittedNodes,
        versions: NodeVersions,
        connections: Connections,
        limits: Limits,
        largest_request: int,
    ) -> None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(root)
        self._nodes = nodes
        self._versions = versions
        self._connections = connections
        self._limits = limits
        self._largest = largest_request
        self._refused: dict[str, float] = {}
        self._client = httpx.AsyncClient(
            base_url=superlink,
            verify=trust,
            timeout=_SECONDS,
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment must not get loopback's traffic
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
            # The connection is closed, which drops the part of the body that was not read.
            answer = PlainTextResponse(
                f"{refused}\n", refused.status, headers={"connection": "close", **refused.headers}
            )
            await answer(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> None:
        # The order is that of cost: path and size, then a signature, then the body.
        path = request.scope["path"]
        asks_version = (request.method, path) == ("GET", VERSION_PATH)
        if not (asks_version or (request.method == "POST" and path in CALLS)) or request.url.query:
            raise _Refused(404, "not found")
        size = self._size(request, 0 if asks_version else CALLS[path])
        key = await self._nodes.signer(request.headers)
        if key is None:
            self._say_refused(request)
            raise _Refused(401, "not signed by an admitted node")
        if not self._connections.recognise(request.scope["state"][CONNECTION]):
            raise _Refused(503, "too many connections")
        if asks_version:
            answer = PlainTextResponse(f"{own_version()}\n", headers=_OWN_VERSION)
            await answer(request.scope, request.receive, send)
            return
        theirs = Version.decode(request.headers.get(VERSION_FIELD))
        self._versions.heard(key, theirs)
        if theirs.protocol != own_version().protocol:
            error = other_protocol(theirs, they="this store", we="the coordinator")
            raise _Refused(OTHER_VERSION_STATUS, str(error), headers=_OWN_VERSION)
        with self._connections.request(key) as allowed:
            if not allowed:
                raise _Refused(429, "too many requests at once")
            response = await self._passed_on(request, path, size)
            await response(request.scope, request.receive, send)

    def _size(self, request: Request, most: int | None) -> int:
        """The length of a body in bytes.

        Raises:
            _Refused: It is not declared or too large, or the headers are.
        """
        headers = request.headers
        # Once more: the parser's own limit holds for incomplete headers only.
        if sum(len(name) + len(value) for name, value in headers.raw) > self._limits.header_bytes:
            raise _Refused(431, "headers too large")
        # A chunked body has no length to check before it is read.
        if "transfer-encoding" in headers:
            raise _Refused(411, "length required")
        size = int(headers.get("content-length", "0"))  # h11 allows at most twenty digits
        if size > (self._largest if most is None else most):
            raise _Refused(413, "request too large")
        return size

    async def _passed_on(self, request: Request, path: str, size: int) -> Response:
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in _FOR_ONE_HOP
        ]
        # The length that was checked replaces the node's own header.
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
            # Nodes retry after 503, as they do while a SuperLink restarts.
            raise _Refused(503, "the SuperLink does not answer") from error
        # Flower answers a node that is connected already with a client error of `activate-node`.
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
        """A body as it arrives, in pieces of at most a connection's buffer."""
        deadline = asyncio.get_running_loop().time() + self._limits.body_deadline(size)
        stream = request.stream()
        while True:
            try:
                # Only reading has a deadline: a slow SuperLink is not the node's fault. It is one
                # for the entire body, so that a byte now and then does not extend it.
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise _Refused(408, "the body took too long") from error
            yield chunk

    def _say_refused(self, request: Request) -> None:
        """Log a refused node, at most every five minutes per address, as nodes keep retrying."""
        address = request.client.host if request.client else "somewhere"
        now = time.monotonic()
        if now - self._refused.get(address, -math.inf) < _REFUSALS_APART:
            return
        if len(self._refused) >= _ADDRESSES:  # bounded: addresses are the peers' choice
            self._refused.clear()
        self._refused[address] = now
        _log.warning(
            "refused a node at %s: its key is not of an admitted store, its clock differs, or it "
            "is connected already",
            address,
        )


class _Refused(Exception):
    """The refusal of a request, with the status of the response."""

    def __init__(
        self, status: int, reason: str, *, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        # Also if the node has left: the connection would otherwise never return to the pool.
        await answer.aclose()
