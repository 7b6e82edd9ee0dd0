"""The proxy between a store and its coordinator, by the environment.

`HTTPS_PROXY` or `ALL_PROXY` names it and `NO_PROXY` lists hosts that need none, in capitals or
small letters. The node's own client (httpx) follows the same variables. A proxy only forwards
bytes (HTTP CONNECT): TLS ends at the coordinator, and the proxy sees its name alone.

>>> from unittest.mock import patch
>>> variables = {"HTTPS_PROXY": "http://ada:secret@proxy.example:3128", "NO_PROXY": "localhost"}
>>> with patch.dict("os.environ", variables, clear=True):
...     proxy_for("hanse.example.org"), proxy_for("localhost")
(Proxy(host='proxy.example', port=3128), None)
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from hanse_common.errors import ConfigError

_PORT = 80
"""Port of a proxy whose address names none, as httpx takes it."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers for CONNECT; they may hold the proxy's password."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy for connections to a host; None if they are direct.

    Raises:
        ConfigError: The variable holds no address of an HTTP proxy; its value, which may hold a
            password, is not quoted.
    """
    proxies = getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    if not address or proxy_bypass(host, proxies):
        return None
    hint = "export HTTPS_PROXY=http://[user:password@]host:port, or list the host in NO_PROXY"
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or _PORT
    except ValueError:
        raise ConfigError("HTTPS_PROXY holds no address of a proxy", hint=hint) from None
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            f"HTTPS_PROXY names a proxy of the scheme {parts.scheme!r}, and only 'http' is known",
            hint=hint,
        )
    headers = {}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        encoded = base64.b64encode(user.encode()).decode("ascii")
        headers["Proxy-Authorization"] = f"Basic {encoded}"
    return Proxy(parts.hostname, port, headers)
