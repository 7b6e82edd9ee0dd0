"""Preparation of a store's histories from `store.toml`, the model's vocabulary and run settings.

The public inputs come from the federation: the classes that the model ranks, the text encoder,
and the first day of the records. All other inputs are the store's own data and stay there.

A store's data change between rounds: new weeks arrive, and customers are erased. The record of a
preparation holds fingerprints of everything that it was made from; the node compares them before
every round, and computes on no histories that are out of date.
"""

from __future__ import annotations

import hashlib
import json
import os
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse_client.features.histories import Histories, prepare, unranked
from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, DataError
from hanse_common.manifest_terms import settings_digest
from hanse_common.paths import CONFIG_FILE, PREPARED_FILE, STORE_FILE
from hanse_common.settings_files import read_json

if TYPE_CHECKING:
    from hanse_client.ingest.store_config import StoreConfig
    from hanse_client.node import Node

_RECORDS = timedelta(days=365)  # a public constant: the first event would be a customer's own
QUERY_SECONDS = 86_400.0
"""Age at which a query is repeated, in seconds. A database does not report that its rows changed,
and reading them all before every round would take minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """The inputs of a prepared histories file, and the counts of ingestion.

    Args:
        sources: Fingerprint of `store.toml` and of the source files; see `source_fingerprint`.
        keys: Fingerprint of the keys that pseudonyms and homes are computed with.
        settings: Digest of the run's settings, with the split in time.
        read: Unix seconds when the sources were read.
        vocabulary: Digest of the vocabulary in the model's `config.json`.
        encoder: The text encoder.
        observed_from: First day of the store's records, ISO 8601.
        customers: Number of customers with a visit.
        rows: Number of rows read from the source.
        rejected: Number of rows rejected.
        unranked: Number of events with items of classes that the model does not rank; their
            visits count, their classes do not.
    """

    sources: str
    keys: str
    settings: str
    read: float
    vocabulary: str
    encoder: str
    observed_from: str
    customers: int
    rows: int
    rejected: int
    unranked: int

    def outdated(
        self,
        model: Path,
        store: StoreConfig,
        settings: RunSettings,
        *,
        query_seconds: float = QUERY_SECONDS,
        now: float | None = None,
    ) -> str:
        """Say in what the prepared histories differ from what would be prepared now.

        Args:
            model: Folder of the initial model.
            store: The store's sources.
            settings: The run's.
            query_seconds: Age from which data of a query are out of date.
            now: Unix seconds; the system clock's if unset.

        Returns:
            What has changed, in words without data; empty if the histories can be used.

        Raises:
            ConfigError: Model or settings lack something that preparation needs.
            DataError: A source file cannot be read.
        """
        from hanse_client.ingest.fingerprint import (
            key_fingerprint,
            queries_database,
            source_fingerprint,
        )

        now = clock.time() if now is None else now
        if self.vocabulary != _vocabulary(model):
            return "prepared for another model"
        if self.sources != source_fingerprint(store):
            return "the data have changed since they were prepared"
        if self.keys != key_fingerprint(store):
            return "prepared with another customer key or home key"
        if (self.settings, self.encoder, self.observed_from) != (
            settings_digest(settings).hex(),
            settings.model.encoder,
            observed_from(store, settings).isoformat(),
        ):
            return "prepared for other settings"
        # A clock that was set back must not make old rows look new.
        if queries_database(store) and not 0 <= now - self.read < query_seconds:
            return "the query of the data was made too long ago"
        return ""

    @classmethod
    def load(cls, histories: Path) -> Preparation | None:
        """Read the record of a histories file; None if either of the two files is missing."""
        path = _note(histories)
        if not (path.exists() and histories.exists()):
            return None
        try:
            return cls(**read_json(path))
        except TypeError:  # fields of another version: the store prepares again
            return None


def check_prepared(node: Node, settings: RunSettings) -> None:
    """Refuse to compute on histories that are not those of the store's data of today.

    Raises:
        DataError: They are missing, or out of date; says in what.
        ConfigError: `store.toml` or the model cannot be read.

    Guarantees:
        A customer whose rows were deleted from the source files is in no batch that is drawn
        later.

    Edge cases:
        The stores of a simulation have no `store.toml` in their folders: their data were prepared
        from one public data set, and do not change.
    """
    from hanse_client.ingest.store_config import load_store

    if not (node.folder / STORE_FILE).exists():
        return
    store = load_store(node.folder / STORE_FILE)
    done = Preparation.load(node.settings.histories)
    reason = (
        "the store's data are not prepared"
        if done is None
        else done.outdated(node.settings.base_model, store, settings)
    )
    if reason:
        raise DataError(reason, hint="`hanse store data prepare`; `hanse store join` does it too")


def prepare_store(
    store: StoreConfig,
    settings: RunSettings,
    *,
    model: Path,
    target: Path,
    cache: Path,
    report: Callable[[str], None] = lambda _: None,
) -> Preparation:
    """Ingest a store's data and write its histories.

    Args:
        store: The store's sources.
        settings: The run's, for the text encoder and the split in time.
        model: Folder of the initial model, for the vocabulary.
        target: The file to write; an old one is replaced atomically.
        cache: Folder in which text vectors are cached.
        report: Called with a line before each step that may take minutes; it names no customer
            and no count of them.

    Raises:
        ConfigError: The model and the encoder do not match, or the first day of the records
            is unknown.
        DataError: The data cannot be used; see `ingest`.
        DataError [other-catalogue]: The catalogue's own vectors are not those of the model.
    """
    import numpy as np

    from hanse_client.features.own_vectors import own_vectors
    from hanse_client.ingest.fingerprint import key_fingerprint, source_fingerprint
    from hanse_client.ingest.pipeline import ingest
    from hanse_client.model.item_texts import encode_texts

    vocabulary = read_json(model / CONFIG_FILE)
    begun = observed_from(store, settings)
    # Before the data are read: a change in the meantime then makes them out of date at once.
    report("reading the store's data")
    sources, read = source_fingerprint(store), clock.time()
    data = ingest(store)
    texts = sorted(data.catalogue["text"].unique())
    report(f"encoding the catalogue's {len(texts)} texts, those that are not in the cache")
    vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache)
    own_size = vocabulary.get("own_vector_size", 0)
    text_size = vocabulary.get("vector_size", 0) - own_size
    if vectors.shape[1] != text_size:
        raise ConfigError(
            f"encoder {settings.model.encoder!r} makes vectors of {vectors.shape[1]}, the model "
            f"reads {text_size}",
            hint="model and settings belong to different runs; ask the coordinator for both",
        )
    report("arranging the events by customer")
    histories = prepare(
        data,
        classes=vocabulary["classes"],
        level=vocabulary["level"],
        text_vectors=dict(zip(texts, vectors, strict=True)),
        # A model of categories reads the vectors of classes, which it brings along.
        own=own_vectors(data.catalogue, own_size, required=vocabulary.get("kind") != "categories"),
        observed_from=begun,
    )
    _save(histories, target)
    done = Preparation(
        sources=sources,
        keys=key_fingerprint(store),  # afterwards: ingestion creates a missing key
        settings=settings_digest(settings).hex(),
        read=read,
        vocabulary=_vocabulary(model),
        encoder=settings.model.encoder,
        observed_from=begun.isoformat(),
        customers=int(np.size(histories.active())),
        rows=data.rows_read,
        rejected=sum(data.rejects.values()),
        unranked=unranked(data, vocabulary["classes"], vocabulary["level"]),
    )
    # Written after the histories: a record that exists always describes a complete file.
    write_durably(_note(target), json.dumps(asdict(done), indent=2) + "\n", mode=0o600)
    return done


def observed_from(store: StoreConfig, settings: RunSettings) -> datetime:
    """First day of a store's records: its own setting, or a year before training ends.

    Guarantees:
        The day depends on no customer.

    Raises:
        ConfigError: Neither the store's `observed_from` nor the run's split is set.
    """
    if store.observed_from is not None:
        return datetime.combine(store.observed_from, time.min)
    split = settings.data.split
    if split is None:
        raise ConfigError(
            f"the first day of the records of store {store.name!r} is unknown",
            hint="set observed_from in its store.toml",
        )
    return split.train_until - _RECORDS


def _save(histories: Histories, target: Path) -> None:
    """Replace the file atomically; only its owner can read it."""
    # First, so that a crash in between leaves no record that describes other histories.
    _note(target).unlink(missing_ok=True)
    before = os.umask(0o077)  # histories are personal data
    try:
        histories.save(target)
    finally:
        os.umask(before)


def _note(histories: Path) -> Path:
    return histories.with_name(PREPARED_FILE)


def _vocabulary(model: Path) -> str:
    try:
        table: dict[str, Any] = read_json(model / CONFIG_FILE)
    except ConfigError as error:
        raise ConfigError(error.message, hint="`hanse store enrol --model DIR` first") from None
    names = ("classes", "level", "vector_size", "own_vector_size", "kind")
    words = [table.get(name) for name in names]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()
