"""Prepare stores on disk for training: vocabulary, histories, base model, nodes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from platformdirs import user_cache_path

from hanse_client.features.histories import Histories, prepare
from hanse_client.features.own_vectors import own_vector_size, own_vectors
from hanse_client.features.prepare import observed_from
from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import load_store
from hanse_client.model.item_texts import encode_texts
from hanse_client.node import NodeSettings
from hanse_client.tasks.interest.fresh_model import fresh_model, listed_classes
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, DataError
from hanse_common.paths import ENROLMENT_FOLDER, NODE_FILE, STORE_FILE, TEXTS_FOLDER
from hanse_common.privacy.plan import solved
from hanse_common.trainable import Trainable
from hanse_simulations.datasets import Stores, make_stores
from hanse_simulations.datasets.attributes import FILE as ATTRIBUTES
from hanse_simulations.experiment.continuing import check_vocabulary
from hanse_simulations.runs.arm_folder import ArmFolder, store_folder_name
from hanse_simulations.runs.files import write_json

# Raise it when the same stores and settings give other prepared files.
_FORMAT = 9

ONE_PLACE = "all"
"""Name of the one store of an arm that has all customers in one place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Stores that are prepared for training."""

    names: tuple[str, ...]
    histories: tuple[Path, ...]
    base_model: Path
    rejects: int
    """Rows that the stores' ingestion rejected."""

    def load(self) -> list[Histories]:
        """Read all histories, in the order of `names`."""
        return [Histories.load(path) for path in self.histories]

    def centralized(self, histories: Sequence[Histories], path: Path) -> Prepared:
        """Put the customers of all stores into one store.

        Args:
            histories: Histories of all stores, in the order of `names`.
            path: Where the pooled histories are written, unless they exist already.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Histories.pooled(list(histories)).save(path)
        return replace(self, names=(ONE_PLACE,), histories=(path,))


def cache_folder() -> Path:
    """Folder of prepared stores and text vectors: `$HANSE_CACHE`, or the user's cache."""
    return Path(os.environ.get("HANSE_CACHE") or user_cache_path("hanse"))


def prepare_run(folder: Path, settings: RunSettings) -> tuple[Stores, RunSettings, Prepared]:
    """Make the stores, fix the split and the noise in the settings, prepare the histories.

    Args:
        folder: The run's folder, where a shop's own data are prepared; others go to the cache.
        settings: The run's settings.

    Raises:
        ConfigError: The settings' split ends after the data.
        DataError: A store's data cannot be used.
        DataError [other-catalogue]: An earlier run's model ranks other classes.
        PrivacyError: No noise keeps the promise.
    """
    own = settings.data.source == "stores"
    # A shop's own data must leave no copy in the cache.
    cache = folder if own else cache_folder()
    stores = make_stores(settings.data, seed=settings.seed, cache=cache)
    split = settings.data.split or stores.split
    if not own and split.test_until > stores.split.test_until:
        raise ConfigError(
            f"data.split.test_until={split.test_until} is later than the data of "
            f"{settings.data.source!r} go: {stores.split.test_until}",
            hint="end the test earlier, or move on by fewer weeks",
        )
    settings = settings.with_changes({"data.split": split.model_dump()})
    settings = solved(settings)
    prepared = prepare_stores(stores.folders, settings, cache)
    if settings.continues is not None:
        check_vocabulary(ArmFolder(settings.continues), prepared.base_model)
    return stores, settings, prepared


def prepare_stores(folders: Sequence[Path], settings: RunSettings, cache: Path) -> Prepared:
    """Ingest every store with the production code and prepare its histories.

    Guarantees:
        The base model depends on the stores' catalogues and the settings alone, and a
        customer's history on these and their own events: no customer changes what is public,
        nor what is prepared of another.

    Args:
        folders: One folder per store, each with a `store.toml`.
        settings: The run's settings, for model shape, level and encoder.
        cache: Folder for prepared histories and text vectors, which later runs reuse.

    Raises:
        DataError: A store's data cannot be used; the error names the store.
    """
    marker = _digest(folders, settings)
    target = cache / "prepared" / marker
    index = target / "index.json"
    if not index.exists():
        _prepare(folders, settings, cache, target)
    table = json.loads(index.read_text(encoding="utf-8"))
    return Prepared(
        names=tuple(table["names"]),
        histories=tuple(target / f"{i:04d}.npz" for i in range(len(table["names"]))),
        base_model=target / "base",
        rejects=table["rejects"],
    )


def make_nodes(prepared: Prepared, arm: ArmFolder, settings: RunSettings, *, salt: str) -> Path:
    """Make one node per store in an arm's folder; existing nodes keep their ledgers.

    Args:
        prepared: The stores.
        arm: The arm's folder.
        settings: The arm's settings, for the seed.
        salt: Text that makes the randomness of this arm independent of other arms'.

    Returns:
        The federation's folder.
    """
    for name, histories in zip(prepared.names, prepared.histories, strict=True):
        folder = arm.stores_dir / store_folder_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NODE_FILE).exists():
            seed = hashlib.sha256(f"{settings.seed}/{salt}/{name}".encode()).digest()
            node = NodeSettings(
                name=name,
                histories=histories.absolute(),
                base_model=prepared.base_model.absolute(),
                enrolment=(folder / ENROLMENT_FOLDER).absolute() if settings.secure else None,
                seed=int.from_bytes(seed[:7], "big"),
            )
            write_json(folder / NODE_FILE, node.model_dump(mode="json"))
    return arm.stores_dir


def _digest(folders: Sequence[Path], settings: RunSettings) -> str:
    """Digest of everything that the prepared files depend on."""
    data = settings.data
    facts: list[object] = [
        _FORMAT,
        settings.seed,
        data.level,
        data.min_items,
        data.split and data.split.train_until.isoformat(),
        settings.model.model_dump_json(exclude={"trainable"}),
        Trainable.parse(settings.model.trainable).adaptation,
    ]
    checkpoint = settings.model.checkpoint
    started = [Path(checkpoint)] if checkpoint and Path(checkpoint).is_dir() else []
    for folder in [*folders, *started]:
        stamps = sorted(
            (path.name, path.stat().st_mtime_ns, path.stat().st_size)
            for path in folder.iterdir()
            # Customers' bands are read for the report only, never in preparation.
            if path.is_file() and path.name != ATTRIBUTES
        )
        facts += [str(folder.absolute()), stamps]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:20]


def _prepare(folders: Sequence[Path], settings: RunSettings, cache: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    stores: list[tuple[str, Ingested]] = []
    begun: list[datetime] = []
    for folder in folders:
        store = load_store(folder / STORE_FILE)
        try:
            stores.append((store.name, ingest(store)))
            begun.append(observed_from(store, settings))
        except DataError as error:
            raise type(error)(f"store {store.name!r}: {error.message}", hint=error.hint) from error
    # Where catalogues contradict each other the first store's counts, in the order of names.
    catalogue = pl.concat([data.catalogue for _, data in stores]).unique(
        "item_id", keep="first", maintain_order=True
    )
    listed = listed_classes(catalogue, settings)
    classes = sorted(listed)
    texts = sorted(catalogue["text"].unique())
    by_text = None
    # A model of categories reads no vectors of visits.
    reads_vectors = settings.model.kind != "categories"
    if reads_vectors:
        vectors = encode_texts(texts, encoder=settings.model.encoder, cache=cache / TEXTS_FOLDER)
        by_text = dict(zip(texts, vectors, strict=True))
    own_size = own_vector_size(catalogue) if reads_vectors else 0
    for number, (_, data) in enumerate(stores):
        histories = prepare(
            data,
            classes=classes,
            level=settings.data.level,
            text_vectors=by_text,
            own=own_vectors(data.catalogue, own_size, required=reads_vectors),
            observed_from=begun[number],
            folder=target,
        )
        histories.save(target / f"{number:04d}.npz")
    model = fresh_model(catalogue, listed, settings, cache=cache / TEXTS_FOLDER)
    model.save_pretrained(target / "base")
    names = [name for name, _ in stores]
    rejects = sum(sum(data.rejects.values()) for _, data in stores)
    # Written last: its presence says that all other files are complete.
    write_json(target / "index.json", {"names": names, "rejects": rejects})


def customers_of(histories: Sequence[Histories]) -> int:
    """Number of customers with at least one visit, over all given stores."""
    return int(np.sum([len(store.active()) for store in histories]))
