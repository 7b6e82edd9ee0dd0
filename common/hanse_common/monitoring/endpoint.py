r"""An HTTP endpoint with `/healthz`, `/readyz`, and `/metrics` in Prometheus' text format.

>>> from urllib.request import urlopen
>>> with Endpoint(read=lambda: [], check=lambda: Health(checks={"up": ""}), port=0) as endpoint:
...     endpoint.start()
...     with urlopen(f"{endpoint.url}/readyz") as answer:
...         answer.status, answer.read()
(200, b'{"ready": true, "checks": {"up": "ok"}}\n')
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from hanse_common.addresses import bare_host, family_of, join_address
from hanse_common.errors import ConfigError, HanseError, MissingDependency
from hanse_common.monitoring.health import Health
from hanse_common.monitoring.hosts import is_loopback

if TYPE_CHECKING:
    from prometheus_client import Metric

_SECONDS = 10.0
"""Timeout of one request's socket."""
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"

_log = logging.getLogger(__name__)

Read = Callable[[], Iterable["Metric"]]


class Endpoint:
    """An HTTP server that reads metrics and checks for each request.

    Args:
        read: Reads the metrics for `/metrics`.
        check: Runs the checks for `/readyz`.
        host: Address to listen on. On loopback, only requests whose `Host` is loopback too are
            answered.
        port: Port to listen on; 0 takes a free one.

    Raises:
        ConfigError: The address is unavailable.
        MissingDependency: The Prometheus client is not installed.
    """

    def __init__(
        self, *, read: Read, check: Callable[[], Health], host: str = "127.0.0.1", port: int
    ) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"metrics need the package {error.name!r}, which is not installed",
                hint="pip install 'hanse[metrics]'",
            ) from None
        host = bare_host(host)
        handler = type("_BoundHandler", (_Handler,), {"endpoint": self})
        server = type("_Server", (ThreadingHTTPServer,), {"address_family": family_of(host)})
        try:
            self._server: ThreadingHTTPServer = server((host, port), handler)
        except OSError as error:
            where = join_address(host, port)
            raise ConfigError(
                f"cannot listen on {where}: {error.strerror}", hint="name another --port"
            ) from error
        self._server.daemon_threads = True
        self._read, self._check = read, check
        self._loopback_only = is_loopback(host)

    @property
    def url(self) -> str:
        """Address of the server, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://{join_address(str(host), port)}"

    def start(self) -> None:
        """Serve in a background thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def serve(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.serve_forever()

    def close(self) -> None:
        """Close the server's socket."""
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, path: str, host: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of the response to a request.

        Args:
            path: Path of the request.
            host: Its `Host` header.
        """
        # DNS rebinding: a web page can make a browser on this machine send requests here, but they
        # carry the page's own host name.
        if self._loopback_only and not is_loopback(host):
            return 403, _TEXT, b"this endpoint answers requests of its own machine only\n"
        try:
            if path == "/healthz":
                return 200, _TEXT, b"ok\n"
            if path == "/readyz":
                health = self._check()
                return 200 if health.ready else 503, _JSON, _as_json(health.row())
            if path == "/metrics":
                return 200, *exposition(self._read)
        except HanseError as error:
            return 500, _TEXT, f"{error} [{error.code}]\n".encode()
        return 404, _TEXT, b"/healthz, /readyz or /metrics\n"


def exposition(read: Read) -> tuple[str, bytes]:
    """Return content type and text of metrics in Prometheus' format.

    Edge cases:
        An unreadable file does not hide the metrics that were read before it: it becomes
        `hanse_read_errors{code=…} 1`.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    # A registry of its own: the default one adds metrics of this Python process.
    registry = CollectorRegistry()
    registry.register(_Collected(list(_without_errors(read))))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Collected:
    """A collector of metrics that were read before."""

    def __init__(self, figures: list[Metric]) -> None:
        self._figures = figures

    def collect(self) -> list[Metric]:
        return self._figures


def _without_errors(read: Read) -> Iterable[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    errors = GaugeMetricFamily("hanse_read_errors", "What could not be read.", labels=["code"])
    try:
        yield from read()
    except HanseError as error:
        _log.warning("figures could not be read", extra={"error_code": error.code})
        errors.add_metric([error.code], 1)
    yield errors


def _as_json(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    """Passes a request to the endpoint."""

    endpoint: Endpoint
    timeout = _SECONDS
    server_version, sys_version = "hanse", ""

    def do_GET(self) -> None:
        status, kind, body = self.endpoint.answer(self.path, self.headers.get("Host", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: Prometheus sends a request every few seconds."""
