"""A store prepares its own histories: from `store.toml`, a model's vocabulary and settings.

What is public comes from the federation: the classes that the model ranks, the text encoder,
since when records count. Everything else comes from the store's own data, and stays.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse_client.features.histories import Histories, prepare, unranked
from hanse_common.config import RunSettings, read_json
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError
from hanse_common.paths import CONFIG_FILE, PREPARED_FILE

if TYPE_CHECKING:
    from hanse_client.ingest.store_config import StoreConfig

_RECORDS = timedelta(days=365)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What prepared histories depend on beside the data, and what the door counted.

    Args:
        vocabulary: Digest of the model's `config.json`.
        encoder: The text encoder.
        observed_from: First day that absence means something of, ISO 8601.
        customers: With any visit.
        rows: Read from the source.
        rejected: Of them.
        unranked: Events with items of classes that the model does not rank: their visits count,
            their classes do not.
    """

    vocabulary: str
    encoder: str
    observed_from: str
    customers: int
    rows: int
    rejected: int
    unranked: int

    def fits(self, model: Path, store: StoreConfig, settings: RunSettings) -> bool:
        """Whether histories prepared so are those that this model and these settings need."""
        return (self.vocabulary, self.encoder, self.observed_from) == (
            _vocabulary(model),
            settings.model.encoder,
            observed_from(store, settings).isoformat(),
        )

    @classmethod
    def load(cls, histories: Path) -> Preparation | None:
        """Read what was noted when a histories file was prepared; None if it was not here."""
        path = _note(histories)
        if not (path.exists() and histories.exists()):
            return None
        try:
            return cls(**read_json(path))
        except TypeError:
            return None


def prepare_store(
    store: StoreConfig, settings: RunSettings, *, model: Path, target: Path, cache: Path
) -> Preparation:
    """Read a store's data through its door and prepare its histories.

    Args:
        store: Where the data are.
        settings: The run's, for the text encoder and the split in time.
        model: Folder of the frozen start, for the vocabulary.
        target: The file to write; what was there is replaced as a whole.
        cache: Folder for text vectors, kept for the next time.

    Raises:
        ConfigError: The model and the encoder do not fit, or the store does not say since
            when it has records.
        DataError: The data cannot be used; see `ingest`.
    """
    import numpy as np

    from hanse_client.ingest.pipeline import ingest
    from hanse_client.model.item_texts import encode_texts

    vocabulary = read_json(model / CONFIG_FILE)
    begun = observed_from(store, settings)
    data = ingest(store)
    texts = sorted(data.catalogue["text"].unique())
    vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache)
    if vectors.shape[1] != vocabulary.get("vector_size"):
        raise ConfigError(
            f"encoder {settings.model.encoder!r} makes vectors of {vectors.shape[1]}, the model "
            f"reads {vocabulary.get('vector_size')}",
            hint="model and settings are not of one run; ask the coordinator for both",
        )
    histories = prepare(
        data,
        classes=vocabulary["classes"],
        level=vocabulary["level"],
        text_vectors=dict(zip(texts, vectors, strict=True)),
        observed_from=begun,
    )
    _save(histories, target)
    done = Preparation(
        vocabulary=_vocabulary(model),
        encoder=settings.model.encoder,
        observed_from=begun.isoformat(),
        customers=int(np.size(histories.active())),
        rows=data.rows_read,
        rejected=sum(data.rejects.values()),
        unranked=unranked(data, vocabulary["classes"], vocabulary["level"]),
    )
    write_durably(_note(target), json.dumps(asdict(done), indent=2) + "\n", mode=0o600)
    return done


def observed_from(store: StoreConfig, settings: RunSettings) -> datetime:
    """First day of a store's records, as it says, or by a rule that looks at no customer.

    Raises:
        ConfigError: Neither the store nor the settings' split in time says.
    """
    if store.observed_from is not None:
        return datetime.combine(store.observed_from, time.min)
    split = settings.data.split
    if split is None:
        raise ConfigError(
            f"store {store.name!r} does not say since when it has records",
            hint="set observed_from in its store.toml",
        )
    return split.train_until - _RECORDS


def _save(histories: Histories, target: Path) -> None:
    """Replace the file as a whole, for its owner's eyes only."""
    _note(target).unlink(missing_ok=True)  # it speaks of what is about to go
    before = os.umask(0o077)
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
    words = [table.get("classes"), table.get("level"), table.get("vector_size")]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()
