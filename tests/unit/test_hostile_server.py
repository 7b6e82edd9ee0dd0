"""A store's node against a coordinator's server that answers anything at all, over real TLS.

Whatever comes, a call ends in an error with a name, within its memory, and goes nowhere else;
the node's loop goes on.
"""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree

from hanse_client.deployment import inbox
from hanse_client.deployment.fleet_api import Address, Fleet, connected
from hanse_client.deployment.node_loop import serve
from hanse_client.deployment.stopping import Stop
from hanse_client.node import Node, NodeSettings
from hanse_common.errors import HanseError
from hanse_common.paths import NODE_FILE
from hanse_server.deployment import tls
from kits.errors import raises

Answer = tuple[int, dict[str, str], bytes]
PROTOBUF = {"Content-Type": "application/protobuf"}


class Server:
    """Lets a node in, and answers its questions for messages as it is told."""

    def __init__(self, folder: Path) -> None:
        root_key, root = tls.make_root("hostile")
        key, certificate = tls.make_server(root_key, root, ("127.0.0.1",))
        tls.save_key(folder / "key", key)
        tls.save_certificate(folder / "crt", certificate)
        self.root = root.public_bytes(Encoding.PEM)
        self.answers: list[Answer | bytes] = []
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(self.path)
                answer: Answer | bytes = (200, PROTOBUF, b"")
                if self.path.endswith("/activate-node"):
                    answer = (200, PROTOBUF, ActivateNodeResponse(node_id=7).SerializeToString())
                elif self.path.endswith("/pull-messages") and outer.answers:
                    answer = outer.answers.pop(0)
                if isinstance(answer, bytes):
                    self.wfile.write(answer)
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "crt", folder / "key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def node(self, stop: Stop | None = None) -> Iterator[Fleet]:
        address = Address(
            fleet=f"127.0.0.1:{self.port}",
            root=self.root,
            key=ec.generate_private_key(ec.SECP384R1()),
        )
        with connected(address, stop=stop or Stop(), patience=0.01) as fleet:
            yield fleet


@pytest.fixture
def hostile(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def message(**metadata: object) -> ProtoMessage:
    return ProtoMessage(metadata=Metadata(**metadata))


def pulled(*messages: ProtoMessage, trees: int = 1) -> Answer:
    answer = PullMessagesResponse(
        messages_list=messages, message_object_trees=[ObjectTree(object_id="x")] * trees
    )
    return 200, PROTOBUF, answer.SerializeToString()


def wide() -> Answer:
    tree = ObjectTree(object_id="x", children=[ObjectTree(object_id="y")] * 30_000)
    answer = PullMessagesResponse(messages_list=[message()], message_object_trees=[tree])
    return 200, PROTOBUF, answer.SerializeToString()


ELSEWHERE = "/v1/control/list-nodes"
ZEROS = bytes(inbox.LARGEST_ANSWER + 1)
ANSWERS: dict[str, tuple[Answer | bytes, type[HanseError]]] = {
    "bytes that are no protobuf": ((200, PROTOBUF, b"\xff" * 50), "unreachable"),
    "a page": ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "unreachable"),
    "a message without its tree": (pulled(message(), trees=0), "federation"),
    "a message with too many objects": (wide(), "federation"),
    "more than any answer": ((200, PROTOBUF, ZEROS), "unreachable"),
    "a compressed bomb": (
        (200, PROTOBUF | {"Content-Encoding": "gzip"}, gzip.compress(ZEROS)),
        "unreachable",
    ),
    "a compression of no kind": ((200, PROTOBUF | {"Content-Encoding": "br"}, b"x"), "unreachable"),
    "an order to go elsewhere": (
        (307, {"Location": "/v1/control/list-nodes"}, b""),
        "federation",
    ),
    "an order to wait": ((429, {}, b""), "unreachable"),
    "too slow, it says": ((408, {}, b""), "unreachable"),
    "a fault": ((500, {}, b"\x1b[2J"), "unreachable"),
    "a refusal in colours": ((418, {}, b"\x1b[2J\xff"), "federation"),
    "a stranger": ((401, {}, b""), "not-admitted"),
    "no HTTP": (b"\x00\xffSSH-2.0\r\n\r\n", "unreachable"),
    "a length that is none": (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "unreachable"),
    "half an answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", "unreachable"),
    "headers without an end": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, "unreachable"),
    "nothing": (b"", "unreachable"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_of_any_kind_ends_in_an_error_with_a_name(hostile, what):
    answer, code = ANSWERS[what]
    with hostile.node() as fleet:
        hostile.answers = [answer] * 3
        with raises(code) as raised:
            fleet.receive()
        assert "\x1b" not in str(raised.value)
    assert ELSEWHERE not in hostile.asked


def test_the_loop_goes_on_after_nonsense(hostile, tmp_path):
    """A server that hands out nonsense is asked again, as one that has nothing."""
    settings = NodeSettings(name="luebeck", histories=Path("none"), base_model=Path("none"))
    (tmp_path / NODE_FILE).write_text(settings.model_dump_json())
    stop, told = Stop(), []

    def hear(line: str) -> None:
        told.append(line)
        if "answers" in line and "418" in line:
            stop.set()

    with hostile.node(stop) as fleet:
        hostile.answers = [
            pulled(message(), trees=0),
            wide(),
            (307, {"Location": "/"}, b""),
            (200, PROTOBUF, b""),
            (418, {}, b"\x1b]0;owned\x07"),
        ]
        serve(fleet, Node(tmp_path), None, stop=stop, report=hear)  # type: ignore[arg-type]
    assert len(told) == 4 and all("[federation]" in line for line in told)
    assert not any("\x1b" in line for line in told)


def test_a_message_is_bounded(monkeypatch):
    monkeypatch.setattr(inbox, "LARGEST_CONTENT", 1000)
    tree = ObjectTree(object_id="a", children=[ObjectTree(object_id=str(n)) for n in range(20)])
    fetched: list[str] = []

    def pull(object_id: str) -> bytes:
        fetched.append(object_id)
        return bytes(300)

    with raises("federation", match="larger"):
        inbox.whole_message(tree, pull, lambda _: None)
    assert len(fetched) < 10
