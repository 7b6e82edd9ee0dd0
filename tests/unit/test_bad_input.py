"""Odd data through a store's door: each is defined, counted, and goes on to a usable history."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hanse_client.features.histories import Histories, prepare, unranked
from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import load_store
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_client.tasks.interest.features import collate, evaluation_anchors, training_anchors

NOW = datetime(2018, 1, 1)
START = datetime(2017, 1, 1)


def take_in(folder: Path, events: pl.DataFrame, catalogue: pl.DataFrame) -> Ingested:
    events.write_parquet(folder / "events.parquet")
    catalogue.write_parquet(folder / "items.parquet")
    (folder / "store.toml").write_text(
        'name = "corner"\nmax_reject_share = 0.9\n[events]\npath = "events.parquet"\n'
        '[catalogue]\npath = "items.parquet"\n'
    )
    return ingest(load_store(folder / "store.toml"), now=NOW)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def items(*categories: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [str(i) for i in range(len(categories))],
            "text": [f"item {i}" for i in range(len(categories))],
            "category": list(categories),
        }
    )


def sold(*rows: tuple[str, str, float], price: float = 1.0) -> pl.DataFrame:
    """`(user, item, day)` each."""
    return pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "timestamp": [START + timedelta(days=row[2]) for row in rows],
            "price": [price] * len(rows),
        }
    )


def histories_of(data: Ingested, classes: list[str]) -> Histories:
    vectors = {text: np.ones(8, np.float32) for text in data.catalogue["text"].unique()}
    return prepare(
        data, classes=classes, level="category", text_vectors=vectors, observed_from=START
    )


def model_of(classes: list[str]) -> InterestModel:
    rng = np.random.default_rng(0)
    config = InterestConfig(classes=classes, vector_size=8, n_embd=8, n_head=2, class_vector_size=2)
    return InterestModel.fresh(
        config,
        class_texts=rng.normal(size=(len(classes), 8)).astype(np.float32),
        item_texts=rng.normal(size=(20, 8)).astype(np.float32),
        class_sizes=np.ones(len(classes), np.float32),
        seed=1,
    ).eval()


def test_rows_out_of_order_become_the_histories_of_rows_in_order(tmp_path):
    rows = [("ada", "0", 3.0), ("bob", "1", 1.0), ("ada", "1", 1.0), ("ada", "0", 2.0)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kinds = items("FOOD/MILK", "FOOD/BREAD")
    one = take_in(tmp_path / "a", sold(*rows), kinds)
    (tmp_path / "b" / "customer.key").write_bytes((tmp_path / "a" / "customer.key").read_bytes())
    (tmp_path / "b" / "customer.key").chmod(0o600)
    two = take_in(tmp_path / "b", sold(*sorted(rows, key=lambda row: row[2])), kinds)
    first, second = (histories_of(data, ["FOOD/BREAD", "FOOD/MILK"]) for data in (one, two))
    assert (first.customers == second.customers).all()
    assert (first.visit_days == second.visit_days).all()
    assert (first.pair_classes == second.pair_classes).all()
    for start, stop in zip(first.visit_offsets, first.visit_offsets[1:], strict=False):
        assert (np.diff(first.visit_days[start:stop]) > 0).all()


def test_each_kind_of_bad_row_is_counted_under_its_name(tmp_path):
    good = [("ada", "0", float(day)) for day in range(6)]
    events = pl.concat(
        [
            sold(*good),
            sold(good[0]),
            sold(("ada", "0", 10.0), price=-0.01),
            sold(("bob", "0", 400.0)),
            sold(("bob", "99", 1.0)),
        ]
    )
    data = take_in(tmp_path, events, items("FOOD/MILK"))
    assert data.rejects == {
        "duplicate": 1,
        "negative price": 1,
        "future timestamp": 1,
        "unknown item_id": 1,
    }
    assert data.events.height == len(good) == data.rows_read - sum(data.rejects.values())


def test_a_price_that_is_no_number_is_counted_or_empty_and_never_spent(tmp_path):
    events = pl.concat(
        [
            sold(("ada", "0", 1.0), price=float("nan")),
            sold(("ada", "0", 2.0), price=float("inf")),
            sold(("ada", "0", 3.0)),
        ]
    )
    data = take_in(tmp_path, events, items("FOOD/MILK"))
    assert data.events["price"].drop_nulls().is_finite().all()
    assert np.isfinite(histories_of(data, ["FOOD/MILK"]).visit_facts).all()


def test_a_category_that_the_model_does_not_rank_is_a_visit_without_a_class(tmp_path):
    data = take_in(
        tmp_path, sold(("ada", "0", 1.0), ("ada", "1", 2.0)), items("FOOD/MILK", "TOYS/KITES")
    )
    histories = histories_of(data, ["FOOD/MILK"])
    assert len(histories.visit_days) == 2
    assert np.diff(histories.pair_offsets).tolist() == [1, 0]
    assert unranked(data, ["FOOD/MILK"], "category") == 1
    assert unranked(data, ["FOOD/MILK", "TOYS/KITES"], "category") == 0


def test_stores_with_other_items_speak_the_same_classes(tmp_path):
    """One sells what the other never had: ids, texts and the order of the catalogue differ."""
    visits = (("ada", "0", 1.0), ("ada", "1", 2.0), ("ada", "0", 9.0))
    here = take_in(make(tmp_path / "here"), sold(*visits), items("FOOD/MILK", "TOYS/KITES"))
    other = items("TOYS/KITES", "GARDEN/SEEDS", "FOOD/MILK").with_columns(
        item_id=pl.Series(["k-7", "s-1", "m-3"]), text=pl.Series(["kite", "seeds", "oat milk"])
    )
    elsewhere = tuple((who, {"0": "m-3", "1": "k-7"}[item], day) for who, item, day in visits)
    there = take_in(make(tmp_path / "there"), sold(*elsewhere), other)
    classes = ["FOOD/MILK", "GARDEN/SEEDS", "TOYS/KITES"]
    first, second = (histories_of(store, classes) for store in (here, there))
    assert first.pair_classes.tolist() == second.pair_classes.tolist() == [0, 2, 0]
    assert first.visit_days.tolist() == second.visit_days.tolist()


def test_an_item_that_nobody_bought_before_is_known_by_its_text(tmp_path):
    vectors = {"item 0": np.full(8, 1, np.float32), "item 1": np.full(8, 2, np.float32)}
    data = take_in(tmp_path, sold(("ada", "1", 1.0)), items("FOOD/MILK", "FOOD/MILK"))
    found = prepare(
        data, classes=["FOOD/MILK"], level="category", text_vectors=vectors, observed_from=START
    )
    assert (found.visit_vectors == 2).all() and found.pair_classes.tolist() == [0]


def test_customers_of_one_event_and_of_none_are_answered_and_cost_no_training(tmp_path):
    classes = ["FOOD/BREAD", "FOOD/MILK"]
    rows = [("one", "0", 150.0), *(("often", "1", float(day)) for day in range(0, 300, 3))]
    data = take_in(tmp_path, sold(*rows), items(*reversed(classes)))
    known, model = histories_of(data, classes), model_of(classes)
    start = float((NOW - datetime(1970, 1, 1)).days - 365)
    past = known.until(start + 100)
    assert len(past) == 2
    assert len(past.active()) == 1  # whose only event lies ahead has an empty history
    rng = np.random.default_rng(0)
    for some in (past, known):
        anchors = training_anchors(
            some, np.arange(len(some)), count=8, until=start + 290, config=model.config, rng=rng
        )
        batch = collate(some, anchors, model.config)
        with torch.inference_mode():
            output = model(batch)
        for answer in (output.basket_scores, output.outlook_logits, output.expected_visits):
            assert torch.isfinite(answer).all()
    anchors = evaluation_anchors(known, start=start + 100, stop=start + 300)
    assert set(anchors.customers.tolist()) == {0, 1}


def test_chinese_texts_and_categories_come_through_unchanged(tmp_path):
    kinds = pl.DataFrame(
        {
            "item_id": ["牛奶-1", "面包"],
            "text": ["全脂牛奶 1升", "全麦面包"],
            "category": ["食品/乳制品/牛奶", "食品/面包"],
        }
    )
    data = take_in(tmp_path, sold(("顾客甲", "牛奶-1", 1.0), ("顾客甲", "面包", 2.0)), kinds)
    assert data.catalogue["text"].to_list() == ["全脂牛奶 1升", "全麦面包"]
    assert "顾客甲" not in data.events.write_csv()
    histories = histories_of(data, ["食品/乳制品", "食品/面包"])
    assert histories.pair_classes.tolist() == [0, 1]


@pytest.mark.slow
def test_a_catalogue_of_a_hundred_thousand_items_comes_through_whole(tmp_path):
    count = 100_000
    kinds = pl.DataFrame(
        {
            "item_id": [f"{i:06}" for i in range(count)],
            "text": [f"item {i % 5000}" for i in range(count)],
            "category": [f"D{i % 20}/C{i % 300}" for i in range(count)],
        }
    )
    rng = np.random.default_rng(0)
    rows = [(f"u{i % 50}", f"{rng.integers(count):06}", i / 20) for i in range(5000)]
    data = take_in(tmp_path, sold(*rows), kinds)
    assert data.catalogue.height == count
    assert data.rejects == {}
    histories = histories_of(data, sorted({f"D{i % 20}/C{i % 300}" for i in range(count)}))
    assert len(histories) == 50
    assert len(histories.pair_classes) > 4000
