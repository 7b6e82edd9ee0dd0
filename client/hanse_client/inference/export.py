"""Export of a deployed run's global model as a complete model folder.

A run's result holds the trained parameters only, like its messages. The frozen rest is the
folder that `hanse model init` wrote and every store received.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from hanse_client.inference.load import open_task_model
from hanse_client.training.train import load_arrays
from hanse_common.decoding import decoding
from hanse_common.durable import replacing_folder
from hanse_common.errors import ConfigError, RunDirectoryError
from hanse_common.paths import GLOBAL_FILE, SETTINGS_FILE, WEIGHTS_FILE
from hanse_common.settings_files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported model."""

    folder: Path
    trained: int
    """Number of parameters that the run trained."""
    parameters: int
    digest: str
    """SHA-256 of the weights file."""


def export_model(run: Path, base: Path, folder: Path) -> Exported:
    """Write a run's global model as a folder that `from_pretrained` and `hanse model` read.

    The run's `settings.json` names the task; a file of parameters without it is of `interest`.

    Args:
        run: A finished run's folder, or its file of trained parameters.
        base: The folder of the model that the run began with.
        folder: The folder to write, which must not exist.

    Raises:
        RunDirectoryError [model-not-found]: There are no trained parameters, or no base model.
        ConfigError: The folder exists, or the parameters are of another model.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists", hint="name another --output")
    weights = run / GLOBAL_FILE if run.is_dir() else run
    hint = f"a finished run's folder holds {GLOBAL_FILE}"
    with decoding(
        f"trained parameters {weights}",
        RunDirectoryError,
        SafetensorError,
        code="model-not-found",
        hint=hint,
    ):
        arrays = load(weights.read_bytes())
    settings = weights.parent / SETTINGS_FILE
    # A bare file of parameters says nothing of its task.
    table = read_json(settings) if settings.is_file() else {}
    model = open_task_model(base, str(table.get("task", "interest")))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, array in arrays.items():
        if shapes.get(name) != array.shape:
            raise ConfigError(
                f"{weights} trains {name!r} with shape {array.shape}, and the model in {base} "
                + (f"has {shapes[name]}" if name in shapes else "has no such parameter"),
                hint="name the folder that the run began with as --base",
            )
    load_arrays(model, arrays)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as target:
        model.save_pretrained(target)
        # `predict` and `evaluate` look for the run's settings in the model's folder.
        if settings.is_file():
            shutil.copyfile(settings, target / SETTINGS_FILE)
        digest = hashlib.sha256((target / WEIGHTS_FILE).read_bytes()).hexdigest()
    return Exported(
        folder=folder,
        trained=sum(array.size for array in arrays.values()),
        parameters=sum(p.numel() for p in model.parameters()),
        digest=digest,
    )
