"""`hanse simulate sequences` as a person runs it: from a file to a table, masks and noise on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_common.recipes import sequences, sequences_by_texts, synthetic
from hanse_simulations.datasets.item_catalogue import read_item_catalogue
from hanse_simulations.datasets.sequences import read_sequences
from hanse_simulations.evaluation.published_figures import BEAUTY
from hanse_simulations.experiment.next_item import read_study, study_of
from hanse_simulations.experiment.study import arms_of, deal_out, run_study
from hanse_simulations.report.study_table import print_study
from hanse_simulations.runs.folder import RunFolder
from kits.errors import raises

HANSE = str(Path(sys.executable).with_name("hanse"))
SMALL = ["--stores", "5", "--rounds", "1", "--workers", "1", "--set", "next_item.negatives=16"]


@pytest.fixture
def hanse(tmp_path):
    environment = os.environ | {"HANSE_RUNS": str(tmp_path / "runs"), "COLUMNS": "120"}

    def call(*arguments):
        return subprocess.run(
            [HANSE, "simulate", "sequences", *map(str, arguments), "--quiet"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return call


@pytest.fixture
def ring(tmp_path):
    """Sixty customers who go round forty items."""
    rng = np.random.default_rng(1)
    lines = []
    for user in range(60):
        start, length = rng.integers(0, 40), rng.integers(5, 12)
        lines.append(" ".join(map(str, [user, *((start + np.arange(length)) % 40)])))
    path = tmp_path / "ring.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_a_data_set_is_trained_under_masks_and_noise(hanse, ring, tmp_path):
    # With nothing set aside for exchanges that fail, all of the epsilon is spent.
    spend = ["--set", "federation.spare_exchanges=0"]
    done = hanse(
        "--data", ring, *SMALL, *spend, "--no-compare", "--format", "json", "--name", "ring"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["secure_aggregation"] is True
    assert found["epsilon"]["mode"] == "distributed"
    assert 7 < found["epsilon"]["max"] <= 8
    assert found["arms"] == found["published"] == {}
    assert set(found["baselines"]) == {"global_popularity", "markov"}
    for figures in (found["metrics"], *found["baselines"].values()):
        assert 0 <= figures["ndcg@10"] <= figures["hr@10"] <= 1
    model = SequenceModel.from_pretrained(tmp_path / "runs" / "ring" / "model")
    assert model.config.items == 40
    assert model.popularity.weight.any()
    assert any("ends before the validation item" in note for note in found["notes"])
    arm = tmp_path / "runs" / "ring" / "arms" / "federated_private"
    assert len(list((arm / "stores").glob("*/enrolment/certificate"))) == 5


@pytest.fixture
def shelves(tmp_path):
    """The ring's items: four on a shelf, and one that nobody took."""
    path = tmp_path / "items.tsv"
    lines = [f"{item}\tthing {item} of shelf {item // 4}" for item in range(41)]
    path.write_text("item_id\ttext\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_a_catalogue_gives_the_private_arm_texts_and_three_phases(hanse, ring, shelves, tmp_path):
    small = ["--stores", "5", "--rounds", "4", "--workers", "1", "--set", "next_item.negatives=16"]
    done = hanse(
        "--data", ring, "--catalogue", shelves, *small, "--set", "training.expected_batch_size=12",
        "--no-compare", "--format", "json", "--name", "shelves",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["baselines"]) == {"global_popularity", "markov", "nearest_texts"}
    assert 7 < found["epsilon"]["max"] <= 8
    home = tmp_path / "runs" / "shelves"
    model = TextItemModel.from_pretrained(home / "model")
    assert model.config.items == 41
    assert model.head.weight.any()
    for released in model.released.values():
        assert released[-1] > 0  # the noise's deviation
        assert released[:-1].any()
    assert any("Phase pairs released 820 numbers in one exchange" in n for n in found["notes"])
    assert any("ends before the validation item" in note for note in found["notes"])


def test_with_a_catalogue_arms_without_privacy_still_train_the_item_table(ring, shelves):
    changes = {"data.path": ring, "data.catalogue": shelves, "data.stores": 5}
    settings = sequences_by_texts().with_changes(changes)
    read = read_sequences(ring, catalogue=read_item_catalogue(shelves).items)
    rows = np.eye(41, dtype=np.float32)
    study = study_of(read, ItemVectors(vectors=rows, components=rows, coarse=rows))
    kinds = {name: study.base(one) for name, one in settings_of_arms(settings, study).items()}
    assert [type(model).__name__ for model in kinds.values()] == [
        "TextItemModel", "TextItemModel", "SequenceModel", "SequenceModel",
    ]  # fmt: skip
    arms = settings_of_arms(settings, study)
    assert [len(arm.phases) for arm in arms.values()] == [3, 3, 0, 0]
    assert arms["federated"].training.sample_rate == 0.1


def test_a_catalogue_goes_with_sequences_only():
    with raises("config", match="catalogue"):
        synthetic().with_changes({"data.catalogue": "items.tsv"})


def test_texts_without_a_catalogue_are_refused(ring, tmp_path):
    folder = RunFolder.create("sequences", root=tmp_path)
    settings = sequences_by_texts().with_changes({"data.path": ring, "data.stores": 5})
    with raises("config") as refused:
        run_study(folder, settings, read_study, quiet=True)
    assert "--catalogue" in refused.value.hint


def test_a_run_without_a_file_or_with_too_many_stores_says_what_to_do(ring, tmp_path):
    folder = RunFolder.create("sequences", root=tmp_path)
    with raises("config") as refused:
        run_study(folder, sequences(), read_study, quiet=True)
    assert "--data Beauty.txt" in refused.value.hint
    changes = {"data.path": ring}
    with raises("config", match=r"data\.stores=50") as refused:
        run_study(folder, sequences().with_changes(changes), read_study, quiet=True)
    assert "--stores 5" in refused.value.hint


def test_every_customer_is_dealt_to_one_store_of_about_the_same_size():
    data = Sequences.of([[i, i + 1, i + 2] for i in range(230)], items=300)
    stores = deal_out(data, 4, seed=1)
    assert sorted(name for store in stores for name in store.customers) == list(data.customers)
    assert all(40 <= len(store) <= 75 for store in stores)
    again = deal_out(data, 4, seed=1)
    assert all((a.customers == b.customers).all() for a, b in zip(stores, again, strict=True))


def settings_of_arms(settings, study):
    return {arm.name: arm.settings(settings) for arm in arms_of(settings, study)}


def test_arms_keep_what_the_analyst_changed_and_their_own_terms(ring):
    changes = {"model.n_embd": 32, "data.stores": 10, "privacy.target_epsilon": 6.0}
    study = study_of(read_sequences(ring))
    arms = settings_of_arms(sequences().with_changes(changes), study)
    assert list(arms) == [
        "federated_private", "federated_private_half", "federated", "centralized",
    ]  # fmt: skip
    assert {arm.model.n_embd for arm in arms.values()} == {32}
    assert [arm.data.stores for arm in arms.values()] == [10, 10, 10, 1]
    assert [arm.privacy.mode for arm in arms.values()] == ["distributed"] * 2 + ["none"] * 2
    assert arms["federated_private_half"].privacy.target_epsilon == 3.0
    assert not any(arm.next_item.train_through_validation for arm in arms.values())
    alone = {"compare": False, "privacy": {"mode": "none"}}
    assert list(settings_of_arms(sequences().with_changes(alone), study)) == ["federated"]
    one_place = sequences().with_changes(alone | {"data.stores": 1})
    assert list(settings_of_arms(one_place, study)) == ["centralized"]


def test_to_compare_is_to_train_each_store_alone_too(ring):
    changes = {"data.stores": 10, "sweep": {}}
    settings = sequences().with_changes(changes)
    arms = settings_of_arms(settings, study_of(read_sequences(ring)))
    assert list(arms)[3:] == ["centralized", "alone"]
    alone, together = arms["alone"], arms["centralized"]
    assert (alone.data.stores, alone.privacy.mode, alone.model.trainable) == (10, "none", "all")
    # As many customers and passes as in one place, each store for itself.
    assert alone.training.sample_rate == pytest.approx(10 * together.training.sample_rate)
    assert alone.training.local_steps == round(together.training.local_steps / 10)


def test_every_arm_is_compared_on_the_same_customers(ring, tmp_path, capsys):
    folder = RunFolder.create("sequences", root=tmp_path)
    settings = sequences().with_changes(
        {
            "data.path": ring,
            "data.stores": 4,
            "federation.rounds": 1,
            "federation.secure_aggregation": False,
            "privacy.mode": "local",
            "training.local_steps": 1,
            "model.n_embd": 16,
            "next_item.negatives": 16,
            "compute.workers": 1,
            "sweep": {},
        }
    )
    result = run_study(folder, settings, read_study, quiet=True)
    rows = {(r.arm, r.against, r.metric): r for r in result.intervals}
    trained = {"federated_private", "federated_private_half", "federated", "centralized", "alone"}
    rules = {"global_popularity", "markov"}
    assert {arm for arm, against, _ in rows if against is None} == trained | rules
    assert {against for _, against, _ in rows} == {None, "alone", "markov", "federated"}
    assert {row.customers for row in rows.values()} == {60}
    for name, figures in result.all_arms().items():
        assert rows[name, None, "ndcg@10"].value == pytest.approx(figures["ndcg@10"])
    ahead = rows["markov", "alone", "ndcg@10"]  # who goes round a ring is foreseen by a chain
    assert ahead.value > 0
    assert not ahead.is_none
    print_study(result, "next-item")
    printed = capsys.readouterr().out
    for label in ("Each store alone", "Markov chain", "Federated, no privacy"):
        assert f"Difference to: {label}" in printed
    assert "none" in printed


def test_papers_figures_are_those_of_the_data_set_that_they_used():
    from hanse_simulations.evaluation.published_figures import published

    assert published(*BEAUTY)["TIGER, as published"] == {"hr@10": 0.0648, "ndcg@10": 0.0384}
    assert published(943, 1682, 100_000) == {}
