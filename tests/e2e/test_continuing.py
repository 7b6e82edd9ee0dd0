"""A run that goes on from another: its model, its stores' keys, and their ledgers."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hanse_client.node import Node, list_nodes
from hanse_common import errors
from hanse_common.config import RunSettings
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.checkpoint import read_arrays
from hanse_simulations.experiment.continuing import continued_settings, spent_before, with_budget
from hanse_simulations.runs.folder import RunFolder
from kits.errors import raises

HANSE = [sys.executable, "-c", "from hanse_common.cli import main; main()"]
EARLIER = {
    "train_until": datetime(2023, 9, 4),
    "validate_until": datetime(2023, 9, 11),
    "test_until": datetime(2023, 10, 9),
}


def hanse(cache, runs, *arguments):
    environment = os.environ | {"HANSE_CACHE": str(cache), "HANSE_RUNS": str(runs)}
    return subprocess.run(
        [*HANSE, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def two_runs(store_cache, tmp_path_factory):
    """Two private rounds until September, then two more with four more weeks."""
    runs = tmp_path_factory.mktemp("runs")
    table = ", ".join(f"{name} = {moment.isoformat()}" for name, moment in EARLIER.items())
    first = hanse(
        store_cache, runs, "simulate", "synthetic", "--stores", "3", "--customers", "24",
        "--rounds", "2", "--no-compare", "--quiet", "--name", "first",
        "--set", f"data.split={{{table}}}",
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    second = hanse(
        store_cache, runs, "simulate", "--continue-from", "first", "--weeks", "4",
        "--rounds", "2", "--quiet", "--name", "second", "--format", "json",
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    return RunFolder(runs / "first"), RunFolder(runs / "second"), json.loads(second.stdout)


@pytest.mark.slow
def test_epsilon_composes_over_both_runs(two_runs):
    first, second, result = two_runs
    plans = [PrivacyPlan.from_settings(run.read_settings()) for run in (first, second)]
    steps = [step for plan in plans for step in plan.spent_after(2)]
    composed = epsilon(steps, target_delta=plans[0].target_delta)
    assert result["epsilon"]["max"] == pytest.approx(composed, rel=1e-6)
    assert composed > first.read_result().epsilon.max
    for before, after in zip(*(list_nodes(r.stores_dir) for r in (first, second)), strict=True):
        old, new = list(Node(before).ledger), list(Node(after).ledger)
        assert new[: len(old)] == old  # the same chain goes on
        assert len(new) == 2 * len(old)
        assert new[len(old)].epsilon_before == pytest.approx(old[-1].epsilon_after)


@pytest.mark.slow
def test_it_starts_from_the_earlier_model_and_sees_new_weeks(two_runs):
    first, second, result = two_runs
    start = read_arrays(second.path / "initial.safetensors")
    ended = read_arrays(first.path / "global.safetensors")
    assert all((start[name] == ended[name]).all() for name in ended)
    split = second.read_settings().data.split
    assert split.train_until == EARLIER["train_until"] + timedelta(weeks=4)
    assert "before" in result["baselines"]
    assert any("goes on from run first" in note for note in result["notes"])


@pytest.mark.slow
def test_an_auditor_verifies_the_ledgers_of_the_run_that_goes_on(two_runs, store_cache):
    _, second, _ = two_runs
    done = hanse(store_cache, second.path.parent, "audit", "verify", str(second.path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_target_is_of_both_runs_together(two_runs):
    first, _, _ = two_runs
    settings = continued_settings(
        first, weeks=4, changes={"privacy.target_epsilon": 6.0, "federation.rounds": 2}
    )
    plan = PrivacyPlan.from_settings(settings)
    total = epsilon(
        [*spent_before(first), *plan.spent_after(plan.rounds + plan.spare)], target_delta=1e-6
    )
    assert 5.9 < total <= 6.0
    with raises("privacy"):
        with_budget(settings, spent_before(first), 1.0)


@pytest.mark.slow
def test_weeks_beyond_the_data_are_refused(two_runs, store_cache):
    first, _, _ = two_runs
    done = hanse(
        store_cache, first.path.parent, "simulate", "--continue-from", "first", "--weeks", "30"
    )
    assert done.returncode == errors.ConfigError.exit_status
    assert "fewer weeks" in done.stderr


def test_options_that_go_together(store_cache, tmp_path):
    for options in (["--continue-from", "x"], ["smoke", "--continue-from", "x", "--weeks", "2"]):
        done = hanse(store_cache, tmp_path, "simulate", *options)
        assert done.returncode == errors.ContradictingOptions.exit_status, done.stderr


def test_without_an_earlier_run_the_settings_say_nothing_of_one():
    settings = RunSettings(recipe="x", data={"source": "synthetic"})
    assert settings.continues is None
    assert Path("x") == settings.with_changes({"continues": "x"}).continues
