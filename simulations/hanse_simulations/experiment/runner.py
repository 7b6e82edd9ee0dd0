"""One way to lay out and to train an arm, for runs, sweeps, studies, benchmarks and audits.

    with runner(settings) as work:
        trained = work.train(ARMS["federated"], ArmFolder(path), settings, prepared)
    trained.figures("test"), trained.model(), trained.epsilon()

`ArmRun` reads what the arm has left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from transformers.utils.logging import disable_progress_bar

from hanse_client.tasks import task_of
from hanse_client.training.train import trained_arrays
from hanse_common.config import RunSettings
from hanse_common.paths import INITIAL_FILE
from hanse_server.checkpoint import latest_checkpoint, read_arrays, write_arrays
from hanse_simulations.engines import CLIENT_APP, WorkerPool, run_federation
from hanse_simulations.experiment.alone import run_alone
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.experiment.arms import Arm
from hanse_simulations.experiment.continuing import carry_over, store_keys
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.experiment.prepare import Prepared, make_nodes, with_solved_noise
from hanse_simulations.monitoring.progress import Progress
from hanse_simulations.runs.arm_folder import ArmFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Trains arms one after another on the same workers, and shows how far they are."""

    pool: WorkerPool
    progress: Progress
    started: float

    @property
    def seconds(self) -> float:
        """Since the workers were started."""
        return round(time.monotonic() - self.started, 1)

    def train(
        self, arm: Arm, folder: ArmFolder, experiment: RunSettings, stores: Prepared
    ) -> ArmRun:
        """Lay out an arm and train it; what an earlier process has done of it is kept.

        Args:
            arm: What to train.
            folder: The arm's own.
            experiment: The settings that the arm's overrides change.
            stores: Ready to train.

        Raises:
            HanseError: Privacy or the federation failed.
        """
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
        settings: How many workers.
        quiet: Show no progress.
        client_app: What the stores run, as `module:attribute`.
    """
    disable_progress_bar()
    started = time.monotonic()
    # Workers are forked before anything here starts a thread.
    with (
        WorkerPool(settings.compute.workers, client_app=client_app) as pool,
        Progress(quiet=quiet) as progress,
    ):
        yield Runner(pool=pool, progress=progress, started=started)


def lay_out(arm: Arm, folder: ArmFolder, experiment: RunSettings, stores: Prepared) -> ArmRun:
    """Write an arm's nodes, initial model and memberships, unless they are there already.

    Raises:
        ConfigError: The arm's settings contradict each other.
        PrivacyError: No noise keeps the promise.
        UnsafeTerms: The settings' terms break one of the protocol's promises.
    """
    settings = with_solved_noise(arm.settings(experiment))
    sizes: dict[str, int] = {}
    if arm.trainer == "centralized" and len(stores.names) > 1:
        histories = stores.load()
        sizes = dict(zip(stores.names, map(len, histories), strict=True))
        # Beside the arm's folder, for all arms of a sweep to share.
        stores = stores.centralized(histories, folder.path.parent / "centralized.npz")
    run = ArmRun(arm=arm, folder=folder, settings=settings, stores=stores, sizes=sizes)
    earlier, initial = settings.continues, folder.path / INITIAL_FILE
    salt = arm.salt or arm.name
    if earlier is not None:
        carry_over(ArmFolder(earlier), folder)
        # Noise of an earlier run must not come again: it would cancel, or add up.
        salt += f" after {sha256(initial.read_bytes()).hexdigest()}"
    make_nodes(stores, folder, settings, salt=salt)
    if not initial.exists():
        task = task_of(settings.task)
        model = task.load_model(stores.base_model)
        task.freeze(model, settings)
        write_arrays(initial, trained_arrays(model))
    if settings.secure and not run.by_itself:
        keys = {} if earlier is None else store_keys(ArmFolder(earlier))
        enrol_stores(folder, settings, read_arrays(initial), keys)
    return run


def train(run: ArmRun, pool: WorkerPool) -> None:
    """Train an arm that is laid out; rounds or stores that are done are left alone.

    Raises:
        Interrupted: Ctrl-C; the arm can be trained on.
        RunNotResumable: It has rounds behind it that were trained by other settings.
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
