"""A coordinator and its stores in one process that may kill itself; run as a program by tests.

    python secure_run.py RUN start MESSAGE-TYPE ROUND    killed when it has all replies but one
    python secure_run.py RUN resume

Where the last store's reply to a message of that type comes in, in that round, it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from flwr.app import Message

from hanse_client.node import Node, list_nodes
from hanse_server.app import read_settings, secure_grid
from hanse_server.rounds import run_rounds
from hanse_server.store_grid import StoreGrid
from kits.apps.secure_federation import FaultGrid


def main(run: Path, how: str, kind: str = "", number: str = "0") -> None:
    stores = run / "stores"
    os.environ["HANSE_FEDERATION"] = str(stores)
    faults = FaultGrid([Node(path).name for path in list_nodes(stores)])
    asked: list[str] = []

    def to_server(_: str, reply: Message) -> Message:
        asked.append(reply.metadata.message_type)
        if asked.count(kind) == int(number) * len(faults.names):
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    if how == "start":
        faults.to_server = to_server
    grid = secure_grid(
        StoreGrid(faults, expected_stores=len(faults.names)), run, run, stage_seconds=5.0
    )
    run_rounds(grid, run, read_settings(run), resume=how == "resume")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
