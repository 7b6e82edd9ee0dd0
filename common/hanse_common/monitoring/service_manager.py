r"""Tells the service manager how a long-running command is: ready, busy with what, alive.

This is systemd's protocol (`sd_notify(3)`): datagrams to the socket that `NOTIFY_SOCKET` names.
Without that variable nothing is sent.

>>> import os, socket, tempfile
>>> with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
...     path = os.path.join(folder, "notify")
...     heard.bind(path)
...     ServiceManager(path).ready("stores can connect")
...     heard.recv(100)
b'READY=1\nSTATUS=stores can connect'
"""  # noqa: E501

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Self

from hanse_common.wording import printable

_LONGEST = 200
_ALLOWED_SECONDS = 60.0
"""Seconds until which a command that has just started must say that it goes on."""


class ServiceManager:
    """The service manager that has started this process, if one has.

    Args:
        address: Path of its socket, `@` first for an abstract one; empty without one.
        watchdog_seconds: It ends a process that is silent for so long; 0 if it does not.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._until = time.monotonic() + _ALLOWED_SECONDS
        if self._address and watchdog_seconds > 0:
            self._pause = watchdog_seconds / 3
            threading.Thread(target=self._beat, name="watchdog", daemon=True).start()

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Read the variables of systemd, and remove them: they are not for child processes."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "0")
        meant = environment.pop("WATCHDOG_PID", str(os.getpid()))
        watched = meant == str(os.getpid()) and microseconds.isdigit()
        return cls(address, int(microseconds) / 1e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        """Say that the command has started."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, line: str) -> None:
        """Say what the command does, in one line for `systemctl status`."""
        self._send(f"STATUS={_line(line)}")

    def stopping(self) -> None:
        """Say that the command ends."""
        self._send("STOPPING=1")

    def expect(self, seconds: float) -> None:
        """Promise to call this again within some seconds.

        If that does not happen, the command is stuck: the watchdog is fed no more, and the
        service manager starts it anew.
        """
        self._until = time.monotonic() + seconds

    def _beat(self) -> None:
        while True:
            if time.monotonic() < self._until:
                self._send("WATCHDOG=1")
            time.sleep(self._pause)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that is gone, or whose queue is full, must not stop the command.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)


def _line(text: str) -> str:
    return printable(text)[:_LONGEST]
