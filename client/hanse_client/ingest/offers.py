"""Ingestion of offers: which campaigns customers were sent, and what they redeemed.

Campaigns are public, as the catalogue is: their days, and the items that their coupons are for,
are the shop's own plans. What a customer was sent and redeemed is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from hanse_client.ingest.reasons import Rejects, listed, refuse_rejects
from hanse_client.ingest.rows import (
    PersonalRows,
    condition,
    count,
    personal_rows,
    read_filled,
    read_id,
    read_text,
    read_time,
    reject,
    shop_time,
)
from hanse_client.ingest.schema import CAMPAIGN_KINDS
from hanse_client.ingest.store_config import CampaignsSource, OffersSource, StoreConfig
from hanse_common.errors import DataError

_PLAN = ["campaign_id", "start", "end", "kind"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaigns:
    """A shop's campaigns after ingestion."""

    plans: pl.DataFrame
    """`campaign_id, start, end, kind`: two dates, both included, and A, B or C; sorted by start
    and id, each campaign once."""
    coupons: pl.DataFrame
    """`campaign_id, coupon_id, item_id`: the items that each coupon is for."""
    rejects: Rejects
    """Rejected rows by reason."""
    rows_read: int


def ingest_campaigns(config: StoreConfig) -> Campaigns:
    """Read and check a store's public list of campaigns.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`; also if
            the store has no `[campaigns]`.
        EmptyStore: The source has no row.
        DataError: A larger share of rows than `max_reject_share` is rejected.
    """
    source = config.table(CampaignsSource)
    raw = read_filled(source)
    start, start_reasons = read_time(raw, source, "start", required=True)
    end, end_reasons = read_time(raw, source, "end", required=True)
    item = read_id(raw, source, "item_id")
    coupon = read_id(raw, source, "coupon_id")
    columns = pl.DataFrame(
        {
            "campaign_id": read_id(raw, source, "campaign_id"),
            "start": start.cast(pl.Date),
            "end": end.cast(pl.Date),
            "kind": read_text(raw, source, "kind").str.to_uppercase().fill_null(CAMPAIGN_KINDS[-1]),
            # Without ids of coupons, each item has a coupon of its own.
            "coupon_id": coupon.zip_with(coupon.is_not_null(), item),
            "item_id": item,
        }
    )
    # Equal rows are no error here: without coupons a list may name a campaign twice.
    accepted, rejects = reject(
        raw,
        columns,
        [
            *condition(raw, source, columns),
            ("missing campaign_id", columns["campaign_id"].is_null()),
            *start_reasons,
            *end_reasons,
            ("end before start", columns["end"] < columns["start"]),
            ("unknown kind", ~columns["kind"].is_in(CAMPAIGN_KINDS)),
        ],
    )
    plans = accepted.select(_PLAN).unique(maintain_order=True)
    kept = plans.unique("campaign_id", keep="first", maintain_order=True)
    agreeing = accepted.join(kept, on=_PLAN, how="semi")
    count(rejects, "contradicting campaign_id", accepted.height - agreeing.height)
    if kept.is_empty():
        raise DataError(f"{source.label} has no usable campaign", hint=listed(rejects))
    refuse_rejects(config.max_reject_share, source, rejects, raw.rows_read, kept.height)
    goods = agreeing.filter(pl.col("item_id").is_not_null())
    return Campaigns(
        plans=kept.sort("start", "campaign_id"),
        coupons=goods.select("campaign_id", "coupon_id", "item_id").unique().sort(pl.all()),
        rejects=rejects,
        rows_read=raw.rows_read,
    )


def ingest_offers(
    config: StoreConfig, campaigns: Campaigns, *, now: datetime | None = None
) -> PersonalRows:
    """Read, check and pseudonymise what a store's customers were sent and redeemed.

    Args:
        config: The store's sources; `config.pseudonym_key` is created if it is missing.
        campaigns: From `ingest_campaigns`.
        now: Later redemptions are rejected; see `shop_time`.

    Returns:
        Rows of `OFFER_COLUMNS`; `redeemed_at` is null where nothing was redeemed.

    Raises:
        MissingColumns, WrongTypes, ConfigError, MissingDependency: See `read_source`; also if
            the store has no `[offers]`.
        EmptyStore: The source has no row, or all were rejected.
        DataError: A larger share of rows than `max_reject_share` is rejected.
    """
    source = config.table(OffersSource)
    raw = read_filled(source)
    times, time_reasons = read_time(raw, source, "redeemed_at", required=False)
    columns = pl.DataFrame(
        {
            "user_id": read_id(raw, source, "user_id"),
            "campaign_id": read_id(raw, source, "campaign_id"),
            "redeemed_at": times,
            "coupon_id": read_id(raw, source, "coupon_id"),
        }
    )
    known = campaigns.plans["campaign_id"].to_list()
    reasons = [
        *time_reasons,
        ("future redeemed_at", times > shop_time(now, source.time_zone)),
        ("unknown campaign_id", ~columns["campaign_id"].is_in(known)),
    ]
    return personal_rows(config, source, raw, columns, reasons)
