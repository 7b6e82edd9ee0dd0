import json

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from hanse_server.app import main, read_settings
from hanse_server.checkpoint import latest_checkpoint
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from hanse_server.store_grid import StoreGrid
from kits.apps.federations import STORES, final_bytes, make_run, make_settings, read_arrays
from kits.apps.local_grid import LocalGrid
from kits.errors import raises


@pytest.fixture
def federated(tmp_path, monkeypatch):
    """Run a federation in this process; returns (run folder, federation folder, run)."""

    def prepare(settings, stores=STORES, name="f"):
        run_dir, federation_dir = make_run(tmp_path / name, settings, stores)
        monkeypatch.setenv("HANSE_FEDERATION", str(federation_dir))
        grid = StoreGrid(LocalGrid(len(stores)))

        def run(settings=settings, **options):
            return run_rounds(grid, run_dir, settings, **options)

        return run_dir, federation_dir, run

    return prepare


def stages(run_dir):
    return [(line["round"], line["stage"], line["split"]) for line in read_stages(run_dir)]


def test_evaluates_now_and_then_and_tests_once(federated):
    run_dir, federation_dir, run = federated(make_settings(rounds=5, evaluate_every=2))
    final = run()
    assert stages(run_dir) == [
        (0, "evaluate", "validate"),
        (1, "train", None),
        (2, "train", None),
        (2, "evaluate", "validate"),
        (3, "train", None),
        (4, "train", None),
        (4, "evaluate", "validate"),
        (5, "train", None),
        (5, "evaluate", "validate"),
        (5, "evaluate", "test"),
        (5, "done", None),
    ]
    assert all(line["replies"] == len(STORES) for line in read_stages(run_dir)[:-1])
    saved = read_arrays(run_dir / "global.safetensors")
    assert all(saved[name].tobytes() == final[name].tobytes() for name in final)
    at_home = (federation_dir / "riga" / "evaluations").read_text().splitlines()
    assert [line.split()[:2] for line in at_home][-2:] == [["5", "validate"], ["5", "test"]]


def test_is_repeatable_and_depends_on_the_seed(federated):
    options = {"strategy_options": {"fraction_train": 0.5}}
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_dir, _, run = federated(make_settings(seed=seed, **options), name=name)
        run()
        models.append(final_bytes(run_dir))
    assert models[0] == models[1] != models[2]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "[empty-store] riga has no events (give it some)"),
        ("crash", "ZeroDivisionError: a bug"),
        ("nan", "[federation] head.bias holds values that are not finite"),
        ("greedy", "[federation] num-examples must be 1: a store's size stays with it"),
    ],
)
def test_goes_on_without_a_store_that_fails(federated, fault, words):
    run_dir, federation_dir, run = federated(make_settings(rounds=2))
    (federation_dir / "riga" / fault).write_text("2")
    final = run()
    first, second = [line for line in read_stages(run_dir) if line["stage"] == "train"]
    assert (first["replies"], first["refusals"]) == (5, {})
    assert (second["replies"], second["refusals"]) == (4, {"riga": words})
    assert all(np.isfinite(array).all() for array in final.values())


@pytest.mark.parametrize("strategy", ["FedAvgM", "Bulyan"])
def test_the_order_in_which_a_store_returns_arrays_does_not_matter(federated, strategy):
    options = {"server_momentum": 0.9} if strategy == "FedAvgM" else {}
    settings = make_settings(strategy=strategy, strategy_options=options)
    models = []
    for name, told in (("a", False), ("b", True)):
        run_dir, federation_dir, run = federated(settings, name=name)
        if told:
            (federation_dir / "bremen" / "shuffle").write_text("1")
        run()
        models.append(final_bytes(run_dir))
    assert models[0] == models[1]


def test_nobody_replies(federated):
    run_dir, federation_dir, run = federated(make_settings())
    for name in STORES:
        (federation_dir / name / "refuse").write_text("3")
    with raises("federation") as caught:
        run()
    assert "round 3: 0 stores trained" in str(caught.value)
    assert all(
        f"{name}: [empty-store] {name} has no events" in str(caught.value) for name in STORES
    )
    assert latest_checkpoint(run_dir).round == 2
    assert not (run_dir / "global.safetensors").exists()

    for name in STORES:
        (federation_dir / name / "refuse").unlink()
    run(resume=True)
    mended = final_bytes(run_dir)
    run_dir, _, run = federated(make_settings(), name="whole")
    run()
    assert final_bytes(run_dir) == mended


def test_fewer_than_the_strategy_needs(federated):
    _, federation_dir, run = federated(make_settings(strategy_options={"min_train_nodes": 5}))
    (federation_dir / "riga" / "refuse").write_text("1")
    with raises("federation", match="needs 5: riga"):
        run()


def test_a_strategy_that_makes_no_model(federated):
    options = {"num_malicious_nodes": 2}
    _, _, run = federated(make_settings(strategy="Bulyan", strategy_options=options))
    with raises("federation", match="Bulyan"):
        run()


def test_too_few_stores_are_refused_at_once(federated):
    run_dir, _, run = federated(make_settings(), stores=("alone",))
    with raises("federation", match="at least 2"):
        run()
    assert not (run_dir / "checkpoints").exists()
    alone = dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1)
    run(make_settings(strategy_options=alone))


def test_a_taken_directory_is_not_overwritten(federated):
    _, _, run = federated(make_settings(rounds=1))
    run()
    with raises("run-directory", match="round 1"):
        run()


def test_resuming_a_finished_run_changes_nothing(federated):
    run_dir, _, run = federated(make_settings(rounds=2))
    run()
    model, log = final_bytes(run_dir), (run_dir / "rounds.jsonl").read_text()
    run(resume=True)
    assert (final_bytes(run_dir), (run_dir / "rounds.jsonl").read_text()) == (model, log)


def test_resuming_with_other_settings(federated):
    _, _, run = federated(make_settings(rounds=1))
    run()
    with raises("run-not-resumable", match=r"federation\.rounds"):
        run(make_settings(rounds=3), resume=True)


def test_resuming_nothing(federated):
    _, _, run = federated(make_settings())
    with raises("run-not-resumable"):
        run(resume=True)


def test_a_half_written_line_is_dropped_on_resumption(federated):
    run_dir, _, run = federated(make_settings(rounds=2))
    run()
    path = run_dir / "rounds.jsonl"
    before = stages(run_dir)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + '\n{"round": 2, "sta')
    run(resume=True)
    assert stages(run_dir) == before
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_an_unwritable_run_directory(federated, tmp_path):
    (tmp_path / "file").write_text("")
    grid = StoreGrid(LocalGrid(2))
    with raises("run-directory", match="cannot write to"):
        run_rounds(grid, tmp_path / "file", make_settings())
    with raises("run-directory", match="cannot write to"):
        run_rounds(grid, tmp_path / "absent", make_settings())


def test_no_initial_model(federated):
    run_dir, _, run = federated(make_settings())
    (run_dir / "initial.safetensors").unlink()
    with raises("run-directory", match=r"initial\.safetensors"):
        run()


def test_settings_of_a_run(tmp_path):
    with raises("run-directory", match=r"settings\.json"):
        read_settings(tmp_path)
    (tmp_path / "settings.json").write_text("{]")
    with raises("run-directory", match=r"settings\.json"):
        read_settings(tmp_path)
    settings = make_settings(strategy_options={"min_train_nodes": 2, "fraction_train": 0.5})
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    assert read_settings(tmp_path) == settings


@pytest.mark.parametrize("by", ["run config", "environment"])
def test_the_server_app_finds_its_run(federated, monkeypatch, by):
    run_dir, _, _ = federated(make_settings(rounds=1))
    config = {}
    if by == "environment":
        monkeypatch.setenv("HANSE_RUN", str(run_dir))
    else:
        config["run-dir"] = str(run_dir)
    main(LocalGrid(len(STORES)), Context(1, 1, {}, RecordDict(), config))
    assert stages(run_dir)[-1] == (1, "done", None)


def test_the_server_app_needs_a_run(monkeypatch):
    monkeypatch.delenv("HANSE_RUN", raising=False)
    with raises("config", match="run directory"):
        main(LocalGrid(2), Context(1, 1, {}, RecordDict(), {}))
