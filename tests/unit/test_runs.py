"""The folder of a run: names, paths, records, lists and comparisons."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path

import pytest

from hanse_simulations.experiment.arms import ALL_STORES
from hanse_simulations.runs.files import write_json
from hanse_simulations.runs.folder import RunFolder, compare, list_runs, runs_root
from hanse_simulations.runs.results import MetricRow, RunResult
from kits.errors import raises
from kits.runs import write_run

NOON = datetime(2026, 3, 1, 14, 5)


def test_a_new_run_is_named_after_its_recipe_and_time(tmp_path: Path) -> None:
    first, second, third = (RunFolder.create("grocery", root=tmp_path, now=NOON) for _ in range(3))
    assert first.name == "grocery-2026-03-01-1405"
    assert second.name == "grocery-2026-03-01-1405-2"
    assert third.name == "grocery-2026-03-01-1405-3"
    assert first.path.is_dir()


def test_the_root_is_in_the_working_directory_or_where_hanse_runs_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HANSE_RUNS", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path / "elsewhere"))
    assert RunFolder.create("smoke").path.parent == tmp_path / "elsewhere"


def test_a_recipe_from_a_file_with_an_odd_name_still_names_a_folder(tmp_path: Path) -> None:
    assert RunFolder.create("my shop/ä", root=tmp_path, now=NOON).path.parent == tmp_path


def test_a_taken_name_is_refused_with_two_ways_out(tmp_path: Path) -> None:
    RunFolder.create("smoke", name="mine", root=tmp_path)
    with raises("run-directory", match="'mine'") as caught:
        RunFolder.create("smoke", name="mine", root=tmp_path)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".hidden", "x" * 200, "a\nb"])
def test_a_name_that_is_no_plain_folder_is_refused(tmp_path: Path, name: str) -> None:
    with raises("run-directory"):
        RunFolder.create("smoke", name=name, root=tmp_path)


def test_an_unwritable_root_is_named_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "runs"):
        with raises("run-directory") as caught:
            RunFolder.create("smoke", root=root)
        assert "HANSE_RUNS" in caught.value.hint


def test_writing_into_a_folder_that_has_gone_is_the_same_error(tmp_path: Path) -> None:
    with raises("run-directory"):
        write_json(tmp_path / "gone" / "result.json", {})


def test_a_misspelt_run_is_answered_with_names_that_are_close(tmp_path: Path) -> None:
    write_run(tmp_path, "grocery-spring")
    write_run(tmp_path, "visits")
    with raises("run-not-found") as caught:
        RunFolder.open("grocery-sprnig", root=tmp_path)
    assert caught.value.hint == "did you mean grocery-spring?"
    with raises("run-not-found", match="hanse runs list"):
        RunFolder.open("zzz", root=tmp_path)
    with raises("run-not-found"):
        RunFolder.open("zzz", root=tmp_path / "empty")


def test_a_run_opens_by_name_and_by_path(tmp_path: Path) -> None:
    made = write_run(tmp_path, "mine")
    assert RunFolder.open("mine", root=tmp_path).path == made.path
    assert RunFolder.open(str(made.path), root=tmp_path / "other").name == "mine"


@pytest.mark.parametrize("store", ["Region 3", "a/b", "..", ".", "<script>", "Lübeck", "50%"])
def test_any_store_name_is_one_folder_and_comes_back(tmp_path: Path, store: str) -> None:
    folder = RunFolder.create("smoke", root=tmp_path)
    log = folder.store_log(store)
    assert log.parent.parent == folder.stores_dir
    assert log.resolve().is_relative_to(folder.stores_dir.resolve() / log.parent.name)
    log.parent.mkdir(parents=True)
    log.write_text("")
    assert folder.store_logs() == {store: log}


def test_settings_and_result_come_back_as_they_were(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert folder.read_settings().federation.rounds == 5
    result = folder.read_result()
    assert result.main_arm == "federated_private"
    assert RunResult.model_validate_json(result.model_dump_json()) == result


def test_undefined_figures_are_null_in_json_and_empty_in_csv(tmp_path: Path) -> None:
    folder = RunFolder.create("smoke", root=tmp_path)
    folder.write_metrics(
        [
            MetricRow(
                arm="alone",
                round=None,
                split="test",
                store='x, "y"',
                metric="rise_auc",
                value=math.nan,
                weight=3.0,
            )
        ]
    )
    assert json.loads(folder.metrics_json.read_text())[0]["value"] is None
    row = folder.read_metrics().row(0, named=True)
    assert row == {
        "arm": "alone",
        "round": None,
        "split": "test",
        "store": 'x, "y"',
        "metric": "rise_auc",
        "value": None,
        "weight": 3.0,
    }


def test_metrics_of_a_run_without_any_are_an_empty_table(tmp_path: Path) -> None:
    table = RunFolder.create("smoke", root=tmp_path).read_metrics()
    assert table.is_empty()
    assert "value" in table.columns


def test_metrics_read_back_hold_every_arm_pooled(tmp_path: Path) -> None:
    table = write_run(tmp_path).read_metrics()
    pooled = table.filter((table["store"] == ALL_STORES) & (table["split"] == "test"))
    assert set(pooled["arm"]) >= {"markov", "alone", "federated", "federated_private"}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_run_without_a_result_says_that_it_has_not_finished(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "mine")
    folder.result_file.unlink()
    with raises("run-not-found"):
        folder.read_result()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": 3}'])
def test_a_damaged_result_is_an_error_and_still_listed(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path, "mine")
    folder.result_file.write_text(content)
    with raises("run-directory", match=r"result\.json"):
        folder.read_result()
    assert [(run.name, run.state) for run in list_runs(tmp_path)] == [("mine", "damaged")]


def test_damaged_metrics_are_an_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.metrics_csv.write_text("arm,round,split,store,metric,value,weight\na,b,c,d,e,f,g\n")
    with raises("run-directory", match=r"metrics\.csv"):
        folder.read_metrics()


def test_runs_are_listed_latest_first_with_their_state(tmp_path: Path) -> None:
    import os

    old, new = write_run(tmp_path, "old"), write_run(tmp_path, "new")
    os.utime(old.result_file, (1, 1))
    new.result_file.unlink()
    (tmp_path / "not-a-run").mkdir()
    assert [(run.name, run.state) for run in list_runs(tmp_path)] == [
        ("new", "unfinished"),
        ("old", "finished"),
    ]
    assert list_runs(tmp_path / "none") == []


def test_a_comparison_shows_only_settings_that_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", rounds=3)
    comparison = compare(["a", "b"], root=tmp_path)
    assert comparison.settings == {"federation.rounds": {"a": 5, "b": 3}}
    assert comparison.like_for_like
    assert [result.run for result in comparison.results] == ["a", "b"]


def test_runs_on_different_data_are_not_like_for_like(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", **{"data.level": "type"})
    assert not compare(["a", "b"], root=tmp_path).like_for_like


def test_one_run_cannot_be_compared_with_itself(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    with raises("config"):
        compare(["a", "a"], root=tmp_path)


def test_a_result_of_a_newer_version_stays_readable(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    table = json.loads(folder.result_file.read_text())
    write_json(folder.result_file, {**table, "carbon_grams": 3})
    assert folder.read_result().model_dump()["carbon_grams"] == 3
