"""Nodes of many stores that share the memory and the time of their imports; see `apps/nursery.py`.

with Nursery(root / "nursery.log") as nursery:
    with joined_shops(…, quick=QuickShops, join=nursery.join) as shops:
        shops.joined["riga"].kill()
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hanse_client.deployment.preparing import prepare
from kits.commands import NAMES, QuickShops
from kits.deployment import wait_for


class ForkedNode:
    """The node of one store."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid

    def said(self) -> str:
        return (self.folder / "join.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End the node at once, as a loss of power does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the node as its operator does."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        wait_for(lambda: not self.running, f"the end of {self.folder.name}", 60)


class Nursery:
    """The process that forks them."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")  # of the processes that answer messages

    def __enter__(self) -> Self:
        program = Path(__file__).parent / "apps" / "nursery.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()  # its stdin ends
        with suppress(ProcessLookupError):
            for _ in range(50):  # the server process of its nodes
                os.killpg(self._process.pid, signal.SIGKILL)
                time.sleep(0.1)
        self._log.close()

    def join(self, shops: QuickShops) -> None:
        """Prepare the stores' data in this process, and start a node for each."""
        for name, store in shops.stores.items():
            if name != NAMES[0]:  # they sell the same
                shutil.copytree(
                    shops.stores[NAMES[0]].path / "texts", store.path / "texts", dirs_exist_ok=True
                )
            prepare(store)
            self.start(shops, name)

    def start(self, shops: QuickShops, name: str) -> None:
        """Start one store's node."""
        folder = shops.stores[name].path
        assert self._process.stdin is not None and self._process.stdout is not None
        print(folder, file=self._process.stdin, flush=True)
        shops.joined[name] = ForkedNode(folder, int(self._process.stdout.readline()))
