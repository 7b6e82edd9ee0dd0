"""The settings of `store.toml`: where a store's tables are, and how their columns are named.

Each table (`[events]`, `[catalogue]`, `[reviews]`, `[offers]`, `[campaigns]`) names one source:
`path` (files, folders or patterns) or `sql`, a query on the database whose URL is in the
environment variable `url_env`; `hanse_client.ingest.source_settings` has its keys. No setting takes
a URL, so that the file never contains a password.

>>> config = parse_settings(StoreConfig, {
...     "name": "corner-shop",
...     "events": {"path": "sales.csv", "columns": {"user_id": "card"}},
...     "catalogue": {"sql": "SELECT * FROM items", "url_env": "SHOP_DB"},
... })
>>> config.events.source_of("user_id"), config.events.source_of("item_id")
(('card',), ('item_id',))
"""

from __future__ import annotations

import glob
import re
from datetime import date
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from hanse_client.ingest.schema import (
    CAMPAIGN_COLUMNS,
    CATALOGUE_COLUMNS,
    EVENT_COLUMNS,
    OFFER_COLUMNS,
    REQUIRED_CATALOGUE_COLUMNS,
    REQUIRED_EVENT_COLUMNS,
    REVIEW_COLUMNS,
    EventType,
)
from hanse_client.ingest.source_settings import Files, PersonalSource, Source, TimedSource
from hanse_common.alerting.settings import NotifySettings
from hanse_common.errors import ConfigError
from hanse_common.paths import CUSTOMER_KEY_FILE
from hanse_common.settings_files import Settings, parse_settings, read_toml

_URL = re.compile(r"[\w+.-]+://\S+")
_SourceT = TypeVar("_SourceT", bound="Source")


class EventsSource(PersonalSource):
    """The source of customer events."""

    TABLE = "events"
    CANONICAL = (*EVENT_COLUMNS, "amount")
    REQUIRED = REQUIRED_EVENT_COLUMNS

    event_types: dict[str, EventType] = Field(default_factory=dict)
    """The source's name of an event type -> the canonical one: `{transaction = "purchase"}`."""
    keep_duplicates: bool = False
    """True if the till writes one row per unit, so that identical rows are no duplicates."""
    negative_quantity: Literal["reject", "return"] = "reject"
    """Whether a row with a quantity below 0 is a mistake, or goods that came back."""


class ReviewsSource(PersonalSource):
    """The source of customers' reviews, for the task `review`."""

    TABLE = "reviews"
    CANONICAL = REVIEW_COLUMNS
    REQUIRED = ("user_id", "text", "rating")


class OffersSource(PersonalSource):
    """The source of what customers were sent and redeemed, for the task `conversion`."""

    TABLE = "offers"
    CANONICAL = OFFER_COLUMNS
    REQUIRED = ("user_id", "campaign_id")


class CampaignsSource(TimedSource):
    """The source of marketing campaigns, which is public, for the task `conversion`."""

    TABLE = "campaigns"
    CANONICAL = CAMPAIGN_COLUMNS
    REQUIRED = ("campaign_id", "start", "end")


class CatalogueSource(Source):
    """The source of the catalogue, which is public."""

    TABLE = "catalogue"
    CANONICAL = tuple(CATALOGUE_COLUMNS)
    REQUIRED = REQUIRED_CATALOGUE_COLUMNS
    # Only in so many words: a column of another name would otherwise be lost without notice.
    OMISSIBLE = ("text", "category")

    category_separator: str = Field(default="/", min_length=1, max_length=8)
    """Between the steps of a category path, e.g. ` > `; blanks around it do not count."""
    categories_separator: str = Field(default="", max_length=8)
    """Between several categories in one cell, e.g. `|`; the first counts. None if empty."""


class StoreConfig(Settings):
    """All settings of a `store.toml`."""

    name: str = Field(min_length=1, max_length=64)
    events: EventsSource | None = None
    catalogue: CatalogueSource | None = None
    reviews: ReviewsSource | None = None
    offers: OffersSource | None = None
    campaigns: CampaignsSource | None = None
    max_reject_share: float = Field(default=0.05, ge=0, le=1)
    """Ingestion fails if a larger share of the rows than this is rejected."""
    pseudonym_key: Path = Path(CUSTOMER_KEY_FILE)
    """32 secret bytes, created on first use; with them the pseudonyms can be undone."""
    observed_from: date | None = None
    """First day of the store's records, a public fact; if unset, a year before training
    ends. The day of the first event depends on one customer, who would move everybody's rates."""
    home_key: Path | None = None
    """32 bytes that the stores of a federation share and its coordinator does not have. They
    decide, the same way at every store, which one may train on a person."""
    notify: NotifySettings = NotifySettings()
    """Who is told of events; no part of what the data are prepared from."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.reviews is None and self.events is None:
            raise ConfigError("there is no [events]", hint="docs/data.md shows one")
        for name, other in (("events", "catalogue"), ("offers", "campaigns")):
            if (getattr(self, name) is None) != (getattr(self, other) is None):
                there, lacking = (other, name) if getattr(self, name) is None else (name, other)
                raise ConfigError(
                    f"there is [{there}] and no [{lacking}]", hint="the two go together"
                )
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """All tables that the file names."""
        every = (self.events, self.catalogue, self.reviews, self.offers, self.campaigns)
        return tuple(source for source in every if source is not None)

    def table(self, kind: type[_SourceT]) -> _SourceT:
        """Return a table that a task reads.

        Raises:
            ConfigError: The file does not name it.
        """
        source: _SourceT | None = getattr(self, kind.TABLE)
        if source is None:
            raise ConfigError(
                f"the store.toml of {self.name!r} has no [{kind.TABLE}], which the task reads",
                hint="docs/data.md shows one",
            )
        return source


def load_store(path: Path) -> StoreConfig:
    """Read a `store.toml`.

    Args:
        path: The file; relative paths in it are relative to its folder.

    Returns:
        The settings, with absolute paths.

    Raises:
        ConfigError: The file cannot be read, or holds an unknown or malformed setting.
        ContradictingOptions: A source has both a path and a query.
    """
    table = read_toml(path)
    try:
        config = parse_settings(StoreConfig, table)
    except ConfigError as error:
        # Errors quote the value, and a URL in the wrong place may hold a password.
        raise type(error)(
            f"{path.name}: {_URL.sub('<url>', error.message)}",
            hint=_URL.sub("<url>", error.hint),
        ) from None
    folder = path.absolute().parent
    return config.model_copy(
        update={
            **{source.TABLE: _resolved(source, folder) for source in config.sources},
            "pseudonym_key": folder / config.pseudonym_key,
            "home_key": None if config.home_key is None else folder / config.home_key,
        }
    )


def load_catalogue(path: Path) -> CatalogueSource:
    """Read the `[catalogue]` of a `store.toml`, or of a file that holds nothing else.

    Raises:
        ConfigError: The file cannot be read, or its catalogue is missing or malformed.
    """
    table = read_toml(path).get("catalogue")
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has no [catalogue]", hint="docs/data.md shows one")
    try:
        source = parse_settings(CatalogueSource, table)
    except ConfigError as error:
        # Errors quote the value, and a URL in the wrong place may hold a password.
        raise type(error)(
            f"{path.name}: catalogue: {_URL.sub('<url>', error.message)}",
            hint=_URL.sub("<url>", error.hint),
        ) from None
    return _resolved(source, path.absolute().parent)


def _resolved(source: _SourceT, folder: Path) -> _SourceT:
    """The same source with its path relative to `folder` made absolute."""
    joins = [join.model_copy(update={"path": _absolute(join, folder)}) for join in source.join]
    return source.model_copy(update={"path": _absolute(source, folder), "join": tuple(joins)})


def _absolute(files: Files, folder: Path) -> str | tuple[str, ...] | None:
    # Only the setting may hold a pattern: brackets in the folder's own name are literal.
    paths = tuple(str(Path(glob.escape(str(folder))) / path) for path in files.paths)
    return paths[0] if isinstance(files.path, str) else paths or None
