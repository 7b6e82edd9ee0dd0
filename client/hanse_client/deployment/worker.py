"""A process for every message, forked from one that has imported the heavy packages.

The server process (`multiprocessing`'s forkserver) imports torch, transformers and Opacus once and
forks a child for each message: a stage takes 0.1 to 0.3 s instead of some 5 CPU-seconds of imports
(docs/lab-notes.md). A child reads node, policy and ledger from disk, and returns all memory when
it ends; if it dies, only its message is lost.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict

from hanse_client.app import refused
from hanse_client.deployment.code_bundle import Bundle
from hanse_client.node import Node, append_log
from hanse_common import logs
from hanse_common.errors import DataError, HanseError, public_reason

if TYPE_CHECKING:  # the former is not on Windows
    from multiprocessing.context import ForkServerContext, SpawnContext

_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
"""Windows has no such server process: there every message waits for the imports."""
if _FORKS:
    from multiprocessing.forkserver import _forkserver

_log = logging.getLogger(__name__)

_PRELOADED = (
    "hanse_client.app",
    "hanse_client.rounds.local_update",
    "hanse_client.training.subnormals",
    "hanse_client.training.train",
    "hanse_client.tasks.interest.metrics",
)
"""Modules that the server process imports; torch, transformers and Opacus come with them."""
_LONGEST_WAIT = 86400.0
"""Seconds that an answer may take at most; the coordinator chooses when a message expires."""
_LOOK_SECONDS = 0.2
_REST_SECONDS = 600.0
"""Seconds without a message after which the server process ends: longer than a stage lasts."""
_SAFE_PATH = "PYTHONSAFEPATH"


class Answering:
    """Answers messages with the installed ClientApp, each in a process of its own."""

    def __init__(self, node: Path) -> None:
        self._node = node
        self._processes: ForkServerContext | SpawnContext
        if _FORKS:
            self._processes = multiprocessing.get_context("forkserver")
            self._processes.set_forkserver_preload(list(_PRELOADED))
        else:
            self._processes = multiprocessing.get_context("spawn")
        self._used = time.monotonic()

    def warm(self, stop: Event) -> bool:
        """Start the server process, so that the first message does not wait for its imports.

        Args:
            stop: Ends the wait; the imports then end with this process.

        Returns:
            Whether the server process is ready; False if `stop` was set first.

        Raises:
            OSError: It cannot be started.
        """
        ready = Event()
        failed: list[OSError | EOFError] = []

        def start() -> None:
            child = self._processes.Process(target=_nothing, daemon=True)
            try:
                _start(child)  # returns when the imports are done
                child.join()
                ready.set()
            except (OSError, EOFError) as error:
                failed.append(error)

        # In a thread, since no signal ends the wait for the server process. Its handlers run in
        # the main thread, which only waits here.
        thread = Thread(target=start, name="warm", daemon=True)
        thread.start()
        while thread.is_alive() and not ready.is_set() and not stop.is_set():
            thread.join(timeout=_LOOK_SECONDS)
        if stop.is_set() and not ready.is_set():
            self.close()
        elif failed:
            raise OSError(f"the process that answers messages did not start: {failed[0]!r}")
        return ready.is_set()

    def close(self) -> None:
        """End the server process at once, also in its imports; it holds nothing but them."""
        pid = _server_process()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def answer(self, message: Message, node_id: int, bundle: Bundle) -> Message | None:
        """Answer a message in a child process.

        Args:
            message: The coordinator's message.
            node_id: The node's number at the SuperLink.
            bundle: The app bundle of the message's run.

        Returns:
            The reply; an error reply if the process could not be started or died; None if the
            message expired first.
        """
        self._used = time.monotonic()
        ours, theirs = self._processes.Pipe(duplex=False)
        child = self._processes.Process(
            target=_answer,
            args=(theirs, message, str(self._node), node_id, bundle),
            daemon=True,
        )
        try:
            _start(child)
        except OSError as error:
            # For example stderr is a file on a full disk. Only this message is lost.
            ours.close()
            return refused(message, public_reason(error))
        finally:
            # The child has its own copy. While this one is open, `recv` would not notice its end.
            theirs.close()
        try:
            if not ours.poll(time_left(message)):
                return None
            reply: Message = ours.recv()
            return reply
        except EOFError:
            child.join()
            # Its status stays in the store's own log: it may have run out of memory, which says
            # that histories are long.
            died = DataError(f"the store's process ended with status {child.exitcode}")
            _log.error("%s", died)
            with suppress(OSError):
                append_log(self._node, error=str(died))
            return refused(message, public_reason(died))
        finally:
            ours.close()
            _end(child)
            self._used = time.monotonic()

    def rest(self, *, now: float | None = None) -> bool:
        """End the server process if no message has come for long; the next one starts it again.

        Its imports hold 330 MB, and take some 5 CPU-seconds: little in the first stage of a run,
        which trains.

        Args:
            now: Seconds of `time.monotonic`; the system's if unset.

        Returns:
            Whether the process was ended.
        """
        now = time.monotonic() if now is None else now
        if now - self._used < _REST_SECONDS or _server_process() is None:
            return False
        _forkserver._stop()  # type: ignore[attr-defined]
        return True


def _server_process() -> int | None:
    """The server process' id, or None if it does not run."""
    # The module has no public name for this, nor for `_stop`, which does nothing without a process.
    return _forkserver._forkserver_pid if _FORKS else None  # type: ignore[attr-defined]


def _start(child: multiprocessing.process.BaseProcess) -> None:
    """Start a child, and the server process first if it does not run."""
    # Python would put the working folder first on the server process' import path, where a file
    # could stand in for an installed module.
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
    """Answer a message; runs in the child process."""
    from hanse_client.app import app
    from hanse_client.training.subnormals import flush_subnormals

    flush_subnormals()  # before torch starts threads, which inherit the setting

    # Packages have added handlers to the root logger, which would write every line twice.
    logging.getLogger().handlers.clear()
    with suppress(HanseError):  # a folder that cannot be read is reported in the reply, below
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
    except Exception as error:  # for example the folder holds no node any more
        reply = refused(message, public_reason(error))
    conn.send(reply)
    conn.close()


def _nothing() -> None:
    """Target of a child that is started only to start the server process."""


def time_left(message: Message) -> float:
    """Seconds until a message expires, between 0 and `_LONGEST_WAIT`."""
    # Both numbers are the coordinator's, and may be infinite or NaN.
    left = message.metadata.created_at + message.metadata.ttl - time.time()
    return min(max(0.0, left), _LONGEST_WAIT) if math.isfinite(left) else 0.0


def _end(child: multiprocessing.process.BaseProcess) -> None:
    # A child that still works on an expired message is killed; its answer would be of no use.
    child.join(timeout=5)
    if child.is_alive():
        child.kill()
        child.join()
