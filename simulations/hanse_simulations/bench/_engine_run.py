"""One measured run, in a process of its own: ENGINE STORES ROUNDS FOLDER STARTED.

STARTED is the Unix time at which the caller launched the process; the figures go to
`result.json` in FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
from pathlib import Path

import numpy as np

from hanse_common.config import (
    ComputeSettings,
    DataSettings,
    FederationSettings,
    PrivacySettings,
    RunSettings,
)
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE, RESULT_FILE, SETTINGS_FILE
from hanse_server.checkpoint import write_arrays
from hanse_server.stage_log import read_stages
from hanse_simulations.engines import run_environment, run_federation
from hanse_simulations.engines.ray import simulate

STORE = "hanse_simulations.bench._idle_store:app"
PARAMETERS = (256, 256)


def main(engine: str, stores: int, rounds: int, folder: Path, started: float) -> None:
    """Run a federation of idle stores and write its times to `result.json`."""
    federation_dir, run_dir = folder / "federation", folder / "run"
    for number in range(stores):
        (federation_dir / f"store-{number:04d}").mkdir(parents=True)
    run_dir.mkdir()
    write_arrays(run_dir / INITIAL_FILE, {"weight": np.zeros(PARAMETERS, np.float32)})
    settings = RunSettings(
        recipe="bench-engines",
        data=DataSettings(source="synthetic", stores=stores),
        # Idle stores are not enrolled: they have no keys to mask with.
        privacy=PrivacySettings(mode="none"),
        federation=FederationSettings(rounds=rounds, evaluate_every=rounds),
        compute=ComputeSettings.model_validate({"engine": engine}),
    )
    if engine == "ray":
        # `run_federation` would start Ray in a further process, which is not Flower's cost.
        (run_dir / SETTINGS_FILE).write_text(settings.model_dump_json(), encoding="utf-8")
        environment = run_environment(run_dir, federation_dir, stores)
        os.environ.update(environment)
        simulate(stores, client_app=STORE, workers=None, environment=environment)
    else:
        run_federation(run_dir, federation_dir, settings, client_app=STORE)
    trained = [stage for stage in read_stages(run_dir) if stage["stage"] == "train"]
    figures = {
        "first_round_seconds": trained[0]["time"] - started,
        # The first round pays for starting workers and imports, which its own figure shows.
        "round_seconds": statistics.median(stage["seconds"] for stage in trained[1:]),
        "model": hashlib.sha256((run_dir / GLOBAL_FILE).read_bytes()).hexdigest(),
    }
    (folder / RESULT_FILE).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
