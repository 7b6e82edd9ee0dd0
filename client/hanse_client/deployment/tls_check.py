"""The coordinator's TLS certificate: a handshake and one request for `doctor`, faults, its end."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

from hanse_client.deployment.proxy import Proxy, proxy_for, through
from hanse_common.addresses import split_address
from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.errors import Unreachable, UntrustedServer
from hanse_common.monitoring.expiry import day
from hanse_common.paths import TLS_END_FILE
from hanse_common.versions import VERSION_FIELD, VERSION_PATH, Version

_SECONDS = 10.0
"""Timeout of the connection."""
_ENDS = "ends"
_LATEST = 1e12
"""Unix seconds beyond every calendar."""
_NO_CHECK_TIME = 0x200000
"""OpenSSL's `X509_V_FLAG_NO_CHECK_TIME`, which Python has no name for."""
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
    # A bare context has no roots of the system: those of `ca` are the only ones.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    proxy = proxy_for(split_address(fleet)[0])
    connection = _connection(fleet, context)
    begun = time.monotonic()
    with contextlib.closing(connection):
        try:
            connection.connect()
            seconds = time.monotonic() - begun
            secure: ssl.SSLSocket = connection.sock
            (_, ends), version = read_period(secure), secure.version()
            answer = _ask(connection, headers or {})
        except ssl.SSLCertVerificationError as error:
            raise untrusted(fleet, ca, error.verify_message) from error
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
        expires=ends,
        clock=clock_ahead(answer.getheader("date")) if answer else None,
        proxy=proxy,
        admitted=_ADMITTED.get(answer.status) if answer else None,
        coordinator=_coordinator(answer) if answer else None,
    )


def untrusted(fleet: str, ca: str, reason: str) -> UntrustedServer:
    """Return the error about a server's certificate, in words that fit its cause.

    Where only the time is wrong it looks a second time: a genuine certificate that has expired
    is the coordinator's oversight, while another's is one that nobody should trust.

    Args:
        fleet: `host:port`.
        ca: PEM root certificates.
        reason: OpenSSL's reason for refusing the certificate.
    """
    period = _period(fleet, ca) if "expired" in reason or "not yet valid" in reason else None
    if period is None:
        return UntrustedServer(
            f"the TLS certificate of {fleet} cannot be trusted: {reason}",
            hint="compare invitation.json with the coordinator's: is somebody in between, such as "
            "a proxy that inspects TLS or an ingress that ends it? it must pass the connection on "
            "as it is",
        )
    begins, ends = period
    now = time.time()
    if now >= ends:
        return UntrustedServer(
            f"the TLS certificate of {fleet} expired on {day(ends)}",
            hint="ask the coordinator for `hanse server tls renew`, and check this machine's "
            f"clock, which says {day(now)}",
        )
    if now < begins:
        return UntrustedServer(
            f"the TLS certificate of {fleet} is valid only from {day(begins)} on",
            hint=f"set this machine's clock by NTP: it says {day(now)}",
        )
    return UntrustedServer(
        f"the TLS certificate of {fleet} is in date, but one that issued it is not",
        hint="ask the coordinator for a new invitation.json",
    )


def _period(fleet: str, ca: str) -> tuple[float, float] | None:
    """When the server's certificate begins and ends; None if it is not from these roots."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    with contextlib.closing(_connection(fleet, context)) as connection:
        try:
            connection.connect()
            return read_period(connection.sock)
        except (OSError, HTTPException, ValueError):
            return None


def read_period(secure: ssl.SSLSocket | ssl.SSLObject) -> tuple[float, float]:
    """When the checked certificate of a connection begins and ends, in Unix seconds.

    Raises:
        ValueError: The connection has no certificate that was checked.
    """
    certificate = secure.getpeercert() or {}
    begins, ends = (str(certificate.get(name, "")) for name in ("notBefore", "notAfter"))
    return ssl.cert_time_to_seconds(begins), ssl.cert_time_to_seconds(ends)


def note_tls_end(folder: Path, end: float) -> None:
    """Keep when the coordinator's TLS certificate ends, for metrics and warnings."""
    with contextlib.suppress(OSError):  # on a full disk the node goes on without it
        write_durably(folder / TLS_END_FILE, json.dumps({_ENDS: end}) + "\n")


def read_tls_end(folder: Path) -> float | None:
    """When the coordinator's TLS certificate ends, as the node last saw it; None if it has not."""
    end = json_file(folder / TLS_END_FILE).get(_ENDS)
    if not isinstance(end, int | float) or abs(end) >= _LATEST:
        return None
    return float(end)


def _connection(fleet: str, context: ssl.SSLContext) -> HTTPSConnection:
    """A connection to the server, through the environment's proxy; it is not opened yet."""
    host, port = split_address(fleet)
    proxy = proxy_for(host)
    if proxy is None:
        return HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    connection = HTTPSConnection(proxy.host, proxy.port, timeout=_SECONDS, context=context)
    connection.set_tunnel(host, port, headers=proxy.headers)
    return connection


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
