"""A run's checkpoints: one folder per round, which is complete or absent.

`<run_dir>/checkpoints/round-0007/` holds `arrays.safetensors` (the global model's trained
parameters), `strategy.safetensors` (the strategy's state) and `state.json` (the
round, and the settings it was made under). A checkpoint is written to a temporary folder,
flushed to the disk and renamed, so that a crash leaves the previous checkpoint intact.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hanse_common.config import RunSettings
from hanse_common.decoding import decoding, json_object
from hanse_common.durable import PARTIAL, replacing_folder, write_durably
from hanse_common.errors import HanseError, RunDirectoryError
from hanse_common.paths import ARRAYS_FILE, ROUND_STATE_FILE, RUN_CHECKPOINTS_FOLDER, STRATEGY_FILE

NDArray = npt.NDArray[Any]

_KEEP = 2  # should the newest be damaged, a run goes on from the one before it

_NAME = re.compile(r"round-(\d{4,})")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCheckpoint:
    """The state of a run after a round: everything that the next round needs."""

    round: int
    arrays: Mapping[str, NDArray]
    strategy: Mapping[str, NDArray]
    settings: Mapping[str, Any]
    """The settings that the results depend on, as `significant_settings` returns them."""


def significant_settings(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that results depend on, as plain JSON: all except `compute`."""
    return settings.model_dump(mode="json", exclude={"compute"})


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of significant settings in canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save_checkpoint(run_dir: Path, checkpoint: RunCheckpoint) -> Path:
    """Write a checkpoint atomically, and remove all except the last two.

    Returns:
        The checkpoint's folder.

    Raises:
        RunDirectoryError: The folder cannot be written; earlier checkpoints stay.
    """
    parent = run_dir / RUN_CHECKPOINTS_FOLDER
    place = parent / f"round-{checkpoint.round:04d}"
    state = {
        "round": checkpoint.round,
        "settings_digest": settings_digest(checkpoint.settings),
        "settings": checkpoint.settings,
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        with replacing_folder(place, replace=True) as partial:
            write_arrays(partial / ARRAYS_FILE, checkpoint.arrays)
            write_arrays(partial / STRATEGY_FILE, checkpoint.strategy)
            write_durably(partial / ROUND_STATE_FILE, json.dumps(state, indent=1) + "\n")
    except OSError as error:
        raise RunDirectoryError(f"cannot write {place}: {error.strerror}") from error
    # Only after the new one is in place, so that at no time fewer than one is complete.
    for old in _complete(parent)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def latest_checkpoint(run_dir: Path) -> RunCheckpoint | None:
    """Read the last checkpoint that is complete and undamaged; None if there is none."""
    for place in reversed(_complete(run_dir / RUN_CHECKPOINTS_FOLDER)):
        try:
            with decoding(place, RunDirectoryError):
                state = json_object((place / ROUND_STATE_FILE).read_bytes())
                return RunCheckpoint(
                    round=int(state["round"]),
                    arrays=read_arrays(place / ARRAYS_FILE),
                    strategy=read_arrays(place / STRATEGY_FILE),
                    settings=dict(state["settings"]),
                )
        except RunDirectoryError as error:
            _log.warning("passing over the damaged checkpoint %s: %s", place, error)
    return None


def latest_round(run_dir: Path) -> int:
    """Return the round of the last complete checkpoint, 0 without one; reads no array."""
    complete = _complete(run_dir / RUN_CHECKPOINTS_FOLDER)
    return _number(complete[-1]) if complete else 0


def check_resumable(checkpoint: RunCheckpoint | None, settings: RunSettings) -> RunCheckpoint:
    """Return the checkpoint if a run with these settings may go on from it.

    Settings under `compute` may have changed, as results do not depend on them.

    Raises:
        RunDirectoryError [run-not-resumable]: There is no checkpoint, or a setting changed; the
            message names the setting.
    """
    if checkpoint is None:
        raise RunDirectoryError(
            "the run has no checkpoint", code="run-not-resumable", hint="start it without --resume"
        )
    before, now = _flat(checkpoint.settings), _flat(significant_settings(settings))
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise RunDirectoryError(
                f"{name} was {old!r} and is {new!r}",
                code="run-not-resumable",
                hint="resume with the settings it was started with, or start a new run",
            )
    return checkpoint


def read_arrays(
    path: Path, kind: type[HanseError] = RunDirectoryError, *, hint: str = ""
) -> dict[str, NDArray]:
    """Read named arrays from a safetensors file, in the order of their names.

    Args:
        path: The file.
        kind: The class of the error to raise.
        hint: The error's hint.

    Raises:
        HanseError: The file is missing, cannot be read, or is not safetensors.
    """
    # Sorted, because safetensors orders a file by dtype and size, and sums follow this order.
    with decoding(path, kind, SafetensorError, hint=hint):
        return dict(sorted(load(path.read_bytes()).items()))


def write_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write named arrays to a safetensors file, completely or not at all."""
    # C order: safetensors takes an array's buffer as it lies in memory, strides ignored.
    write_durably(path, save({name: np.asarray(a, order="C") for name, a in arrays.items()}))


def _complete(parent: Path) -> list[Path]:
    """Folders of complete checkpoints, in the order of their rounds."""
    if not parent.is_dir():
        return []
    complete = [
        place
        for place in parent.iterdir()
        if _NAME.fullmatch(place.name)
        and all((place / part).is_file() for part in (ARRAYS_FILE, STRATEGY_FILE, ROUND_STATE_FILE))
    ]
    # By number, not by name: from round 10,000 on a name has five digits.
    return sorted(complete, key=_number)


def _number(place: Path) -> int:
    """The round in a checkpoint's name."""
    match = _NAME.fullmatch(place.name)
    return int(match.group(1)) if match else 0


def _sweep(parent: Path) -> None:
    """Remove folders that a crash left half-written."""
    for leftover in parent.glob(f".*{PARTIAL}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
