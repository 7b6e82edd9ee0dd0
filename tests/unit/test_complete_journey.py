"""Complete Journey, the real file: what is read, and who ends up in which store."""

from datetime import datetime

import polars as pl
import pytest

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store
from hanse_common.config import DataSettings
from hanse_simulations.datasets import complete_journey, make_stores
from hanse_simulations.datasets.freezing import freeze
from hanse_simulations.datasets.partitions import FROZEN
from kits.errors import raises

PARTITIONS = ("regions", "home", "visits")


def settings(**changes):
    return DataSettings(source="complete-journey", **changes)


@pytest.fixture(scope="session")
def purchases():
    return complete_journey.read_purchases()


@pytest.fixture(scope="session")
def catalogue():
    return complete_journey.read_catalogue()


@pytest.fixture(scope="session")
def assigned(purchases):
    return {name: complete_journey.assign(purchases, name) for name in PARTITIONS}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def built(cache):
    return {name: make_stores(settings(partition=name), seed=7, cache=cache) for name in PARTITIONS}


def limited(partition, **changes):
    limits = {"min_customers": 10, "stores": None, "customers": None, "seed": 7}
    return partition.limited(**{**limits, **changes})


# What is read


def test_what_stays_without_fuel_coupons_and_uncategorised(purchases):
    assert purchases.height == 1_445_390
    assert purchases["user_id"].n_unique() == 2_467
    assert purchases["shop_id"].n_unique() == 433
    assert purchases["basket_id"].n_unique() == 141_123


def test_weeks_of_the_file_turn_over_on_local_mondays():
    weeks = pl.Series([datetime(2017, 10, 16), datetime(2017, 11, 20), datetime(2017, 12, 25)])
    split = complete_journey.SPLIT
    assert [split.train_until, split.validate_until, split.test_until] == weeks.to_list()
    raw = complete_journey.read_table("transactions")
    local = (
        raw["transaction_timestamp"]
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("America/New_York")
        .dt.replace_time_zone(None)
    )
    week = (local.dt.truncate("1w") - datetime(2016, 12, 26)).dt.total_days() // 7 + 1
    assert (week == raw["week"]).all()
    for boundary, number in zip(weeks, (43, 48, 53), strict=True):
        assert local.filter(raw["week"] < number).max() < boundary
        assert local.filter(raw["week"] >= number).min() >= boundary


def test_a_line_of_quantity_0_counts_as_one_unit_of_unknown_price(purchases):
    assert purchases["quantity"].min() == 1
    assert purchases["price"].null_count() == 3_932
    assert purchases["price"].min() == 0
    assert purchases.filter(pl.col("price").is_null())["quantity"].unique().to_list() == [1]


def test_catalogue_is_the_assortment_in_paths_and_readable_words(purchases, catalogue):
    assert catalogue.height == 91_648
    assert purchases["item_id"].n_unique() == 68_037
    assert purchases["item_id"].is_in(catalogue["item_id"].to_list()).all()
    assert catalogue["text"].n_unique() == 3_818
    assert catalogue["category"].n_unique() == 3_819
    depth = catalogue["category"].str.count_matches("/") + 1
    assert dict(depth.value_counts().iter_rows()) == {3: 91_549, 2: 99}
    steps = catalogue["category"].str.split("/").list.head(2).list.join("/").value_counts()
    assert (steps.height, (steps["count"] >= 20).sum()) == (339, 278)
    milk = catalogue.filter(
        pl.col("category") == "GROCERY/FLUID MILK PRODUCTS/FLUID MILK WHITE ONLY"
    )
    assert milk["text"].unique().to_list() == [
        "fluid milk white only, fluid milk products, grocery"
    ]
    assert not catalogue["text"].str.contains(r"[A-Z/]|\bfrzn\b|^$").any()


# Who belongs where


def test_twelve_regions_by_size(assigned):
    sizes = assigned["regions"].sizes
    assert list(sizes) == [f"region-{number:02d}" for number in range(1, 13)]
    assert list(sizes.values()) == [617, 329, 211, 209, 188, 188, 186, 152, 111, 92, 90, 67]
    assert assigned["regions"].stores.shops.height == 369


def test_99_home_shops_and_112_shops_of_purchase_have_ten_households(assigned):
    assert len(assigned["home"].sizes) == 99
    assert assigned["home"].customers.height == 2_336
    assert len(assigned["visits"].sizes) == 112
    assert min(assigned["home"].sizes.values()) == min(assigned["visits"].sizes.values()) == 10


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_frozen_table_says_what_was_counted(assigned, partition):
    assert assigned[partition].sizes == assigned[partition].stores.households


def test_the_frozen_table_is_what_its_command_makes_of_the_package(purchases):
    made = freeze(complete_journey.training_visits(purchases))
    assert made.write_csv() == FROZEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("partition", ["regions", "home"])
def test_a_household_is_in_one_region_and_in_one_home_shop(assigned, partition):
    members = limited(assigned[partition]).customers
    assert members["user_id"].is_unique().all()


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_shop_is_part_of_one_store(assigned, partition):
    assert assigned[partition].stores.shops["shop_id"].is_unique().all()


def test_a_household_meets_several_shops_of_purchase(assigned):
    raw = complete_journey.read_table("transactions").select("household_id", "store_id").unique()
    assert raw.height / raw["household_id"].n_unique() == pytest.approx(4.228, abs=0.001)
    members = limited(assigned["visits"]).customers
    per_household = members.height / members["user_id"].n_unique()
    assert per_household == pytest.approx(3.435, abs=0.001)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_nothing_after_training_decides_who_belongs_where(purchases, assigned, partition):
    later = pl.col("timestamp") >= complete_journey.SPLIT.train_until
    elsewhere = purchases.with_columns(
        shop_id=pl.when(later).then(pl.lit(1)).otherwise("shop_id"),
    )
    for history in (purchases.filter(~later), elsewhere):
        again = complete_journey.assign(history, partition)
        assert again.customers.equals(assigned[partition].customers)
        assert again.stores.shops.equals(assigned[partition].stores.shops)


def test_the_home_shop_has_most_training_baskets_of_a_household(purchases, assigned):
    home = dict(assigned["home"].customers.iter_rows())
    training = purchases.filter(pl.col("timestamp") < complete_journey.SPLIT.train_until)
    counts = training.group_by("user_id", "shop_id").agg(pl.col("basket_id").n_unique())
    most = counts.group_by("user_id").agg(pl.col("basket_id").max())
    at_home = counts.filter(
        pl.format("shop-{}", "shop_id") == pl.col("user_id").replace_strict(home, default=None)
    )
    assert at_home.join(most, on=["user_id", "basket_id"]).height == len(home) == 2_336


# Folders


def test_share_of_baskets_that_stores_see(built):
    share = {name: stores.facts["baskets_kept_share"] for name, stores in built.items()}
    assert share["regions"] == pytest.approx(0.9196, abs=1e-4)
    assert share["home"] == pytest.approx(0.7216, abs=1e-4)
    assert share["visits"] == pytest.approx(0.9728, abs=1e-4)


def test_facts_say_who_was_left_out(built):
    facts = built["regions"].facts
    assert (facts["stores"], facts["customers"], facts["events"]) == (12, 2_440, 1_336_741)
    assert (facts["households"], facts["households_left_out"]) == (2_467, 27)
    assert facts["households_without_training_purchase"] == 19
    assert "educat" in built["regions"].note


@pytest.mark.parametrize("partition", PARTITIONS)
def test_production_ingestion_rejects_nothing(built, assigned, partition):
    stores = built[partition]
    sizes = limited(assigned[partition]).sizes
    assert [folder.name for folder in stores.folders] == sorted(sizes)
    for folder in (stores.folders[0], stores.folders[-1]):
        store = ingest(load_store(folder / "store.toml"))
        assert store.rejects == {} and store.catalogue_rejects == {}
        assert store.events["user_id"].n_unique() == sizes[folder.name]


def test_a_region_sees_its_own_tills_only(built, assigned):
    shops = assigned["regions"].stores.shops
    for folder in built["regions"].folders[:3]:
        own = shops.filter(pl.col("store") == folder.name)["shop_id"].to_list()
        assert pl.read_parquet(folder / "events.parquet")["shop_id"].is_in(own).all()


def test_one_household_has_different_pseudonyms_in_two_shops(built, assigned):
    members = limited(assigned["visits"]).customers
    pairs = members.join(members, on="user_id").filter(pl.col("store") < pl.col("store_right"))
    _, first, second = pairs.row(0)
    folder = built["visits"].folders[0].parent
    users = [
        set(ingest(load_store(folder / name / "store.toml")).events["user_id"])
        for name in (first, second)
    ]
    assert users[0].isdisjoint(users[1])


# Limits


def test_limits_keep_the_largest_stores_and_a_seeded_sample_of_about_that_many(assigned):
    regions = assigned["regions"]
    small = limited(regions, stores=2, customers=40)
    assert small.sizes == {"region-01": 35, "region-02": 34}
    assert small.customers.equals(limited(regions, stores=2, customers=40).customers)
    assert not small.customers.equals(limited(regions, stores=2, customers=40, seed=8).customers)
    one = limited(regions, stores=1, customers=40).customers
    assert one.equals(small.customers.filter(pl.col("store") == "region-01"))
    all_of_them = regions.customers.join(small.customers, on=["user_id", "store"])
    assert all_of_them.height == small.customers.height
    more = limited(regions, customers=10_000)
    assert more.customers.equals(regions.customers)


def test_more_stores_than_there_are_is_an_error(assigned):
    with raises("config", match=r"data\.stores=13"):
        limited(assigned["regions"], stores=13)


def test_no_store_large_enough_is_an_error(assigned):
    with raises("too-few-customers", match="min_customers=1000"):
        limited(assigned["regions"], min_customers=1_000)


def test_the_seed_matters_to_the_folders_only_where_something_is_drawn(built, cache):
    again = make_stores(settings(level="type"), seed=8, cache=cache)
    assert again == built["regions"]
    drawn = [
        make_stores(settings(stores=2, customers=12), seed=seed, cache=cache).folders
        for seed in (7, 8)
    ]
    assert drawn[0] != drawn[1]


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(complete_journey, "PACKAGE", "no_such_package_here")
    with raises("missing-dependency", match=r"hanse\[simulate\]"):
        make_stores(settings(), seed=7, cache=tmp_path)
    with raises("missing-dependency", match=r"hanse\[simulate\]"):
        complete_journey.read_purchases()
