"""Preparation of sequences: a store's purchases in order, by the public list of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from hanse_client.features.by_customer import homes_of
from hanse_client.features.prepare import PreparedData, named_by_model
from hanse_client.features.ragged import offsets_of
from hanse_client.ingest.pipeline import ingest, public_catalogue
from hanse_client.ingest.store_config import StoreConfig
from hanse_client.model.config import SequenceConfig
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import public_vectors
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.task import NextItemModel, next_item
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_common.config import RunSettings
from hanse_common.errors import EmptyStore

_COLUMNS = ("user_id", "item_id", "timestamp", "basket_id")


def model_of_items(public: Path | None, settings: RunSettings, *, cache: Path) -> NextItemModel:
    """The untrained model of the items of a public catalogue.

    Args:
        public: The catalogue; see `public_catalogue`.
        settings: The run's. With phases of statistics the model starts from the items' texts,
            without them it trains an item table.
        cache: Folder in which text vectors are cached.

    Raises:
        ConfigError: No file is named, or there is no such encoder.
        DataError: The catalogue cannot be used.
    """
    catalogue = public_catalogue(public)  # sorted by id, which numbers the items
    ids, own = catalogue["item_id"].to_list(), next_item(settings)
    if settings.schedule.statistics:
        texts = catalogue["text"].to_list()
        return TextItemModel.fresh(
            public_vectors(texts, encoder=settings.model.encoder, cache=cache),
            max_steps=settings.model.max_steps,
            partners=own.partners,
            item_ids=ids,
        )
    shape = SequenceConfig(
        items=len(ids),
        item_ids=ids,
        n_layer=settings.model.n_layer,
        n_head=settings.model.n_head,
        n_embd=settings.model.n_embd,
        max_steps=settings.model.max_steps,
        dropout=own.dropout,
        item_dropout=own.item_dropout,
        score_temperature=own.temperature,
    )
    return SequenceModel.fresh(shape, seed=settings.seed)


def prepare_sequences(store: StoreConfig, *, model: Path) -> PreparedData:
    """Ingest a store's events, and order each customer's purchases of listed items.

    Purchases at one time are in the order of their baskets and item ids, so that the order of the
    source's rows does not matter.

    Args:
        store: The store's sources.
        model: Folder of the initial model, for the list of items.

    Raises:
        ConfigError: `store.toml` has no `[events]`.
        EmptyStore: No customer has bought a listed item.
        DataError: The data cannot be used; see `ingest`.
    """
    ids = named_by_model(model, "item_ids")
    data = ingest(store)
    bought = (
        data.events.lazy().filter(pl.col("event_type") == "purchase").select(_COLUMNS).collect()
    )
    numbers = np.arange(len(ids), dtype=np.int32)
    listed = pl.DataFrame({"item_id": pl.Series(ids, dtype=pl.String), "number": numbers})
    known = bought.join(listed, on="item_id", how="inner")
    if known.is_empty():
        raise EmptyStore(
            f"no purchase at {store.name!r} is of an item on the model's list",
            hint="the catalogue of the model and the store must name items alike",
        )
    ordered = known.sort("user_id", "timestamp", "basket_id", "item_id")
    sizes = ordered.group_by("user_id", maintain_order=True).len()
    customers = sizes["user_id"].to_numpy().astype(np.str_)
    return PreparedData(
        data=Sequences(
            customers=customers,
            homes=homes_of(customers, data.homes),
            offsets=offsets_of(sizes["len"].to_numpy()),
            taken=ordered["number"].to_numpy(),
            items=len(ids),
        ),
        rows=data.rows_read,
        rejected=sum(data.rejects.values()),
        unranked=bought.height - known.height,
    )
