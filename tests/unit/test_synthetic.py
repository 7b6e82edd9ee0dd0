"""Synthetic stores: repeatable, of any size, called synthetic, and possible to learn from."""

import time

import numpy as np
import polars as pl
import pytest

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store
from hanse_common.config import DataSettings
from hanse_simulations.datasets import make_stores, synthetic
from hanse_simulations.datasets.aisles import SHELVES


def settings(**changes):
    return DataSettings(source="synthetic", **changes)


@pytest.fixture(scope="session")
def events():
    dataset = synthetic.load(settings(stores=3, customers=60), seed=7)
    items = dataset.catalogue.select(
        "item_id", category=pl.col("category").str.split("/").list.get(1)
    )
    together = pl.concat([events for _, events in dataset.stores]).join(items, on="item_id")
    weeks = (pl.col("timestamp") - synthetic.START).dt.total_days() // 7
    return together.with_columns(week=weeks)


@pytest.fixture(scope="session")
def baskets(events):
    """Baskets with each category; (customers, categories, weeks)."""
    counted = events.group_by("user_id", "category", "week").agg(pl.col("basket_id").n_unique())
    users, names = (counted[name].unique().sort() for name in ("user_id", "category"))
    table = np.zeros((len(users), len(names), synthetic.WEEKS))
    index = users.search_sorted(counted["user_id"]), names.search_sorted(counted["category"])
    table[index[0].to_numpy(), index[1].to_numpy(), counted["week"].to_numpy()] = counted[
        "basket_id"
    ].to_numpy()
    return table


def contents(stores):
    folder = stores.folders[0].parent
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_clock(tmp_path, monkeypatch):
    first = contents(make_stores(settings(stores=2), seed=7, cache=tmp_path / "a"))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        second = contents(make_stores(settings(stores=2), seed=7, cache=tmp_path / "b"))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert first == second
    assert {name.rpartition("/")[2] for name in first} == {
        "catalogue.parquet",
        "customer.key",
        "home.key",
        "events.parquet",
        "store.toml",
        "stores.json",
    }


def test_another_seed_makes_other_stores():
    first, second = (
        dict(synthetic.load(settings(stores=1), seed=seed).stores)["synthetic-01"]
        for seed in (7, 8)
    )
    assert not first.equals(second)


def test_more_stores_do_not_change_the_first():
    one = dict(synthetic.load(settings(stores=1), seed=7).stores)
    three = dict(synthetic.load(settings(stores=3), seed=7).stores)
    assert one["synthetic-01"].equals(three["synthetic-01"])


def test_sizes_are_as_asked_and_six_by_forty_by_default(tmp_path):
    stores = make_stores(settings(), seed=7, cache=tmp_path)
    assert (stores.facts["stores"], stores.facts["customers"]) == (6, 240)
    odd = dict(synthetic.load(settings(stores=2, customers=1_013), seed=7).stores)
    assert [frame["user_id"].n_unique() for frame in odd.values()] == [1_013, 1_013]


def test_a_million_events_take_seconds():
    begin = time.process_time()
    dataset = synthetic.load(settings(stores=4, customers=560), seed=7)
    assert sum(events.height for _, events in dataset.stores) > 1_000_000
    assert time.process_time() - begin < 20


def test_called_synthetic_wherever_it_appears(tmp_path):
    stores = make_stores(settings(stores=2), seed=7, cache=tmp_path)
    assert stores.note.startswith("Synthetic")
    for folder in stores.folders:
        store = load_store(folder / "store.toml")
        assert folder.name.startswith("synthetic-") and store.name == folder.name
        catalogue = ingest(store).catalogue
        assert catalogue["text"].str.contains("synthetic").all()
        raw = pl.read_parquet(folder / "events.parquet")
        for column in ("user_id", "item_id", "basket_id", "shop_id"):
            assert raw[column].str.starts_with("synthetic").all()


def test_production_ingestion_rejects_nothing(tmp_path):
    for folder in make_stores(settings(stores=3), seed=7, cache=tmp_path).folders:
        store = ingest(load_store(folder / "store.toml"))
        assert store.rejects == {} and store.catalogue_rejects == {}
        assert store.events["user_id"].n_unique() == synthetic.DEFAULT_CUSTOMERS


def test_categories_form_a_hierarchy_of_readable_texts():
    assert len(SHELVES) == 61
    assert len({category for _, category, _ in SHELVES}) == 61
    assert all(len(kinds) == 3 for _, _, kinds in SHELVES)
    catalogue = synthetic.load(settings(), seed=7).catalogue
    assert catalogue.height == 61 * 12 and catalogue["text"].n_unique() == 61 * 3
    first = catalogue.row(0, named=True)
    assert first["text"] == "synthetic item: whole milk, milk, dairy"
    assert first["category"] == "DAIRY/MILK/WHOLE MILK"


def test_history_covers_the_split(events):
    split = synthetic.SPLIT
    assert events["timestamp"].min() >= synthetic.START
    assert events["timestamp"].max() < split.test_until
    per_window = [
        events.filter(pl.col("timestamp").is_between(begin, end, closed="left")).height
        for begin, end in (
            (split.train_until, split.validate_until),
            (split.validate_until, split.test_until),
        )
    ]
    assert min(per_window) > 0.05 * events.height


def test_personal_rates_last(baskets):
    """What a customer buys more than others in spring, they buy more in autumn as well."""
    spring, autumn = (half - half.mean(axis=0) for half in np.split(baskets[..., :42], 2, axis=2))
    spring, autumn = spring.sum(axis=2), autumn.sum(axis=2)
    assert np.corrcoef(spring.ravel(), autumn.ravel())[0, 1] > 0.5


def test_some_tastes_start_and_some_stop(baskets):
    early, late = baskets[..., :16].sum(axis=2), baskets[..., -16:].sum(axis=2)
    assert ((early == 0) & (late >= 6)).mean() > 0.01
    assert ((early >= 6) & (late == 0)).mean() > 0.01


def test_favourite_items_repeat(events):
    counted = events.group_by("user_id", "category", "item_id").len()
    share = counted.group_by("user_id", "category").agg(
        pl.col("len").sum().alias("all"), pl.col("len").max().alias("most")
    )
    frequent = share.filter(pl.col("all") >= 20)
    assert (frequent["most"] / frequent["all"]).mean() > 0.5


def test_customers_have_days_and_stores_their_mixture(events):
    by_day = events.group_by("user_id", pl.col("timestamp").dt.weekday()).len()
    share = by_day.group_by("user_id").agg((pl.col("len").max() / pl.col("len").sum()).alias("top"))
    assert share["top"].mean() > 0.3  # 1/7 if days were alike
    mixture = events.group_by("shop_id", "category").len()
    table = mixture.pivot("shop_id", index="category", values="len").drop("category").to_numpy()
    correlation = np.corrcoef(np.log(table.T))
    assert 0.2 < correlation[0, 1] < 0.95
