"""Campaigns of Complete Journey: coupons sent to households in 2017, and who redeemed them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from hanse_client.tasks.conversion.features import Mailings, check_mailings, prepare_offers
from hanse_client.tasks.conversion.offers import Offers
from hanse_common.config import DataSettings
from hanse_simulations.datasets import complete_journey


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailed:
    """Stores with the offers of their customers."""

    stores: tuple[tuple[str, Offers], ...]
    campaigns: int
    left_out: dict[str, int]
    """Rows that could not be used, by reason."""


def read_mailings() -> Mailings:
    """Read the four tables of campaigns, coupons, households and redemptions.

    Raises:
        MissingDependency: The package is not installed.
        DataError: Its files cannot be read.
    """
    described = complete_journey.read_table("campaign_descriptions")
    redeemed = complete_journey.read_table("coupon_redemptions")
    coupons = complete_journey.read_table("coupons")
    user = pl.col("household_id").cast(pl.String).alias("user_id")
    return Mailings(
        campaigns=described.select(
            pl.col("campaign_id").cast(pl.Int64),
            kind=pl.col("campaign_type").cast(pl.String).str.strip_prefix("Type "),
            start=pl.col("start_date").cast(pl.Date),
            end=pl.col("end_date").cast(pl.Date),
        ),
        coupons=coupons.select(
            pl.col("campaign_id").cast(pl.Int64),
            coupon_id=pl.col("coupon_upc").cast(pl.String),
            item_id=pl.col("product_id").cast(pl.String),
        ).join(_categories(), on="item_id", how="left"),
        sent=complete_journey.read_table("campaigns").select(
            pl.col("campaign_id").cast(pl.Int64), user
        ),
        redemptions=redeemed.select(
            pl.col("campaign_id").cast(pl.Int64),
            user,
            coupon_id=pl.col("coupon_upc").cast(pl.String),
            day=pl.col("redemption_date").cast(pl.Date),
        ),
    )


def load(data: DataSettings, *, seed: int) -> Mailed:
    """Split campaigns and purchases into the stores of the settings.

    Args:
        data: Partition and limits.
        seed: Seed of the sample of customers, if `data.customers` limits them.

    Raises:
        MissingDependency, DataError: See `read_mailings`.
        ConfigError, DataError [too-few-customers]: See `Partition.limited`.
    """
    mailings, left_out = check_mailings(read_mailings(), observed_from=complete_journey.BEGIN)
    purchases = complete_journey.read_purchases()
    partition = complete_journey.assign(purchases, data.partition).limited(
        min_customers=data.min_customers, stores=data.stores, customers=data.customers, seed=seed
    )
    categories = _categories()
    stores = []
    for name in partition.names:
        events = partition.events_of(purchases, name).with_columns(
            pl.col("user_id", "item_id").cast(pl.String),
            spent=pl.col("price").fill_null(0) * pl.col("quantity"),
        )
        events = events.join(categories, on="item_id")
        customers = partition.customers.filter(pl.col("store") == name)["user_id"].cast(pl.String)
        stores.append((name, prepare_offers(events, mailings.of(customers))))
    return Mailed(stores=tuple(stores), campaigns=mailings.campaigns.height, left_out=left_out)


def _categories() -> pl.DataFrame:
    """`item_id, category`: the department and category of goods, two steps of the catalogue."""
    steps = pl.col("category").str.split("/").list
    return complete_journey.read_catalogue().select(
        pl.col("item_id").cast(pl.String), category=steps.head(2).list.join("/")
    )
