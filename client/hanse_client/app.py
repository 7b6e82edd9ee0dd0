"""The store's Flower ClientApp, the same in a simulation and at a real store.

A store is a member of a federation, and answers the message types of one table. One exchange
from top to bottom: `train` or `evaluate` (stage 0), then `share`, `mask`, `confirm`, `unmask`.
Every message passes `hanse_client.guard` first. Heavy packages are imported by the stage that
needs them, so that a message which trains nothing is answered at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from hanse_client.deployment.code_bundle import Bundle
from hanse_client.guard import DESCRIBE, Admitted, admit
from hanse_client.node import Node, list_nodes
from hanse_client.rounds.witness import Witness
from hanse_common.errors import ConfigError, HanseError, public_reason
from hanse_common.instructions import CONFIRM, MASK, SHARE, UNMASK
from hanse_common.roundlog.evidence import LOG_SIZE

_log = logging.getLogger(__name__)
_LONGEST_REASON = 500
"""Characters: an error may quote what the coordinator sent, which can be of any length."""
Answer = Mapping[str, bytes | str | int]


def describe(admitted: Admitted) -> Answer:
    """Say what the store is called, and how much of the round log it has seen."""
    seen = Witness(admitted.node, admitted.enrolment).seen
    return {"store": admitted.node.name, LOG_SIZE: 0 if seen is None else seen.size}


def begin(admitted: Admitted) -> Answer:
    """Stage 0: train or evaluate, put the vector aside for masking, and say hello."""
    from hanse_client.rounds.local_update import offer

    return offer(admitted)


ACTIONS: Mapping[str, Callable[[Admitted], Answer]] = {
    DESCRIBE: describe,
    "train": begin,
    "evaluate": begin,
    SHARE: lambda admitted: admitted.exchange.share(admitted.data),
    MASK: lambda admitted: admitted.exchange.mask(admitted.data),
    CONFIRM: lambda admitted: admitted.exchange.confirm(admitted.data),
    UNMASK: lambda admitted: admitted.exchange.unmask(admitted.data),
}
"""All that a store answers; whatever else comes is refused unread."""


class StoreApp(ClientApp):
    """Answers the messages of `ACTIONS` that pass the guard, and no others."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message; what goes wrong becomes an error reply that quotes no data."""
        node = open_node(context)
        about = {"store": node.name, "stage": message.metadata.message_type}
        started = time.monotonic()
        try:
            admitted = admit(message, node, answered=ACTIONS, bundle=Bundle.of(context))
            answer = ACTIONS[message.metadata.message_type](admitted)
        except Exception as error:
            with suppress(OSError):  # a full disk may be what is wrong
                node.log(error=f"[{_code(error)}] {error}")
            reason = public_reason(error)[:_LONGEST_REASON]
            _log.info("refused: %s", reason, extra=about | {"error_code": _code(error)})
            return refused(message, reason)
        _log.info("answered", extra=about | {"seconds": round(time.monotonic() - started, 3)})
        records = RecordDict({"config": ConfigRecord({**answer})})
        return Message(content=records, reply_to=message)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, HanseError) else type(error).__name__


def refused(message: Message, reason: str) -> Message:
    """The reply that says why there is no other: one form, whatever was wrong."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


app = StoreApp()


def open_node(context: Context) -> Node:
    """Find the store that this process answers for.

    A SuperNode says so with `--node-config 'node="…"'`. Flower's own simulation can only
    number its nodes; then `HANSE_FEDERATION` names a folder of them.

    Raises:
        ConfigError: Neither is set.
    """
    folder = context.node_config.get("node")
    if folder is not None:
        return _node(Path(str(folder)))
    federation = os.environ.get("HANSE_FEDERATION")
    index = context.node_config.get("partition-id")
    if federation is None or index is None:
        raise ConfigError(
            "this node does not know its store", hint="start it with --node-config 'node=\"DIR\"'"
        )
    return _node(list_nodes(Path(federation))[int(index)])


@lru_cache(maxsize=16)
def _node(folder: Path) -> Node:
    return Node(folder)
