"""`hanse model init`: a federation's initial model from what is public alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_client.model_cli import app
from hanse_common.errors import ConfigError, DataError, MissingColumns
from hanse_common.instructions import model_digest
from hanse_common.paths import GLOBAL_FILE
from hanse_server.checkpoint import read_arrays, write_arrays
from hanse_server.deployment.sign import read_initial
from kits.encoder import tiny_encoder

cli = CliRunner()
CATALOGUE = "item_id,text,category\n" + "".join(
    f"{n},{what} {n},{path}\n"
    for n, (what, path) in enumerate(
        [("milk", "DAIRY/MILK"), ("butter", "DAIRY/BUTTER"), ("rye bread", "BAKERY/BREAD")] * 4
    )
)
SETTINGS = """
[data]
source = "own"
[data.split]
train_until = 2026-01-05T00:00:00
validate_until = 2026-02-02T00:00:00
test_until = 2026-03-02T00:00:00
[model]
n_embd = 16
n_layer = 1
trainable = "rules"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(CATALOGUE)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    return tmp_path


def init(shop: Path, catalogue: str, *more: object):
    words = [shop / catalogue, "--settings", shop / "settings.toml", *more]
    return cli.invoke(app, ["init", *map(str, words), "--format", "json"])


def test_coordinator_and_stores_can_read_what_is_made(shop):
    from hanse_client.tasks.interest import InterestModel

    done = init(shop, "items.csv", "--output", shop / "model")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    arrays = read_initial(shop / "model")
    assert model_digest(arrays).hex() == row["digest"]
    assert sum(array.size for array in arrays.values()) == row["trained"] < row["parameters"]
    model = InterestModel.from_pretrained(shop / "model")
    assert list(model.config.classes) == ["BAKERY/BREAD", "DAIRY/BUTTER", "DAIRY/MILK"]
    assert row["classes"] == 3
    named = dict(model.named_parameters())
    for name, array in arrays.items():
        assert np.array_equal(named[name].detach().numpy(), array)


def test_the_same_catalogue_and_settings_make_the_same_model(shop):
    first, second = (
        json.loads(init(shop, "items.csv", "--output", shop / name).stdout) for name in "ab"
    )
    assert first["digest"] == second["digest"]
    for name, array in read_arrays(shop / "a" / "initial.safetensors").items():
        assert np.array_equal(array, read_arrays(shop / "b" / "initial.safetensors")[name])


def test_a_catalogue_may_have_other_columns(shop):
    (shop / "items.csv").write_text(CATALOGUE.replace("item_id,text", "article,description"))
    assert isinstance(init(shop, "items.csv").exception, MissingColumns)
    (shop / "catalogue.toml").write_text(
        "[catalogue]\npath = 'items.csv'\n"
        "[catalogue.columns]\nitem_id = 'article'\ntext = 'description'\n"
    )
    done = init(shop, "catalogue.toml", "--output", shop / "model")
    assert done.exit_code == 0, done.output


def test_a_model_that_stores_may_have_is_never_replaced(shop):
    assert init(shop, "items.csv", "--output", shop / "model").exit_code == 0
    for taken in ("model", "items.csv"):
        assert init(shop, "items.csv", "--output", shop / taken).exception.code == "already-there"


def test_what_is_missing_is_named(shop):
    (shop / "empty.toml").write_text("name = 'x'\n")
    assert "has no [catalogue]" in str(init(shop, "empty.toml").exception)
    assert isinstance(init(shop, "none.csv").exception, ConfigError | DataError)
    (shop / "settings.toml").write_text(SETTINGS.replace('"own"', '"own"\nmin_items = 100'))
    assert "lower data.min_items" in str(init(shop, "items.csv", "--output", shop / "m").exception)


# What a deployed run leaves


@pytest.fixture
def run(shop: Path) -> Path:
    """A finished run's folder, whose training has moved every trained parameter."""
    assert init(shop, "items.csv", "--output", shop / "model").exit_code == 0
    (shop / "run").mkdir()
    moved = {name: array + 1 for name, array in read_initial(shop / "model").items()}
    write_arrays(shop / "run" / GLOBAL_FILE, moved)
    return shop / "run"


def export(shop: Path, run: Path, *more: object):
    words = [run, "--base", shop / "model", "--output", shop / "trained", *more]
    return cli.invoke(app, ["export", *map(str, words), "--format", "json"])


def test_an_exported_model_is_the_base_with_what_the_run_trained(shop, run):
    from hanse_client.inference.load import open_model

    done = export(shop, run)
    assert done.exit_code == 0, done.output
    opened = open_model(shop / "trained")
    assert json.loads(done.stdout)["digest"] == opened.digest
    base = dict(open_model(shop / "model").model.named_parameters())
    moved = read_arrays(run / GLOBAL_FILE)
    for name, parameter in opened.model.named_parameters():
        expected = moved.get(name, base[name].numpy())
        assert np.array_equal(parameter.numpy(), expected), name


def test_nothing_is_exported_over_something_or_from_another_model(shop, run):
    (shop / "trained").mkdir()
    assert isinstance(export(shop, run).exception, ConfigError)
    (shop / "trained").rmdir()
    write_arrays(run / GLOBAL_FILE, {"basket.repeat.weight": np.zeros((7, 7), np.float32)})
    failed = export(shop, run).exception
    assert isinstance(failed, ConfigError) and "basket.repeat.weight" in failed.message
    (run / GLOBAL_FILE).unlink()
    assert export(shop, run).exception.code == "model-not-found"
    assert not (shop / "trained").exists()


def test_the_model_of_another_task_is_made_from_its_own_public_file_and_exported(shop):
    """For reviews a list of labels; a run's settings say which task its model is of."""
    from hanse_client.tasks import task_of

    encoder = json.dumps(tiny_encoder(shop / "encoder"))
    heads = SETTINGS.replace('trainable = "rules"', f'trainable = "heads"\nencoder = {encoder}')
    (shop / "settings.toml").write_text('recipe = "reviews-gradient"\n' + heads)
    (shop / "stars.labels").write_text("bad\nfair\ngood\n")
    made = init(shop, "stars.labels", "--output", shop / "model")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["classes"] == 3
    moved = {name: array + 1 for name, array in read_initial(shop / "model").items()}
    assert sorted(moved) == ["head.bias", "head.weight"]
    (shop / "run").mkdir()
    write_arrays(shop / "run" / GLOBAL_FILE, moved)
    (shop / "run" / "settings.json").write_text('{"task": "review"}')
    done = export(shop, shop / "run")
    assert done.exit_code == 0, done.output
    model = task_of("review").load_model(shop / "trained")
    assert np.array_equal(model.head.weight.detach().numpy(), moved["head.weight"])


def test_an_initial_model_without_its_public_file_says_which(shop):
    words = ["init", "--settings", str(shop / "settings.toml"), "--output", str(shop / "model")]
    failed = cli.invoke(app, words).exception
    assert isinstance(failed, ConfigError) and "hanse model init CATALOGUE" in failed.hint
