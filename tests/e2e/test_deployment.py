"""A coordinator and five stores, by their operators' commands alone: what it gives and survives.

Every process is the real one, over TLS with node authentication. The tests share one running
federation and go on from one another in the order in which they stand.
"""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from hanse_client.ingest.store_config import load_store
from hanse_common.config import DataSettings
from hanse_common.errors import PolicyViolation
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_server.app import read_settings
from hanse_server.stage_log import read_stages
from hanse_simulations.engines import run_federation
from hanse_simulations.experiment.enrolment import enrol_stores
from hanse_simulations.runs.arm_folder import ArmFolder
from kits.browser import CHROMIUM, Tab
from kits.commands import joined_shops, kill, pids_of
from kits.deployment import as_toml
from kits.watched import check_keyboard, check_looks, check_structure, wait_for_parts, watching

pytestmark = pytest.mark.slow

ROUNDS = 3


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    """Five regions of real households that are joined, for runs of three rounds."""
    real = DataSettings(source="complete-journey", stores=5, customers=24, min_items=20)
    settings = secure_stores[0].with_changes(
        {
            "data": real.model_dump(),
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            # All runs here are under one manifest, whose exchanges are granted once.
            "federation.spare_exchanges": 20,
            "privacy.noise_multiplier": 20.0,
        }
    )
    wait = {"connect": 240, "train": 100, "stage": 25}
    with joined_shops(tmp_path_factory.mktemp("baltic"), settings, store_cache, wait=wait) as shops:
        yield shops


@pytest.fixture(scope="module")
def first_run(shops):
    """A run with nothing in its way; returns its folder."""
    done = shops.server("run", "--name", "first", "--format", "json", timeout=500)
    assert (done.json["state"], done.json["round"]) == ("finished", ROUNDS)
    return shops.run_dir("first")


def test_commands_alone_make_a_federation_that_the_doctor_finds_ready(shops):
    for name in ("bremen", "rostock"):
        findings = shops.store(name, "doctor", "--format", "json").json
        assert [found for found in findings if found["state"] in ("failed", "skipped")] == []
    assert all(row["in_manifest"] for row in shops.rows().values())


def test_a_store_takes_no_base_model_but_the_one_that_was_signed(shops, tmp_path):
    """Not even with the trained parameters as the manifest names them."""
    altered = shutil.copytree(shops.folder.path / "model", tmp_path / "model")
    weights = load_file(altered / "model.safetensors")
    weights["class_vectors"] = weights["class_vectors"] + 1
    save_file(weights, altered / "model.safetensors", metadata={"format": "pt"})
    done = shops.try_store("bremen", "enrol", "--model", altered)
    assert done.status == PolicyViolation.exit_status
    assert "[policy-violation]" in done.err


def test_five_stores_run_three_private_rounds(shops, first_run):
    lines = [line for line in read_stages(first_run) if line["stage"] != "done"]
    assert [line["round"] for line in lines if line["stage"] == "train"] == [1, 2, 3]
    assert all(line["replies"] == 5 and not line["refusals"] for line in lines)
    for name in shops.stores:
        kinds = [(entry.release.kind, entry.release.round) for entry in shops.charges(name)]
        assert [number for kind, number in kinds if kind == "train"] == [1, 2, 3]


def test_the_deployed_model_is_the_simulated_one(shops, first_run, tmp_path):
    """The same stores, terms and seeds on the in-process engine: equal bit for bit."""
    deployed = load_file(first_run / GLOBAL_FILE)
    simulated = load_file(simulate(shops, first_run, tmp_path) / GLOBAL_FILE)
    assert deployed.keys() == simulated.keys()
    for name, array in deployed.items():
        np.testing.assert_array_equal(array, simulated[name], err_msg=name)
    start = load_file(first_run / INITIAL_FILE)
    assert any(not np.array_equal(array, start[name]) for name, array in deployed.items())


def test_an_audit_of_coordinator_and_stores_finds_nothing(shops, first_run):
    verdict = shops.audit()
    findings = {row["check"]: row for row in shops.store("riga", "doctor", "--format", "json").json}
    assert "another history is refused" in findings["round log"]["message"]
    assert verdict["ok"] and not verdict["gone"]
    assert len(verdict["stores"]) == 5 and len(verdict["logs"]) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_both_pages_fit_hold_nothing_of_a_customer_and_follow_a_run(shops, first_run, tmp_path):
    """`hanse server watch` and `hanse store watch`, in a browser beside the real federation."""
    shops.wait_until_online()
    events = pl.read_parquet(load_store(shops.stores["riga"].store_toml).events.path)
    words = {str(value) for row in events.head(500).iter_rows() for value in row}
    telling = {word for word in words if len(word) > 6}
    assert telling
    tab = Tab(tmp_path / "profile")
    coordinator, store = shops.folder.path, shops.stores["riga"].path
    try:
        with watching("server", coordinator) as above, watching("store", store) as below:
            for url in (above, below):
                for width, dark in ((400, False), (400, True), (1600, False), (1600, True)):
                    check_looks(tab, url, width=width, dark=dark)
                check_structure(tab, url, width=400)
                check_keyboard(tab, url)
                text = tab.evaluate("document.documentElement.outerHTML")
                assert "This cannot be read" not in text
                assert not [word for word in telling if word in text]
            tab.open(below, width=1600)
            wait_for_parts(tab)
            charges = tab.evaluate("document.querySelectorAll('.events tbody tr').length")
            assert charges == len(shops.charges("riga"))
            tab.open(above, width=1600)
            wait_for_parts(tab)
            assert tab.evaluate("document.querySelectorAll('.stores .tag.good').length") == 5
            tab.evaluate("window.here = document.querySelector('main'); 1")
            shops.server("run", "--name", "watched", "--detach")
            tab.wait_until("document.querySelector('.headline').textContent.includes('way')", 300)
            tab.wait_until("document.querySelector('[aria-current=step]')", 300)
            tab.wait_until("document.body.innerText.includes('Run watched is finished')", 500)
            assert tab.evaluate("window.here === document.querySelector('main')")
            tab.open(below, width=1600)
            wait_for_parts(tab)
            more = f"document.querySelectorAll('.events tbody tr').length > {charges}"
            tab.wait_until(more, 60)
    finally:
        tab.close()


def test_a_run_goes_on_after_its_own_process_and_then_the_superlink_were_killed(shops):
    """Nobody resumes it. The stores' nodes stay as they are, and come back by themselves."""
    shops.wait_until_online()
    pids = {name: node.process.pid for name, node in shops.joined.items()}
    shops.server("run", "--name", "crashes", "--detach")
    shops.wait_for_round("crashes", 1)
    for pid in pids_of("flwr-serverapp", shops.folder.path):
        kill(pid)
    shops.wait_for_round("crashes", 2)
    (superlink,) = shops.superlinks()
    kill(superlink)
    assert shops.wait_for_state("crashes", "finished")["round"] == ROUNDS
    lines = [line for line in read_stages(shops.run_dir("crashes")) if line["stage"] == "train"]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert {name: node.process.pid for name, node in shops.joined.items()} == pids
    assert all(node.process.poll() is None for node in shops.joined.values())
    assert shops.audit()["ok"]


def test_a_run_goes_on_with_new_weeks_from_what_an_earlier_one_trained(shops, first_run):
    """Stores prepare the new weeks, the model starts where it was left, ledgers go on."""
    before = {name: len(shops.charges(name)) for name in shops.stores}
    people = {name: shops.store(name, "budget", "--format", "json").json for name in shops.stores}
    settings = read_settings(first_run)
    later = {k: v + timedelta(weeks=4) for k, v in settings.data.split.model_dump().items()}
    moved = settings.with_changes({"data.split": later, "federation.rounds": 1})
    path = shops.folder.path / "settings.toml"
    path.write_text(as_toml(moved.model_dump(mode="json", exclude_none=True)))
    shops.server("manifest", "sign", "--continue-from", "first")
    terms = ("--manifest", shops.folder.manifest, "--settings", shops.folder.settings)
    for name, node in shops.joined.items():
        node.stop()
        shops.store(name, "enrol", *terms)
        shops.join(name)
    shops.wait_until_online()
    done = shops.server("run", "--name", "later", "--format", "json", timeout=500)
    assert (done.json["state"], done.json["round"]) == ("finished", 1)
    run = shops.run_dir("later")
    assert (run / INITIAL_FILE).read_bytes() == (first_run / GLOBAL_FILE).read_bytes()
    assert (run / GLOBAL_FILE).read_bytes() != (first_run / GLOBAL_FILE).read_bytes()
    for name in shops.stores:
        assert len(shops.charges(name)) > before[name]
        now = shops.store(name, "budget", "--format", "json").json
        assert now["spent"] > people[name]["spent"]
    assert shops.audit()["ok"]


def simulate(shops, run_dir, folder):
    """A deployed run once more, on the in-process engine; returns that run's folder."""
    settings = read_settings(run_dir)
    arm = ArmFolder(folder)
    shutil.copyfile(run_dir / INITIAL_FILE, folder / INITIAL_FILE)
    for name, store in shops.stores.items():
        node = json.loads((store.path / "node.json").read_text())
        for key in ("histories", "base_model"):
            node[key] = str(store.path / node[key])
        (arm.stores_dir / name).mkdir(parents=True)
        (arm.stores_dir / name / "node.json").write_text(json.dumps(node))
    enrol_stores(arm, settings, load_file(folder / INITIAL_FILE))
    run_federation(folder, arm.stores_dir, settings)
    return folder
