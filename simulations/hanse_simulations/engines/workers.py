"""Persistent worker processes, each of which calls a ClientApp for one message at a time.

Where it is safe the workers are forked: they start in milliseconds and share what the parent
has imported. It is not safe once a thread pool runs in the parent (a forked child inherits
its locks but not its threads, and polars then hangs), so a pool should be created before any
thread, live display or polars query; a late one spawns fresh interpreters instead.

The parent talks to each worker over a pipe and waits on all pipes at once, so a worker that
the operating system kills is noticed at once. Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import Context, Message, Metadata, RecordDict

from hanse_common.errors import ConfigError
from hanse_common.variables import environment
from hanse_simulations.engines.client import AnsweringClientApp, load_client_app
from hanse_simulations.flower_internals import make_message

CLIENT_APP = "hanse_simulations.engines.store_app:app"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Names of threads that hold a pool's work. Importing polars starts others, which do no harm.
_POOL_THREADS = re.compile(r"polars-\d|tokio-rt|rayon")
_PARTING_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1

# The parent's ends of all open pipes. A forked worker closes its copies: otherwise an older
# worker would not see its pipe close when the parent dies.
_parent_ends: set[Connection] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The reply to a message, and the node's state after it."""

    worker: int
    reply: Message
    state: RecordDict
    """The node's state after the call."""
    seconds: float


class WorkerDied(Exception):
    """A worker process ended while it was in use."""

    def __init__(self, worker: int, exit_code: int | None) -> None:
        super().__init__(worker, exit_code)
        self.worker = worker
        self.how = (
            f"was killed by {signal.Signals(-exit_code).name}"
            if exit_code is not None and exit_code < 0
            else f"ended with status {exit_code}"
        )


class WorkerPool:
    """Worker processes that stay until they are closed; they serve runs one after another.

    Open it before anything starts a thread (a live display, polars, a parallel BLAS): workers
    are then forked and ready at once. Later they are spawned, and each imports the client's
    packages on its own.

    Args:
        workers: Number of workers; one per core that this process may use, if unset.
        client_app: The ClientApp that they call, as `module:attribute`.

    Raises:
        ConfigError: The ClientApp cannot be loaded.
    """

    def __init__(self, workers: int | None = None, *, client_app: str = CLIENT_APP) -> None:
        self.size = workers or _cores()
        load_client_app(client_app)  # a bad reference fails here, not in every worker
        self.start_method = "fork" if fork_is_safe() else "spawn"
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._busy: set[int] = set()
        self._closed = False
        with _interrupts_blocked():
            for _ in range(self.size):
                self._start(client_app)

    def _start(self, client_app: str) -> None:
        context: Any = multiprocessing.get_context(self.start_method)
        ours, theirs = context.Pipe()
        _parent_ends.add(ours)
        inherited = tuple(_parent_ends) if self.start_method == "fork" else ()
        # Linux sends the death signal when the *thread* that forked ends: only the main one counts.
        main_thread = threading.current_thread() is threading.main_thread()
        process = context.Process(
            target=_serve,
            args=(theirs, client_app, inherited, os.getpid() if main_thread else None),
            name=f"hanse-worker-{len(self._processes)}",
            daemon=True,
        )
        # Spawned workers import numpy afresh, which reads these variables once.
        with environment(dict.fromkeys(THREAD_VARIABLES, "1")):
            process.start()
        # Only the worker may hold its end, or its death would not close the pipe.
        theirs.close()
        self._processes.append(process)
        self._connections.append(ours)

    @property
    def idle(self) -> list[int]:
        """Workers with nothing to do, in order."""
        return [worker for worker in range(self.size) if worker not in self._busy]

    @property
    def process_ids(self) -> list[int]:
        """The workers' process ids, in order."""
        return [process.pid or 0 for process in self._processes]

    def submit(
        self,
        worker: int,
        metadata: Metadata,
        content: bytes,
        context: Context,
        environment: Mapping[str, str],
    ) -> None:
        """Give an idle worker a message to handle.

        Args:
            worker: Index of the worker.
            metadata: The message's metadata.
            content: The message's pickled RecordDict; pickled once for all its receivers.
            context: The receiving node's context.
            environment: Environment variables for the ClientApp.

        Raises:
            WorkerDied: The worker has ended.
        """
        if self._closed:
            raise RuntimeError("the worker pool is closed")
        self._busy.add(worker)
        try:
            connection = self._connections[worker]
            connection.send_bytes(pickle.dumps((metadata, context, dict(environment))))
            connection.send_bytes(content)
        except OSError:
            raise self._death(worker) from None

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Wait until at least one busy worker is done.

        Args:
            timeout: Seconds to wait; 0 does not wait, None waits without limit.

        Returns:
            The finished jobs; none after a timeout, or if all workers are idle.

        Raises:
            WorkerDied: A busy worker has ended.
        """
        pipes = {self._connections[worker]: worker for worker in sorted(self._busy)}
        if not pipes:
            return []
        ready = multiprocessing.connection.wait(list(pipes), timeout)
        return [self._receive(worker) for pipe, worker in pipes.items() if pipe in ready]

    def _receive(self, worker: int) -> Outcome:
        try:
            data = self._connections[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None
        self._busy.discard(worker)
        reply, state, seconds = pickle.loads(data)
        return Outcome(worker=worker, reply=reply, state=state, seconds=seconds)

    def _death(self, worker: int) -> WorkerDied:
        process = self._processes[worker]
        process.join(_PARTING_SECONDS)
        return WorkerDied(worker, process.exitcode)

    def close(self) -> None:
        """End the workers; those that are busy are stopped where they are."""
        if self._closed:
            return
        self._closed = True
        for worker, connection in enumerate(self._connections):
            if worker in self._busy:
                self._processes[worker].terminate()
            _parent_ends.discard(connection)
            connection.close()
        for process in self._processes:
            process.join(_PARTING_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def fork_is_safe() -> bool:
    """Whether this process can be forked: it runs on Linux and has no thread pool."""
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    names = (_thread_name(task) for task in Path("/proc/self/task").iterdir())
    return not any(_POOL_THREADS.match(name) for name in names)


def _thread_name(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # the thread has ended
        return ""


def _serve(
    connection: Connection,
    client_app: str,
    inherited: Sequence[Connection],
    parent: int | None,
) -> None:
    """Run a worker: handle messages until the pipe closes."""
    for end in inherited:
        end.close()
    # Ctrl-C reaches all processes of a terminal; the parent alone ends a run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent is not None:
        die_with(parent)
    pin_threads()
    with suppress(ConfigError):  # each message gets this error as its reply
        load_client_app(client_app)
    pin_threads()  # again, for libraries that the app has imported
    app = AnsweringClientApp(client_app)
    while True:
        try:
            header = connection.recv_bytes()
            body = connection.recv_bytes()
        except (EOFError, OSError):
            return
        metadata, context, environment = pickle.loads(header)
        os.environ.update(environment)
        started = time.perf_counter()
        reply = app(make_message(metadata, pickle.loads(body)), context)
        seconds = time.perf_counter() - started
        try:
            connection.send_bytes(pickle.dumps((reply, context.state, seconds)))
        except OSError:
            return


def pin_threads() -> None:
    """Make numerical libraries use one thread: the workers share the cores already.

    Sums split over threads also come out differently in the last bits.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if importlib.util.find_spec("threadpoolctl"):
        import threadpoolctl  # type: ignore[import-untyped]

        threadpoolctl.threadpool_limits(1)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def die_with(parent: int) -> None:
    """Let Linux kill this process with its parent, so that no orphan writes on."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the call, and would then never send the signal.
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold back a Ctrl-C until a new worker ignores it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
