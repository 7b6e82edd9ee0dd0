"""Nothing public, and nothing of another customer, depends on any one customer.

Epsilon covers what is computed from customers under noise. What is shipped, shown or used before
it (base model, initial parameters, settings, manifest, stores) has to be the same byte for byte
with and without one customer, in every source of data that there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from hanse_common.config import DataSettings
from hanse_common.recipes import grocery
from hanse_simulations.datasets import complete_journey
from hanse_simulations.experiment.prepare import prepare_run
from kits.encoder import tiny_encoder
from kits.errors import raises
from kits.public import Source, journey, sources

LONELIEST = 1844
"""Without this household the regions were once cut otherwise, and 204 others moved."""
NOWHERE = 2364
"""In no store, for hardly anybody else goes to its shops; yet alone with 700 products."""
PARTITIONS = ("regions", "home", "visits")
# An app of somebody else reads its stores' data by itself.
SOURCES = sorted({*get_args(DataSettings.model_fields["source"].annotation)} - {"app"})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    tiny_encoder(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def purchases():
    return complete_journey.read_purchases()


@pytest.fixture(scope="module")
def households(purchases):
    """The one above, those with most products that nobody else bought, and twenty by lot."""
    owners = purchases.group_by("item_id").agg(pl.col("user_id").unique())
    alone = owners.filter(pl.col("user_id").list.len() == 1)["user_id"].list.first()
    most = alone.value_counts().sort(["count", "user_id"], descending=[True, False])
    everybody = purchases["user_id"].unique().sort().to_numpy()
    drawn = np.random.default_rng(13).choice(everybody, 20, replace=False)
    return [LONELIEST, *most["user_id"].head(4), *map(int, drawn)]


def compare(source: Source, home: Path, out: Path) -> list[int]:
    """Compare what is made with and without each of some people.

    Returns:
        Of how many stores each was a customer.
    """
    everybody = source.made(home, out / "everybody", None)
    stores = []
    for number, person in enumerate(source.people(home)):
        rest = source.made(home, out / str(number), person)
        assert rest.public == everybody.public, person
        assert rest.customers.items() <= everybody.customers.items(), person
        gone = [store for store, _ in set(everybody.customers) - set(rest.customers)]
        assert len(set(gone)) == len(gone), person
        stores.append(len(gone))
    return stores


@pytest.mark.parametrize("name", SOURCES)
def test_no_customer_changes_what_is_public_or_another_customers_data(home, tmp_path, name):
    for number, source in enumerate(sources(home)[name]):
        assert min(compare(source, home, tmp_path / str(number))) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("partition", PARTITIONS)
def test_no_household_changes_anything_of_the_whole_data_set(home, tmp_path, partition):
    stores = compare(journey(home, partition, LONELIEST, NOWHERE), home, tmp_path)
    assert stores == [18 if partition == "visits" else 1, 0]


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_household_less_moves_no_other_and_no_store(purchases, households, partition):
    everybody = complete_journey.assign(purchases, partition)
    for household in households:
        others = purchases.filter(pl.col("user_id") != household)
        rest = complete_journey.assign(others, partition)
        assert rest.stores.households == everybody.stores.households
        assert rest.stores.shops.equals(everybody.stores.shops)
        kept = everybody.customers.filter(pl.col("user_id") != household)
        assert rest.customers.equals(kept), household


def test_a_household_less_brings_no_other_into_a_sample(purchases):
    everybody = complete_journey.assign(purchases, "regions")
    limits = {"min_customers": 10, "stores": 4, "customers": 40, "seed": 7}
    sample = everybody.limited(**limits).customers
    for household in sample["user_id"][:25]:
        others = purchases.filter(pl.col("user_id") != household)
        rest = complete_journey.assign(others, "regions").limited(**limits).customers
        assert rest.equals(sample.filter(pl.col("user_id") != household)), household


def test_products_are_not_cut_to_what_was_bought_most(tmp_path, monkeypatch):
    """12,000 of 91,648 could only be chosen by looking at purchases, and are refused."""
    monkeypatch.setenv("HANSE_CACHE", str(tmp_path))
    few = {"data.level": "product", "data.stores": 3, "data.customers": 20}
    with raises("data", match="91648") as refused:
        prepare_run(tmp_path / "run", grocery().with_changes(few))
    assert "a catalogue of the products to rank" in refused.value.hint
