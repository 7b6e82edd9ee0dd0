"""A store's process that is shown a checkpoint and may cosign it; run as a program by tests.

python witnessing.py NODE TOLD    reads a line, prints "cosigned" or the error

TOLD is a file of pickled `Instructions`.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from hanse_client.node import Node
from hanse_client.rounds.witness import Witness
from hanse_common.errors import HanseError


def main(folder: Path, told: Path) -> None:
    node = Node(folder)
    witness, instructions = Witness(node, node.enrolment), pickle.loads(told.read_bytes())
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        witness.cosign(instructions)
        print("cosigned")
    except HanseError as error:
        print(f"[{error.code}] {error}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
