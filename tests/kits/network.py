"""Three machines on one: stores, a proxy and a coordinator in network namespaces of their own.

    shops 10.78.0.2 --line (TUN)--> 10.78.0.1 proxy 10.77.0.2 --veth--> 10.77.0.1 hub

Nothing forwards packets, so that the stores reach the coordinator through the proxy only, and
the line between the two can be slow, or silent.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

HUB, PROXY = "10.77.0.1", "10.78.0.1"
PROXY_PORT = 3128
USER, PASSWORD = "ada", "p@ss:w0rd"
_APPS = Path(__file__).parent / "apps"


class Network:
    """The namespaces, the line and the proxy; `close` removes all of them."""

    def __init__(self, folder: Path) -> None:
        _skip_without_namespaces()
        names = [f"hanse-{os.getpid()}-{name}" for name in ("shops", "proxy", "hub")]
        self._shops, self._middle, self._hub = names
        self._running: list[subprocess.Popen[str]] = []
        self._folder = folder
        try:
            self._lay_out()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            pytest.skip(f"this machine cannot make network namespaces: {error}")
        self.line = self._start(
            *(_APPS / "line.py", self._shops, "10.78.0.2/30", self._middle, f"{PROXY}/30"),
            name="line",
        )
        self.proxy = self._start(
            *(_APPS / "connect_proxy.py", PROXY, PROXY_PORT, f"{USER}:{PASSWORD}"),
            name="proxy",
            prefix=self._inside(self._middle),
        )

    @property
    def in_shops(self) -> tuple[str, ...]:
        """The words before a command that runs at a store."""
        return self._inside(self._shops)

    @property
    def in_hub(self) -> tuple[str, ...]:
        """The words before a command that runs at the coordinator."""
        return self._inside(self._hub)

    def set_line(self, *, delay: float = 0.0, rate: float | None = None, cut: bool = False) -> None:
        """Change the line: seconds in each direction, bytes per second, or silence."""
        self._order(self.line, {"delay": delay, "rate": rate, "cut": cut})

    def reset_uploads(self, *, after: int, times: int) -> None:
        """Make the proxy break connections in mid-upload."""
        self._order(self.proxy, {"after": after, "times": times})

    def proxied(self) -> list[dict[str, object]]:
        """What the proxy has written down."""
        lines = (self._folder / "proxy.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        """End the programs and remove the namespaces."""
        for process in self._running:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)
        for name in (self._shops, self._middle, self._hub):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def _lay_out(self) -> None:
        for name in (self._shops, self._middle, self._hub):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = ("hp", self._middle, "10.77.0.2/30"), ("hh", self._hub, f"{HUB}/30")
        pair = ("type", "veth", "peer", "name", "hh", "netns", self._hub)
        _ip("-n", self._middle, "link", "add", "hp", *pair)
        for device, name, address in ends:
            _ip("-n", name, "address", "add", address, "dev", device)
            _ip("-n", name, "link", "set", device, "up")

    def _start(
        self, *words: object, name: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        log: IO[str] = (self._folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [*prefix, sys.executable, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
        )
        self._running.append(process)
        from kits.deployment import wait_for

        path = self._folder / f"{name}.log"
        wait_for(lambda: "ready" in path.read_text(), f"{name}: {path.read_text()}", 30)
        return process

    def _order(self, process: subprocess.Popen[str], order: dict[str, object]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()

    @staticmethod
    def _inside(namespace: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", namespace)


def _skip_without_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    if shutil.which("ip") is None:
        pytest.skip("the program `ip` is not installed")
    if not Path("/dev/net/tun").exists():
        pytest.skip("this kernel has no TUN devices")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
