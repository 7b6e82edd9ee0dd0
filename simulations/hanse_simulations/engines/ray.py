"""The ray engine: Flower's own simulation, on this machine or on a cluster.

The apps are the same as on every engine. With `RAY_ADDRESS` set the stores are served by that
cluster, whose machines need Hanse installed and the run's folders at the same paths.

Flower runs the ServerApp and Ray's calls in threads that a Ctrl-C does not reach and that
sometimes keep an interrupted process alive forever. `run_on_ray` therefore runs `simulate` in a
process of its own, which it can end.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hanse_common.errors import FederationError, HanseError
from hanse_common.flower import QUIET
from hanse_simulations.engines.client import AnsweringClientApp, load_client_app
from hanse_simulations.engines.workers import THREAD_VARIABLES, die_with

_ERROR = "error.pickle"
_PARTING_SECONDS = 10.0


def run_on_ray(
    stores: int,
    *,
    client_app: str,
    workers: int | None,
    environment: Mapping[str, str],
) -> None:
    """Run the federation that the environment describes as a Flower simulation.

    Args:
        stores: Number of stores.
        client_app: The ClientApp, as `module:attribute`.
        workers: Stores served at a time on this machine; one per core if unset. A cluster
            serves as many as it has cores.
        environment: Environment variables for both apps, such as `HANSE_RUN`.

    Raises:
        HanseError: `hanse_server.rounds.run_rounds` failed.
        FederationError: Ray could not start, or failed.
    """
    load_client_app(client_app)  # a bad reference fails here, not in Ray's workers
    with tempfile.TemporaryDirectory(prefix="hanse-ray-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hanse_simulations.engines.ray"),
                    *(folder, str(os.getpid()), client_app, str(stores), str(workers or 0)),
                ],
                env={**os.environ, **environment, **QUIET, "PYTHONPATH": _import_path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            status = process.wait()
        finally:
            _end(process)
        error = Path(folder) / _ERROR
        if error.exists():
            raise pickle.loads(error.read_bytes())
        if status != 0:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise FederationError(
                f"Flower on Ray ended with status {status}: {lines[-1] if lines else 'no output'}"
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_PARTING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def simulate(
    stores: int,
    *,
    client_app: str,
    workers: int | None,
    environment: Mapping[str, str],
) -> None:
    """Run the simulation in this process, whose environment must hold the variables.

    Raises:
        HanseError: `hanse_server.rounds.run_rounds` failed, or Ray did.
    """
    import ray
    from flwr.simulation import run_simulation

    from hanse_server.app import app as server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    variables = {
        **environment,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        **QUIET,
        "PYTHONPATH": _import_path(),
    }
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    try:
        ray.init(
            num_cpus=None if cluster else workers,
            include_dashboard=None if cluster else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": variables},
        )
        _exit_on_sigterm()  # Ray has set a handler of its own
        run_simulation(
            server_app=server_app,
            client_app=AnsweringClientApp(client_app),  # type: ignore[arg-type]  # only called
            num_supernodes=stores,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    except HanseError:
        raise
    except Exception as error:
        raise FederationError(f"Flower on Ray failed: {error.__cause__ or error}") from error
    finally:
        ray.shutdown()


def _exit_on_sigterm() -> None:
    """Exit on SIGTERM without a shutdown, in which a round would go on with the stores left."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))


def _import_path() -> str:
    return os.pathsep.join(dict.fromkeys(entry or str(Path.cwd()) for entry in sys.path))


def _main(folder: str, parent: str, client_app: str, stores: str, workers: str) -> None:
    _exit_on_sigterm()
    die_with(int(parent))
    environment = {name: value for name, value in os.environ.items() if name.startswith("HANSE_")}
    try:
        simulate(
            int(stores),
            client_app=client_app,
            workers=int(workers) or None,
            environment=environment,
        )
    except HanseError as error:
        (Path(folder) / _ERROR).write_bytes(pickle.dumps(error))
    sys.stderr.flush()
    # Threads of Flower and Ray may be left, for which a normal exit would wait.
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
