"""One federation, three ways to run it: the same model, bit for bit."""

import pytest

from hanse_server.stage_log import read_stages
from kits.apps.federations import final_bytes, make_settings, run

FEDERATION = {
    "rounds": 3,
    "strategy": "FedAdam",
    "strategy_options": {"fraction_train": 0.8, "eta": 0.03},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-worker")
    return run(folder, make_settings(compute={"workers": 1}, **FEDERATION))


def evaluations(run_dir):
    stores = sorted((run_dir.parent / "federation").iterdir())
    return {store.name: (store / "evaluations").read_text() for store in stores}


def assert_same(run_dir, reference):
    assert final_bytes(run_dir) == final_bytes(reference)
    assert evaluations(run_dir) == evaluations(reference)
    columns = ("round", "stage", "split", "replies", "refusals")
    assert [[stage[c] for c in columns] for stage in read_stages(run_dir)] == [
        [stage[c] for c in columns] for stage in read_stages(reference)
    ]


def test_two_workers_agree_with_one(tmp_path, reference):
    settings = make_settings(compute={"workers": 2}, **FEDERATION)
    assert_same(run(tmp_path, settings), reference)


@pytest.mark.slow
def test_ray_agrees_with_in_process(tmp_path, reference):
    settings = make_settings(compute={"engine": "ray", "workers": 2}, **FEDERATION)
    assert_same(run(tmp_path, settings), reference)


@pytest.mark.slow
def test_ray_names_a_store_that_refuses_as_in_process_does(tmp_path):
    runs = []
    for engine in ("in-process", "ray"):
        settings = make_settings(rounds=1, compute={"engine": engine, "workers": 2})
        federation_dir = tmp_path / engine / "federation"
        (federation_dir / "riga").mkdir(parents=True)
        (federation_dir / "riga" / "refuse").write_text("1")
        (federation_dir / "visby").mkdir()
        (federation_dir / "visby" / "crash").write_text("1")
        runs.append(run(tmp_path / engine, settings))
    assert_same(*runs)
