"""The in-process engine: a Flower Grid over worker processes on this machine.

There is no server, no port and no polling: a message and its reply go through a pipe, so that a
round costs little more than the stores' own work.

**Scheduling.** A store is served by the worker that served it last, which may have its data in
memory. Among the messages for its own stores and for stores not served yet, a worker takes the
one expected to take longest (as long as the last time); only when none is left does it take over
another worker's store, for good. The longest jobs thus start first and the short ones fill the
gaps, and after a few rounds each worker has a fair part of the stores. The assignment does not
change results: a store's state travels with the message.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from hanse_common.errors import FederationError
from hanse_server.app import app as server_app
from hanse_simulations.engines.workers import Outcome, WorkerDied, WorkerPool
from hanse_simulations.flower_internals import (
    NUM_PARTITIONS_KEY,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
    Run,
    TaskIdentity,
)

_RUN_ID = 1
_TASK_ID = 1
_FIRST_NODE = 1001


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    metadata: Metadata
    content: bytes = field(repr=False)

    @property
    def node(self) -> int:
        return self.metadata.dst_node_id

    @property
    def kind(self) -> tuple[int, str]:
        return self.node, self.metadata.message_type


class InProcessGrid(Grid):
    """Delivers messages to a ClientApp in a pool of worker processes.

    The nodes' state lives as long as the grid, as it does on a SuperNode within a run.

    Args:
        pool: The workers.
        stores: The stores' names; a name's position is the node's `partition-id`.
        environment: Environment variables for the ClientApps.
    """

    def __init__(
        self,
        pool: WorkerPool,
        stores: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._pool = pool
        self._environment = dict(environment or {})
        self._run = Run.create_empty(_RUN_ID)
        self._stores = {_FIRST_NODE + i: name for i, name in enumerate(stores)}
        self._contexts = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={PARTITION_ID_KEY: i, NUM_PARTITIONS_KEY: len(stores)},
                state=RecordDict(),
                run_config={},
            )
            for i, node in enumerate(self._stores)
        }
        self._sent = 0
        self._queue: list[_Job] = []
        self._running: dict[int, _Job] = {}
        self._replies: dict[str, Message] = {}
        self._abandoned: set[str] = set()
        self._home: dict[int, int] = {}
        self._last_seconds: dict[tuple[int, str], float] = {}
        # Flower's Message constructor stamps messages with the process's identity.
        TaskIdentity.run_id, TaskIdentity.task_id = _RUN_ID, _TASK_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        """Set the run; see `Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run; see `Grid`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; see `Grid`."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """List the nodes, in the order of the stores given."""
        return list(self._stores)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages and start as many as there are idle workers; see `Grid`.

        Raises:
            ValueError: A message is for a node that does not exist.
            FederationError: A worker is gone.
        """
        pickled: dict[int, tuple[RecordDict, bytes]] = {}
        identifiers = []
        for message in messages:
            if message.metadata.dst_node_id not in self._stores:
                raise ValueError(f"there is no node {message.metadata.dst_node_id}")
            # Strategies send one RecordDict, which holds the model, to all nodes: pickle it once.
            content = message.content
            if id(content) not in pickled:
                pickled[id(content)] = content, pickle.dumps(content)
            self._sent += 1
            metadata = _with_id(message.metadata, str(self._sent))
            self._queue.append(_Job(metadata=metadata, content=pickled[id(content)][1]))
            identifiers.append(metadata.message_id)
        self._dispatch()
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have arrived, without waiting; see `Grid`.

        Raises:
            FederationError: A worker is gone.
        """
        while self._pump(0.0):
            pass
        wanted = [identifier for identifier in message_ids if identifier in self._replies]
        return [self._replies.pop(identifier) for identifier in wanted]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for all replies, or until the timeout; see `Grid`.

        Messages not yet started by then are withdrawn; late replies to the others are dropped.

        Raises:
            FederationError: A worker is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        identifiers = list(self.push_messages(messages))
        missing = set(identifiers) - self._replies.keys()
        while missing:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self._pump(left)
            missing -= self._replies.keys()
        self._give_up(missing)
        return [self._replies.pop(i) for i in identifiers if i not in missing]

    def _pump(self, timeout: float | None) -> bool:
        """Collect finished jobs and start queued ones; return whether any was finished."""
        try:
            outcomes = self._pool.wait(timeout)
        except WorkerDied as death:
            raise self._lost(death) from None
        for outcome in outcomes:
            self._collect(outcome)
        self._dispatch()
        return bool(outcomes)

    def _collect(self, outcome: Outcome) -> None:
        job = self._running.pop(outcome.worker)
        self._contexts[job.node].state = outcome.state
        self._last_seconds[job.kind] = outcome.seconds
        identifier = job.metadata.message_id
        # The state is kept even so: the store has done the work, and may have charged its ledger.
        if identifier in self._abandoned:
            self._abandoned.discard(identifier)
            return
        reply = outcome.reply
        # Flower leaves the id of a reply to the SuperLink, and its Metadata has no setter.
        reply.metadata.__dict__["_message_id"] = f"{identifier}-reply"
        self._replies[identifier] = reply

    def _dispatch(self) -> None:
        for worker in self._pool.idle:
            job = self._next_job(worker)
            if job is None:
                continue
            self._queue.remove(job)
            self._home[job.node] = worker
            self._running[worker] = job
            try:
                self._pool.submit(
                    worker,
                    job.metadata,
                    job.content,
                    self._contexts[job.node],
                    self._environment,
                )
            except WorkerDied as death:
                raise self._lost(death) from None

    def _next_job(self, worker: int) -> _Job | None:
        """Choose a worker's next job; see the module's docstring."""
        # A node handles one message at a time, or its state would fork.
        occupied = {job.node for job in self._running.values()}
        ready = [job for job in self._queue if job.node not in occupied]
        own = [job for job in ready if self._home.get(job.node, worker) == worker]
        idle = set(self._pool.idle)
        orphaned = [job for job in ready if self._home.get(job.node) not in idle]
        return max(
            own or orphaned,
            key=lambda job: self._last_seconds.get(job.kind, math.inf),
            default=None,
        )

    def _give_up(self, identifiers: set[str]) -> None:
        self._queue = [job for job in self._queue if job.metadata.message_id not in identifiers]
        self._abandoned |= {
            job.metadata.message_id
            for job in self._running.values()
            if job.metadata.message_id in identifiers
        }

    def _lost(self, death: WorkerDied) -> FederationError:
        self._pool.close()
        job = self._running.get(death.worker)
        served = f"serving store {self._stores[job.node]!r} " if job else ""
        return FederationError(
            f"the worker process {served}{death.how}",
            hint="if memory ran out, set compute.workers lower; then go on with --resume",
        )


def run_in_process(
    pool: WorkerPool,
    run_dir: Path,
    stores: Sequence[str],
    *,
    resume: bool,
    environment: Mapping[str, str],
) -> None:
    """Run the coordinator's ServerApp in this process over an `InProcessGrid`.

    Args:
        pool: The workers. They are closed if the run is interrupted while they are busy,
            since their replies would be taken for those of the next run.
        run_dir: The run's folder.
        stores: The stores' names.
        resume: Continue from the last checkpoint.
        environment: Environment variables for the ClientApps.

    Raises:
        HanseError: `hanse_server.rounds.run_rounds` failed.
    """
    grid = InProcessGrid(pool, stores, environment=environment)
    context = Context(
        run_id=_RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config={
            "run-dir": str(run_dir),
            "resume": resume,
            "stores": len(stores),
            "measure-at-home": True,
        },
    )
    try:
        server_app(grid, context)
    except BaseException:
        if pool.idle != list(range(pool.size)):
            pool.close()
        raise


def _with_id(metadata: Metadata, identifier: str) -> Metadata:
    return Metadata(
        run_id=metadata.run_id,
        message_id=identifier,
        src_node_id=metadata.src_node_id,
        dst_node_id=metadata.dst_node_id,
        reply_to_message_id=metadata.reply_to_message_id,
        group_id=metadata.group_id,
        created_at=metadata.created_at,
        ttl=metadata.ttl,
        message_type=metadata.message_type,
        src_task_id=metadata.src_task_id,
        dst_task_id=metadata.dst_task_id,
    )
