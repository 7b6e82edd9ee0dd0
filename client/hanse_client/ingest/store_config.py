"""The settings of `store.toml`: where a store's tables are, and how their columns are named.

Each table (`[events]`, `[catalogue]`, `[reviews]`, `[offers]`, `[campaigns]`) names one source:
`path` (Parquet, CSV or TSV by suffix, globs allowed) or `sql`, a query on the database whose URL
is in the environment variable `url_env`. No setting takes a URL, so that the file never contains
a password.

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
from collections.abc import Mapping
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from hanse_client.ingest.schema import (
    CAMPAIGN_COLUMNS,
    CATALOGUE_COLUMNS,
    EVENT_COLUMNS,
    EVENT_TYPES,
    OFFER_COLUMNS,
    REQUIRED_CATALOGUE_COLUMNS,
    REQUIRED_EVENT_COLUMNS,
    REVIEW_COLUMNS,
    EventType,
)
from hanse_common.alerting.settings import NotifySettings
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.paths import CUSTOMER_KEY_FILE
from hanse_common.settings_files import Settings, parse_settings, read_toml

SUFFIXES = (".parquet", ".csv", ".tsv")
_NUMBERS = ("quantity", "price", "rating")
_TIMES = ("timestamp", "redeemed_at")
_JOINABLE = (
    *("user_id", "item_id", "basket_id", "shop_id", "campaign_id", "coupon_id"),
    *("text", "category", "brand"),
)
_URL = re.compile(r"[\w+.-]+://\S+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_Columns = tuple[Annotated[str, Field(min_length=1)], ...]
_SourceT = TypeVar("_SourceT", bound="Source")


class Source(Settings):
    """One table: a file or a query, and the names of its columns."""

    TABLE: ClassVar[str]
    CANONICAL: ClassVar[tuple[str, ...]]
    REQUIRED: ClassVar[tuple[str, ...]]
    OMISSIBLE: ClassVar[tuple[str, ...]] = ()
    """Required columns that the mapping may leave out by an empty name."""

    path: str | None = None
    """Parquet, CSV or TSV by suffix; `*`, `?` and `**` match several files."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """The separator between columns of a CSV file; a TSV file has tabs."""
    sql: str | None = None
    url_env: str | None = None
    """Name of the environment variable that holds the SQLAlchemy URL."""
    columns: dict[str, str | _Columns] = Field(default_factory=dict)
    """Canonical name -> name in the source, several names to be joined, or "" for none.

    A column that is not mapped is looked up under its canonical name.
    """
    defaults: dict[str, str | float] = Field(default_factory=dict)
    """The values of optional columns that are absent, and of their empty cells."""

    @model_validator(mode="before")
    @classmethod
    def _no_credentials(cls, table: Any) -> Any:
        # A ConfigError passes through pydantic; pydantic's own error would quote the value, which
        # may hold a password.
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{cls.TABLE} is not a table", hint=f"write [{cls.TABLE}] and keys below it"
            )
        path, variable = table.get("path"), table.get("url_env")
        if isinstance(path, str) and "://" in path:
            raise ConfigError(
                f"{cls.TABLE}.path holds a URL",
                hint="put the URL into an environment variable, its name into url_env, "
                "and a query into sql",
            )
        if variable is not None and not (
            isinstance(variable, str) and _VARIABLE.fullmatch(variable)
        ):
            raise ConfigError(
                f"{cls.TABLE}.url_env is not the name of an environment variable",
                hint="it holds a name such as SHOP_DB; the URL goes into that variable",
            )
        return table

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.sql is None):
            both = self.path is not None
            kind = ContradictingOptions if both else ConfigError
            raise kind(
                f"[{self.TABLE}] has {'both path and sql' if both else 'neither path nor sql'}",
                hint="give exactly one of the two",
            )
        if (self.sql is None) != (self.url_env is None):
            raise ConfigError(
                f"[{self.TABLE}] has only {'url_env' if self.sql is None else 'sql'}",
                hint="sql and url_env go together",
            )
        if self.path is not None and not self.path.lower().endswith(SUFFIXES):
            raise ConfigError(
                f"{self.TABLE}.path={self.path!r} is of an unknown file type",
                hint=f"known suffixes: {', '.join(SUFFIXES)}",
            )
        return self

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        for key, names in (("columns", self.columns), ("defaults", self.defaults)):
            for name in names:
                if name not in self.CANONICAL:
                    raise ConfigError(
                        f"{self.TABLE}.{key} names {name!r}, which is not a canonical column",
                        hint=f"known: {', '.join(self.CANONICAL)}",
                    )
        for name, source in self.columns.items():
            if not isinstance(source, str) and name not in _JOINABLE:
                raise ConfigError(f"{self.TABLE}.columns.{name} cannot be joined from several")
            if not source and name in self.REQUIRED and name not in self.OMISSIBLE:
                raise ConfigError(f"{self.TABLE}.columns.{name} is required and cannot be empty")
        return self

    @model_validator(mode="after")
    def _sound_defaults(self) -> Self:
        for name, value in self.defaults.items():
            label = f"{self.TABLE}.defaults.{name}={value!r}"
            if name in self.REQUIRED or name in _TIMES:
                raise ConfigError(f"{label}: a required column or a time has no default")
            if name == "vector":
                raise ConfigError(f"{label}: an item without a vector has none")
            if name in _NUMBERS and not (isinstance(value, float) and isfinite(value)):
                raise ConfigError(f"{label} is not a number")
            if name == "event_type" and value not in EVENT_TYPES:
                raise ConfigError(f"{label} is unknown", hint=f"known: {', '.join(EVENT_TYPES)}")
            if (name == "quantity" and float(value) <= 0) or (name == "price" and float(value) < 0):
                raise ConfigError(f"{label} is out of range")
        return self

    def source_of(self, name: str) -> tuple[str, ...]:
        """Return the source's columns that make up a canonical column; empty if left out."""
        source = self.columns.get(name, name)
        if isinstance(source, str):
            return (source,) if source else ()
        return source

    @property
    def label(self) -> str:
        """The name of this source in error messages; never a URL."""
        return Path(self.path).name if self.path is not None else f"the {self.TABLE} query"


class TimedSource(Source):
    """A source with times in it."""

    timestamp_format: str | None = None
    """A strftime format, `epoch` (seconds) or `epoch_ms`; ISO 8601 if unset."""
    time_zone: str | None = None
    """The shop's time zone, e.g. `Europe/Berlin`; needed when timestamps carry an offset."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError):
                raise ValueError("unknown time zone; write it like Europe/Berlin") from None
        return name


class EventsSource(TimedSource):
    """The source of customer events."""

    TABLE = "events"
    CANONICAL = tuple(EVENT_COLUMNS)
    REQUIRED = REQUIRED_EVENT_COLUMNS

    event_types: dict[str, EventType] = Field(default_factory=dict)
    """The source's name of an event type -> the canonical one: `{transaction = "purchase"}`."""
    keep_duplicates: bool = False
    """True if the till writes one row per unit, so that identical rows are no duplicates."""


class ReviewsSource(TimedSource):
    """The source of customers' reviews, for the task `review`."""

    TABLE = "reviews"
    CANONICAL = REVIEW_COLUMNS
    REQUIRED = ("user_id", "text", "rating")


class OffersSource(TimedSource):
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
    OMISSIBLE = ("text",)


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
    if source.path is None or Path(source.path).is_absolute():
        return source
    # Only the setting may hold a pattern: brackets in the folder's own name are literal.
    return source.model_copy(update={"path": str(Path(glob.escape(str(folder))) / source.path)})
