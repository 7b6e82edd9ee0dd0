"""A live page as a web application: one page, its style and script, and its events.

It answers GET and nothing else, to requests whose `Host` is this machine or a name that the
operator gave, so that no web page can reach it through DNS rebinding. Its content security
policy lets the browser load from this address only, run no inline script, and send no form.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from hanse_common.monitoring.hosts import host_name, is_loopback
from hanse_common.pages.live.feed import Feed
from hanse_common.pages.live.parts import LivePage

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_READERS = 32
"""Streams at a time; another is told to come back later."""
_FIRST_READ = 3.0
"""Seconds that a request waits for the parts; those that take longer come as events."""
_BEAT = 5.0
"""Seconds of silence after which a stream says that it still holds."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response."""


def application(page: LivePage, feed: Feed, *, names: Collection[str] = ()) -> Starlette:
    """Return the application of a page.

    Args:
        page: The page.
        feed: Its parts.
        names: Host names, beside this machine's own, under which requests may come: those of the
            operator's reverse proxy.
    """
    environment = page.environment

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with feed.running():
            yield

    async def index(_: Request) -> Response:
        await feed.update(seconds=_FIRST_READ)
        html = environment.get_template("live/page.html.j2").render(
            title=page.title,
            product=page.product,
            parts=page.parts(),
            html=feed.html,
            now=_now(),
        )
        return Response(html, media_type="text/html")

    async def events(_: Request) -> Response:
        if feed.readers >= MOST_READERS:
            return PlainTextResponse("too many readers\n", 503, {"Retry-After": "30"})
        return StreamingResponse(
            _stream(feed),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},  # nginx would hold events back otherwise
        )

    async def style(_: Request) -> Response:
        sheets = (environment.get_template(name).render() for name in ("base.css", "live/live.css"))
        return Response("\n".join(sheets), media_type="text/css")

    async def script(_: Request) -> Response:
        text = environment.get_template("live/live.js").render()
        return Response(text, media_type="text/javascript")

    return Starlette(
        routes=[
            Route("/", index, methods=["GET"]),
            Route("/events", events, methods=["GET"]),
            Route("/style.css", style, methods=["GET"]),
            Route("/script.js", script, methods=["GET"]),
        ],
        middleware=[Middleware(_Guard, names=frozenset(map(host_name, names)))],
        lifespan=lifespan,
    )


async def _stream(feed: Feed) -> AsyncIterator[str]:
    async for change in feed.changes(_BEAT):
        if change is None:
            yield f"event: beat\ndata: {json.dumps(_now())}\n\n"
        else:
            name, html = change
            data = {"name": name, "html": html, "now": _now()}
            # JSON has no line ends, which would end the event's data.
            yield f"event: part\ndata: {json.dumps(data)}\n\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Guard:
    """Middleware that refuses foreign hosts and methods, and adds the headers of `HEADERS`."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(key.lower().encode(), text.encode()) for key, text in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        refused = self._refusal(Request(scope))
        if refused is not None:
            # The body is still unread, so that the connection cannot be used again.
            refused.headers["connection"] = "close"
        await (refused or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not (is_loopback(host) or host_name(host) in self._names):
            text = "this page answers under its own name only; see --public-host\n"
            return PlainTextResponse(text, 421)
        if request.method != "GET":
            return PlainTextResponse("GET only\n", 405, {"Allow": "GET"})
        return None
