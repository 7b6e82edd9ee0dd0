"""The coordinator's Flower ServerApp, the same for every engine and for a deployment.

It is told where its run lives by the run config (`flwr run --run-config 'run-dir="…"'`, or
the in-process engine) or, where an engine cannot pass one (Flower's simulation), by the
environment: `HANSE_RUN`, `HANSE_RESUME`, `HANSE_STORES`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, RunDirectoryError
from hanse_server.grid import StoreGrid
from hanse_server.rounds import run_rounds, strategy_minimum
from hanse_server.strategies import make_strategy

SETTINGS = "settings.json"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's folder describes.

    Run config, each with the environment variable that stands in for it: `run-dir`
    (`HANSE_RUN`), the folder; `resume` (`HANSE_RESUME=1`), go on from the last checkpoint;
    `stores` (`HANSE_STORES`), how many stores to wait for; `timeout`, seconds to wait for
    the replies of a stage.

    Raises:
        HanseError: As `run_rounds` and `read_settings` do.
    """
    config = context.run_config
    folder = config.get("run-dir") or os.environ.get("HANSE_RUN")
    if not folder:
        raise ConfigError(
            "no run directory is set", hint="pass run-dir in the run config, or set HANSE_RUN"
        )
    run_dir = Path(str(folder))
    settings = read_settings(run_dir)
    expected = int(config.get("stores") or os.environ.get("HANSE_STORES") or 0)
    timeout = config.get("timeout")
    run_rounds(
        StoreGrid(
            grid,
            expected_stores=max(expected, strategy_minimum(make_strategy(settings.federation))),
        ),
        run_dir,
        settings,
        resume=bool(config.get("resume") or os.environ.get("HANSE_RESUME") == "1"),
        timeout=float(timeout) if timeout else None,
    )


def read_settings(run_dir: Path) -> RunSettings:
    """Read the settings that a run's folder holds.

    Raises:
        RunDirectoryError: There are none, or they are not JSON.
        ConfigError: A setting is unknown or malformed.
    """
    path = run_dir / SETTINGS
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"cannot read the run's settings {path}: {error}") from error
    return RunSettings.parse(table)
