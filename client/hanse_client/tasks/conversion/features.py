"""Features of offers: what the store knew about a customer when a campaign began.

They are counted from the store's own sales and mailings, and scaled by constants that all
stores share: means or spreads of a store's data would depend on its other customers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

import numpy as np
import polars as pl

from hanse_client.features.ragged import offsets_of
from hanse_client.tasks.conversion.offers import Offers

_KINDS: Final = ("A", "B", "C")
_WINDOWS: Final = (28, 84)
USUAL_RATE, _WEIGHT = 0.05, 4.0
"""The prior redemption rate, and the number of campaigns that it counts for: round figures that
are taken from no data."""
_USUAL_LOGIT: Final = math.log(USUAL_RATE / (1 - USUAL_RATE))
_LATELY = 84.0
"""Days in which the feature `redeemed_lately` decays by a factor e."""
_LONG = 365.0
"""Days since the last visit of a customer without any."""
NAMES: Final = (
    "prior",
    *("recency", "visits_28", "visits_84", "spend_28", "spend_84", "spend_a_visit"),
    *("coupon_visits_28", "coupon_visits_84", "coupon_share", "coupon_items"),
    *("category_visits_28", "category_visits_84", "category_share"),
    *("sent", "campaigns_redeemed", "has_redeemed", "coupons_redeemed", "redeemed_lately"),
    *("kind_A", "kind_B", "length", "coupons"),
    *("A_and_visits", "A_and_coupon_visits", "A_and_prior", "A_and_redeemed_lately"),
)
"""In the order of `Offers.features`. The first is the logit of the customer's prior rate less
the logit of `USUAL_RATE`."""

_CENTRED: Final = frozenset({*NAMES[1:15], "kind_A", "kind_B", "length", "coupons"})
_MIDDLE = 0.5
"""Subtracted from features that are rarely near 0: gradients are shorter, so clipping cuts less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailings:
    """The tables of a shop's marketing campaigns."""

    campaigns: pl.DataFrame
    """`campaign_id, kind, start, end`: an integer, A, B or C, and two dates, both included."""
    coupons: pl.DataFrame
    """`campaign_id, coupon_id, item_id, category`: the items that each coupon is for. The
    category is the public catalogue's; taken from purchases, it would depend on customers."""
    sent: pl.DataFrame
    """`campaign_id, user_id`."""
    redemptions: pl.DataFrame
    """`campaign_id, user_id, coupon_id, day`."""

    def of(self, customers: pl.Series) -> Mailings:
        """Only the mailings and redemptions of these customers; all campaigns stay."""
        known = pl.col("user_id").is_in(customers.to_list())
        return Mailings(
            campaigns=self.campaigns,
            coupons=self.coupons,
            sent=self.sent.filter(known),
            redemptions=self.redemptions.filter(known),
        )


def check_mailings(mailings: Mailings, *, observed_from: date) -> tuple[Mailings, dict[str, int]]:
    """Reject and count the rows that cannot be used.

    Args:
        mailings: The tables of the shop's marketing.
        observed_from: First day of the store's records of purchases.

    Returns:
        The valid rows, and the number of rejected rows by reason.

    Edge cases:
        A redemption outside its campaign's days, or by a customer to whom the campaign was not
        sent, is rejected: it is not the outcome of an offer.
    """
    rejected: Counter[str] = Counter()

    def keep(table: pl.DataFrame, reason: str, right: pl.Expr) -> pl.DataFrame:
        accepted = table.filter(right.fill_null(value=False))
        rejected[reason] += table.height - accepted.height
        return accepted

    campaigns = mailings.campaigns.unique("campaign_id", keep="first", maintain_order=True)
    rejected["campaigns listed twice"] = mailings.campaigns.height - campaigns.height
    campaigns = keep(
        campaigns, "campaigns that end before they start", pl.col("start") <= pl.col("end")
    )
    campaigns = keep(
        campaigns, f"campaigns of no kind of {', '.join(_KINDS)}", pl.col("kind").is_in(_KINDS)
    )
    every = campaigns
    campaigns = keep(
        campaigns, "campaigns from before the records begin", pl.col("start") > observed_from
    )
    early = every.join(campaigns, on="campaign_id", how="anti")["campaign_id"].to_list()

    def of_known(table: pl.DataFrame, what: str) -> pl.DataFrame:
        # Rows of campaigns that are too early were counted with their campaign.
        rest = table.filter(~pl.col("campaign_id").is_in(early))
        known = pl.col("campaign_id").is_in(campaigns["campaign_id"].to_list())
        return keep(rest, f"{what} of unknown campaigns", known)

    sent = of_known(mailings.sent, "mailings").unique(["campaign_id", "user_id"])
    redemptions = of_known(mailings.redemptions, "redemptions")
    dated = redemptions.join(campaigns, on="campaign_id").join(
        sent.with_columns(was_sent=True), on=["campaign_id", "user_id"], how="left"
    )
    dated = keep(
        dated,
        "redemptions outside the campaign's days",
        pl.col("day").is_between(pl.col("start"), pl.col("end")),
    )
    dated = keep(dated, "redemptions by customers whom nothing was sent", pl.col("was_sent"))
    return Mailings(
        campaigns=campaigns.sort("start", "campaign_id"),
        coupons=of_known(mailings.coupons, "coupons"),
        sent=sent,
        redemptions=dated.select(redemptions.columns),
    ), {reason: count for reason, count in rejected.items() if count}


def prepare_offers(events: pl.DataFrame, mailings: Mailings) -> Offers:
    """Compute the features of every offer of a store.

    Args:
        events: `user_id, item_id, category, timestamp, basket_id, spent` of its customers.
        mailings: From `check_mailings`, of its customers.

    Guarantees:
        An offer's features depend only on that customer's events and redemptions before the
        campaign's first day, the campaigns that they were sent before, and the campaign itself.
    """
    users = sorted(mailings.sent["user_id"].unique().to_list())
    rows = [
        table
        for campaign in mailings.campaigns.iter_rows(named=True)
        if (table := _one_campaign(events, mailings, campaign)).height
    ]
    if not rows:
        return _offers(users, pl.DataFrame(schema=_COLUMNS))
    return _offers(users, pl.concat(rows).sort("user_id", "start", "campaign_id"))


_COLUMNS: Final = {
    "user_id": pl.String,
    "campaign_id": pl.Int64,
    "start": pl.Date,
    "end": pl.Date,
    "redeemed": pl.Boolean,
    **dict.fromkeys(NAMES, pl.Float32),
}


def _offers(users: list[str], table: pl.DataFrame) -> Offers:
    owner = np.searchsorted(np.array(users, dtype=np.str_), table["user_id"].to_numpy().astype(str))
    return Offers(
        customers=np.array(users, dtype=np.str_),
        homes=np.full(len(users), -1, dtype=np.int64),
        offsets=offsets_of(np.bincount(owner, minlength=len(users))),
        campaigns=table["campaign_id"].to_numpy(),
        features=np.ascontiguousarray(table.select(NAMES).to_numpy(), dtype=np.float32),
        starts=table["start"].cast(pl.Int32).to_numpy().astype(np.int64),
        ends=table["end"].cast(pl.Int32).to_numpy().astype(np.int64),
        redeemed=table["redeemed"].to_numpy(),
    )


def _one_campaign(
    events: pl.DataFrame, mailings: Mailings, campaign: Mapping[str, Any]
) -> pl.DataFrame:
    """The offers of one campaign, one row a customer, in the columns `_COLUMNS`."""
    number, start = campaign["campaign_id"], campaign["start"]
    sent = mailings.sent.filter(pl.col("campaign_id") == number).select("user_id")
    own = mailings.redemptions.filter(pl.col("campaign_id") == number)
    facts = (
        sent.join(_shopping(events, mailings, campaign), on="user_id", how="left")
        .join(_answers(mailings, start), on="user_id", how="left")
        .with_columns(
            pl.col("quiet").fill_null(_LONG),
            pl.col("since_redeemed").fill_null(math.inf),
            redeemed=pl.col("user_id").is_in(own["user_id"].to_list()),
            campaign_id=pl.lit(number, pl.Int64),
            start=pl.lit(start, pl.Date),
            end=pl.lit(campaign["end"], pl.Date),
        )
        .fill_null(0)
    )
    coupons = mailings.coupons.filter(pl.col("campaign_id") == number)["coupon_id"].n_unique()
    # A pseudo-count of `_WEIGHT` campaigns, so that rates stay off 0 and 1 and logits finite.
    rate = (pl.col("answered") + _WEIGHT * USUAL_RATE) / (pl.col("sent") + _WEIGHT)
    kind_a = float(campaign["kind"] == "A")
    visits, matching = _log("visits_84") / 4, _log("matching_84") / 3
    lately = (-pl.col("since_redeemed") / _LATELY).exp()
    prior = (rate / (1 - rate)).log() - _USUAL_LOGIT
    # The divisors bring each feature to about unit size; round constants, taken from no data.
    features = {
        "prior": prior,
        "recency": _log("quiet") / 4,
        "visits_28": _log("visits_28") / 3,
        "visits_84": visits,
        "spend_28": _log("spent_28") / 6,
        "spend_84": _log("spent_84") / 7,
        "spend_a_visit": (pl.col("spent_84") / pl.col("visits_84").clip(1)).log1p() / 4,
        "coupon_visits_28": _log("matching_28") / 2,
        "coupon_visits_84": matching,
        "coupon_share": pl.col("matching_spent") / pl.col("spent_84").clip(1),
        "coupon_items": _log("matching_items") / 4,
        "category_visits_28": _log("near_28") / 3,
        "category_visits_84": _log("near_84") / 4,
        "category_share": pl.col("near_spent") / pl.col("spent_84").clip(1),
        "sent": _log("sent") / 2,
        "campaigns_redeemed": _log("answered"),
        "has_redeemed": (pl.col("answered") > 0).cast(pl.Float64),
        "coupons_redeemed": _log("coupons") / 2,
        "redeemed_lately": lately,
        "kind_A": pl.lit(kind_a),
        "kind_B": pl.lit(float(campaign["kind"] == "B")),
        "length": pl.lit(((campaign["end"] - start).days + 1) / 60),
        "coupons": pl.lit(math.log1p(coupons) / 5),
        "A_and_visits": kind_a * visits,
        "A_and_coupon_visits": kind_a * matching,
        "A_and_prior": kind_a * prior / 2,
        "A_and_redeemed_lately": kind_a * lately,
    }
    centred = {
        name: value - _MIDDLE if name in _CENTRED else value for name, value in features.items()
    }
    return facts.with_columns(**centred).select(
        pl.col(name).cast(kind) for name, kind in _COLUMNS.items()
    )


def _shopping(
    events: pl.DataFrame, mailings: Mailings, campaign: Mapping[str, Any]
) -> pl.DataFrame:
    """Purchases before a campaign: all, of its coupons' items, and of the same categories."""
    start = datetime.combine(campaign["start"], time.min)
    goods = mailings.coupons.filter(pl.col("campaign_id") == campaign["campaign_id"])
    sent = mailings.sent.filter(pl.col("campaign_id") == campaign["campaign_id"])
    before = (
        events.filter(pl.col("timestamp") < start)
        .join(sent, on="user_id", how="semi")
        .with_columns(
            ago=(start - pl.col("timestamp")).dt.total_seconds() / 86_400,
            matching=pl.col("item_id").is_in(goods["item_id"].unique().to_list()),
            near=pl.col("category").is_in(goods["category"].drop_nulls().unique().to_list()),
        )
    )
    short, long = (pl.col("ago") <= days for days in _WINDOWS)

    def visits(which: pl.Expr) -> pl.Expr:
        return pl.col("basket_id").filter(which).n_unique()

    return before.group_by("user_id").agg(
        quiet=pl.col("ago").min(),
        visits_28=visits(short),
        visits_84=visits(long),
        spent_28=pl.col("spent").filter(short).sum(),
        spent_84=pl.col("spent").filter(long).sum(),
        matching_28=visits(short & pl.col("matching")),
        matching_84=visits(long & pl.col("matching")),
        matching_spent=pl.col("spent").filter(long & pl.col("matching")).sum(),
        matching_items=pl.col("item_id").filter(long & pl.col("matching")).n_unique(),
        near_28=visits(short & pl.col("near")),
        near_84=visits(long & pl.col("near")),
        near_spent=pl.col("spent").filter(long & pl.col("near")).sum(),
    )


def _answers(mailings: Mailings, start: date) -> pl.DataFrame:
    """Campaigns that customers were sent before this one, and their redemptions before it."""
    # Only what lies before `start`: a later redemption would leak the label into a feature.
    begun = mailings.campaigns.filter(pl.col("start") < start).select("campaign_id")
    sent = mailings.sent.join(begun, on="campaign_id", how="semi")
    redeemed = mailings.redemptions.filter(pl.col("day") < start)
    answers = redeemed.group_by("user_id").agg(
        answered=pl.col("campaign_id").n_unique(),
        coupons=pl.len(),
        since_redeemed=(pl.lit(start) - pl.col("day").max()).dt.total_days(),
    )
    counted = sent.group_by("user_id").agg(sent=pl.len())
    return counted.join(answers, on="user_id", how="left")


def _log(name: str) -> pl.Expr:
    return pl.col(name).clip(0).cast(pl.Float64).log1p()
