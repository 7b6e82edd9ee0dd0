"""A fresh process for every message, without the seconds that a fresh process costs.

A server process imports the heavy packages once and forks a child for each message
(`multiprocessing`'s forkserver). A child reads node, policy and ledger from disk as they are
then, and gives all memory back when it ends; if it dies, only that message is lost.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from hanse_client.app import refused
from hanse_client.deployment.code_bundle import Bundle
from hanse_client.node import Node, append_log
from hanse_common import logs
from hanse_common.errors import DataError, HanseError, public_reason

_log = logging.getLogger(__name__)

HEAVY = (
    "hanse_client.app",
    "hanse_client.rounds.local_update",
    "hanse_client.training.subnormals",
    "hanse_client.training.train",
    "hanse_client.tasks.interest.metrics",
)
"""Imported once, before the first message: torch, transformers and Opacus come with them."""
_LONGEST_WAIT = 86400.0
_SAFE_PATH = "PYTHONSAFEPATH"


class Answering:
    """Answers messages with the ClientApp that is installed here, in a process each."""

    def __init__(self, node: Path) -> None:
        self._node = node
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(list(HEAVY))

    def warm(self) -> None:
        """Start the server process, so that the first message need not wait for it."""
        child = self._processes.Process(target=_nothing)
        _start(child)
        child.join()

    def answer(self, message: Message, node_id: int, bundle: Bundle) -> Message | None:
        """Have a message answered.

        Args:
            message: From the coordinator.
            node_id: The node's number at the SuperLink.
            bundle: The app bundle of the message's run.

        Returns:
            The reply, which is a refusal where no process could be started or it died; None if
            the message expired first.
        """
        ours, theirs = self._processes.Pipe(duplex=False)
        child = self._processes.Process(
            target=_answer,
            args=(theirs, message, str(self._node), node_id, bundle),
            daemon=True,
        )
        try:
            _start(child)
        except OSError as error:
            # Perhaps stderr is a file on a full disk. The next message may do better.
            ours.close()
            return refused(message, public_reason(error))
        finally:
            theirs.close()
        try:
            if not ours.poll(_time_left(message)):
                return None
            reply: Message = ours.recv()
            return reply
        except EOFError:
            child.join()
            # It may have run out of memory on long histories: how it ended stays here.
            died = DataError(f"the store's process ended with status {child.exitcode}")
            _log.error("%s", died)
            with suppress(OSError):
                append_log(self._node, error=str(died))
            return refused(message, public_reason(died))
        finally:
            ours.close()
            _end(child)


def _start(child: multiprocessing.process.BaseProcess) -> None:
    """Start a child, and the server process first if it is not there.

    A file in the working folder must not pass there for an installed module.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        child.start()
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _answer(conn: Connection, message: Message, node: str, node_id: int, bundle: Bundle) -> None:
    """Runs in the child."""
    from hanse_client.app import app
    from hanse_client.training.subnormals import flush_subnormals

    flush_subnormals()  # before torch starts a thread

    # Packages add handlers of their own to the root, which would write every line again.
    logging.getLogger().handlers.clear()
    with suppress(HanseError):  # a folder that cannot be read is the message's answer, below
        logs.set_up(store=Node(Path(node)).name)
    context = Context(
        run_id=message.metadata.run_id,
        node_id=node_id,
        node_config={"node": node, **bundle.as_config()},
        state=RecordDict(),
        run_config={},
    )
    try:
        reply = app(message, context)
    except Exception as error:  # the folder holds no node any more
        reply = refused(message, public_reason(error))
    conn.send(reply)
    conn.close()


def _nothing() -> None:
    """What a child does whose only purpose is that the server process is up."""


def _time_left(message: Message) -> float:
    """Seconds until a message expires, by what the coordinator wrote; a day at most."""
    left = message.metadata.created_at + message.metadata.ttl - time.time()
    return min(max(0.0, left), _LONGEST_WAIT) if math.isfinite(left) else 0.0


def _end(child: multiprocessing.process.BaseProcess) -> None:
    child.join(timeout=5)
    if child.is_alive():
        child.kill()
        child.join()
