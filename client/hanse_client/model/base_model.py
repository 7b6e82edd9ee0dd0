"""The initial model of a federation, made from run settings and what is public.

What is public is the task's: for `interest` and `next-item` a catalogue, for `review` a list of
labels, for `conversion` nothing. No data of customers are read. The coordinator makes the model
once; every store gets the same folder.

    <folder>/config.json, model.safetensors   the complete model, as `from_pretrained` reads it
    <folder>/initial.safetensors              the parameters that rounds train
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save

from hanse_client.features.prepare import deployed_task
from hanse_client.training.statistics import exchanged_arrays
from hanse_common.config import RunSettings
from hanse_common.durable import is_taken, write_durably
from hanse_common.errors import AlreadyThere, DeploymentError
from hanse_common.instructions import model_digest
from hanse_common.paths import INITIAL_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """The folder of an initial model, its size and its digest."""

    folder: Path
    classes: int
    """Number of classes, items or labels that the model tells apart."""
    parameters: int
    trained: int
    """Number of trained parameters."""
    digest: str
    """Digest of the trained parameters, which the manifest names."""


def make_base_model(
    public: Path | None, settings: RunSettings, *, folder: Path, cache: Path
) -> BaseModel:
    """Make a federation's initial model and write it to a new folder.

    Args:
        public: The file of what is public, as the task reads it; see `Task.initial_model`.
        settings: The run's: task, encoder, shape, trained part, seed.
        folder: The folder to write, which must be empty or not exist.
        cache: Folder in which text vectors are cached.

    Raises:
        AlreadyThere: The folder is not empty.
        DataError: The public file cannot be used.
        ConfigError: The task needs such a file, or there is no such encoder or task.
        ConfigError [task-not-deployed]: The task cannot be deployed.
        DeploymentError: The folder cannot be written.
    """
    # Never overwritten: stores that have the old model would refuse the new one's digest.
    if is_taken(folder):
        raise AlreadyThere(
            f"{folder} is not empty",
            hint="stores may already have that model; choose another --output",
        )
    task = deployed_task(settings.task)
    made = task.initial_model(public, settings, cache=cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made.model.save_pretrained(folder)
        # Read again as a store reads it: a task may add parameters to what another one made.
        model = task.load_model(folder)
        task.freeze(model, settings)
        arrays = exchanged_arrays(task, model, settings)
        # Written last, so that a folder that has it is complete.
        write_durably(folder / INITIAL_FILE, save(arrays))
    except OSError as error:
        raise DeploymentError(f"cannot write {folder}: {error.strerror}") from error
    return BaseModel(
        folder=folder,
        classes=made.classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(array.size for array in arrays.values()),
        digest=model_digest(arrays).hex(),
    )
