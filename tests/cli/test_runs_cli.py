"""`hanse runs` from outside: what is printed where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.errors import ConfigError, RunNotFound
from hanse_simulations.runs.cli import app
from kits.runs import write_run

cli = CliRunner()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path))
    return tmp_path


def test_list_prints_a_table_or_json(root: Path) -> None:
    write_run(root, "first")
    table = cli.invoke(app, ["list"])
    assert table.exit_code == 0
    assert "first" in table.stdout
    (entry,) = json.loads(cli.invoke(app, ["list", "--format", "json"]).stdout)
    assert entry["run"] == "first"
    assert entry["state"] == "finished"
    assert entry["stores"] == 12
    assert 0 < entry["metrics"]["ndcg@10"] < 1


def test_an_empty_list_says_how_to_start_on_stderr_and_is_empty_json(root: Path) -> None:
    empty = cli.invoke(app, ["list"])
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "hanse simulate smoke" in empty.stderr
    assert json.loads(cli.invoke(app, ["list", "--format", "json"]).stdout) == []


def test_show_prints_the_comparison_or_the_whole_result(root: Path) -> None:
    folder = write_run(root, "first")
    table = cli.invoke(app, ["show", "first"])
    assert "Federated, private" in table.stdout
    assert "ε ≤ 7.99" in table.stdout
    result = json.loads(cli.invoke(app, ["show", "first", "--format", "json"]).stdout)
    assert result == folder.read_result().model_dump(mode="json")
    assert result["epsilon"]["delta"] == 1e-6


def test_compare_puts_runs_side_by_side(root: Path) -> None:
    write_run(root, "first")
    write_run(root, "second", rounds=3)
    assert "federation.rounds" in cli.invoke(app, ["compare", "first", "second"]).stdout
    done = cli.invoke(app, ["compare", "first", "second", "--format", "json"])
    comparison = json.loads(done.stdout)
    assert comparison["settings"] == {"federation.rounds": {"first": 5, "second": 3}}
    assert [run["run"] for run in comparison["runs"]] == ["first", "second"]
    assert comparison["like_for_like"] is True


def test_report_writes_the_page_again_and_prints_where(root: Path) -> None:
    folder = write_run(root, "first", stores=["a", "b"], rounds=2)
    done = cli.invoke(app, ["report", "first"])
    assert done.stdout.strip() == str(folder.report_file)
    assert folder.report_file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_mistakes_are_errors_of_the_tree(root: Path) -> None:
    write_run(root, "first")
    assert isinstance(cli.invoke(app, ["show", "frist"]).exception, RunNotFound)
    assert isinstance(cli.invoke(app, ["report", "frist"]).exception, RunNotFound)
    assert isinstance(cli.invoke(app, ["compare", "first"]).exception, ConfigError)
    assert cli.invoke(app, ["show", "first", "--format", "xml"]).exit_code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, hanse_simulations.runs.cli;"
        "print([m for m in ('polars', 'matplotlib', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
