"""A base of made-up shoppers: better than the rules, the same again, and made of nobody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

from hanse_client.model.pretrained import read_checkpoint
from hanse_client.model_cli import app
from hanse_client.pretraining.category_base import _batches, _other_half_priors, pretrain_base
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_common.errors import HanseError
from hanse_common.paths import CARD_FILE, CONFIG_FILE, PRETRAINING_FILE, WEIGHTS_FILE
from kits.errors import raises

cli = CliRunner()
SMALL = ("--sets", "2", "--shoppers", "120", "--epochs", "3", "--seed", "4")
FILES = {CARD_FILE, CONFIG_FILE, PRETRAINING_FILE, WEIGHTS_FILE}


def run(folder: Path, *more: object, source: str = "shoppers"):
    return cli.invoke(app, ["pretrain", source, "--output", *map(str, (folder, *more))])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "one"
    done = run(folder, *SMALL, "--format", "json")
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


def test_it_beats_the_rules_and_says_so(made):
    folder, row = made
    assert row["loss"] < row["rules_loss"] - 0.005
    assert row["visits_loss"] < row["rules_visits_loss"]
    assert row["loss_without_priors"] < row["rules_loss"]
    assert {path.name for path in folder.iterdir()} == FILES
    stored = json.loads((folder / PRETRAINING_FILE).read_text())
    assert stored == {name: value for name, value in row.items() if name != "folder"}
    card = (folder / CARD_FILE).read_text()
    assert "hanse model pretrain shoppers --sets 2 --shoppers 120 --epochs 3 --seed 4" in card
    assert "No person's data" in card and f"{row['rules_loss']:.4f}" in card
    assert type(AutoModel.from_pretrained(folder)) is CategoryModel


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    folder, _ = made
    before = torch.get_rng_state()
    again = run(tmp_path / "again", *SMALL)
    assert again.exit_code == 0 and "by the rules" in again.output
    assert torch.equal(torch.get_rng_state(), before)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    other = run(tmp_path / "other", *SMALL[:-1], "5")
    assert other.exit_code == 0
    weights = (tmp_path / "other" / WEIGHTS_FILE).read_bytes()
    assert weights != (folder / WEIGHTS_FILE).read_bytes()


def test_a_prior_never_contains_its_own_outcome():
    rng = np.random.default_rng(0)
    classes, half = rng.integers(0, 5, 400), rng.random(400) < 0.5
    outlook = rng.integers(0, 3, 400)
    before = _other_half_priors(classes, outlook, half)
    changed = outlook.copy()
    changed[half] = 2 - changed[half]
    after = _other_half_priors(classes, changed, half)
    np.testing.assert_array_equal(before[half], after[half])
    assert np.abs(before[~half] - after[~half]).max() > 0
    # More rises than others have, and fewer falls.
    outlook = np.where(classes == 0, 2, rng.integers(0, 3, 400))
    priors = _other_half_priors(classes, outlook, half)
    assert (priors[classes == 0, 0] > priors[classes != 0, 0].max()).all()
    assert (priors[classes == 0, 1] < priors[classes != 0, 1].min()).all()


def test_every_row_is_in_one_batch_an_epoch():
    rows, sizes = np.arange(5, 305), np.arange(400) % 17
    batches = list(_batches(rows, sizes, np.random.default_rng(0)))
    assert np.array_equal(np.sort(np.concatenate(batches)), rows)
    assert max(map(len, batches)) == 64


# What is refused


@pytest.mark.parametrize(
    ("option", "value"), [("--catalogue", "items.csv"), ("--licence", "CC0"), ("--level", "type")]
)
def test_options_of_public_data_are_refused(tmp_path, option, value):
    error = run(tmp_path / "out", option, value).exception
    assert isinstance(error, HanseError) and error.code == "contradicting-options"
    assert option in str(error)


@pytest.mark.parametrize("option", ["--sets", "--shoppers", "--seed"])
def test_options_of_made_up_shoppers_are_refused_of_public_data(tmp_path, option):
    error = run(tmp_path / "out", option, 5, source="instacart").exception
    assert isinstance(error, HanseError) and error.code == "contradicting-options"
    assert option in str(error)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    assert run(tmp_path, *SMALL).exception.code == "already-there"
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_base_is_no_transformer_over_visits(made):
    with raises("config", match="hanse-category"):
        read_checkpoint(str(made[0]))


def test_too_few_shoppers_are_refused(tmp_path):
    error = run(tmp_path / "out", "--sets", 1, "--shoppers", 19).exception
    assert error.code == "too-few-customers" and "shoppers=19" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"sets": 0}, {"epochs": 0}, {"seed": -1}, {"shoppers": -3}])
def test_numbers_out_of_range_are_named(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with raises("config", match=f"{name}={value}"):
        pretrain_base(folder=tmp_path / "out", **wrong)
    assert run(tmp_path / "out", f"--{name}={value}").exit_code == 2


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with raises("config", "already-there"):
        pretrain_base(folder=tmp_path / "file" / "out", sets=1, shoppers=20, epochs=1)
