"""A base of made-up shoppers: better than the rules, the same again, and made of nobody."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from typer.testing import CliRunner

from hanse_client.features.histories import FACTS, Histories
from hanse_client.features.ragged import offsets_of
from hanse_client.model.config import CategoryConfig
from hanse_client.model.pretrained import read_checkpoint
from hanse_client.model_cli import app
from hanse_client.pretraining.base_card import base_card
from hanse_client.pretraining.base_folder import (
    BASE_VERSION,
    SHIPPED_BASE,
    read_base,
    shipped_base,
)
from hanse_client.pretraining.category_base import (
    PretrainedBase,
    _batches,
    _initialise,
    pretrain_base,
)
from hanse_client.pretraining.category_examples import other_half_priors
from hanse_client.pretraining.shoppers import made_up_shoppers
from hanse_client.tasks.interest.category_model import (
    CategoryModel,
    collate_tokens,
    token_losses,
)
from hanse_client.tasks.interest.category_tokens import category_tokens, token_targets
from hanse_common.errors import HanseError
from hanse_common.paths import CARD_FILE, CONFIG_FILE, PRETRAINING_FILE, WEIGHTS_FILE
from kits.errors import raises

cli = CliRunner()
ROOT = Path(__file__).parents[2]
# fmt: off
INPUT_MEANS = (
    0.1097, 0.2888, 0.6133, 0.3069, 0.6813, 0.6834, 0.9197, 0.9182, 0.9435, 0.9532,
    0.6464, 0.6451, -0.6683, -0.5669, -0.2867, -0.5909, -0.2693, -0.3116, -0.3264, -0.2775,
    -0.2907, -0.1744, -0.2060, -0.0437, -0.6860, -0.0739, 0.0275, -0.0535, -0.0223, 0.0388,
    -0.1180, -0.0180, 0.0139, -0.2572, 0.6339, 1.6278, -0.4380, -0.3283, 0.2949, 0.4988,
)
# fmt: on
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
    assert row["rise_auc"] + row["fall_auc"] > row["rules_rise_auc"] + row["rules_fall_auc"]
    assert row["orders"] is None and row["terms"] is None
    weights = (folder / WEIGHTS_FILE).read_bytes()
    assert row["sha256"] == hashlib.sha256(weights).hexdigest()
    assert {path.name for path in folder.iterdir()} == FILES
    stored = json.loads((folder / PRETRAINING_FILE).read_text())
    assert stored == {name: value for name, value in row.items() if name != "folder"}
    card = (folder / CARD_FILE).read_text()
    assert "hanse model pretrain shoppers --sets 2 --shoppers 120 --epochs 3 --seed 4" in card
    assert "No person's data" in card and f"{row['rules_loss']:.4f}" in card
    assert type(AutoModel.from_pretrained(folder)) is CategoryModel
    config = json.loads((folder / CONFIG_FILE).read_text())
    # In full, so that no default has a say in the shape of a base that exists.
    assert set(inspect.signature(CategoryConfig).parameters) - {"kwargs"} <= set(config)
    assert config["base_version"] == BASE_VERSION and len(config["token_inputs"]) == 40


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


def test_the_shipped_base_is_what_its_card_says():
    """Two of its pages cannot drift apart: figures, digest and the command in the docs."""
    stored = json.loads((SHIPPED_BASE / PRETRAINING_FILE).read_text())
    base = PretrainedBase(**stored)
    assert {path.name for path in SHIPPED_BASE.iterdir()} == FILES
    assert (SHIPPED_BASE / CARD_FILE).read_text().startswith(base_card(base))
    weights = (SHIPPED_BASE / WEIGHTS_FILE).read_bytes()
    assert base.sha256 == hashlib.sha256(weights).hexdigest()
    assert len(weights) < 250_000
    # No data: that is why it may ship, and why no epsilon has to cover it.
    assert base.orders is None and base.terms is None
    assert base.command in (ROOT / "docs" / "model.md").read_text()
    # What the command makes if nothing else is said.
    usual = inspect.signature(pretrain_base).parameters
    for name in ("sets", "shoppers", "epochs", "seed"):
        assert getattr(base, name) == usual[name].default, name


def test_the_shipped_base_forecasts_shoppers_it_never_saw_better_than_the_rules():
    rules, base = CategoryModel(CategoryConfig()).eval(), shipped_base()
    assert not base.training
    histories = made_up_shoppers(99, shoppers=300)
    tokens = category_tokens(histories, np.arange(300), np.full(300, 300.0))
    batch = collate_tokens(tokens, np.arange(300), targets=token_targets(histories, tokens))
    with torch.inference_mode():
        before, after = (
            [float(loss.sum()) for loss in token_losses(model(batch), batch)]
            for model in (rules, base)
        )
        assert torch.equal(rules(batch).outlook_logits, batch.rules)
    assert after[0] < 0.96 * before[0] and after[1] < 0.98 * before[1]


def test_initial_weights_leave_the_rules_as_they_are():
    torch.manual_seed(3)
    model = CategoryModel(CategoryConfig()).eval()
    narrow = float(model.hidden.weight.detach().std())
    _initialise(model)
    assert float(model.hidden.weight.detach().std()) > 3 * narrow
    for layer in (model.text, model.outlook, model.visits, model.skip):
        assert not any(parameter.any() for parameter in layer.parameters())


def regular_shoppers(count: int = 20) -> Histories:
    """Shopper i comes every i + 2 days for 400 days: always for class 0, often for class 1."""
    days = [np.arange(i % 3, 400, i + 2) for i in range(count)]
    sizes = np.array([len(of) for of in days])
    visits = int(sizes.sum())
    held = [np.arange(1 + (visit % 3 > 0)) for visit in range(visits)]
    return Histories(
        customers=np.array([f"s{i:02d}" for i in range(count)]),
        homes=np.full(count, -1),
        visit_offsets=offsets_of(sizes),
        visit_days=np.concatenate(days).astype(np.float64),
        visit_vectors=np.zeros((visits, 0), dtype=np.float16),
        visit_facts=np.zeros((visits, len(FACTS)), dtype=np.float32),
        pair_offsets=offsets_of(np.array([len(of) for of in held])),
        pair_classes=np.concatenate(held).astype(np.int32),
        observed_from=0.0,
    )


def test_a_change_of_the_token_inputs_needs_another_version():
    """Whoever changes an input raises `BASE_VERSION`, makes the base again, and these numbers."""
    histories = regular_shoppers()
    rows = np.repeat(np.arange(20), 3)
    tokens = category_tokens(histories, rows, np.tile([150.0, 280.0, 390.0], 20))
    assert BASE_VERSION == 1
    # Three digits: any other scale moves a mean by more, and another processor by less.
    means = tokens.inputs.astype(np.float64).mean(0)
    np.testing.assert_allclose(means, INPUT_MEANS, atol=1e-3)


def test_a_prior_never_contains_its_own_outcome():
    rng = np.random.default_rng(0)
    classes, half = rng.integers(0, 5, 400), rng.random(400) < 0.5
    outlook = rng.integers(0, 3, 400)
    before = other_half_priors(classes, outlook, half)
    changed = outlook.copy()
    changed[half] = 2 - changed[half]
    after = other_half_priors(classes, changed, half)
    np.testing.assert_array_equal(before[half], after[half])
    assert np.abs(before[~half] - after[~half]).max() > 0
    # More rises than others have, and fewer falls.
    outlook = np.where(classes == 0, 2, rng.integers(0, 3, 400))
    priors = other_half_priors(classes, outlook, half)
    assert (priors[classes == 0, 0] > priors[classes != 0, 0].max()).all()
    assert (priors[classes == 0, 1] < priors[classes != 0, 1].min()).all()


def test_every_row_is_in_one_batch_an_epoch():
    rows, sizes = np.arange(5, 305), np.arange(400) % 17
    batches = list(_batches(rows, sizes, np.random.default_rng(0)))
    assert np.array_equal(np.sort(np.concatenate(batches)), rows)
    assert max(map(len, batches)) == 64


# Public orders


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> Path:
    """Forty people who buy two things every week, for thirty weeks."""
    folder = tmp_path_factory.mktemp("orders")
    rows = [
        (f"p{person}", item, datetime(2024, 1, 1) + timedelta(days=7 * week + person % 7))
        for person in range(40)
        for week in range(30)
        for item in ("milk", ("beer", "tea")[(person + week) % 2])
    ]
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(folder / "events.csv")
    items = [(name, name, f"DRINKS/{name.upper()}") for name in ("milk", "beer", "tea")]
    pl.DataFrame(items, schema=["item_id", "text", "category"], orient="row").write_csv(
        folder / "items.csv"
    )
    return folder


def with_orders(orders: Path, out: Path, *more: object):
    return run(
        out, *SMALL, "--orders", orders / "events.csv", "--catalogue", orders / "items.csv", *more
    )


def test_public_orders_are_learnt_from_too_and_the_card_names_their_licence(made, orders, tmp_path):
    done = with_orders(orders, tmp_path / "out", "--licence", "CC-BY-4.0", "--format", "json")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (row["orders"], row["terms"]) == ("events.csv", "CC-BY-4.0")
    # Every row of theirs has two interests or three.
    assert 40 * 4 * 2 <= row["tokens"] - made[1]["tokens"] <= 40 * 4 * 3
    card = (tmp_path / "out" / CARD_FILE).read_text()
    assert "CC-BY-4.0" in card and "--orders events.csv" in card and "**None**" in card
    assert "apache-2.0" not in card and "No person's data" not in card
    again = with_orders(orders, tmp_path / "again", "--licence", "CC-BY-4.0")
    assert "Not private: it learnt from events.csv too, CC-BY-4.0" in again.output
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (
        tmp_path / "out" / WEIGHTS_FILE
    ).read_bytes()


def test_orders_without_a_licence_or_with_short_records_are_refused(
    orders,
    tmp_path,
):
    assert with_orders(orders, tmp_path / "out").exception.code == "config"
    events = pl.read_csv(orders / "events.csv").filter(pl.col("timestamp") < "2024-04-01")
    (tmp_path / "short").mkdir()
    events.write_csv(tmp_path / "short" / "events.csv")
    (tmp_path / "short" / "items.csv").write_bytes((orders / "items.csv").read_bytes())
    short = with_orders(tmp_path / "short", tmp_path / "out", "--licence", "CC-BY-4.0")
    assert short.exception.code == "too-few-customers" and "112 days" in str(short.exception)
    assert not (tmp_path / "out").exists()


# What is refused


@pytest.mark.parametrize(
    "changes",
    [
        {"base_version": BASE_VERSION + 1},
        {"base_version": None},
        {"token_inputs": ["log_rate_0-1"]},
    ],
)
def test_a_base_of_another_version_is_refused(made, tmp_path, changes):
    folder = Path(shutil.copytree(made[0], tmp_path / "other"))
    config = json.loads((folder / CONFIG_FILE).read_text()) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with raises("base-version", match="hanse model pretrain shoppers"):
        read_base(folder)


def test_a_damaged_base_is_an_error(made, tmp_path):
    with raises("config"):
        read_base(tmp_path / "nothing")
    folder = Path(shutil.copytree(made[0], tmp_path / "damaged"))
    weights = load_file(folder / WEIGHTS_FILE)
    weights.pop("skip.bias")
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with raises("config", match="skip.bias"):
        read_base(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"x")
    with raises("config"):
        read_base(folder)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_type": "bert"}))
    with raises("config", match="'bert'"):
        read_base(folder)


@pytest.mark.parametrize(
    ("option", "value"), [("--catalogue", "items.csv"), ("--licence", "CC0"), ("--level", "type")]
)
def test_options_of_public_data_are_refused(tmp_path, option, value):
    error = run(tmp_path / "out", option, value).exception
    assert isinstance(error, HanseError) and error.code == "contradicting-options"
    assert option in str(error)


@pytest.mark.parametrize("option", ["--sets", "--shoppers", "--seed", "--orders"])
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
