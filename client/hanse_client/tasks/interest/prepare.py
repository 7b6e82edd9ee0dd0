"""Preparation of histories: a store's events and catalogue as visits of its customers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from hanse_client.features.histories import prepare, unranked
from hanse_client.features.own_vectors import own_vectors
from hanse_client.features.prepare import PreparedData, observed_from
from hanse_client.features.visits import COLUMNS
from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import StoreConfig
from hanse_client.model.item_texts import encode_texts
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError
from hanse_common.paths import CONFIG_FILE
from hanse_common.settings_files import read_json


def prepare_histories(
    store: StoreConfig,
    settings: RunSettings,
    *,
    model: Path,
    cache: Path,
    report: Callable[[str], None] = lambda _: None,
) -> PreparedData:
    """Ingest a store's events, and make histories over the model's vocabulary.

    Args:
        store: The store's sources.
        settings: The run's, for the text encoder and the split in time.
        model: Folder of the initial model, for the vocabulary and whether it reads vectors.
        cache: Folder in which text vectors are cached, and arrays larger than memory are kept.
        report: Called with a line before each step that may take minutes.

    Raises:
        ConfigError: The model and the encoder do not match, or the first day of the records
            is unknown.
        DataError: The data cannot be used; see `ingest`.
        DataError [other-catalogue]: The catalogue's own vectors are not those of the model.
    """
    vocabulary, begun = read_json(model / CONFIG_FILE), observed_from(store, settings)
    data = ingest(store)
    texts = own = None
    # A model of categories reads the vectors of classes, which it brings along, and none of
    # visits: they would be nine tenths of the file.
    if vocabulary.get("kind") != "categories":
        own_size = vocabulary.get("own_vector_size", 0)
        own = own_vectors(data.catalogue, own_size, required=True)
        width = vocabulary.get("vector_size", 0) - own_size
        texts = _text_vectors(data.catalogue, settings, width, cache=cache, report=report)
    report("arranging the events by customer")
    data = replace(data, rows=data.rows.select(COLUMNS))  # the other columns are given back
    classes, level = vocabulary["classes"], vocabulary["level"]
    histories = prepare(
        data,
        classes=classes,
        level=level,
        text_vectors=texts,
        own=own,
        observed_from=begun,
        folder=cache,
    )
    return PreparedData(
        data=histories,
        rows=data.rows_read,
        rejected=sum(data.rejects.values()),
        unranked=unranked(data, classes, level),
    )


def _text_vectors(
    catalogue: pl.DataFrame,
    settings: RunSettings,
    width: int,
    *,
    cache: Path,
    report: Callable[[str], None],
) -> dict[str, npt.NDArray[np.float32]]:
    """The vector of each text of a catalogue.

    Raises:
        ConfigError: The encoder's vectors have another length than the model reads.
    """
    texts = sorted(catalogue["text"].unique())
    report(f"encoding the catalogue's {len(texts)} texts, those that are not in the cache")
    vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache)
    if vectors.shape[1] != width:
        raise ConfigError(
            f"encoder {settings.model.encoder!r} makes vectors of {vectors.shape[1]}, the model "
            f"reads {width}",
            hint="model and settings belong to different runs; ask the coordinator for both",
        )
    return dict(zip(texts, vectors, strict=True))
