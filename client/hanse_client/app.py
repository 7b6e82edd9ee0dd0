"""The store's Flower ClientApp, the same in a simulation and at a real store.

A store answers the message types of one table, `ACTIONS`. An exchange begins with `train` or
`evaluate` (stage 0) and goes on with `share`, `mask`, `confirm` and `unmask`. Every message
passes `hanse_client.guard` first. Heavy packages are imported by the stage that needs them, so
that a message which trains nothing is answered at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from hanse_client.deployment.code_bundle import Bundle
from hanse_client.flower_internals import ErrorCode
from hanse_client.guard import DESCRIBE, Admitted, admit
from hanse_client.node import Node, list_nodes
from hanse_client.rounds.witness import Witness
from hanse_common.errors import ConfigError, HanseError, public_reason
from hanse_common.instructions import CONFIRM, MASK, SHARE, UNMASK
from hanse_common.paths import STORES_FOLDER
from hanse_common.roundlog.evidence import LOG_SIZE
from hanse_common.versions import VERSION_FIELD, own_version

if TYPE_CHECKING:
    from hanse_client.rounds.local_update import Learner

_log = logging.getLogger(__name__)
_LONGEST_REASON = 500
"""Characters of a reply's reason: an error may quote what the coordinator sent, of any length."""
Answer = Mapping[str, bytes | str | int]


def describe(admitted: Admitted) -> Answer:
    """Reply with the store's name and the size of the round log that it has accepted."""
    seen = Witness(admitted.node, admitted.enrolment).seen
    return {"store": admitted.node.name, LOG_SIZE: 0 if seen is None else seen.size}


def begin(admitted: Admitted, learner: Learner | None = None) -> Answer:
    """Stage 0: train or evaluate, store the vector for masking, and reply with a Hello."""
    from hanse_client.rounds.local_update import compute_update

    # Beside the Hello: the bytes that a store signs, and their golden bytes, stay as they are.
    return {**compute_update(admitted, learner), VERSION_FIELD: own_version().encode()}


ACTIONS: Mapping[str, Callable[[Admitted], Answer]] = {
    DESCRIBE: describe,
    "train": begin,
    "evaluate": begin,
    SHARE: lambda admitted: admitted.exchange.share(admitted.data),
    MASK: lambda admitted: admitted.exchange.mask(admitted.data),
    CONFIRM: lambda admitted: admitted.exchange.confirm(admitted.data),
    UNMASK: lambda admitted: admitted.exchange.unmask(admitted.data),
}
"""All message types that a store answers; every other one is refused unread."""


class StoreApp(ClientApp):
    """Answers the messages of `ACTIONS` that pass the guard, and no others.

    Args:
        own: An app of somebody else, which trains and evaluates instead of the shop's task; see
            `secure`.
    """

    def __init__(self, own: ClientApp | None = None) -> None:
        super().__init__()
        self._own = own

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message; an error becomes an error reply that quotes no data."""
        node = open_node(context)
        about = {"store": node.name, "stage": message.metadata.message_type}
        started = time.monotonic()
        try:
            admitted = admit(message, node, answered=ACTIONS, bundle=Bundle.of(context))
            answer = self._answer(admitted, message, context)
        except Exception as error:
            # The full text, which may quote data, goes to the store's own log alone.
            with suppress(OSError):  # the error may be that the disk is full
                node.log(error=f"[{_code(error)}] {error}")
            reason = public_reason(error)[:_LONGEST_REASON]
            _log.info("refused: %s", reason, extra=about | {"error_code": _code(error)})
            return refused(message, reason)
        _log.info("answered", extra=about | {"seconds": round(time.monotonic() - started, 3)})
        records = RecordDict({"config": ConfigRecord({**answer})})
        return Message(content=records, reply_to=message)

    def _answer(self, admitted: Admitted, message: Message, context: Context) -> Answer:
        if self._own is None or admitted.order is None:
            return ACTIONS[message.metadata.message_type](admitted)
        from hanse_client.rounds.own_app import OwnApp

        return begin(admitted, OwnApp(self._own, message, context))


def secure(app: ClientApp) -> StoreApp:
    """Make a Flower ClientApp private and masked.

    Its functions for `train` and `evaluate` stay as they are but for one call each:
    `hanse_client.clipped_sum` makes what training releases, `hanse_client.customer_sums` what
    evaluation releases. Everything else that the app returns stays in its process; without
    privacy (masks alone) the reply's arrays are what training releases.

        app = secure(ClientApp())

    Args:
        app: The app; functions can be registered on it before and after.

    Guarantees:
        The app is called only for orders within the signed terms and the store's policy. What
        leaves the store is charged to its ledger, has the noise of the terms and is masked.
    """
    return _Secured(app)


class _Secured(StoreApp):
    """A `StoreApp` on which the functions of the app within are registered as on a ClientApp."""

    def __init__(self, own: ClientApp) -> None:
        super().__init__(own)
        self.train, self.evaluate = own.train, own.evaluate  # type: ignore[method-assign]


def _code(error: Exception) -> str:
    return error.code if isinstance(error, HanseError) else type(error).__name__


def refused(message: Message, reason: str) -> Message:
    """Return the error reply with a reason; it has the same form for every error."""
    # The same Flower error code for all, so that the reason alone says what was wrong.
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


app = StoreApp()


def open_node(context: Context) -> Node:
    """Open the node of the store that this process answers for.

    A SuperNode is started with `--node-config 'node="…"'`. Flower's own simulation can only
    number its nodes; there `HANSE_FEDERATION` names the folder that holds all of them.

    Raises:
        ConfigError: Neither is set.
    """
    folder = context.node_config.get("node")
    if folder is not None:
        return _node(Path(str(folder)))
    # A run config names it where the app is somebody else's (`flwr run --run-config`).
    federation: object = os.environ.get("HANSE_FEDERATION") or context.run_config.get("federation")
    index = context.node_config.get("partition-id")
    if federation is None or index is None:
        raise ConfigError(
            "this node does not know its store", hint="start it with --node-config 'node=\"DIR\"'"
        )
    home = Path(str(federation))
    stores = home / STORES_FOLDER
    return _node(list_nodes(stores if stores.is_dir() else home)[int(index)])


# In a simulation one process answers for many stores; a store's histories are read once.
@lru_cache(maxsize=16)
def _node(folder: Path) -> Node:
    return Node(folder)
