"""The proxy between a store and its coordinator, by the environment.

`HTTPS_PROXY` or `ALL_PROXY` names it and `NO_PROXY` lists hosts that need none, in capitals or
small letters. Node and doctor both ask `proxy_for`, since HTTP libraries read `NO_PROXY` each in
its own way. A proxy only forwards bytes (HTTP CONNECT): TLS ends at the coordinator, and the
proxy sees its name alone.

>>> from unittest.mock import patch
>>> variables = {"HTTPS_PROXY": "http://ada:secret@proxy.example:3128", "NO_PROXY": "localhost"}
>>> with patch.dict("os.environ", variables, clear=True):
...     proxy_for("hanse.example.org"), proxy_for("localhost")
(Proxy(host='proxy.example', port=3128), None)
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from hanse_common.addresses import is_ipv6, join_address
from hanse_common.errors import ConfigError, Unreachable

_PORT = 80
"""Port of a proxy whose address names none, as httpx takes it."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers for CONNECT; they may hold the proxy's password."""

    @property
    def url(self) -> str:
        """Its address as a URL, without user and password."""
        return f"http://{self}"

    def __str__(self) -> str:
        return join_address(self.host, self.port)


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy for connections to a host; None if they are direct.

    Raises:
        ConfigError: The variable holds no address of an HTTP proxy; its value, which may hold a
            password, is not quoted. Or the host is an IPv6 address in numbers.
    """
    proxies = getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    if not address or _direct(host, proxies):
        return None
    if is_ipv6(host):
        # Neither http.client nor httpcore puts it in brackets behind CONNECT, and proxies refuse.
        raise ConfigError(
            f"HTTPS_PROXY names a proxy, which cannot be asked for the IPv6 address {host}",
            hint="list the address in NO_PROXY, or have the coordinator use a name",
        )
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


@contextmanager
def no_proxy_variables() -> Iterator[None]:
    """Hide the variables from a library that reads them by rules of its own, or fails on them."""
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if _is_proxy_variable(key)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_proxy_variable(key: str) -> bool:
    return key.lower().endswith("_proxy")


def _direct(host: str, proxies: Mapping[str, str]) -> bool:
    """Whether `NO_PROXY` lists a host: its name, a domain around it, its address or a network."""
    entries = [entry.strip() for entry in proxies.get("no", "").split(",")]
    if "*" in entries or proxy_bypass(host, dict(proxies)):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        for entry in entries:
            with suppress(ValueError):  # a name
                if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                    return True
    return False


def through(proxy: Proxy, fleet: str, reason: str) -> Unreachable:
    """Return the error of a coordinator that does not answer through a proxy.

    Args:
        proxy: The proxy; its password is not quoted.
        fleet: `host:port` of the coordinator.
        reason: The reason as the connection gave it.
    """
    return Unreachable(
        f"{fleet} does not answer through the proxy {proxy}: {reason}",
        hint="does the proxy allow CONNECT to that port, with this password? or list the host in "
        "NO_PROXY",
    )
