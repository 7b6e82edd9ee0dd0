"""`hanse simulate reviews` as a person runs it: from a file to a table, masks and noise on."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hanse_client.node import Node, list_nodes
from hanse_client.tasks.review.model import load_review_model
from hanse_common.errors import ConfigError
from hanse_common.recipes import reviews, reviews_centralized, reviews_federated
from hanse_simulations.cli import simulate
from kits.encoder import tiny_encoder

cli = CliRunner()


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The options for eighty reviews of five stores, and an encoder of no size."""
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "reviews.txt"
    path.write_text("".join(f"it is {('bad', 'good')[i % 2]} {i}\t{i % 2}\n" for i in range(80)))
    encoder = tiny_encoder(tmp_path / "encoder")
    small = ["--stores", "5", "--workers", "1", "--quiet", "--format", "json"]
    settings = [f"model.encoder={encoder}", "model.max_steps=16"]
    return ["--data", str(path), *small, *(x for s in settings for x in ("--set", s))]


@pytest.mark.slow
def test_reviews_are_read_by_two_noisy_sums_under_masks(words, tmp_path):
    done = cli.invoke(simulate, ["reviews", *words, "--name", "r", "--no-compare"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["secure_aggregation"] and 0 < found["epsilon"]["max"] <= 8.0
    assert 0 <= found["metrics"]["accuracy"] <= 1
    model = load_review_model(tmp_path / "runs" / "r" / "model")
    assert model.config.labels == ["0", "1"]
    assert model.reader.weights.any() and not model.head.weight.any()
    for folder in list_nodes(tmp_path / "runs" / "r" / "arms" / "federated_private" / "stores"):
        charges = [(entry.release.kind, entry.release.round) for entry in Node(folder).ledger]
        assert charges == [("label-means", 1), ("text-moments", 2)], folder


@pytest.mark.slow
def test_reviews_are_learnt_by_gradients_and_beside_them_without_privacy(words, tmp_path):
    done = cli.invoke(simulate, ["reviews-gradient", *words, "--rounds", "2", "--name", "r"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["secure_aggregation"] and 0 < found["epsilon"]["max"] <= 8.0
    assert set(found["arms"]) == {"federated_private_half", "federated", "centralized"}
    assert set(found["baselines"]) == {"most_frequent", "words"}
    assert all(0 <= arm["accuracy"] <= 1 for arm in [found["metrics"], *found["arms"].values()])
    for folder in list_nodes(tmp_path / "runs" / "r" / "arms" / "federated_private" / "stores"):
        charges = [entry.release.round for entry in Node(folder).ledger]
        assert charges == [1, 2], folder


def test_rounds_that_the_sums_do_not_have_are_refused(words):
    failed = cli.invoke(simulate, ["reviews", *words, "--rounds", "3"]).exception
    assert isinstance(failed, ConfigError) and "phases have 2" in str(failed)


def test_arms_without_privacy_release_gradients_in_all_rounds():
    for arm in (reviews_federated(), reviews_centralized()):
        assert arm.schedule.gradient and not arm.schedule.statistics


def test_without_a_file_it_says_which_option_names_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path))
    failed = cli.invoke(simulate, ["reviews", "--quiet"]).exception
    assert isinstance(failed, ConfigError) and "--data reviews.csv" in failed.hint
    assert reviews().task == "review"
