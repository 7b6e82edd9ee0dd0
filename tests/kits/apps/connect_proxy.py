"""A small HTTP proxy that knows CONNECT and Basic authentication, and can break connections.

    python connect_proxy.py ADDRESS PORT USER:PASSWORD

prints a line of JSON for each request: `{"target": "10.77.0.1:9443", "status": 200}`. The line
`{"after": 65536, "times": 3}` on stdin makes it reset three connections (TCP RST at both ends),
each when clients have sent so many bytes since the last one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from base64 import b64encode

_CHUNK = 16384


class Proxy:
    """Forwards bytes between clients and the targets that they name."""

    def __init__(self, password: str) -> None:
        self._expected = f"Basic {b64encode(password.encode()).decode()}"
        self._after, self._times, self._sent = 0, 0, 0

    async def serve(self, address: str, port: int) -> None:
        """Serve until stdin ends."""
        server = await asyncio.start_server(self._client, address, port)
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        async with server:
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                order = json.loads(line)
                self._after, self._times, self._sent = order["after"], order["times"], 0

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        method, target, _ = head[0].split(" ")
        fields = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        given = {name.lower(): value for name, value in fields.items()}.get("proxy-authorization")
        status = 407 if given != self._expected else 200 if method == "CONNECT" else 405
        if status == 200:
            host, _, port = target.rpartition(":")
            try:
                upstream = await asyncio.open_connection(host, int(port))
            except OSError:
                status = 502
        print(json.dumps({"target": target, "status": status}), flush=True)
        writer.write(f"HTTP/1.1 {status} -\r\n\r\n".encode())
        if status != 200:
            writer.close()
            return
        ways = (self._copy(reader, upstream[1], writer), self._copy(upstream[0], writer, None))
        await asyncio.gather(*ways)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter | None,
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if client is not None and self._breaks(len(data)):
                    print(json.dumps({"reset": True}), flush=True)
                    for end in (writer, client):
                        _reset(end)
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def _breaks(self, count: int) -> bool:
        self._sent += count
        if not self._times or self._sent < self._after:
            return False
        self._times, self._sent = self._times - 1, 0
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Proxy(sys.argv[3]).serve(sys.argv[1], int(sys.argv[2])))
