"""The settings of one table of a `store.toml`: where it is, how it is written, what it is called.

>>> source = parse_settings(TimedSource, {"path": "sales.csv", "columns": {"user_id": "card"}})
>>> source.source_of("user_id"), source.source_of("item_id")
(('card',), ('item_id',))
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hanse_client.ingest.formats.streams import format_of
from hanse_client.ingest.schema import EVENT_TYPES
from hanse_common.errors import ConfigError, ContradictingOptions
from hanse_common.settings_files import Settings, parse_settings

SUFFIXES = (
    *(".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json"),
    *(".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
)
"""Files that are read without a word about their format; those of text may be compressed."""
Format = Literal["csv", "tsv", "json", "parquet", "sheet"]
_FORMATS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), "sheet"),
}

MISSING = (
    *("NULL", "null", "(null)", "NA", "N/A", "n/a", "#N/A", "<NA>"),
    *("nan", "NaN", "NAN", "None", "\\N", "(not set)"),
)
"""What exports write for a missing value, besides an empty cell."""
GUESTS = (
    *("0", "-1", "anonymous", "anon", "guest", "unknown", "undefined"),
    "00000000-0000-0000-0000-000000000000",
)
"""Customer ids that stand for whoever has none; in any case of letters."""

_NUMBERS = ("quantity", "price", "amount", "rating")
_TIMES = ("timestamp", "redeemed_at", "start", "end")
_JOINABLE = (
    *("user_id", "item_id", "basket_id", "shop_id", "campaign_id", "coupon_id"),
    *("text", "category", "brand", *_TIMES),
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _as_name(name: Any) -> Any:
    # A file without a header has numbered columns.
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _as_list(joins: Any) -> Any:
    # One join is a table of its own, `[events.join]`, several are a list of tables.
    return (joins,) if isinstance(joins, Mapping) else joins


_Column = Annotated[str, BeforeValidator(_as_name)]
_Columns = tuple[Annotated[str, Field(min_length=1), BeforeValidator(_as_name)], ...]
_Sign = Annotated[str, Field(max_length=1)]


class Files(Settings):
    """Files of one table, and how they are written."""

    path: str | tuple[str, ...] | None = None
    """Files or folders; the suffix tells the format; `*`, `?` and `**` match several files."""
    format: Format | None = None
    """What the files are, where their suffix does not tell."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """The separator between columns of a CSV file; a TSV file has tabs."""
    quote: _Sign = '"'
    """The quotation mark of a CSV file; empty where none means anything."""
    escape: _Sign = ""
    """What stands before a sign of a CSV file that means itself; often nothing."""
    line_breaks: bool = False
    """True if cells of a CSV file hold line breaks that look like rows of the file."""
    header: bool = True
    """False if the first row is data; its columns are 1, 2, ... then."""
    skip_rows: int = Field(default=0, ge=0)
    """Lines of a CSV file, or rows of a sheet, before the header."""
    encoding: str | None = None
    """Of a file of text, e.g. `cp1252` or `gb18030`; detected, and said, if unset."""
    sheet: str | None = None
    """The sheet of a spreadsheet; the first one if unset."""
    explode: str | None = None
    """A column of lists (Parquet, JSON); each element is a row, e.g. the items of an order."""
    fill_down: tuple[_Column, ...] = ()
    """Columns whose empty cells mean the last filled one above, as in a sheet with merged cells."""
    from_path: str | None = None
    """A pattern with named groups, which are columns: what the path of each file says about all of
    its rows, e.g. the shop or the day. It is found anywhere in the path; `/` parts its folders."""

    @field_validator("from_path")
    @classmethod
    def _names_columns(cls, pattern: str | None) -> str | None:
        try:
            named = pattern is None or re.compile(pattern).groupindex
        except re.error:
            named = None
        if not named:
            raise ValueError("no pattern with a named group, such as (?P<shop_id>[^/]+)")
        return pattern

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        try:
            return None if name is None else codecs.lookup(name).name
        except LookupError:
            raise ValueError("unknown encoding; write it like utf-8 or cp1252") from None

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of `path`."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    def format_of(self, path: str) -> Format | None:
        """The format of a file; None if neither the settings nor its suffix tell it."""
        return self.format or _FORMATS.get(format_of(path))


class Join(Files):
    """Another table whose columns stand beside those of the first, such as the heads of orders."""

    on: _Column | dict[str, _Column]
    """The column that both have, or the first table's -> this one's."""

    @property
    def keys(self) -> dict[str, str]:
        """The first table's columns -> this one's."""
        return {self.on: self.on} if isinstance(self.on, str) else dict(self.on)

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.paths or not self.keys:
            raise ConfigError("a join needs path and on", hint='e.g. on = "order_id"')
        return self


class Source(Files):
    """One table: files or a query, and the names of its columns."""

    TABLE: ClassVar[str] = "table"
    CANONICAL: ClassVar[tuple[str, ...]] = ("user_id", "item_id", "timestamp")
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    OMISSIBLE: ClassVar[tuple[str, ...]] = ()
    """Required columns that the mapping may leave out by an empty name."""

    sql: str | None = None
    url_env: str | None = None
    """Name of the environment variable that holds the SQLAlchemy URL."""
    join: Annotated[tuple[Join, ...], BeforeValidator(_as_list)] = ()
    """Further files, whose rows are found by a key that is unique in them."""
    columns: dict[str, _Column | _Columns] = Field(default_factory=dict)
    """Canonical name -> name in the source, several names to be joined, or "" for none.

    A column that is not mapped is looked up under its canonical name.
    """
    defaults: dict[str, str | float] = Field(default_factory=dict)
    """The values of optional columns that are absent, and of their empty cells."""
    missing: tuple[str, ...] = MISSING
    """Cells that mean the same as an empty one."""
    decimal: Literal["", ".", ","] = ""
    """The decimal mark of numbers in text; a point if unset, and where cells are ambiguous, an
    error."""
    thousands: Literal["", ",", ".", " ", "'"] = ""
    """What groups thousands of numbers in text."""
    where: str | None = None
    """A condition in SQL over the columns; rows for which it does not hold are left out."""
    tolerances: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Reason -> the largest share of rows that may be rejected for it, apart from the others."""

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
        if any(isinstance(one, str) and "://" in one for one in (path, *_listed(path))):
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
        if self.sql is not None and self.join:
            raise ConfigError(f"[{self.TABLE}] has sql and join", hint="write JOIN in the query")
        for path in self.paths:
            # A folder has no suffix of its own; what is in it is known when it is read.
            if Path(path).suffix and self.format_of(path) is None:
                raise ConfigError(
                    f"{self.TABLE}.path={path!r} is of an unknown file type",
                    hint=f"known suffixes: {', '.join(SUFFIXES)}; or say what it is, "
                    'e.g. format = "csv"',
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
            if (name == "quantity" and float(value) <= 0) or (
                name in ("price", "amount") and float(value) < 0
            ):
                raise ConfigError(f"{label} is out of range")
        return self

    @model_validator(mode="after")
    def _two_marks(self) -> Self:
        if self.decimal and self.decimal == self.thousands:
            raise ConfigError(f"{self.TABLE}: decimal and thousands are the same sign")
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
        if not self.paths:
            return f"the {self.TABLE} query"
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return Path(self.paths[0]).name + more


class TimedSource(Source):
    """A source with times in it."""

    timestamp_format: str | tuple[str, ...] | None = None
    """A strftime format, `epoch` (seconds), `epoch_ms`, `epoch_us` or `excel`, or several, the
    first that reads a cell; ISO 8601 if unset."""
    time_zone: str | None = None
    """The shop's time zone, e.g. `Europe/Berlin`; needed when timestamps carry an offset."""
    source_time_zone: str | None = None
    """The zone of timestamps without an offset, where it is not the shop's: `UTC`, for one."""
    not_before: date = date(1990, 1, 1)
    """Earlier times are rejected: they are placeholders, or were read in a wrong format."""

    @field_validator("time_zone", "source_time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError):
                raise ValueError("unknown time zone; write it like Europe/Berlin") from None
        return name

    @model_validator(mode="after")
    def _shop_zone(self) -> Self:
        if self.source_time_zone is not None and self.time_zone is None:
            raise ConfigError(
                f"[{self.TABLE}] has source_time_zone and no time_zone",
                hint='write the shop\'s own too, e.g. time_zone = "Europe/Berlin"',
            )
        return self

    @property
    def timestamp_formats(self) -> tuple[str, ...]:
        """The formats that are set, in their order."""
        if self.timestamp_format is None:
            return ()
        if isinstance(self.timestamp_format, str):
            return (self.timestamp_format,)
        return self.timestamp_format


class PersonalSource(TimedSource):
    """A table of customers."""

    guests: Literal["refuse", "leave-out", "single-visit"] = "refuse"
    """Rows without a customer, or of a customer that stands for whoever has none: rejects like any
    others, left out however many they are, or each basket a customer of its own."""
    guest_ids: tuple[str, ...] = GUESTS
    """Customer ids that stand for whoever has none."""


def _listed(path: Any) -> list[Any]:
    return list(path) if isinstance(path, list | tuple) else []


__all__ = [
    "GUESTS",
    "MISSING",
    "SUFFIXES",
    "Files",
    "Format",
    "Join",
    "PersonalSource",
    "Source",
    "TimedSource",
    "parse_settings",
]
