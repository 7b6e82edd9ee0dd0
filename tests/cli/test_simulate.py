"""`hanse simulate` as a person runs it: results, refusals, interruption, resumption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanse_client.node import Node, list_nodes
from hanse_common import errors
from hanse_common.privacy.plan import PrivacyPlan
from hanse_simulations.runs.folder import RunFolder

HANSE = str(Path(sys.executable).with_name("hanse"))
SMALL = ["--stores", "3", "--customers", "24", "--rounds", "2", "--set", "training.local_steps=1"]


@pytest.fixture
def hanse(store_cache, tmp_path):
    environment = os.environ | {
        "HANSE_CACHE": str(store_cache),
        "HANSE_RUNS": str(tmp_path / "runs"),
        "COLUMNS": "120",
    }

    def call(*arguments, **options):
        return subprocess.run(
            [HANSE, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )

    call.environment = environment
    call.runs = tmp_path / "runs"
    return call


def refused(done, code):
    """The command ended with this error: its status, its code, one line, nothing on stdout."""
    assert done.returncode == errors.families()[code].exit_status, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hanse: error: ")
    assert last.endswith(f"[{code}]")
    assert "Traceback" not in done.stderr
    return last


def test_json_has_what_it_promises(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--format", "json", "--name", "first", "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["recipe"] == "synthetic"
    assert (result["stores"], result["rounds"]) == (3, 2)
    assert {"ndcg@10", "rise_auc", "fall_auc"} <= set(result["metrics"])
    assert {"global_popularity", "personal_frequency", "markov", "mean_reversion",
            "long_run_rate", "logistic_regression",
            "boosted_trees"} <= set(result["baselines"])  # fmt: skip
    assert set(result["arms"]) == {"alone", "centralized", "federated", "federated_transformer"}
    compared = {(row["arm"], row["against"]) for row in result["intervals"]}
    for reference in ("alone", "boosted_trees", "federated"):
        assert ("federated_private", reference) in compared
    for row in result["intervals"]:
        assert row["low"] is None or row["low"] <= row["high"]
    assert 0 < result["epsilon"]["max"] <= 8
    assert result["epsilon"]["delta"] == 1e-6
    assert result["seconds"] > 0
    folder = Path(result["run_dir"])
    for name in ("settings.json", "metrics.csv", "metrics.json", "report.html"):
        assert (folder / name).stat().st_size > 100
    assert (folder / "model" / "model.safetensors").exists()
    assert "## Privacy" in (folder / "model" / "README.md").read_text()
    assert "synthetic" in result["data_note"].lower()
    groups = {(row["grouping"], row["arm"]) for row in result["groups"]}
    assert {("activity", arm) for arm in ("alone", "federated_private", "joining")} <= groups
    page = (folder / "report.html").read_text()
    for heading in ("Whom it serves worse", "Customers by their interests"):
        assert heading in page


def test_the_same_seed_gives_the_same_figures_and_another_does_not(hanse):
    def figures(name, *more):
        done = hanse("simulate", "synthetic", *SMALL, "--no-compare", "--format", "json",
                     "--name", name, *more)  # fmt: skip
        assert done.returncode == 0, done.stderr
        model = hanse.runs / name / "model" / "model.safetensors"
        return json.loads(done.stdout)["metrics"], model.read_bytes()

    one = figures("one")
    assert one == figures("two", "--workers", "1")
    assert one != figures("three", "--seed", "8")


def test_a_table_on_stdout_and_people_on_stderr(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--no-compare")
    assert done.returncode == 0, done.stderr
    assert "Personal frequency" in done.stdout
    assert "Federated, private" in done.stdout
    assert "report.html" in done.stderr


def test_without_privacy_is_said_and_recorded(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--no-privacy", "--name", "open", "--no-compare")
    assert done.returncode == 0, done.stderr
    assert "no privacy" in done.stdout.lower()
    settings = json.loads((hanse.runs / "open" / "settings.json").read_text())
    assert settings["privacy"]["mode"] == "none"


def test_masking_is_the_default_and_recorded(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--no-compare", "--name", "masked")
    assert done.returncode == 0, done.stderr
    assert "Secure aggregation: on" in done.stdout
    assert json.loads((hanse.runs / "masked" / "result.json").read_text())["secure_aggregation"]


def test_masking_turned_off_is_said_twice_and_recorded(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--no-compare", "--name", "seen",
                 "--no-secure-aggregation", "--mode", "local")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "secure aggregation is off" in done.stderr
    assert "Secure aggregation: OFF" in done.stdout
    result = json.loads((hanse.runs / "seen" / "result.json").read_text())
    assert result["secure_aggregation"] is False
    assert not (hanse.runs / "seen" / "manifest.json").exists()


def test_unknown_recipe(hanse):
    assert "one of grocery" in refused(hanse("simulate", "bakery"), "config")


def test_neither_recipe_nor_resume(hanse):
    refused(hanse("simulate"), "contradicting-options")


def test_recipe_with_resume(hanse):
    done = hanse("simulate", "smoke", "--resume", "x")
    assert "leave one of the two out" in refused(done, "contradicting-options")


def test_epsilon_without_privacy(hanse):
    done = hanse("simulate", "smoke", "--epsilon", "3", "--no-privacy")
    assert "leave one of the two out" in refused(done, "contradicting-options")


def test_unknown_setting_lists_the_known(hanse):
    done = hanse("simulate", "smoke", "--set", "training.epochs=3")
    assert "local_steps" in refused(done, "config")


def test_setting_out_of_range(hanse):
    done = hanse("simulate", "smoke", "--set", "training.sample_rate=2")
    assert "training.sample_rate=2" in refused(done, "config")


def test_unknown_strategy_lists_the_known(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--strategy", "FedMagic")
    assert "FedYogi" in refused(done, "config")


def test_resume_of_an_unknown_run(hanse):
    refused(hanse("simulate", "--resume", "never"), "run-not-found")


def test_a_name_that_is_taken(hanse):
    (hanse.runs / "taken").mkdir(parents=True)
    done = hanse("simulate", "synthetic", "--name", "taken")
    refused(done, "run-directory")


def test_an_unwritable_run_directory(hanse):
    hanse.runs.write_text("a file where the folder of runs should be")
    refused(hanse("simulate", "synthetic"), "run-directory")


def write_store(folder, name, rows, catalogue="item_id,text,category\n1,milk,DAIRY/MILK\n"):
    store = folder / name
    store.mkdir(parents=True)
    lines = ["user_id,item_id,timestamp", *rows]
    (store / "sales.csv").write_text("".join(f"{line}\n" for line in lines))
    (store / "items.csv").write_text(catalogue)
    (store / "store.toml").write_text(
        f'name = "{name}"\n[events]\npath = "sales.csv"\n[catalogue]\npath = "items.csv"\n'
    )


def own_shops(tmp_path, **split):
    recipe = tmp_path / "mine.toml"
    dates = {"train_until": "2024-06-01", "validate_until": "2024-07-01",
             "test_until": "2024-08-01"} | split  # fmt: skip
    recipe.write_text(
        "[data]\nsource = 'stores'\nmin_customers = 2\n"
        f"path = '{tmp_path / 'shops'}'\n[data.split]\n"
        + "\n".join(f"{key} = {value}T00:00:00" for key, value in dates.items())
        + "\n[training]\nsample_rate = 0.5\nlocal_steps = 1\n[federation]\nrounds = 3\n"
    )
    return str(recipe)


def visits(*customers, item="1"):
    return [
        f"{customer},{item},2024-{month:02}-{day:02}"
        for customer in customers
        for month in range(1, 8)
        for day in (3, 9, 15, 21, 27)
    ]


def test_any_shops_own_files_run(hanse, tmp_path):
    for name in ("north", "south", "west"):
        write_store(tmp_path / "shops", name, visits("ada", "bob", "eve"))
    done = hanse("simulate", own_shops(tmp_path), "--no-compare", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "mine.toml; what the settings leave out is as in the recipe 'grocery'" in done.stderr
    result = json.loads(done.stdout)
    assert result["customers"] == 9 and result["run"].startswith("mine-")
    assert result["recipe"] == "grocery" and any("'grocery'" in note for note in result["notes"])


def test_two_shops_cannot_hide_behind_each_other(hanse, tmp_path):
    for name in ("north", "south"):
        write_store(tmp_path / "shops", name, visits("ada", "bob", "eve"))
    mine = own_shops(tmp_path)
    said = refused(hanse("simulate", mine, "--no-compare", "--quiet"), "config")
    assert "2 stores cannot hide one update" in said
    done = hanse("simulate", mine, "--no-compare", "--no-secure-aggregation", "--mode", "local")
    assert done.returncode == 0, done.stderr


def test_shared_noise_without_masks_is_refused(hanse):
    said = refused(hanse("simulate", "smoke", "--no-secure-aggregation"), "config")
    assert "would show updates with too little noise" in said
    assert "--mode local" in said


@pytest.mark.parametrize(
    "options", [("--compare", "--no-privacy"), ("--compare", "--no-compare"),
                ("--no-privacy", "--mode", "local")]
)  # fmt: skip
def test_options_that_cannot_both_hold(hanse, options):
    said = refused(hanse("simulate", "smoke", *options), "contradicting-options")
    assert "contradicts" in said


def test_accuracy_against_epsilon_is_printed_stored_and_drawn(hanse):
    done = hanse("simulate", "synthetic", *SMALL, "--compare", "--format", "json", "--quiet",
                 "--name", "swept", "--set", "sweep.seeds=2",
                 "--set", "sweep.epsilons=[4.0]", "--set", "federation.rounds=1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["arm"]: row for row in json.loads(done.stdout)["sweep"]}
    assert list(rows) == [
        "global_popularity", "personal_frequency", "markov", "mean_reversion", "long_run_rate",
        "logistic_regression", "boosted_trees", "untrained",
        "alone", "local", "distributed", "federated", "centralized_private", "centralized",
    ]  # fmt: skip
    assert set(rows["markov"]["figures"]) == {"hr@10", "recall@10", "ndcg@10", "explore_ndcg@10"}
    assert {rows[name]["epsilon"] for name in ("centralized_private", "distributed", "local")} == {
        4.0
    }
    for name in ("alone", "local", "distributed", "federated", "centralized_private",
                 "centralized", "boosted_trees"):  # fmt: skip
        assert rows[name]["seeds"] == 2
        assert 0 < rows[name]["figures"]["fall_auc"]["mean"] < 1
        assert rows[name]["over_stores"]["ndcg@10"]["std"] > 0
    page = (hanse.runs / "swept" / "report.html").read_text()
    assert "Accuracy by ε" in page
    assert "Does federation pay" in page
    again = hanse("simulate", "--resume", "swept", "--quiet")
    assert again.returncode == 0, again.stderr
    assert "Federated, noise shared under masks" in again.stdout


def test_more_than_one_step_with_shared_noise_is_refused(hanse):
    done = hanse("simulate", "smoke", "--set", "training.local_steps=2")
    assert "one step a round" in refused(done, "config")


@pytest.mark.parametrize(
    ("rows", "catalogue", "error"),
    [
        ([], None, "empty-store"),
        (visits("ada"), None, "too-few-customers"),
        (visits("ada", "bob", item="7"), None, "unknown-ids"),
        ([row + " o'clock" for row in visits("ada", "bob")], None, "wrong-types"),
        (visits("ada", "bob"), "sku,text,category\n1,milk,D/M\n", "missing-columns"),
    ],
)
def test_a_faulty_shop_is_named_and_ends_the_run(hanse, tmp_path, rows, catalogue, error):
    write_store(tmp_path / "shops", "good", visits("ada", "bob", "eve"))
    write_store(
        tmp_path / "shops", "faulty", rows, **({"catalogue": catalogue} if catalogue else {})
    )
    done = hanse("simulate", own_shops(tmp_path), "--no-compare")
    assert "faulty" in refused(done, error)


def test_no_shops_at_all(hanse, tmp_path):
    (tmp_path / "shops").mkdir()
    refused(hanse("simulate", own_shops(tmp_path)), "data")


def test_a_split_in_the_wrong_order(hanse, tmp_path):
    write_store(tmp_path / "shops", "one", visits("ada", "bob"))
    done = hanse("simulate", own_shops(tmp_path, test_until="2024-01-01"))
    assert "does not hold" in refused(done, "config")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_model(hanse):
    options = [*SMALL[:4], "--rounds", "30", "--no-compare", "--format", "json"]
    whole = hanse("simulate", "synthetic", *options, "--name", "whole")
    assert whole.returncode == 0, whole.stderr

    process = subprocess.Popen(
        [HANSE, "simulate", "synthetic", *options, "--name", "cut"],
        env=hanse.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = hanse.runs / "cut" / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("train") > 3):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == errors.Interrupted.exit_status
    assert "hanse simulate --resume cut" in told.splitlines()[-1]
    assert not (hanse.runs / "cut" / "result.json").exists()
    cut = RunFolder(hanse.runs / "cut")
    plan = PrivacyPlan.from_settings(cut.read_settings())
    for folder in list_nodes(cut.stores_dir):  # as if it had hit each between charge and upload
        Node(folder).charge(plan.round_charge().of(round=5))

    resumed = hanse("simulate", "--resume", "cut", "--format", "json")
    assert resumed.returncode == 0, resumed.stderr
    models = [hanse.runs / name / "model" / "model.safetensors" for name in ("whole", "cut")]
    assert models[0].read_bytes() == models[1].read_bytes()
    figures = [json.loads(done.stdout) for done in (whole, resumed)]
    assert figures[0]["metrics"] == figures[1]["metrics"]
    # A round that was cut off is charged twice, beyond the target if need be, and that is said.
    assert figures[1]["epsilon"]["max"] > figures[0]["epsilon"]["max"]
