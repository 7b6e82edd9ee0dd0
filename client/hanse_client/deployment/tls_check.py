"""A TLS handshake with the coordinator's server and one request, for `hanse store doctor`."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection

from hanse_client.deployment.proxy import Proxy, proxy_for, through
from hanse_common.addresses import split_address
from hanse_common.errors import Unreachable, UntrustedServer
from hanse_common.versions import VERSION_FIELD, VERSION_PATH, Version

_SECONDS = 10.0
"""Timeout of the connection."""
LARGEST_AHEAD, LARGEST_BEHIND = 5.0, 300.0
"""Seconds by which a node's clock may be ahead of the coordinator's, and behind it: Flower refuses
requests that are signed with other times."""

# Earlier releases know no such path, and answer 404 to everybody.
_ADMITTED: Mapping[int, bool] = {HTTPStatus.OK: True, HTTPStatus.UNAUTHORIZED: False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """The result of a handshake.

    Args:
        seconds: Duration of the handshake.
        version: The TLS version.
        expires: Unix seconds until which the server's certificate is valid.
        clock: Seconds by which this machine's clock is ahead of the server's; None if the server
            did not send its time.
        proxy: The proxy in between; None if the connection is direct.
        admitted: Whether the coordinator knows the key that signed the request; None if it did
            not say.
        coordinator: Version of the coordinator; None if it did not say.
    """

    seconds: float
    version: str
    expires: float
    clock: float | None
    proxy: Proxy | None
    admitted: bool | None = None
    coordinator: Version | None = None


def handshake(fleet: str, ca: str, *, headers: Mapping[str, str] | None = None) -> Handshake:
    """Connect, check the certificate against the invitation's root alone, and read the time.

    Args:
        fleet: `host:port`.
        ca: PEM root certificates.
        headers: Headers of the request, by which the node signs it.

    Raises:
        UntrustedServer: The root did not issue the server's certificate, or it has expired.
        Unreachable: The server, or the proxy that the environment names, does not answer.
        ConfigError: The environment names something else than an HTTP proxy.
    """
    host, port = split_address(fleet)
    # A bare context has no roots of the system: those of `ca` are the only ones.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    proxy = proxy_for(host)
    if proxy is None:
        connection = HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    else:
        connection = HTTPSConnection(proxy.host, proxy.port, timeout=_SECONDS, context=context)
        connection.set_tunnel(host, port, headers=proxy.headers)
    begun = time.monotonic()
    with contextlib.closing(connection):
        try:
            connection.connect()
            seconds = time.monotonic() - begun
            secure: ssl.SSLSocket = connection.sock
            certificate, version = secure.getpeercert(), secure.version()
            answer = _ask(connection, headers or {})
        except ssl.SSLCertVerificationError as error:
            raise untrusted(fleet, error.verify_message) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or error
            if proxy is None:
                raise Unreachable(
                    f"{fleet} does not answer: {reason}",
                    hint="is the server up, and does a firewall let this machine reach it?",
                ) from error
            raise through(proxy, fleet, str(reason)) from error
    return Handshake(
        seconds=seconds,
        version=str(version),
        expires=ssl.cert_time_to_seconds(str((certificate or {}).get("notAfter"))),
        clock=clock_ahead(answer.getheader("date")) if answer else None,
        proxy=proxy,
        admitted=_ADMITTED.get(answer.status) if answer else None,
        coordinator=_coordinator(answer) if answer else None,
    )


def untrusted(fleet: str, reason: str) -> UntrustedServer:
    """Return the error about a server's certificate, with a hint that fits OpenSSL's reason."""
    hint = (
        "compare invitation.json with the coordinator's: is somebody in between, such as a proxy "
        "that inspects TLS or an ingress that ends it? it must pass the connection on as it is"
    )
    if "expired" in reason:
        hint = "tell the coordinator to renew it, and check this machine's clock"
    elif "not yet valid" in reason:
        hint = "check this machine's clock: it may be behind"
    return UntrustedServer(f"the TLS certificate of {fleet} cannot be trusted: {reason}", hint=hint)


def clock_ahead(date: str | None) -> float | None:
    """Return the seconds by which this clock is ahead of the `Date` in an HTTP answer.

    Args:
        date: The header's value; None without one.

    Returns:
        None if there is no date, or it cannot be read.
    """
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return time.time() - parsedate_to_datetime((date or "").strip()).timestamp()
    return None


def _ask(connection: HTTPSConnection, headers: Mapping[str, str]) -> HTTPResponse | None:
    with contextlib.suppress(OSError, HTTPException):
        connection.request("GET", VERSION_PATH, headers={**headers, "Connection": "close"})
        return connection.getresponse()
    return None


def _coordinator(answer: HTTPResponse) -> Version | None:
    text = answer.getheader(VERSION_FIELD)
    return None if text is None else Version.decode(text)
