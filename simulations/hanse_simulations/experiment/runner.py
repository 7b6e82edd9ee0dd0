"""Lay out and train an arm, for runs, sweeps, studies, benchmarks and audits.

    with runner(settings) as work:
        trained = work.train(ARMS["federated"], ArmFolder(path), settings, prepared)
    trained.figures("test"), trained.model(), trained.epsilon()

`ArmRun` reads the results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from transformers.utils.logging import disable_progress_bar

from hanse_client.tasks import task_of
from hanse_client.training.statistics import exchanged_arrays
from hanse_common.config import RunSettings
from hanse_common.paths import INITIAL_FILE
from hanse_common.privacy.plan import solved
from hanse_server.checkpoint import latest_checkpoint, read_arrays, write_arrays
from hanse_simulations.engines import CLIENT_APP, WorkerPool, run_federation
from hanse_simulations.experiment.alone import run_alone
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import Arm
from hanse_simulations.experiment.continuing import carry_over, store_keys
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.experiment.prepare import Prepared, make_nodes
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.monitoring.stopwatch import Stopwatch
from hanse_simulations.runs.arm_folder import ArmFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Trains arms one after another on the same workers, and shows their progress."""

    pool: WorkerPool
    progress: Progress
    started: float
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def seconds(self) -> float:
        """Seconds since the workers were started."""
        return round(time.monotonic() - self.started, 1)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Show and time a part of a run that is no training."""
        self.progress.note(name)
        with self.watch.part(name):
            yield

    def train(
        self, arm: Arm, folder: ArmFolder, experiment: RunSettings, stores: Prepared
    ) -> ArmRun:
        """Lay out an arm and train it, from where an earlier process stopped.

        Args:
            arm: The arm to train.
            folder: The arm's folder.
            experiment: The settings that the arm's overrides change.
            stores: The prepared stores.

        Raises:
            HanseError: Privacy or the federation failed.
        """
        with self.watch.part(arm.name):
            laid_out = lay_out(arm, folder, experiment, stores)
            self.progress.arm(arm.name, folder, laid_out.rounds)
            train(laid_out, self.pool)
        return laid_out


@contextmanager
def runner(
    settings: RunSettings, *, quiet: bool = True, client_app: str = CLIENT_APP
) -> Iterator[Runner]:
    """Start the workers and the display, and end both with the block.

    Args:
        settings: The run's settings, for the number of workers.
        quiet: Show no progress.
        client_app: The stores' ClientApp, as `module:attribute`.
    """
    disable_progress_bar()
    started = time.monotonic()
    # Workers are forked first: a child of a process with threads inherits their locks.
    with (
        WorkerPool(settings.compute.workers, client_app=client_app) as pool,
        Progress(quiet=quiet) as progress,
    ):
        yield Runner(pool=pool, progress=progress, started=started)


def lay_out(arm: Arm, folder: ArmFolder, experiment: RunSettings, stores: Prepared) -> ArmRun:
    """Write an arm's nodes, initial model and enrolments, unless they exist already.

    Raises:
        ConfigError: The arm's settings contradict each other.
        PrivacyError: No noise keeps the promise.
        ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
    """
    settings = solved(arm.settings(experiment))
    sizes: dict[str, int] = {}
    if arm.trainer == "centralized" and len(stores.names) > 1:
        histories = stores.load()
        sizes = dict(zip(stores.names, map(len, histories), strict=True))
        # Next to the arm's folder, so that all arms of a sweep share it.
        stores = stores.centralized(histories, folder.path.parent / "centralized.npz")
    run = ArmRun(arm=arm, folder=folder, settings=settings, stores=stores, sizes=sizes)
    earlier, initial = settings.continues, folder.path / INITIAL_FILE
    salt = arm.salt or arm.name
    if earlier is not None:
        carry_over(ArmFolder(earlier), folder)
        # Seeded noise of the earlier run must not repeat: a difference of updates would cancel it.
        salt += f" after {sha256(initial.read_bytes()).hexdigest()}"
    make_nodes(stores, folder, settings, salt=salt)
    if not initial.exists():
        task = task_of(settings.task)
        model = task.load_model(stores.base_model)
        task.freeze(model, settings)
        write_arrays(initial, exchanged_arrays(task, model, settings))
    if settings.secure and not run.by_itself:
        keys = {} if earlier is None else store_keys(ArmFolder(earlier))
        enrol_stores(folder, settings, read_arrays(initial), keys)
    return run


def train(run: ArmRun, pool: WorkerPool) -> None:
    """Train an arm that is laid out; rounds or stores that are done are skipped.

    Raises:
        Interrupted: Ctrl-C; training can be resumed.
        RunNotResumable: Earlier rounds were trained with other settings.
        HanseError: A store or the federation failed.
    """
    if run.by_itself:
        run_alone(run.folder, run.settings, pool)
        return
    run_federation(
        run.folder.path,
        run.folder.stores_dir,
        run.settings,
        resume=latest_checkpoint(run.folder.path) is not None,
        pool=pool if run.settings.compute.engine == "in-process" else None,
    )
