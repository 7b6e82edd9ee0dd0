"""One way to train, in a folder of its own: what a run and a sweep are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from hanse_client.tasks import task_of
from hanse_client.training.train import trained_arrays
from hanse_common.config import RunSettings
from hanse_common.paths import INITIAL_FILE
from hanse_server.checkpoint import latest_checkpoint, read_arrays, write_arrays
from hanse_simulations.engines import WorkerPool, run_federation
from hanse_simulations.experiment.alone import run_alone
from hanse_simulations.experiment.continuing import carry_over, store_keys
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.experiment.prepare import Prepared, make_nodes
from hanse_simulations.runs.arm_folder import ArmFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to train, in its own folder."""

    name: str
    folder: ArmFolder
    settings: RunSettings
    start: Callable[[Arm, WorkerPool, bool], None] = field(repr=False)

    def run(self, prepared: Prepared, pool: WorkerPool, resume: bool) -> None:
        """Lay out nodes, initial model and memberships, then train unless that is done."""
        earlier, initial = self.settings.continues, self.folder.path / INITIAL_FILE
        salt = self.name
        if earlier is not None:
            carry_over(ArmFolder(earlier), self.folder)
            # Noise of an earlier run must not come again: it would cancel, or add up.
            salt += f" after {sha256(initial.read_bytes()).hexdigest()}"
        make_nodes(prepared, self.folder, self.settings, salt=salt)
        if not initial.exists():
            task = task_of(self.settings.task)
            model = task.load_model(prepared.base_model)
            task.freeze(model, self.settings)
            write_arrays(initial, trained_arrays(model))
        if self.settings.secure and self.start is federate:
            keys = {} if earlier is None else store_keys(ArmFolder(earlier))
            enrol_stores(self.folder, self.settings, read_arrays(initial), keys)
        self.start(self, pool, resume)


def federate(arm: Arm, pool: WorkerPool, resume: bool) -> None:
    """Run a federation of the arm's stores, on the engine that its settings name."""
    checkpoint = latest_checkpoint(arm.folder.path) if resume else None
    in_process = arm.settings.compute.engine == "in-process"
    run_federation(
        arm.folder.path,
        arm.folder.stores_dir,
        arm.settings,
        resume=checkpoint is not None,
        pool=pool if in_process else None,
    )


def alone(arm: Arm, pool: WorkerPool, resume: bool) -> None:
    """Let every store of the arm train a model of its own."""
    run_alone(arm.folder, arm.settings, pool)
