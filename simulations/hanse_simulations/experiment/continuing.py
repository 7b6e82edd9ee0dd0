"""Continue an earlier run: from its last global model, with new weeks and the same ledgers.

A store keeps its identity and its ledger, as a real one would, so that epsilon composes over
both runs. Terms, manifest and round log are new, as they would be when an enrolment authority
signs for more rounds.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hanse_client.node import Node, list_nodes
from hanse_client.tasks.interest import InterestModel
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, DataError, PrivacyError
from hanse_common.identity import StoreKey
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE, LEDGER_FILE, NODE_FILE, STORE_KEY_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.plan import PrivacyPlan, solved, unsolved
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.folder import RunFolder

_UNLIMITED = 1e6
_FRACTION_OF_ROUNDS = 4


def continued_settings(
    old: RunFolder, *, weeks: int, changes: Mapping[str, Any] | None = None
) -> RunSettings:
    """Settings of a run that continues a finished one.

    Args:
        old: The finished run.
        weeks: Number of new weeks of data, by which the split moves on.
        changes: Settings to replace. `federation.rounds` is a quarter of the old run's if left
            out. `privacy.target_epsilon` covers both runs together, and the noise is solved
            from it; if left out, the noise stays as it was and determines epsilon.

    Raises:
        RunNotFound: The run has not finished.
        ConfigError: Its settings fix no split.
        PrivacyError: The old run has already spent more than both together may cost.
    """
    old.read_result()
    settings = old.read_settings()
    if settings.data.split is None:
        raise ConfigError(f"run {old.name!r} fixes no split", hint="run it again")
    if settings.data.partition_by is not None:
        # Divided again with new weeks, a customer may belong to another store than its ledger says.
        raise ConfigError(
            f"run {old.name!r} divided one file by {settings.data.partition_by!r}",
            hint="write a folder of stores, and give each its own new weeks (docs/datasets.md)",
        )
    split = {
        name: moment + timedelta(weeks=weeks)
        for name, moment in settings.data.split.model_dump().items()
    }
    before = settings.federation.rounds
    given = dict(changes or {})
    target = given.pop("privacy.target_epsilon", None)
    moved: dict[str, Any] = {
        "continues": old.path.absolute(),
        "compare": False,
        "sweep": None,
        # The sums of the earlier run stay in the model; a second release would cost as much again.
        "phases": (),
        "data.split": split,
        "federation.rounds": max(1, before // _FRACTION_OF_ROUNDS),
    }
    changed = settings.with_changes(moved | given)
    evaluate_every = min(changed.federation.evaluate_every, changed.federation.rounds)
    changed = changed.with_changes({"federation.evaluate_every": evaluate_every})
    return with_budget(changed, spent_before(old), target)


def with_budget(
    settings: RunSettings, before: Sequence[SampledGaussianSteps], target_epsilon: float | None
) -> RunSettings:
    """Fix noise and target of a run, given what was spent before.

    Args:
        settings: The new run's settings.
        before: Steps that the ledgers hold already.
        target_epsilon: Target of both runs together; the noise decides if None.

    Raises:
        PrivacyError: More is spent already than both together may cost.
    """
    if settings.privacy.mode == "none":
        return settings
    delta = settings.privacy.target_delta
    if target_epsilon is not None:
        spent = epsilon(before, target_delta=delta)
        if spent >= target_epsilon:
            raise PrivacyError(
                f"epsilon={spent:.3f} is spent, and both runs together may cost {target_epsilon:g}",
                hint="--epsilon is of both runs together: give more",
            )
        settings = unsolved(settings).with_changes({"privacy.target_epsilon": target_epsilon})
        return solved(settings, before=before)
    plan = PrivacyPlan.from_settings(
        settings.with_changes({"privacy.target_epsilon": _UNLIMITED}), before=before
    )
    steps = [] if plan is None else plan.spent_after(settings.federation.rounds)
    # Rounded up below: a target under the exact epsilon would have no plan.
    total = epsilon([*before, *steps], target_delta=delta)
    return settings.with_changes({"privacy.target_epsilon": math.ceil(total * 1000) / 1000})


def spent_before(old: ArmFolder) -> list[SampledGaussianSteps]:
    """Steps in the ledger of the store that spent most; none where a run was not private."""
    delta = 1e-6  # only ranks the stores; the plan's own delta decides what they cost
    spent = [Node(folder).spent() for folder in list_nodes(old.stores_dir)]
    return max(spent, key=lambda steps: epsilon(steps, target_delta=delta), default=[])


def check_vocabulary(old: ArmFolder, base_model: Path) -> None:
    """Check that an earlier model ranks the classes of the catalogue.

    Raises:
        DataError [other-catalogue]: The catalogue has changed since.
    """
    before = Node(list_nodes(old.stores_dir)[0]).settings.base_model
    classes = [InterestModel.from_pretrained(path).config.classes for path in (before, base_model)]
    if classes[0] != classes[1]:
        raise DataError(
            f"{old.path} ranks {len(classes[0])} classes, and the catalogue now lists others",
            code="other-catalogue",
            hint="keep the catalogue, or start a new run",
        )


def carry_over(old: ArmFolder, new: ArmFolder) -> None:
    """Copy the earlier global model into an arm as its start, and the ledgers to its stores.

    A store that has a node already is skipped: its ledger holds newer charges.

    Raises:
        ConfigError: The earlier run left no global model.
    """
    if not (old.path / GLOBAL_FILE).is_file():
        raise ConfigError(
            f"{old.path} holds no global model to go on from", hint="finish it with --resume"
        )
    new.path.mkdir(parents=True, exist_ok=True)
    if not (new.path / INITIAL_FILE).exists():
        write_durably(new.path / INITIAL_FILE, (old.path / GLOBAL_FILE).read_bytes())
    for folder in list_nodes(old.stores_dir):
        target = new.stores_dir / folder.name
        if (target / NODE_FILE).exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        stem = Path(LEDGER_FILE).stem
        # The database, its head and its salt share the stem.
        for path in folder.glob(f"{stem}.*"):
            shutil.copy2(path, target / path.name)


def store_keys(old: ArmFolder) -> dict[str, StoreKey]:
    """The identities that stores have from an earlier run, by their names."""
    nodes = [Node(folder) for folder in list_nodes(old.stores_dir)]
    return {
        node.name: StoreKey.load(node.settings.enrolment / STORE_KEY_FILE)
        for node in nodes
        if node.settings.enrolment is not None
        and (node.settings.enrolment / STORE_KEY_FILE).exists()
    }
