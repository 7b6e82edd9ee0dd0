"""Preparation of a store's reviews, with the labels of the initial model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from hanse_client.features.by_customer import homes_of
from hanse_client.features.prepare import PreparedData, named_by_model
from hanse_client.features.public_list import read_names
from hanse_client.ingest.reviews import ingest_reviews, plain_ratings
from hanse_client.ingest.store_config import StoreConfig
from hanse_client.tasks.review.features import Texts, check_labels, prepare_reviews
from hanse_client.tasks.review.model import ReviewModel
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, EmptyStore


def model_of_labels(public: Path | None, settings: RunSettings) -> ReviewModel:
    """The untrained model of a public list of labels.

    Args:
        public: A file with one label a line, in order.
        settings: The run's: encoder, trained part, seed, and whether it releases statistics.

    Raises:
        ConfigError: No file is named, or there is no such encoder.
        DataError: The list cannot be read, or has fewer than two labels.
        WrongTypes: It has more than 16.
    """
    if public is None:
        raise ConfigError(
            "the task 'review' needs the list of labels, and none is named",
            hint="`hanse model init stars.labels`, a file with one label a line, in order",
        )
    labels = read_names(public)
    check_labels(labels, public)
    return ReviewModel.fresh(
        labels,
        encoder=settings.model.encoder,
        trainable=settings.model.trainable,
        seed=settings.seed,
        statistics=bool(settings.schedule.statistics),
    )


def prepare_own_reviews(store: StoreConfig, settings: RunSettings, *, model: Path) -> PreparedData:
    """Ingest a store's reviews, and tokenize those whose label the model knows.

    Args:
        store: The store's sources.
        settings: The run's, for the encoder, the length of texts and the seed of the parts.
        model: Folder of the initial model, for the labels.

    Raises:
        ConfigError: `store.toml` has no `[reviews]`, or there is no such encoder.
        EmptyStore: No review has a label that the model knows.
        DataError: The reviews cannot be used; see `ingest_reviews`.
    """
    labels = named_by_model(model, "labels")
    table = ingest_reviews(store)
    place = {label: k for k, label in enumerate(plain_ratings(pl.Series(labels)))}
    rows = table.rows.filter(pl.col("rating").is_in(list(place)))
    if rows.is_empty():
        raise EmptyStore(
            f"no review at {store.name!r} has one of the model's labels: {', '.join(labels)}",
            hint="the ratings of the store and the list of labels must be written alike",
        )
    data = prepare_reviews(
        Texts(
            users=rows["user_id"].to_list(),
            texts=rows["text"].to_list(),
            labels=[place[label] for label in rows["rating"]],
            names=labels,
            rejected={},
            listed=True,
        ),
        encoder=settings.model.encoder,
        tokens=settings.model.max_steps,
        seed=settings.seed,
    )
    return PreparedData(
        data=replace(data, homes=homes_of(data.customers, table.homes)),
        rows=table.rows_read,
        rejected=sum(table.rejects.values()),
        unranked=table.rows.height - rows.height,
    )
