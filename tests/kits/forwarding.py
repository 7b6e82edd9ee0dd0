"""A proxy for CONNECT whose connections can be cut, as a line that drops."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Forwarder:
    """Passes bytes between a client and the address that it asks for."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.connections = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End every connection; returns how many there were."""
        with self._lock:
            ended, self._open = self._open, []
        for each in ended:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        return len(ended) // 2

    def close(self) -> None:
        """Accept no more connections, and end those that there are."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        request = b""
        with suppress(OSError):
            while not request.endswith(b"\r\n\r\n"):
                if not (byte := client.recv(1)):
                    return  # who asks has hung up
                request += byte
            host, _, port = request.split()[1].decode().rpartition(":")
            server = socket.create_connection((host, int(port)))
            with self._lock:
                self._open += [client, server]
                self.connections += 1
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pass, args=(server, client), daemon=True).start()
            _pass(client, server)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
