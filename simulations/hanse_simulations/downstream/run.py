"""Measure a finished run's model on all downstream tasks, with the stores of the run.

rows = measure(RunFolder.open("grocery"))
rich.print(render(rows))
"""

from __future__ import annotations

from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hanse_client.features.histories import days, run_split
from hanse_client.tasks.interest import InterestModel
from hanse_common.errors import RunNotFound
from hanse_simulations.downstream.anomalies import anomaly_rows
from hanse_simulations.downstream.demand import shop_rows
from hanse_simulations.downstream.migration import migration_rows
from hanse_simulations.downstream.purchase import within_rows
from hanse_simulations.downstream.table import DownstreamRow
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.runs.folder import RunFolder


def measure(folder: RunFolder) -> list[DownstreamRow]:
    """Evaluate the run's model, and the model before training, in the test weeks.

    Nothing is written to the run's folder.

    Raises:
        RunNotFound: The run has not finished.
        DataError: The run's prepared histories were deleted.
    """
    disable_progress_bar()
    folder.read_result()
    if not folder.model_dir.is_dir():
        raise RunNotFound(
            f"run {folder.name!r} holds no model", hint=f"go on with --resume {folder.name}"
        )
    run = ArmRun.opened(folder)
    settings, stores = run.settings, run.stores.load()
    split = run_split(settings)
    models = {"model": run.model(), "untrained": _read(run.stores.base_model)}
    start, stop = days(split.validate_until), days(split.test_until)
    rows = anomaly_rows(stores, models, start=start, stop=stop, seed=settings.seed)
    until = days(split.train_until)
    rows += migration_rows(stores, models, train_until=until, start=start)
    rows += within_rows(stores, models, train_until=until, start=start)
    return rows + shop_rows(stores, models, start=start, stop=stop)


def _read(path: Path) -> InterestModel:
    model: InterestModel = InterestModel.from_pretrained(path)
    model.train(False)
    return model
