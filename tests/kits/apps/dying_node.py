"""`hanse store join`, killed at one message: `dying_node.py KIND:WHEN:N join --folder …`.

WHEN is `before` the N-th message of that kind is answered, or `after`: when the answer is
made, all that it rests on is on disk, and it was not sent yet.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from hanse_client.deployment.cli import app
from hanse_client.deployment.worker import Answering
from hanse_common.cli import guarded


def die(kind: str, when: str, left: int) -> None:
    """Make this process a victim."""
    answer = Answering.answer

    def answer_or_die(self: Answering, message: Any, *more: Any) -> Any:
        nonlocal left
        left -= message.metadata.message_type == kind
        now = message.metadata.message_type == kind and left == 0
        if now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        reply = answer(self, message, *more)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    Answering.answer = answer_or_die  # type: ignore[method-assign]


if __name__ == "__main__":  # a forkserver imports this file again
    kind, when, number = sys.argv.pop(1).split(":")
    die(kind, when, int(number))
    guarded(app)
