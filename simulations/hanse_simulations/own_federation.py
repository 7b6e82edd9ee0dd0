"""Make a federation for a Flower app of somebody else: stores, keys and signed terms.

    plan = PrivacyPlan.solve(target_epsilon=4.0, target_delta=1e-5, rounds=20, sample_rate=0.2)
    make_federation("federation", plan, model, stores=8, learning_rate=1, expected_batch_size=64)

    <folder>/manifest.json, settings.json, authority      the terms, for `SecureGrid`
    <folder>/coordinator.key                              signs the round log
    <folder>/stores/<store>/                              a node: give it to the store

All keys are made on this machine, as in any simulation. Stores that trust nobody with their
keys make them themselves: `hanse store init` and `hanse server admit`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hanse_client.training.train import trained_arrays
from hanse_common.app_settings import app_settings
from hanse_common.durable import write_durably
from hanse_common.errors import RunDirectoryError
from hanse_common.paths import MANIFEST_FILE, NODE_FILE, SETTINGS_FILE
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.runs.arm_folder import ArmFolder

_ENROLMENT = "enrolment"


def make_federation(
    folder: str | os.PathLike[str],
    plan: PrivacyPlan,
    model: nn.Module | Mapping[str, npt.NDArray[Any]],
    *,
    stores: int | Sequence[str],
    learning_rate: float,
    expected_batch_size: float,
    metrics: Sequence[str] = (),
    seed: int | None = None,
) -> Path:
    """Make the folder, unless it is complete.

    Args:
        folder: The new folder.
        plan: The privacy promise; `PrivacyPlan.solve` makes one.
        model: What the first round starts from: a model whose trained parameters have
            `requires_grad`, or these by name.
        stores: Their names, or their number.
        learning_rate: The factor on the mean clipped gradient; it falls to a tenth.
        expected_batch_size: Public estimate of the customers that a store draws in a round:
            the sample rate times the customers of a typical store.
        metrics: Names of the sums that `hanse_client.customer_sums` releases.
        seed: Makes the stores' noise repeatable, and so no protection; for tests only.

    Returns:
        The folder.

    Raises:
        ConfigError: There are too few stores to hide one among them.
        RunDirectoryError: The folder holds another federation.
    """
    path = Path(folder).absolute()
    names = [f"store-{n:03d}" for n in range(stores)] if isinstance(stores, int) else [*stores]
    settings = app_settings(
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        rounds=plan.rounds,
        sample_rate=plan.sample_rate,
        max_grad_norm=plan.max_grad_norm,
        noise_multiplier=plan.noise_multiplier,
        evaluation_noise_multiplier=plan.evaluation_noise_multiplier,
        learning_rate=learning_rate,
        expected_batch_size=expected_batch_size,
        metrics=metrics,
        name=path.name,
    )
    text = settings.model_dump_json()
    if (path / MANIFEST_FILE).exists():
        if (path / SETTINGS_FILE).read_text(encoding="utf-8") != text:
            raise RunDirectoryError(
                f"{path} holds a federation with other terms", hint="name another folder"
            )
        return path
    arm = ArmFolder(path)
    for number, name in enumerate(names):
        node = arm.stores_dir / name
        node.mkdir(parents=True, exist_ok=True)
        about = {
            "name": name,
            "enrolment": _ENROLMENT,
            "seed": None if seed is None else seed + number,
        }
        write_durably(node / NODE_FILE, json.dumps(about))
    write_durably(path / SETTINGS_FILE, text)
    arrays = model if isinstance(model, Mapping) else trained_arrays(model)
    enrol_stores(arm, settings, {n: np.asarray(a, np.float32) for n, a in arrays.items()})
    return path
