"""The coordinator's Flower ServerApp, the same for every engine and for a deployment.

It finds its run's folder in the run config (`flwr run --run-config 'run-dir="…"'`, or the
in-process engine). Flower's simulation engine cannot pass a run config; there the environment
variables `HANSE_RUN`, `HANSE_RESUME` and `HANSE_STORES` say the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hanse_common.config import RunSettings
from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError, HanseError, RunDirectoryError
from hanse_common.identity import Certificate, CoordinatorKey
from hanse_common.manifest import SignedManifest
from hanse_common.paths import ROUND_LOG_FILE
from hanse_server.blame import Blame
from hanse_server.deployment.admit import Gate
from hanse_server.flower_internals import UserConfig
from hanse_server.roundlog import RoundLog
from hanse_server.rounds import run_rounds, strategy_minimum
from hanse_server.secure_grid import STAGE_SECONDS, SecureGrid
from hanse_server.stage_log import Progress
from hanse_server.store_grid import (
    ABSENT_SECONDS,
    CONNECT_SECONDS,
    AdmittedGrid,
    StoreGrid,
    look_again_sooner,
)
from hanse_server.strategies import make_strategy

if TYPE_CHECKING:
    from hanse_server.flower_internals import HttpGrid

from hanse_common.paths import AUTHORITY_FILE, COORDINATOR_KEY_FILE, MANIFEST_FILE, SETTINGS_FILE

_GridT = TypeVar("_GridT", bound=SecureGrid)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's folder describes.

    Keys of the run config, with the environment variable that can replace each:

    - `run-dir` (`HANSE_RUN`): the run's folder.
    - `resume` (`HANSE_RESUME=1`): go on from the last checkpoint.
    - `stores` (`HANSE_STORES`): how many stores to wait for.
    - `patience`: seconds to wait for them to connect.
    - `absence`: seconds for which a later round waits for stores that are away.
    - `timeout`: seconds to wait for stores to train or evaluate.
    - `stage-timeout`: seconds for each later stage of secure aggregation.
    - `federation`: in a deployment, the coordinator's folder. Stores are then named by their
      admission, and `coordinator.key`, `roundlog.sqlite` and `blame.json`, which outlive a
      run, are in this folder instead of the run's.
    - `measure-at-home` (`HANSE_MEASURE_AT_HOME=1`): the stores are simulated, and measure the
      model although no evaluation sum leaves them.

    With secure aggregation the run's folder also holds `manifest.json` and `authority`.

    Raises:
        HanseError: As `run_rounds` and `read_settings` do; written to `failure.json` too.
    """
    # Before the first exchange: it replaces a function of Flower's grid in this process.
    look_again_sooner()
    config = context.run_config
    folder = config.get("run-dir") or os.environ.get("HANSE_RUN")
    if not folder:
        raise ConfigError(
            "no run directory is set", hint="pass run-dir in the run config, or set HANSE_RUN"
        )
    run_dir = Path(str(folder))
    progress = Progress(run_dir)
    try:
        _run(grid, run_dir, config, progress)
    except HanseError as error:
        # Before Flower turns the exception into text: code, message and hint stay apart.
        progress.failed(error)
        raise


def _run(grid: Grid, run_dir: Path, config: UserConfig, progress: Progress) -> None:
    settings = read_settings(run_dir)
    timeout = config.get("timeout")
    federation = str(config.get("federation") or "")
    stores = _stores(grid, config, settings, deployed=bool(federation))
    stage_seconds = float(config.get("stage-timeout") or STAGE_SECONDS)
    through: StoreGrid | SecureGrid = stores
    if settings.secure:
        through = secure_grid(
            stores,
            run_dir,
            Path(federation) if federation else run_dir,
            stage_seconds=stage_seconds,
            # A simulation admits its stores itself and revokes none of them.
            gate=Gate(Path(federation)) if federation else None,
            progress=progress if federation else None,
            measures_at_home=bool(
                config.get("measure-at-home") or os.environ.get("HANSE_MEASURE_AT_HOME") == "1"
            ),
        )
    run_rounds(
        through,
        run_dir,
        settings,
        resume=bool(config.get("resume") or os.environ.get("HANSE_RESUME") == "1"),
        timeout=float(timeout) if timeout else None,
    )


def _stores(grid: Grid, config: UserConfig, settings: RunSettings, *, deployed: bool) -> StoreGrid:
    # Flower's sampling waits without end for stores that are missing, so wait for them here.
    expected = int(config.get("stores") or os.environ.get("HANSE_STORES") or 0)
    least = max(expected, strategy_minimum(make_strategy(settings)))
    patience = float(config.get("patience") or CONNECT_SECONDS)
    if deployed:
        return AdmittedGrid(
            cast("HttpGrid", grid),
            expected_stores=least,
            patience=patience,
            absence=float(config.get("absence") or ABSENT_SECONDS),
        )
    return StoreGrid(grid, expected_stores=least, patience=patience)


def secure_grid(
    stores: StoreGrid,
    run_dir: Path,
    federation: Path,
    *,
    stage_seconds: float,
    gate: Callable[[Certificate], None] | None = None,
    progress: Progress | None = None,
    measures_at_home: bool = False,
    kind: type[_GridT] = SecureGrid,  # type: ignore[assignment]
) -> _GridT:
    """Build the grid that runs secure aggregation under the manifest in the run's folder.

    Args:
        stores: The grid that reaches the stores.
        run_dir: The run's folder, which holds the manifest and the authority's public key.
        federation: The folder of the round log, the key that signs it, and `blame.json`.
        stage_seconds: Deadline of each stage after the first, in seconds.
        gate: Raises for a certificate that the coordinator refuses; see `SecureGrid`.
        progress: Records each stage as it begins.
        measures_at_home: See `SecureGrid`.
        kind: The class of the grid.

    Raises:
        ConfigError: The authority's key is missing or malformed.
        KeyFileError: The manifest names a round log, and its key is missing.
        RoundLogError: The log is damaged, or lost records.
        BadManifest: The manifest is missing, altered, or not signed by that authority.
    """
    path = run_dir / AUTHORITY_FILE
    try:
        authority = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the enrolment authority's public key {path}: {error}",
            hint="put it there in hexadecimal, or turn masking off with "
            "federation.secure_aggregation = false",
        ) from error
    # The pinned authority, not a key in the manifest itself, decides whether it is genuine.
    manifest = SignedManifest.load(run_dir / MANIFEST_FILE).check(authority)
    log = None
    if manifest.log_key is not None:
        log = RoundLog.open(
            federation / ROUND_LOG_FILE, CoordinatorKey.load(federation / COORDINATOR_KEY_FILE)
        )
    return kind(
        stores,
        manifest,
        authority,
        log=log,
        stage_seconds=stage_seconds,
        gate=gate,
        progress=progress,
        # In the federation's folder: an exclusion holds for its later runs as well.
        blame=Blame(federation, run=run_dir.name),
        measures_at_home=measures_at_home,
    )


def read_settings(run_dir: Path) -> RunSettings:
    """Read the settings in a run's folder.

    Raises:
        RunDirectoryError: There are none, or they are not JSON.
        ConfigError: A setting is unknown or malformed.
    """
    path = run_dir / SETTINGS_FILE
    with decoding(path, RunDirectoryError):
        table = json_object(path.read_bytes())
    return RunSettings.parse(table)
