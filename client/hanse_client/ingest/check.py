"""Counts of all tables that a `store.toml` names, without any row or id."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from hanse_client.ingest.diagnosis import diagnose, shares
from hanse_client.ingest.offers import Campaigns, ingest_campaigns, ingest_offers
from hanse_client.ingest.pipeline import Ingested, ingest, summarise
from hanse_client.ingest.reviews import ingest_reviews
from hanse_client.ingest.rows import PersonalRows
from hanse_client.ingest.store_config import CatalogueSource, EventsSource, StoreConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreTables:
    """All of a store's tables after ingestion; those that it has not are None."""

    config: StoreConfig
    events: Ingested | None
    reviews: PersonalRows | None
    campaigns: Campaigns | None
    offers: PersonalRows | None

    @classmethod
    def read(cls, config: StoreConfig) -> StoreTables:
        """Read every table that the file names, as the tasks do.

        Raises:
            DataError, ConfigError, MissingDependency: See `ingest`.
        """
        campaigns = None if config.campaigns is None else ingest_campaigns(config)
        return cls(
            config=config,
            events=None if config.events is None else ingest(config),
            reviews=None if config.reviews is None else ingest_reviews(config),
            campaigns=campaigns,
            offers=None if campaigns is None else ingest_offers(config, campaigns),
        )

    @classmethod
    def read_leniently(cls, config: StoreConfig) -> StoreTables:
        """Read every table, however many of its rows are rejected, and leave no key behind.

        Raises:
            DataError, ConfigError, MissingDependency: A table cannot be read at all.
        """
        with tempfile.TemporaryDirectory() as folder:
            return cls.read(
                config.model_copy(
                    update={
                        "max_reject_share": 1.0,
                        "pseudonym_key": Path(folder) / config.pseudonym_key.name,
                        **{
                            source.TABLE: source.model_copy(update={"tolerances": {}})
                            for source in config.sources
                        },
                    }
                )
            )

    @property
    def rows_read(self) -> int:
        """Number of rows read from the tables of customers."""
        return sum(table.rows_read for table in self._personal)

    @property
    def rejected(self) -> int:
        """Number of those rejected."""
        return sum(sum(table.rejects.values()) for table in self._personal)

    @property
    def _personal(self) -> list[Ingested | PersonalRows]:
        tables = (self.events, self.reviews, self.offers)
        return [table for table in tables if table is not None]

    def summary(self) -> dict[str, Any]:
        """Counts of rows and customers by table, ready for JSON; those of events at the top."""
        counts: dict[str, Any] = {}
        if self.events is not None:
            counts = summarise(self.events)
            counts["reasons"] = shares(
                self.config.table(EventsSource), self.events.rejects, self.events.rows_read
            )
            counts["catalogue"]["reasons"] = shares(
                self.config.table(CatalogueSource),
                self.events.catalogue_rejects,
                self.events.catalogue_rows_read,
            )
            counts["diagnosis"] = diagnose(
                self.events, self.config.table(EventsSource), self.config.table(CatalogueSource)
            )
        if self.reviews is not None:
            # Their number only: a column that is mapped by mistake may hold words of customers.
            ratings = self.reviews.rows["rating"].n_unique()
            counts["reviews"] = {**_counts(self.reviews), "ratings": ratings}
        if self.campaigns is not None and self.offers is not None:
            redeemed = self.offers.rows.filter(pl.col("redeemed_at").is_not_null())
            counts["offers"] = {
                **_counts(self.offers),
                "sent": self.offers.rows.select("user_id", "campaign_id").n_unique(),
                "redeemed": redeemed.select("user_id", "campaign_id").n_unique(),
            }
            counts["campaigns"] = {
                "rows_read": self.campaigns.rows_read,
                "kept": self.campaigns.plans.height,
                "rejects": self.campaigns.rejects,
            }
        return counts


def _counts(table: PersonalRows) -> dict[str, Any]:
    return {
        "rows_read": table.rows_read,
        "kept": table.rows.height,
        "rejects": table.rejects,
        "customers": table.rows["user_id"].n_unique(),
    }
