"""`store.toml`: where a store's events and catalogue are, and what their columns are called.

Each of `[events]` and `[catalogue]` names one source: `path` (Parquet, CSV or TSV by
suffix, globs allowed) or `sql`, a query on the database whose URL is in the environment
variable `url_env`. There is no key for a URL, so that no password can stand in the file.

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
    CATALOGUE_COLUMNS,
    EVENT_COLUMNS,
    EVENT_TYPES,
    REQUIRED_CATALOGUE_COLUMNS,
    REQUIRED_EVENT_COLUMNS,
    EventType,
)
from hanse_common.config import Settings, parse_settings, read_toml
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.paths import CUSTOMER_KEY_FILE

SUFFIXES = (".parquet", ".csv", ".tsv")
NUMBERS = ("quantity", "price", "rating")
_JOINABLE = ("user_id", "item_id", "basket_id", "shop_id", "text", "category", "brand")
_URL = re.compile(r"[\w+.-]+://\S+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Columns = tuple[Annotated[str, Field(min_length=1)], ...]
SourceT = TypeVar("SourceT", bound="Source")


class Source(Settings):
    """One table: a file or a query, and what its columns are called."""

    TABLE: ClassVar[str]
    CANONICAL: ClassVar[tuple[str, ...]]
    REQUIRED: ClassVar[tuple[str, ...]]

    path: str | None = None
    """Parquet, CSV or TSV by suffix; `*`, `?` and `**` match several files."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """Between the columns of a CSV file; a TSV file has tabs."""
    sql: str | None = None
    url_env: str | None = None
    """Name of the environment variable that holds the SQLAlchemy URL."""
    columns: dict[str, str | Columns] = Field(default_factory=dict)
    """Canonical name -> name in the source, several names to be joined, or "" for none.

    A column that is not mapped is looked for under its canonical name.
    """
    defaults: dict[str, str | float] = Field(default_factory=dict)
    """What an absent column or an empty cell of an optional column means."""

    @model_validator(mode="before")
    @classmethod
    def _no_credentials(cls, table: Any) -> Any:
        # Raised as ConfigError, which pydantic lets through: its own error would quote the value.
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
                f"[{self.TABLE}] has {'url_env' if self.sql is None else 'sql'} alone",
                hint="sql and url_env go together",
            )
        if self.path is not None and not self.path.lower().endswith(SUFFIXES):
            raise ConfigError(
                f"{self.TABLE}.path={self.path!r} is of no known kind",
                hint=f"known suffixes: {', '.join(SUFFIXES)}",
            )
        return self

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        for key, names in (("columns", self.columns), ("defaults", self.defaults)):
            for name in names:
                if name not in self.CANONICAL:
                    raise ConfigError(
                        f"{self.TABLE}.{key} names {name!r}, which is no canonical column",
                        hint=f"known: {', '.join(self.CANONICAL)}",
                    )
        for name, source in self.columns.items():
            if not isinstance(source, str) and name not in _JOINABLE:
                raise ConfigError(f"{self.TABLE}.columns.{name} cannot be joined from several")
            if not source and name in self.REQUIRED:
                raise ConfigError(f"{self.TABLE}.columns.{name} is empty, and is required")
        return self

    @model_validator(mode="after")
    def _sound_defaults(self) -> Self:
        for name, value in self.defaults.items():
            label = f"{self.TABLE}.defaults.{name}={value!r}"
            if name in self.REQUIRED or name == "timestamp":
                raise ConfigError(f"{label}: a required column has no default")
            if name in NUMBERS and not (isinstance(value, float) and isfinite(value)):
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
        """What an error calls this source; never a URL."""
        return Path(self.path).name if self.path is not None else f"the {self.TABLE} query"


class EventsSource(Source):
    """What customers did."""

    TABLE = "events"
    CANONICAL = tuple(EVENT_COLUMNS)
    REQUIRED = REQUIRED_EVENT_COLUMNS

    timestamp_format: str | None = None
    """A strftime format, `epoch` (seconds) or `epoch_ms`; ISO 8601 if unset."""
    time_zone: str | None = None
    """The shop's own, e.g. `Europe/Berlin`; needed when timestamps carry an offset."""
    event_types: dict[str, EventType] = Field(default_factory=dict)
    """The source's own word for an event -> Hanse's, e.g. `{transaction = "purchase"}`."""
    keep_duplicates: bool = False
    """True where the till writes one row per unit, so that identical rows are no fault."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError):
                raise ValueError("unknown time zone; write it like Europe/Berlin") from None
        return name


class CatalogueSource(Source):
    """What the shop sells; public."""

    TABLE = "catalogue"
    CANONICAL = tuple(CATALOGUE_COLUMNS)
    REQUIRED = REQUIRED_CATALOGUE_COLUMNS


class StoreConfig(Settings):
    """Everything in a `store.toml`."""

    name: str = Field(min_length=1, max_length=64)
    events: EventsSource
    catalogue: CatalogueSource
    max_reject_share: float = Field(default=0.05, ge=0, le=1)
    """The store is refused when more of its rows than this are rejected."""
    pseudonym_key: Path = Path(CUSTOMER_KEY_FILE)
    """32 secret bytes, made on first use; whoever has them can undo the pseudonyms."""
    observed_from: date | None = None
    """First day of the store's records, a public fact; if unset, a year before training
    ends. The day of the first event would be somebody's own, and move what is known of all."""
    home_key: Path | None = None
    """32 bytes that the stores of a federation share, and its coordinator does not have:
    they decide, the same way everywhere, which store may train on a person."""


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
        # A URL in the wrong place may hold a password.
        raise type(error)(
            f"{path.name}: {_URL.sub('<url>', error.message)}",
            hint=_URL.sub("<url>", error.hint),
        ) from None
    folder = path.absolute().parent
    return config.model_copy(
        update={
            "events": _beside(config.events, folder),
            "catalogue": _beside(config.catalogue, folder),
            "pseudonym_key": folder / config.pseudonym_key,
            "home_key": None if config.home_key is None else folder / config.home_key,
        }
    )


def load_catalogue(path: Path) -> CatalogueSource:
    """Read the `[catalogue]` of a `store.toml`, or of a file that holds nothing else.

    Raises:
        ConfigError: The file cannot be read, or holds no or a malformed catalogue.
    """
    table = read_toml(path).get("catalogue")
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has no [catalogue]", hint="docs/data.md shows one")
    try:
        source = parse_settings(CatalogueSource, table)
    except ConfigError as error:
        # A URL in the wrong place may hold a password.
        raise type(error)(
            f"{path.name}: catalogue: {_URL.sub('<url>', error.message)}",
            hint=_URL.sub("<url>", error.hint),
        ) from None
    return _beside(source, path.absolute().parent)


def _beside(source: SourceT, folder: Path) -> SourceT:
    if source.path is None or Path(source.path).is_absolute():
        return source
    return source.model_copy(update={"path": str(Path(glob.escape(str(folder))) / source.path)})
