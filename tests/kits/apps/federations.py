"""Small federations of `numpy_client` stores, in temporary folders."""

from pathlib import Path

import numpy as np

from hanse_common.config import RunSettings
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE, SETTINGS_FILE
from hanse_server.checkpoint import read_arrays, write_arrays
from hanse_simulations.engines import WorkerPool, run_federation

CLIENT_APP = "kits.apps.numpy_client:app"
STORES = ("bremen", "danzig", "luebeck", "riga", "visby")


def make_settings(**federation):
    compute = federation.pop("compute", {"workers": 1})
    seed = federation.pop("seed", 7)
    return RunSettings.parse(
        {
            "recipe": "test",
            "seed": seed,
            "data": {"source": "synthetic"},
            "privacy": {"mode": "local"},
            "federation": {
                **{"rounds": 4, "evaluate_every": 2, "secure_aggregation": False},
                **federation,
            },
            "compute": compute,
        }
    )


def make_run(folder: Path, settings: RunSettings, stores=STORES) -> tuple[Path, Path]:
    """Return a run's folder with an initial model, and its federation's folder."""
    federation_dir, run_dir = folder / "federation", folder / "run"
    for name in stores:
        (federation_dir / name).mkdir(parents=True, exist_ok=True)
    run_dir.mkdir(parents=True)
    draw = np.random.default_rng(3)
    arrays = {
        "head.weight": draw.normal(size=(6, 5)).astype(np.float32),
        "head.bias": draw.normal(size=6).astype(np.float32),
        "scale": np.float32(0.5) * np.ones((), np.float32),
    }
    write_arrays(run_dir / INITIAL_FILE, arrays)
    (run_dir / SETTINGS_FILE).write_text(settings.model_dump_json())
    return run_dir, federation_dir


def run(folder: Path, settings: RunSettings, *, resume=False, stores=STORES, pool=None):
    """Run, making the folders unless it is resumed; return the run's folder."""
    if resume:
        run_dir, federation_dir = folder / "run", folder / "federation"
    else:
        run_dir, federation_dir = make_run(folder, settings, stores)
    run_federation(
        run_dir, federation_dir, settings, resume=resume, client_app=CLIENT_APP, pool=pool
    )
    return run_dir


def final_bytes(run_dir: Path) -> bytes:
    return (run_dir / GLOBAL_FILE).read_bytes()


__all__ = [
    "CLIENT_APP",
    "STORES",
    "WorkerPool",
    "final_bytes",
    "make_run",
    "make_settings",
    "read_arrays",
    "run",
]
