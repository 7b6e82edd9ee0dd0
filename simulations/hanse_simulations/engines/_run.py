"""Run a federation on the engine that its settings name."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hanse_common.flower import QUIET

# Flower and Ray read these when they are imported, so they are set before the imports below.
# Variables that the user has set keep their values.
os.environ.update(
    {
        **QUIET,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **os.environ,
    }
)

from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import DataError, Interrupted, MissingDependency, RunDirectoryError
from hanse_common.paths import SETTINGS_FILE
from hanse_common.variables import environment
from hanse_server.checkpoint import check_resumable, latest_checkpoint
from hanse_simulations.engines.in_process import run_in_process
from hanse_simulations.engines.ray import run_on_ray
from hanse_simulations.engines.workers import CLIENT_APP, WorkerPool


def run_federation(
    run_dir: Path,
    federation_dir: Path,
    settings: RunSettings,
    *,
    resume: bool = False,
    client_app: str = CLIENT_APP,
    pool: WorkerPool | None = None,
) -> None:
    """Run a federation to its end on this machine, or on a Ray cluster.

    Reads `initial.safetensors` in the run's folder; writes `settings.json`, `rounds.jsonl`,
    checkpoints and `global.safetensors` there. ClientApps find `HANSE_FEDERATION` (the stores)
    and `HANSE_RUN` (the run's folder) in their environment.

    Args:
        run_dir: The run's folder.
        federation_dir: A folder whose sub-folders, sorted by name, are the stores.
        settings: The run's settings; they name the engine.
        resume: Continue from the last checkpoint.
        client_app: The ClientApp, as `module:attribute`.
        pool: Workers started earlier, for the in-process engine; they stay open. If unset,
            workers are started for this run only.

    Raises:
        Interrupted: Ctrl-C; the run can be resumed.
        HanseError: `hanse_server.rounds.run_rounds` failed.
    """
    stores = store_names(federation_dir)
    if resume:
        check_resumable(latest_checkpoint(run_dir), settings)
    # The server app reads the settings from the run's folder, so they are written first.
    _write_settings(run_dir, settings)
    variables = run_environment(run_dir, federation_dir, len(stores), resume=resume)
    try:
        with environment(variables), _quiet_flower():
            if settings.compute.engine == "ray":
                _check_ray_installed()
                run_on_ray(
                    len(stores),
                    client_app=client_app,
                    workers=settings.compute.workers,
                    environment=variables,
                )
            elif pool is not None:
                run_in_process(pool, run_dir, stores, resume=resume, environment=variables)
            else:
                with WorkerPool(settings.compute.workers, client_app=client_app) as own:
                    run_in_process(own, run_dir, stores, resume=resume, environment=variables)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {run_dir} holds the run as of its last complete round",
            hint="go on with --resume",
        ) from None


def store_names(federation_dir: Path) -> list[str]:
    """Return the names of the stores in a federation's folder: its sub-folders, sorted.

    Raises:
        DataError: There is no such folder, or it has no sub-folder.
    """
    if not federation_dir.is_dir():
        raise DataError(f"there is no federation folder {federation_dir}")
    names = sorted(entry.name for entry in federation_dir.iterdir() if entry.is_dir())
    if not names:
        raise DataError(f"{federation_dir} holds no store", hint="each store is a sub-folder")
    return names


def _write_settings(run_dir: Path, settings: RunSettings) -> None:
    path = run_dir / SETTINGS_FILE
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_durably(path, settings.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {run_dir}: {error.strerror}", hint="name another run directory"
        ) from error


def _check_ray_installed() -> None:
    if importlib.util.find_spec("ray") is None:
        raise MissingDependency(
            "the ray engine needs the package 'ray', which is not installed",
            hint="pip install 'hanse[simulate]'",
        )


def run_environment(
    run_dir: Path, federation_dir: Path, stores: int, *, resume: bool = False
) -> dict[str, str]:
    """Return the environment variables by which apps find their run and their stores."""
    return {
        "HANSE_FEDERATION": str(federation_dir.absolute()),
        "HANSE_RUN": str(run_dir.absolute()),
        "HANSE_RESUME": "1" if resume else "0",
        "HANSE_STORES": str(stores),
        "HANSE_MEASURE_AT_HOME": "1",
    }


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Silence Flower's own log lines up to warnings, which would disturb the display."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
