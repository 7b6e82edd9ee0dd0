"""TensorBoard and MLflow: optional, lazy, and fed with the run's own figures."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from hanse_simulations.experiment.arms import ALL_STORES
from hanse_simulations.monitoring.trackers import make_trackers
from hanse_simulations.runs.results import MetricRow
from kits.errors import raises


def row(store: str, value: float | None, number: int | None = 2) -> MetricRow:
    return MetricRow(
        arm="federated",
        round=number,
        split="validate",
        store=store,
        metric="ndcg@10",
        value=value,
        weight=10.0,
    )


def test_no_names_is_the_null_tracker(tmp_path: Path) -> None:
    tracker = make_trackers([], tmp_path)
    tracker.log([row(ALL_STORES, 0.5)], step=1)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with raises("config", match="tensorboard, mlflow"):
        make_trackers(["tensorboard", "wandb"], tmp_path)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")]
)
def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with raises("missing-dependency", match=f"pip install {name}"):
        make_trackers([name], tmp_path)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, hanse_simulations.monitoring.trackers as t; t.make_trackers([], '.');"
        "print([m for m in ('torch', 'tensorboard', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensorboard_has_every_figure_of_every_arm(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = make_trackers(["tensorboard"], tmp_path)
    tracker.log([row(ALL_STORES, 0.25), row("Region 1", 0.5), row("Region 2", None)], step=9)
    tracker.log([row(ALL_STORES, 0.75, None)], step=9)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "federated"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "stores/Region 1/validate/ndcg@10",
        "validate/ndcg@10",
    ]
    pooled = events.Scalars("validate/ndcg@10")
    assert [(event.step, event.value) for event in pooled] == [(2, 0.25), (9, 0.75)]


def test_mlflow_has_the_figures_and_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'test.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = make_trackers(["mlflow"], tmp_path / "run", {"privacy": {"mode": "local"}})
    tracker.log([row(ALL_STORES, 0.25), row("Region 1", None)], step=1)
    tracker.close()
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("hanse")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["privacy.mode"] == "local"
    assert math.isclose(run.data.metrics["federated/validate/ndcg_at_10"], 0.25)
    assert run.info.status == "FINISHED"
