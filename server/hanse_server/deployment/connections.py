"""Connections at the gate: how many there may be, and how long each may take to say who it is.

A connection *waits* from the moment it is accepted, before its TLS handshake, until a request
on it has been signed by an admitted store's node. Waiting connections are few and short-lived;
when there are too many, the one that has waited longest is closed, so that a store's node,
which needs a fraction of a second, comes in between any number of strangers.

>>> Limits().waiting
128
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTION = "hanse_connection"
"""Where a request's `scope["state"]` holds its `Connection`."""

_ACCEPT_AGAIN_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the gate allows; the reason stands with each."""

    known: int = 4096
    """Connections of admitted nodes. Flower's client keeps up to four: one for messages, one
    for heartbeats, two for pieces; this is a thousand stores'."""
    waiting: int = 128
    """Connections that have not shown a signature. One costs 0.4 MiB, nearly all of it asyncio's
    and OpenSSL's buffers, and 1.1 MiB for the instant in which a body is refused."""
    waiting_per_address: int = 32
    """The same of one address. Not one, since a chain's shops may share an address."""
    handshake_seconds: float = 10.0
    """For TLS; a store on a satellite link needs two."""
    header_seconds: float = 10.0
    """From connecting, or from a request's first byte, to the end of its headers."""
    idle_seconds: float = 15.0
    """Between two requests; nodes look every 3 s at most, and send heartbeats every 15 s."""
    header_bytes: int = 16 * 1024
    """Request line and headers; a node's are 1.1 KiB."""
    requests_per_node: int = 16
    """At once. Flower's client makes four; each may be a body that the SuperLink holds whole."""
    body_seconds: float = 30.0
    body_bytes_per_second: int = 16 * 1024
    """A body may take `body_seconds`, and longer in proportion to its size: 5 MiB, which are
    Flower's pieces, 350 s. Few lines are as slow as 128 kbit/s."""

    def body_deadline(self, size: int) -> float:
        """Seconds that a body of so many bytes may take."""
        return self.body_seconds + size / self.body_bytes_per_second


class Connection:
    """One connection, from accepting to closing."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.close: Callable[[], Any] = lambda: None
        """Ends it at once; set when there is something to end."""


class Connections:
    """All connections of the gate.

    Args:
        limits: How many there may be.

    Guarantees:
        At no time are more than `limits.waiting` connections waiting, nor more than
        `limits.waiting_per_address` from one address, whatever peers do.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[Connection, None] = {}  # in the order of their coming
        self._known: set[Connection] = set()
        self._requests: Counter[bytes] = Counter()

    @property
    def waiting(self) -> int:
        """How many have not shown a signature yet."""
        return len(self._waiting)

    @property
    def known(self) -> int:
        """How many are admitted nodes'."""
        return len(self._known)

    def arrive(self, address: str) -> Connection:
        """Take a new connection in, and close the one that has waited longest if need be."""
        network = _network(address)
        same = [found for found in self._waiting if found.network == network]
        if len(same) >= self._limits.waiting_per_address:
            self._drop(same[0])
        elif len(self._waiting) >= self._limits.waiting:
            self._drop(next(iter(self._waiting)))
        connection = Connection(network)
        self._waiting[connection] = None
        return connection

    def recognise(self, connection: Connection) -> bool:
        """Count a connection as an admitted node's; False if there are too many of those."""
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
        """Count a node's request while it lasts; gives whether it may be made now."""
        allowed = self._requests[key] < self._limits.requests_per_node
        self._requests[key] += allowed
        try:
            yield allowed
        finally:
            self._requests[key] -= allowed
            if not self._requests[key]:
                del self._requests[key]

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.close()


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the /64 that a single line is given.

    >>> _network("192.0.2.7"), _network("2001:db8::1:2") == _network("2001:db8::3:4")
    ('192.0.2.7', True)
    """
    bare = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(bare, ipaddress.IPv4Address):
        return str(bare)
    return str(ipaddress.ip_network((bare, 64), strict=False))


class GateServer(uvicorn.Server):
    """uvicorn, with every connection counted before its TLS handshake.

    Its own way of accepting hands a connection over only after the handshake, and waits a
    minute for that; nor has it a time limit for headers.

    Args:
        config: uvicorn's, with a certificate.
        connections: Counts them.
        limits: How long each part may take.
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept on listening sockets."""
        self.servers = []
        for listener in sockets or []:
            listener.setblocking(False)
            self._keep(asyncio.create_task(self._accept(listener)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and end what is there."""
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
            except OSError as error:  # no more file descriptors: some will be closed
                _log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            accepted.setblocking(False)
            connection = self._connections.arrive(str(peer[0]))
            task = asyncio.create_task(self._shake_hands(accepted, connection))
            connection.close = task.cancel
            self._keep(task)
            # A waiting connection makes `sock_accept` return at once: without this, a flood of
            # them would keep everything else from running, their own handshakes too.
            await asyncio.sleep(0)

    async def _shake_hands(self, accepted: socket.socket, connection: Connection) -> None:
        seconds = self._limits.handshake_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: GateProtocol(
                    self.config, self.server_state, connection, self._connections, self._limits
                ),
                accepted,
                ssl=self.config.ssl,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError:  # no TLS, too slow, or gone; asyncio has closed the socket
            self._connections.leave(connection)
        except asyncio.CancelledError:
            self._connections.leave(connection)
            raise

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class GateProtocol(H11Protocol):
    """uvicorn's HTTP of one connection, with a time limit for headers and named refusals."""

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
        """TLS is there; the headers of a request are to follow."""
        super().connection_made(transport)
        self._connection.close = transport.abort
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._headers_are_there()
        self._connections.leave(self._connection)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; a request's first byte starts the clock, and no later one resets it."""
        if self.transport.is_closing():
            return  # what comes after a refusal is dropped
        self._heard = True
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_are_there()
        else:
            self._wait_for_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or has headers without an end."""
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer to the request before is underway; two would be mixed.
            self.cycle.disconnected = True
            self.transport.abort()
        elif len(self.conn.trailing_data[0]) > self._limits.header_bytes:
            self._refuse(431, "headers too large\n")
        else:
            self._refuse(400, "not HTTP\n")

    def _wait_for_headers(self) -> None:
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
