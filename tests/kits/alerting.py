"""Servers on loopback that write down what they are told: a webhook, a mail server, systemd."""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Webhook:
    """An HTTP server that answers each request with the next status of a list, the last for ever.

    Args:
        statuses: HTTP statuses. Of a redirect the target is this server.
        slow: Seconds between two bytes of an answer that never ends; 0 answers at once.
    """

    def __init__(self, *statuses: int, slow: float = 0.0) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        left = list(statuses or (204,))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.bodies.append(json.loads(body))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                if slow:
                    with suppress(OSError):
                        for _ in range(200):
                            self.wfile.write(b"x")
                            time.sleep(slow)
                    return
                status = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", outer.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


class MailServer:
    """An SMTP server with TLS and a login, as far as a client needs it to send a letter.

    Args:
        folder: Holds `server.crt` and `server.key`.
        implicit: Speak TLS from the first byte on.
        offers_tls: Whether it offers STARTTLS.
        password: Of the user `hanse`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        implicit: bool = False,
        offers_tls: bool = True,
        password: str = "open sesame",
    ) -> None:
        self.letters: list[str] = []
        self.heard_in_the_clear: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        expected = base64.b64encode(f"\0hanse\0{password}".encode()).decode()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            extensions: ClassVar = ["AUTH PLAIN", *(["STARTTLS"] if offers_tls else [])]

            def handle(self) -> None:
                with suppress(OSError):
                    self._talk()

            def _talk(self) -> None:
                stream = self.request
                secure = implicit
                if implicit:
                    stream = context.wrap_socket(stream, server_side=True)
                lines = stream.makefile("rb")

                def say(text: str) -> None:
                    stream.sendall(text.encode() + b"\r\n")

                say("220 mail")
                while line := lines.readline().decode().strip():
                    if not secure:
                        outer.heard_in_the_clear.append(line)
                    word = line.split()[0].upper()
                    if word == "EHLO":
                        say("250-mail greets you")
                        offered = [
                            each for each in self.extensions if each != "STARTTLS" or not secure
                        ]
                        for each in offered:
                            say(f"250-{each}")
                        say("250 SIZE 100000")
                    elif word == "STARTTLS":
                        say("220 go on")
                        stream = context.wrap_socket(self.request, server_side=True)
                        lines, secure = stream.makefile("rb"), True
                    elif word == "AUTH":
                        right = line.split()[-1] == expected
                        say("235 welcome" if right else "535 secret words of the server")
                    elif word == "DATA":
                        say("354 go on")
                        letter = []
                        while (line := lines.readline()) not in (b".\r\n", b""):
                            letter.append(line.decode().rstrip("\r\n"))
                        outer.letters.append("\n".join(letter))
                        say("250 taken")
                    elif word == "QUIT":
                        say("221 bye")
                        return
                    else:
                        say("250 ok")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


class Datagrams:
    """What is sent to a socket of the kind that systemd names in `NOTIFY_SOCKET`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # Read at once, as the kernel keeps few of them.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            self._found.append(self._socket.recv(1000).decode())

    def read(self) -> list[str]:
        """Everything that has arrived since the last call."""
        time.sleep(0.02)
        found, self._found = self._found, []
        return found
