"""A coordinator that plays every message of an exchange a second time once it is over.

Python imports a `sitecustomize` at its start, so this changes the ServerApp's process without
the product knowing. What stores answer goes to `$HANSE_REPLAYED`, one JSON line a message.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

if Path(sys.argv[0] if sys.argv else "").name == "flwr-serverapp" or "flwr-serverapp" in " ".join(
    sys.orig_argv
):
    from flwr.app import Message

    from hanse_common.instructions import UNMASK
    from hanse_server.exchange import StageRunner

    ask = StageRunner.ask

    def ask_and_replay(self, contents, message_type, timeout, **more):  # type: ignore[no-untyped-def]
        ask(self, contents, message_type, timeout, **more)
        self.said = [*getattr(self, "said", []), (message_type, dict(contents))]
        if message_type != UNMASK:
            return
        for kind, told in self.said:
            again = [Message(content, node, kind) for node, content in told.items()]
            waiting, until = set(self._grid.push_messages(again)), time.monotonic() + 60
            while waiting and time.monotonic() < until:
                for reply in list(self._grid.pull_messages(waiting)):
                    waiting.discard(reply.metadata.reply_to_message_id)
                    reason = reply.error.reason if reply.has_error() else None
                    store = self._grid.stores[reply.metadata.src_node_id]
                    with Path(os.environ["HANSE_REPLAYED"]).open("a") as file:
                        file.write(json.dumps({"kind": kind, "store": store, "why": reason}) + "\n")
                time.sleep(0.1)

    StageRunner.ask = ask_and_replay
