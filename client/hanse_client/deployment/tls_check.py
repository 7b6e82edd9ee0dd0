"""A TLS handshake with the coordinator's server, for `hanse store doctor`."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from hanse_common.errors import Unreachable, UntrustedServer

_SECONDS = 10.0
"""Timeout of the connection."""
_LINES = 8192
"""Bytes of an HTTP answer in which its `Date` is searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """The result of a handshake.

    Args:
        seconds: Duration of the handshake.
        version: The TLS version.
        expires: Unix seconds until which the server's certificate is valid.
        clock: Seconds by which this machine's clock is ahead of the server's; None if the server
            did not send its time.
    """

    seconds: float
    version: str
    expires: float
    clock: float | None


def handshake(fleet: str, ca: str) -> Handshake:
    """Connect, check the certificate against the invitation's root alone, and read the time.

    Args:
        fleet: `host:port`.
        ca: PEM root certificates.

    Raises:
        UntrustedServer: The root did not issue the server's certificate, or it has expired.
        Unreachable: The server does not answer.
    """
    host, _, port = fleet.rpartition(":")
    host = host.strip("[]")
    # A bare context has no roots of the system: those of `ca` are the only ones.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    begun = time.monotonic()
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            seconds = time.monotonic() - begun
            certificate, version = secure.getpeercert(), secure.version()
            clock = _clock(secure, host)
    except ssl.SSLCertVerificationError as error:
        raise UntrustedServer(
            f"the TLS certificate of {fleet} cannot be trusted: {error.verify_message}",
            hint="compare invitation.json with the coordinator's: is somebody in between?",
        ) from error
    except OSError as error:
        raise Unreachable(
            f"{fleet} does not answer: {error.strerror or error}",
            hint="is the server up, and does a firewall let this machine reach it?",
        ) from error
    return Handshake(
        seconds=seconds,
        version=str(version),
        expires=ssl.cert_time_to_seconds(str((certificate or {}).get("notAfter"))),
        clock=clock,
    )


def _clock(secure: ssl.SSLSocket, host: str) -> float | None:
    """Seconds by which this clock is ahead of the `Date` in the server's HTTP answer."""
    with contextlib.suppress(OSError, ValueError, UnicodeDecodeError):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        for line in secure.recv(_LINES).decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "date":
                return time.time() - parsedate_to_datetime(value.strip()).timestamp()
    return None
