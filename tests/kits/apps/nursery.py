"""`hanse store join` for many stores, forked from one process: `nursery.py`, folders on stdin.

A node and the server process behind its messages import torch and Flower, some 10 CPU-seconds for
each store. Here both are imported once. Every node is a process with a session and a log of its
own, and every message is answered in a process of its own, as usual. For each folder the node's
process id is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from threading import Event

# What a node imports until it is connected.
from hanse_client.deployment.cli import app
from hanse_client.deployment.worker import Answering
from hanse_common.cli import guarded


def join(folder: Path) -> None:
    """Become the node of a store."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(folder / "join.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(file, number)
    # The server process is the nursery's: a node neither waits for it as its child nor ends it.
    _forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    _forkserver._forkserver_pid = None  # type: ignore[attr-defined]
    sys.argv = ["hanse", "join", "--folder", str(folder)]
    guarded(app)


def main() -> None:
    """Fork a node for each line of stdin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nodes that end leave no zombies
    Answering(Path()).warm(Event())
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                join(Path(line.strip()))
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":  # a forkserver imports this file again
    main()
