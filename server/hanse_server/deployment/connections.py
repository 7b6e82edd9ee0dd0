"""Limits for connections at the gate: their number, and the time until they authenticate.

A connection *waits* from the moment it is accepted, before its TLS handshake, until it carries
a request that an admitted store's node has signed. Waiting connections are few and short-lived:
when there are too many, the one that has waited longest is closed. A store's node needs a
fraction of a second, so it gets through among any number of strangers.

>>> Limits().waiting
128
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.config import create_ssl_context
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTION = "hanse_connection"
"""The key of a request's `Connection` in `scope["state"]`."""

_PLAIN_HTTP = "HTTP_REQUEST"
"""OpenSSL's reason for a handshake that begins with a line of HTTP."""
_ACCEPT_AGAIN_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The gate's limits, each with its reason."""

    known: int = 4096
    """Connections of admitted nodes. Flower's client keeps up to four (one for messages, one
    for heartbeats, two for pieces), so this is enough for a thousand stores."""
    waiting: int = 128
    """Connections that have not shown a signature. One costs 0.4 MiB, nearly all of it buffers
    of asyncio and OpenSSL, and 1.1 MiB at the moment when a body is refused."""
    waiting_per_address: int = 32
    """Waiting connections of one address. More than one, as a chain's shops may share it."""
    handshake_seconds: float = 10.0
    """Time for the TLS handshake; a store on a satellite link needs two seconds."""
    header_seconds: float = 10.0
    """Time from connecting, or from a request's first byte, to the end of its headers."""
    idle_seconds: float = 15.0
    """Time between two requests; nodes poll every 3 s at most, and send heartbeats every 15 s."""
    header_bytes: int = 16 * 1024
    """Size of request line and headers; those of a node have 1.1 KiB."""
    requests_per_node: int = 16
    """Simultaneous requests. Flower's client makes four; the SuperLink may hold the body of
    each in memory."""
    body_seconds: float = 30.0
    body_bytes_per_second: int = 16 * 1024
    """A body may take `body_seconds`, and longer in proportion to its size: 350 s for 5 MiB,
    the size of Flower's pieces. Few lines are as slow as 128 kbit/s."""

    def body_deadline(self, size: int) -> float:
        """Seconds that a body of `size` bytes may take."""
        return self.body_seconds + size / self.body_bytes_per_second


class Connection:
    """One connection, from its acceptance to its end."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.close: Callable[[], Any] = lambda: None
        """Ends the connection at once; does nothing until there is something to end."""


class Connections:
    """All connections of the gate.

    Args:
        limits: The numbers that are allowed.

    Guarantees:
        At no time do more than `limits.waiting` connections wait, or more than
        `limits.waiting_per_address` from one address, whatever peers do.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[Connection, None] = {}  # in the order of arrival, as dicts keep it
        self._known: set[Connection] = set()
        self._requests: Counter[bytes] = Counter()

    @property
    def waiting(self) -> int:
        """The number of connections that have not shown a signature yet."""
        return len(self._waiting)

    @property
    def known(self) -> int:
        """The number of connections of admitted nodes."""
        return len(self._known)

    def arrive(self, address: str) -> Connection:
        """Register a new connection; at a limit, close the one that has waited longest."""
        network = _network(address)
        same = [each for each in self._waiting if each.network == network]
        # One is closed before one is added, so that no limit is exceeded even for a moment.
        if len(same) >= self._limits.waiting_per_address:
            self._drop(same[0])
        elif len(self._waiting) >= self._limits.waiting:
            self._drop(next(iter(self._waiting)))
        connection = Connection(network)
        self._waiting[connection] = None
        return connection

    def recognise(self, connection: Connection) -> bool:
        """Count a connection as an admitted node's; False if there are too many of these."""
        if connection in self._known:
            return True
        if len(self._known) >= self._limits.known:
            return False
        self._waiting.pop(connection, None)
        self._known.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._waiting.pop(connection, None)
        self._known.discard(connection)

    @contextmanager
    def request(self, key: bytes) -> Iterator[bool]:
        """Count a node's request while it lasts; yields whether it is allowed now."""
        allowed = self._requests[key] < self._limits.requests_per_node
        self._requests[key] += allowed
        try:
            yield allowed
        finally:
            self._requests[key] -= allowed
            if not self._requests[key]:  # revoked nodes must not stay in the table forever
                del self._requests[key]

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.close()


def _network(address: str) -> str:
    """The unit that counts as one address: in IPv6, the /64 that a single line gets.

    >>> _network("192.0.2.7"), _network("2001:db8::1:2") == _network("2001:db8::3:4")
    ('192.0.2.7', True)
    """
    bare = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(bare, ipaddress.IPv4Address):
        return str(bare)
    return str(ipaddress.ip_network((bare, 64), strict=False))


class GateServer(uvicorn.Server):
    """A uvicorn server that counts every connection before its TLS handshake.

    uvicorn itself sees a connection only after the handshake, for which it waits a minute, and
    has no time limit for headers.

    Args:
        config: uvicorn's configuration, with a certificate.
        connections: Counts the connections.
        limits: The time that each part of a request may take.
        close: Awaited once the last connection has ended.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        connections: Connections,
        limits: Limits,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._close = close
        self._connections = connections
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._plain_said = False

    def use_certificate(self, certificate: Path, key: Path) -> None:
        """Use another certificate for connections that are accepted from now on.

        Connections that exist keep the one that they began with. A new context takes the place
        of the old one: loading into that one could fail after the certificate and before the
        key, and leave a pair that does not fit.
        """
        config = self.config
        config.ssl = create_ssl_context(
            certfile=certificate,
            keyfile=key,
            password=None,
            ssl_version=config.ssl_version,
            cert_reqs=config.ssl_cert_reqs,
            ca_certs=None,
            ciphers=config.ssl_ciphers,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections on listening sockets."""
        self.servers = []
        for listener in sockets or []:
            listener.setblocking(False)
            self._keep(asyncio.create_task(self._accept(listener)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and end the present ones."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().shutdown(sockets)
        await self._close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of file descriptors, until connections are closed
                _log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            accepted.setblocking(False)
            connection = self._connections.arrive(str(peer[0]))
            task = asyncio.create_task(self._shake_hands(accepted, connection))
            connection.close = task.cancel
            self._keep(task)
            # `sock_accept` returns at once while connections are queued. Without this, a flood
            # of them would block every other task, including their own handshakes.
            await asyncio.sleep(0)

    async def _shake_hands(self, accepted: socket.socket, connection: Connection) -> None:
        seconds = self._limits.handshake_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _GateProtocol(
                    self.config, self.server_state, connection, self._connections, self._limits
                ),
                accepted,
                ssl=self.config.ssl,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError as error:  # no TLS, too slow, or gone; asyncio has closed the socket
            self._connections.leave(connection)
            if isinstance(error, ssl.SSLError) and error.reason == _PLAIN_HTTP:
                self._say_plain()
        except asyncio.CancelledError:
            self._connections.leave(connection)
            raise

    def _say_plain(self) -> None:
        """Log once that HTTP came without TLS: strangers could fill the log otherwise."""
        if not self._plain_said:
            self._plain_said = True
            _log.warning(
                "a connection brought HTTP without TLS. An ingress that ends TLS cannot stand "
                "before the coordinator: nodes check its own certificate, so pass TCP through"
            )

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _GateProtocol(H11Protocol):
    """uvicorn's HTTP protocol of one connection, with a time limit for headers."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        connection: Connection,
        connections: Connections,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, {CONNECTION: connection})
        self._connection = connection
        self._connections = connections
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._heard = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for headers once TLS is established."""
        super().connection_made(transport)
        self._connection.close = transport.abort
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._headers_are_there()
        self._connections.leave(self._connection)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; the first byte of a request starts the clock, and no later one resets it."""
        if self.transport.is_closing():
            return  # bytes after a refusal are dropped
        self._heard = True
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_are_there()
        else:
            self._wait_for_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, or headers that do not end."""
        if self.cycle is not None and not self.cycle.response_complete:
            # A response to the previous request is being sent; a second one would mix with it.
            self.cycle.disconnected = True
            self.transport.abort()
        elif len(self.conn.trailing_data[0]) > self._limits.header_bytes:
            self._refuse(431, "headers too large\n")
        else:
            self._refuse(400, "not HTTP\n")

    def _wait_for_headers(self) -> None:
        # A running clock goes on: a byte now and then must not prolong the wait.
        if self._deadline is None:
            seconds = self._limits.header_seconds
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _headers_are_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._heard = False

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        # A peer that sent nothing gets no answer: it may not have made a request at all.
        if self._heard:
            self._refuse(408, "headers took too long\n")
        else:
            self.transport.abort()

    def _refuse(self, status: int, text: str) -> None:
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(text))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=text.encode("ascii")),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()
