"""The ray engine: Flower's own simulation, on this machine or on a cluster.

The apps are those of every other engine. With `RAY_ADDRESS` set the stores are served by that
cluster, whose machines need Hanse installed and the run's folders at the same paths.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping

import ray
from flwr.app import Context, Message
from flwr.serverapp import Grid
from flwr.simulation import run_simulation
from flwr.supercore import telemetry

from hanse_common.errors import FederationError, HanseError, Interrupted
from hanse_server.app import app as server_app
from hanse_server.grid import ForwardingGrid
from hanse_simulations.engines.client import AnsweringClientApp, load_client_app
from hanse_simulations.engines.workers import THREAD_VARIABLES

_POLL_SECONDS = 0.1


class _StoppableGrid(ForwardingGrid):
    """Stops waiting for replies when the main thread is interrupted.

    Flower runs the ServerApp in a thread that a Ctrl-C does not reach, and which would keep
    the process alive.
    """

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        super().__init__(grid)
        self._stop = stop

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies as often as Flower's own grid does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        missing = set(self.push_messages(messages))
        replies: list[Message] = []
        while missing and (deadline is None or time.monotonic() < deadline):
            come = list(self.pull_messages(missing))
            replies.extend(come)
            missing -= {reply.metadata.reply_to_message_id for reply in come}
            if missing and self._stop.wait(_POLL_SECONDS):
                raise Interrupted("stopped")
        return replies


class _StoppableServerApp:
    """The coordinator's ServerApp over a grid that can be stopped."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, grid: Grid, context: Context) -> None:
        server_app(_StoppableGrid(grid, self._stop), context)


def run_on_ray(
    stores: int,
    *,
    client_app: str,
    workers: int | None,
    environment: Mapping[str, str],
) -> None:
    """Run the federation that the environment describes as a Flower simulation.

    Args:
        stores: How many there are.
        client_app: The ClientApp, as `module:attribute`.
        workers: Stores served at a time on this machine; one per core if unset. A cluster
            serves as many as it has cores.
        environment: `HANSE_RUN` and the like; this process must have them too.

    Raises:
        HanseError: As `hanse_server.rounds.run_rounds` does.
        FederationError: Ray could not start, or broke down.
    """
    load_client_app(client_app)
    # Imported long ago, perhaps, by something that did not set the variable.
    telemetry.FLWR_TELEMETRY_ENABLED = "0"
    stop = threading.Event()
    try:
        _start_ray(workers, environment)
        run_simulation(
            server_app=_StoppableServerApp(stop),  # type: ignore[arg-type]  # only called
            client_app=AnsweringClientApp(client_app),  # type: ignore[arg-type]  # only called
            num_supernodes=stores,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    except (HanseError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise FederationError(f"Flower on Ray failed: {error.__cause__ or error}") from error
    finally:
        stop.set()
        ray.shutdown()


def _start_ray(workers: int | None, environment: Mapping[str, str]) -> None:
    variables = {
        **environment,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    ray.init(
        num_cpus=None if cluster else workers,
        include_dashboard=None if cluster else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": variables},
    )
