"""Prediction service over HTTP for programs on the store's own machine.

`POST /predict` takes a body as in `hanse_client.inference.requests` and returns the best classes
of each customer; `GET /healthz` says which model answers. The service listens on loopback only,
and refuses what a browser sends for a web page: requests with an `Origin` (403), requests whose
content type needs no CORS preflight (415), and host names other than this machine's, which a
page could point to it by DNS rebinding (421). There is no password: every account on the machine
can use it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hanse_client.features.histories import Histories
from hanse_client.inference.batching import Batcher
from hanse_client.inference.choices import Candidates, When
from hanse_client.inference.load import OpenStore, Trained
from hanse_client.inference.predict import ask_all, moment_of, ranked
from hanse_client.inference.requests import Question, Request, question
from hanse_client.tasks.interest import InterestModel
from hanse_common.errors import ConfigError, HanseError
from hanse_common.monitoring.hosts import host_name

_LOOPBACK = "127.0.0.1"
_BATCH = 64
"""Largest number of requests in one pass through the model."""
_MOST_BYTES = 4_000_000
"""Bytes of a request's body; a longer one is refused before it is read to the end."""
_HOSTS = frozenset((_LOOPBACK, "localhost", "::1"))
"""Host names by which programs on this machine reach it, with any port."""
_JSON = "application/json"

Answer = list[list[dict[str, Any]]]


def application(
    trained: Trained, store: OpenStore, model: InterestModel, ready: Callable[[], None]
) -> Starlette:
    """The service as an ASGI application.

    Args:
        trained: The trained model.
        store: The store, whose customers may be named in requests.
        model: The model that answers: `trained.model`, or its quantised form.
        ready: Called once the service answers.
    """
    latest = moment_of(store, When.LATEST, None)
    reads_texts = trained.model.reads_texts()
    batcher: Batcher[Question, Answer] = Batcher(lambda qs: answers(model, qs), most=_BATCH)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with batcher:
            ready()
            yield

    async def predict(http: HttpRequest) -> JSONResponse:
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            return _refusal(415, "not-json", f"send Content-Type: {_JSON}")
        body = bytearray()
        async for part in http.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return _refusal(413, "too-large", f"at most {_MOST_BYTES:,} bytes")
        try:
            request = Request.model_validate_json(bytes(body))
            checked = question(
                request, store, trained.config, latest=latest, reads_texts=reads_texts
            )
        except ValidationError as error:
            # Without the input: pydantic would repeat the customer's data in the message.
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return _refusal(422, "malformed", f"{where}: {first['msg']}" if where else first["msg"])
        except HanseError as error:
            return _refusal(422, error.code, str(error))
        return JSONResponse({"predictions": await batcher.ask(checked)})

    async def health(_: HttpRequest) -> JSONResponse:
        return JSONResponse(
            {"ready": True, "model_sha256": trained.digest, "int8": model is not trained.model}
        )

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
        ],
        middleware=[Middleware(_OwnMachine)],
        lifespan=lifespan,
    )


def answers(model: InterestModel, questions: Sequence[Question]) -> list[Answer]:
    """Answer several questions with one call of the model.

    Returns:
        For each question, for each of its customers, the best classes with their scores.
    """
    histories = Histories.pooled([one.histories for one in questions])
    sizes = [len(one.histories) for one in questions]
    moments = np.repeat([one.moment for one in questions], sizes)
    predictions = ask_all(model, histories, np.arange(len(histories)), moments)
    names = model.config.classes
    lists = ranked(predictions, top=max(one.top for one in questions), candidates=Candidates.ALL)
    rows = [
        [{"item_id": names[i], "score": float(shares[i])} for i in best]
        for best, shares in zip(lists, predictions.shares, strict=True)
    ]
    ends = np.cumsum(sizes)
    return [
        [row[: one.top] for row in rows[end - size : end]]
        for one, size, end in zip(questions, sizes, ends, strict=True)
    ]


def serve(
    trained: Trained,
    store: OpenStore,
    *,
    model: InterestModel,
    port: int,
    announce: Callable[[str], None],
) -> None:
    """Serve on loopback until interrupted.

    Args:
        trained: The trained model.
        store: The store, whose customers may be named in requests.
        model: The model that answers; see `application`.
        port: The port; 0 takes a free one.
        announce: Called with the address once the service answers.

    Raises:
        ConfigError: The port is in use, or not allowed.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((_LOOPBACK, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {_LOOPBACK}:{port}: {error}", hint="take another --port"
            ) from error
        listening.listen()  # before the address is printed, so that a reader can connect
        address = f"http://{_LOOPBACK}:{listening.getsockname()[1]}"
        app = application(trained, store, model, lambda: announce(address))
        # No access log, and warnings only: requests are about customers, and stay out of logs.
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="on",
            ws="none",
            proxy_headers=False,  # `X-Forwarded-…` could pretend another client
        )
        uvicorn.Server(config).run(sockets=[listening])


class _OwnMachine:
    """Middleware that refuses what a browser sends for a web page, before the body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            headers = HttpRequest(scope).headers
            if host_name(headers.get("host", "")) not in _HOSTS:
                refused = _refusal(421, "another-host", "ask 127.0.0.1 or localhost")
            elif "origin" in headers:
                refused = _refusal(403, "web-page", "web pages may not use this service")
            else:
                refused = None
            if refused is not None:
                # The body is still unread, so that the connection cannot be used again.
                refused.headers["connection"] = "close"
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": code, "message": message}, status_code=status)
