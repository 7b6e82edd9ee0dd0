"""The gate's limits, one test a way to wear it down; the gate is the real one, over TLS.

Behind it stands an HTTPS server that writes down what reaches it: of a request that no
admitted node has signed, nothing may.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest

from hanse_server.deployment import admit
from hanse_server.deployment.connections import Connections, Limits, _network
from hanse_server.deployment.folder import FederationFolder
from kits.deployment import StoreFiles, found, server, succeed, wait_for
from kits.gateway import LARGEST, Gate

SHORT = Limits(
    waiting=6,
    waiting_per_address=4,
    known=3,
    header_seconds=0.5,
    idle_seconds=1.0,
    requests_per_node=8,
    body_seconds=1.0,
    body_bytes_per_second=2**20,
)
PATH = "/v1/fleet/push-object"


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> tuple[FederationFolder, StoreFiles]:
    root = tmp_path_factory.mktemp("front")
    found(root / "federation")
    store = StoreFiles(root / "luebeck", "luebeck")
    succeed(server(root / "federation", "admit", store.request, "--yes"))
    return FederationFolder(root / "federation"), store


@pytest.fixture
def front(federation) -> Iterator[Gate]:
    made = Gate(*federation, SHORT)
    yield made
    made.stop()


def head(headers: dict[str, str], path: str = PATH) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> int | None:
    """The status that comes, or None if the connection ends without one."""
    data = b""
    with suppress(OSError):
        while b"\r\n" not in data:
            part = connection.recv(4096)
            if not part:
                break
            data += part
    return int(data.split()[1]) if data else None


def ended(connection: socket.socket) -> bool:
    """Whether the gate has closed the connection, once it does."""
    with suppress(OSError):
        while connection.recv(65536):
            pass
    return True


def ask(front: Gate, headers: dict[str, str], body: bytes = b"", path: str = PATH) -> int | None:
    with front.connect() as connection:
        connection.sendall(head(headers, path) + body)
        return answer(connection)


def size(count: int) -> dict[str, str]:
    return {"Content-Length": str(count)}


def test_a_signed_body_reaches_the_superlink_whole_and_in_pieces(front):
    body = bytes(range(256)) * (LARGEST // 256)
    assert ask(front, front.signed() | size(LARGEST), body) == 200
    assert front.behind.bodies == [body]
    assert front.behind.chunks > 1


def test_a_body_without_a_key_is_refused_before_any_of_it_is_sent(front):
    with front.connect() as connection:
        connection.sendall(head(size(LARGEST)))
        assert answer(connection) == 401
        assert ended(connection)
    assert front.behind.chunks == 0


@pytest.mark.parametrize("age", [-60.0, 400.0])
def test_a_signature_of_another_time_is_none(front, age):
    assert ask(front, front.signed(age=age) | size(4), b"body") == 401


def test_the_key_of_a_stranger_is_none(front, tmp_path):
    stranger = StoreFiles(tmp_path / "stranger", "stranger")
    assert ask(front, front.signed(stranger.node_key) | size(4), b"body") == 401
    mixed = front.signed() | {"flwr-signature": front.signed(stranger.node_key)["flwr-signature"]}
    assert ask(front, mixed | size(4), b"body") == 401
    assert front.behind.chunks == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"flwr-timestamp": "9999999999999999999999"},
        {"flwr-timestamp": "2026-01-01T00:00:00"},
        {"flwr-timestamp": "0001-01-01T00:00:00+23:59"},
        {"flwr-timestamp": "ü"},
        {"flwr-public-key": "="},
        {"flwr-signature": "AAAA"},
        {"flwr-signature": "\x7f"},
    ],
)
def test_a_header_that_makes_no_sense_is_no_signature(front, broken):
    assert ask(front, front.signed() | broken | size(4), b"body") in (400, 401)
    assert front.behind.chunks == 0


def test_who_is_admitted_or_revoked_counts_from_that_moment(federation, front, tmp_path):
    folder, _ = federation
    other = StoreFiles(tmp_path / "wismar", "wismar")
    assert ask(front, front.signed(other.node_key) | size(4), b"body") == 401
    succeed(server(folder.path, "admit", other.request, "--yes"))
    assert ask(front, front.signed(other.node_key) | size(4), b"body") == 200
    admit.revoke(folder, "wismar")
    assert ask(front, front.signed(other.node_key) | size(4), b"body") == 401


def test_a_body_beyond_the_limit_is_refused_unread(front):
    assert ask(front, front.signed() | size(LARGEST + 1)) == 413
    assert ask(front, size(10**15)) == 413
    assert ask(front, front.signed() | size(2**17), path="/v1/fleet/pull-messages") == 413
    assert front.behind.chunks == 0


def test_chunks_without_a_length_are_refused(front):
    for headers in ({}, front.signed()):
        chunked = head(headers | {"Transfer-Encoding": "chunked"})
        with front.connect() as connection:
            connection.sendall(chunked + b"5\r\nhello\r\n")
            assert answer(connection) == 411
    assert front.behind.chunks == 0


def test_a_chunk_that_is_none_ends_the_connection(front):
    with front.connect() as connection:
        connection.sendall(head({"Transfer-Encoding": "chunked"}) + b"zz\r\n")
        assert answer(connection) in (400, 411, None)


def test_who_asks_before_sending_is_told_to_go_on_only_with_a_signature(front):
    expecting = {"Expect": "100-continue"} | size(5)
    assert ask(front, expecting) == 401
    with front.connect() as connection:
        connection.sendall(head(front.signed() | expecting))
        assert answer(connection) == 100
        connection.sendall(b"hello")
        assert answer(connection) == 200
    assert front.behind.bodies == [b"hello"]


def test_headers_without_an_end_are_refused(front):
    with front.connect() as connection, suppress(OSError):
        connection.sendall(b"POST / HTTP/1.1\r\n")
        for number in range(2000):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 500))
        assert answer(connection) == 431
    assert ask(front, front.signed() | {"X": "y" * 20_000}) == 431
    assert front.behind.chunks == 0


def test_headers_that_come_byte_by_byte_are_cut_off(front):
    """A byte every now and then does not put the deadline off."""
    with front.connect() as connection:
        connection.settimeout(0.1)
        data = b""
        for byte in head(size(5)) * 1000:
            with suppress(TimeoutError):
                data = connection.recv(100)
                break
            connection.sendall(bytes([byte]))
        assert data.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("after_a_request", [False, True])
def test_a_connection_that_says_nothing_is_closed(front, after_a_request):
    with front.connect() as connection:
        if after_a_request:
            connection.sendall(head(front.signed() | size(2)) + b"ab")
            assert answer(connection) == 200
        assert ended(connection)
    wait_for(lambda: front.connections.waiting + front.connections.known == 0, "no connection")


def test_a_connection_that_speaks_no_tls_is_closed(federation):
    made = Gate(*federation, Limits(handshake_seconds=0.5))
    with made.plain() as silent, made.plain() as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(rude) and ended(silent)
    wait_for(lambda: made.connections.waiting == 0, "no connection")
    made.stop()


def test_http_without_tls_is_named_once_as_an_ingress_that_ends_tls(front, caplog):
    for _ in range(3):
        with front.plain() as ingress:
            ingress.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n\r\n")
            assert ended(ingress)
    wait_for(lambda: front.connections.waiting == 0, "no connection")
    said = [record.message for record in caplog.records if "HTTP without TLS" in record.message]
    assert len(said) == 1 and "pass TCP through" in said[0]


def test_a_signed_body_that_does_not_come_is_cut_off(front):
    with front.connect() as connection:
        connection.sendall(head(front.signed() | size(1000)) + b"abc")
        assert answer(connection) == 408
        assert ended(connection)
    assert front.behind.bodies == []


def test_strangers_never_hold_more_connections_than_allowed_and_a_store_comes_in(front):
    """One address has four; its fifth is let in for the one that has waited longest."""
    held = [front.connect() for _ in range(4)]
    assert front.connections.waiting == 4
    more = [front.plain() for _ in range(40)]
    wait_for(lambda: ended(held[0]), "the first one's end")
    assert front.connections.waiting <= SHORT.waiting_per_address
    assert ask(front, front.signed() | size(2), b"ok") == 200
    for connection in (*held, *more):
        connection.close()


def test_all_addresses_together_have_a_limit_too():
    closed = []
    connections = Connections(SHORT)
    for number in range(100):
        address = f"192.0.2.{number}"
        connection = connections.arrive(address)
        connection.close = lambda number=number: closed.append(number)
    assert connections.waiting == SHORT.waiting
    assert closed == list(range(94)), "those that waited longest"
    assert _network("2001:db8::1") == _network("2001:db8::ffff") != _network("2001:db8:0:1::1")


def test_known_connections_have_a_limit(front):
    held = []
    for _ in range(SHORT.known):
        connection = front.connect()
        connection.sendall(head(front.signed() | size(2)) + b"ab")
        assert answer(connection) == 200
        held.append(connection)
    assert (front.connections.known, front.connections.waiting) == (3, 0)
    assert ask(front, front.signed() | size(2), b"ab") == 503
    for connection in held:
        connection.close()
    wait_for(lambda: front.connections.known == 0, "no connection")
    assert ask(front, front.signed() | size(2), b"ab") == 200


def test_one_node_has_so_many_requests_at_once(federation):
    front = Gate(*federation, Limits(requests_per_node=2))
    front.behind.go_on.clear()
    held = []
    for _ in range(2):
        connection = front.connect()
        connection.sendall(head(front.signed() | size(2)) + b"ab")
        held.append(connection)
    wait_for(lambda: len(front.behind.bodies) == len(held), "as many requests")
    assert ask(front, front.signed() | size(2), b"ab") == 429
    front.behind.go_on.set()
    assert {answer(connection) for connection in held} == {200}
    for connection in held:
        connection.close()
    wait_for(lambda: ask(front, front.signed() | size(2), b"ab") == 200, "room again")
    front.stop()


def test_a_superlink_that_is_down_is_said_and_tried_again(front):
    front.upstream.stop()
    assert ask(front, front.signed() | size(4), b"body") == 503


def test_what_is_no_http_is_answered_and_leaves_no_line_in_the_log(front, caplog):
    for nonsense in (b"\x16\x03\x01\r\n\r\n", b"x y z\r\n\r\n"):
        with front.connect() as connection:
            connection.sendall(nonsense)
            assert answer(connection) == 400
    with front.connect() as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert answer(connection) == 404
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_requests_in_a_row_on_one_connection_are_answered_one_by_one(front):
    with front.connect() as connection:
        one = head(front.signed() | size(2)) + b"ab"
        connection.sendall(one * 3 + head(size(2)) + b"ab")
        data = b""
        with suppress(OSError):
            while part := connection.recv(65536):
                data += part
    assert [line[9:12] for line in data.split(b"\r\n") if line.startswith(b"HTTP")] == [
        *[b"200"] * 3,
        b"401",
    ]


def test_a_renewed_certificate_is_used_and_no_connection_is_cut(federation, front):
    folder, _ = federation

    def serial(connection: ssl.SSLSocket) -> str:
        return connection.getpeercert()["serialNumber"]

    succeed(server(folder.path, "tls", "renew", "--new-key"))
    with front.connect() as before:
        front.serving.server.use_certificate(folder.tls / "server.crt", folder.tls / "server.key")
        with front.connect() as after:
            assert serial(after) != serial(before)
            after.sendall(head(front.signed() | size(2)) + b"ab")
            assert answer(after) == 200
        before.sendall(head(front.signed() | size(2)) + b"ab")
        assert answer(before) == 200
