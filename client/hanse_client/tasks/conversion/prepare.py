"""Preparation of a store's offers: its purchases, campaigns and redemptions as features."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from hanse_client.features.by_customer import homes_of
from hanse_client.features.histories import item_class
from hanse_client.features.prepare import PreparedData, observed_from
from hanse_client.ingest.offers import Campaigns, ingest_campaigns, ingest_offers
from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import StoreConfig
from hanse_client.tasks.conversion.features import Mailings, check_mailings, prepare_offers
from hanse_common.config import RunSettings
from hanse_common.errors import EmptyStore


def prepare_own_offers(store: StoreConfig, settings: RunSettings) -> PreparedData:
    """Ingest a store's events, campaigns and offers, and compute the features of every offer.

    Args:
        store: The store's sources.
        settings: The run's, for the first day of the records.

    Raises:
        ConfigError: `store.toml` lacks one of the tables, or the first day is unknown.
        EmptyStore: No offer is left.
        DataError: The data cannot be used; see `ingest`, `ingest_campaigns`, `ingest_offers`.
    """
    begun = observed_from(store, settings)
    campaigns = ingest_campaigns(store)
    offers = ingest_offers(store, campaigns)
    data = ingest(store)
    categories = data.catalogue.select(
        "item_id",
        category=pl.Series(
            [
                item_class(path, item, "category")
                for path, item in data.catalogue.select("category", "item_id").iter_rows()
            ],
            dtype=pl.String,
        ),
    )
    # Numbered by the public list, so that no customer's offer decides another campaign's number.
    numbers = campaigns.plans.select("campaign_id").with_row_index("number")
    mailings, left_out = check_mailings(
        _mailings(campaigns, offers.rows, categories, numbers), observed_from=begun.date()
    )
    if mailings.sent.is_empty():
        raise EmptyStore(
            f"no campaign at {store.name!r} began after the records did, on {begun:%Y-%m-%d}",
            hint="set observed_from in store.toml to the first day of the records",
        )
    prepared = prepare_offers(_purchases(data, categories), mailings)
    homes = {**data.homes, **offers.homes}
    return PreparedData(
        data=replace(prepared, homes=homes_of(prepared.customers, homes)),
        rows=data.rows_read + offers.rows_read,
        rejected=sum(data.rejects.values()) + sum(offers.rejects.values()),
        unranked=sum(left_out.values()),
    )


def _purchases(data: Ingested, categories: pl.DataFrame) -> pl.DataFrame:
    """Purchases in the columns of `prepare_offers`; without baskets a day is one visit."""
    day = pl.col("timestamp").dt.date().cast(pl.String)
    bought = data.events.filter(pl.col("event_type") == "purchase").with_columns(
        basket_id=pl.coalesce("basket_id", day),
        spent=pl.col("price").fill_null(0) * pl.col("quantity"),
    )
    return bought.join(categories, on="item_id", how="left")


def _mailings(
    campaigns: Campaigns, offers: pl.DataFrame, categories: pl.DataFrame, numbers: pl.DataFrame
) -> Mailings:
    """The tables of campaigns with numbers in place of ids."""

    def numbered(table: pl.DataFrame) -> pl.DataFrame:
        joined = table.join(numbers, on="campaign_id", how="left", maintain_order="left")
        return joined.with_columns(campaign_id=pl.col("number").cast(pl.Int64)).drop("number")

    known = numbered(offers)
    redeemed = known.filter(pl.col("redeemed_at").is_not_null())
    return Mailings(
        campaigns=numbered(campaigns.plans).select("campaign_id", "kind", "start", "end"),
        coupons=numbered(campaigns.coupons).join(categories, on="item_id", how="left"),
        sent=known.select("campaign_id", "user_id"),
        redemptions=redeemed.select(
            "campaign_id", "user_id", "coupon_id", day=pl.col("redeemed_at").cast(pl.Date)
        ),
    )
