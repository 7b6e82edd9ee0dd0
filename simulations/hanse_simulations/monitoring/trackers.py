"""Send a run's metrics to TensorBoard or MLflow.

Both are optional and imported only if named; without names a tracker does nothing:

>>> from pathlib import Path
>>> tracker = make_trackers([], Path("runs/example"))
>>> tracker.log([], step=1); tracker.close()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from hanse_common.errors import ConfigError, MissingDependency
from hanse_common.paths import TENSORBOARD_FOLDER
from hanse_simulations.experiment.arms import ALL_STORES
from hanse_simulations.runs.results import MetricRow


class Tracker(Protocol):
    """Receives every metric as it is measured."""

    def log(self, rows: Iterable[MetricRow], step: int) -> None:
        """Record the metrics of one round; undefined ones are left out."""

    def close(self) -> None:
        """Write what is buffered."""


class Trackers:
    """Several trackers as one; without any it does nothing."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, rows: Iterable[MetricRow], step: int) -> None:
        """Hand the rows to every tracker."""
        table = list(rows)
        for tracker in self._trackers:
            tracker.log(table, step)

    def close(self) -> None:
        """Close every tracker."""
        for tracker in self._trackers:
            tracker.close()


def make_trackers(
    names: Sequence[str],
    run_folder: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
) -> Trackers:
    """Make the trackers of these names.

    Args:
        names: Keys of `KNOWN`; without any, the tracker does nothing.
        run_folder: The run's folder; TensorBoard writes to `tensorboard/` in it, MLflow to
            the server that `MLFLOW_TRACKING_URI` names, or else to `mlflow.db` above it.
        settings: The run's settings, for trackers that show them.

    Raises:
        ConfigError: A name is unknown.
        MissingDependency: The tracker's package is not installed.
    """
    folder = Path(run_folder)
    makers = []
    for name in dict.fromkeys(names):
        if name not in KNOWN:
            raise ConfigError(f"there is no tracker {name!r}", hint=f"known: {', '.join(KNOWN)}")
        makers.append(KNOWN[name])
    return Trackers([make(folder, settings or {}) for make in makers])


class TensorBoardTracker:
    """Scalars for `tensorboard --logdir runs/<name>/tensorboard`, one line per arm."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("TensorBoard", "tensorboard") from error
        self._folder = folder / TENSORBOARD_FOLDER
        self._make: Callable[[str], Any] = SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, rows: Iterable[MetricRow], step: int) -> None:
        """Write each metric under `<split>/<metric>`, a single store's under its name."""
        for row in rows:
            value = row["value"]
            if value is None:
                continue
            arm = row["arm"]
            if arm not in self._writers:
                self._writers[arm] = self._make(str(self._folder / arm))
            self._writers[arm].add_scalar(_tag(row), value, _step(row, step))

    def close(self) -> None:
        """Write what is buffered."""
        for writer in self._writers.values():
            writer.close()


class MlflowTracker:
    """One MLflow run in the experiment `hanse`, with the settings as its parameters."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        # MLflow reads this when it is imported, and would otherwise report usage.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise _missing("MLflow", "mlflow") from error
        from hanse_simulations.runs.folder import flatten

        local = f"sqlite:///{(folder.resolve().parent / 'mlflow.db').as_posix()}"
        self._client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
        self._metric: Callable[..., Any] = Metric
        experiment = self._client.get_experiment_by_name("hanse")
        number = (
            self._client.create_experiment("hanse")
            if experiment is None
            else experiment.experiment_id
        )
        run = self._client.create_run(number, run_name=folder.resolve().name)
        self._run: str = run.info.run_id
        # MLflow refuses longer values, and batches of more than 100 params or 1000 metrics.
        params = [Param(key, str(value)[:500]) for key, value in flatten(settings)]
        if params:
            self._client.log_batch(self._run, params=params[:100])

    def log(self, rows: Iterable[MetricRow], step: int) -> None:
        """Write each metric under `<arm>/<split>/<metric>`, a single store's under its name."""
        import time

        now = int(time.time() * 1000)
        batch = [
            self._metric(_mlflow_key(row), row["value"], now, _step(row, step))
            for row in rows
            if row["value"] is not None
        ]
        for start in range(0, len(batch), 1000):
            self._client.log_batch(self._run, metrics=batch[start : start + 1000])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


KNOWN: Final[dict[str, Callable[[Path, Mapping[str, Any]], Tracker]]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
}


def _tag(row: MetricRow) -> str:
    tag = f"{row['split']}/{row['metric']}"
    return tag if row["store"] == ALL_STORES else f"stores/{row['store']}/{tag}"


def _mlflow_key(row: MetricRow) -> str:
    """A key as MLflow allows it: letters, digits and `_-./ `, at most 250 characters."""
    text = f"{row['arm']}/{_tag(row)}".replace("@", "_at_")
    return "".join(char if char.isalnum() or char in "_-./ " else "_" for char in text)[:250]


def _step(row: MetricRow, step: int) -> int:
    number = row["round"]
    return step if number is None else number


def _missing(title: str, package: str) -> MissingDependency:
    return MissingDependency(
        f"{title} is not installed here", hint=f"pip install {package}, or 'hanse[trackers]'"
    )
