"""Attributes of a store's customers in coarse bands, such as age, in `customers.parquet`.

The file is next to a `store.toml`: `user_id` as in the events, and one column of text per
attribute. Training never reads it, and nothing of it leaves a store. An analyst who simulates has
the stores' folders, and reads it to compare how well a model serves each group.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from hanse_client.ingest.pseudonyms import load_key, pseudonymise
from hanse_client.ingest.store_config import load_store
from hanse_common.durable import write_durably
from hanse_common.errors import DataError
from hanse_common.paths import EVENTS_FILE, STORE_FILE

FILE = "customers.parquet"


def write_attributes(folders: Iterable[Path], attributes: pl.DataFrame) -> None:
    """Write each store the rows of its own customers, unless it has the file already.

    Args:
        folders: The stores' folders, with `events.parquet`.
        attributes: `user_id`, and one column per attribute.
    """
    for folder in folders:
        path = folder / FILE
        if path.exists():
            continue
        customers = pl.read_parquet(folder / EVENTS_FILE, columns=["user_id"]).unique()
        customers = customers.cast(pl.String)
        own = attributes.join(customers, on="user_id", how="semi").sort("user_id")
        content = io.BytesIO()
        own.write_parquet(content)
        write_durably(path, content.getvalue(), mode=0o600)


def read_attributes(folder: Path) -> dict[str, dict[str, str]]:
    """Read a store's bands: column -> pseudonym -> band; empty where there is no file.

    Raises:
        DataError: The file cannot be read, or has no `user_id`.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        table = pl.read_parquet(path)
        key = load_key(load_store(folder / STORE_FILE).pseudonym_key)
        ids = pseudonymise(table["user_id"].cast(pl.String), key)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="it needs user_id and columns of text"
        ) from error
    return {
        column: dict(
            zip(ids.filter(known), table[column].filter(known).cast(pl.String), strict=True)
        )
        for column in table.columns
        if column != "user_id"
        for known in [table[column].is_not_null()]
    }
