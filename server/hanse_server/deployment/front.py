"""The gate before the SuperLink: TLS for stores, and nothing but Flower's fleet calls.

A SuperLink serves three APIs on one port, and the two that stores have no business with ask
for no credential: whoever reaches them starts and stops runs. This is a small reverse proxy
that knows the ten calls of a store's node and passes those on; every other path is not there.

    store's node --TLS--> front (0.0.0.0:9443) --TLS, loopback--> SuperLink (127.0.0.1:9444)

Calls are compared whole, never by prefix, and the address that is called behind is written
here, not taken from the request: no spelling of a path leads anywhere else. Who a node is,
the SuperLink checks itself, by the node's signature.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

CALLS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a node calls. Registering is the coordinator's: `register-node` is not among them."""

_FOR_ONE_HOP = frozenset(
    (
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "host", "content-length", "expect"),
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    )
)
"""Headers that are not passed on."""

_BACKLOG = 256
_SECONDS = httpx.Timeout(60.0, connect=5.0)
_REFUSALS_APART = 300.0
_ADDRESSES = 1024
"""Seconds between two lines on refused nodes of one address; addresses that are remembered."""

_log = logging.getLogger(__name__)


class Front:
    """An ASGI application that passes stores' calls on to the SuperLink.

    Args:
        superlink: `https://127.0.0.1:PORT`.
        root: PEM of the root that the SuperLink's certificate is checked by.
        largest_request: Most bytes of one request's body.
    """

    def __init__(self, superlink: str, root: Path, *, largest_request: int) -> None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(root)
        self._largest = largest_request
        self._refused: dict[str, float] = {}
        self._client = httpx.AsyncClient(
            base_url=superlink,
            verify=trust,
            timeout=_SECONDS,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=_BACKLOG, max_keepalive_connections=64),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _lifespan(receive, send, self._client.aclose)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except _TooLarge:
            response = PlainTextResponse("request too large\n", 413)
        except httpx.TransportError as error:
            _log.warning("the SuperLink does not answer: %r", error)
            # Nodes try again after 503, as they do while a SuperLink restarts.
            response = PlainTextResponse("the SuperLink does not answer\n", 503)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path not in CALLS or request.method != "POST" or request.url.query:
            return PlainTextResponse("not found\n", 404)
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._largest:
            raise _TooLarge
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in _FOR_ONE_HOP
        ]
        passed = self._client.build_request(
            "POST", path, headers=headers, content=await self._body(request)
        )
        answer = await self._client.send(passed, stream=True)
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

    async def _body(self, request: Request) -> bytes:
        """All of a body: the SuperLink reads it whole too, before it knows whose it is."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._largest:
                raise _TooLarge
        return bytes(body)


class _TooLarge(Exception):
    """A body beyond the limit."""


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _lifespan(receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        else:
            return  # a web socket: not answered, so refused
