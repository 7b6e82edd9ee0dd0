"""Loading of a trained model and of a store's histories, with a check that they fit together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hanse_client.features.histories import Histories, item_class, prepare
from hanse_client.features.own_vectors import own_vectors
from hanse_client.features.prepare import observed_from
from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store
from hanse_client.model.item_texts import Vectors, encode_texts
from hanse_client.model.pretrained import MODEL_ERRORS
from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_common.config import RunSettings
from hanse_common.decoding import decoding, json_object
from hanse_common.errors import ConfigError, DataError, RunDirectoryError
from hanse_common.paths import (
    CONFIG_FILE,
    MODEL_FOLDER,
    NODE_FILE,
    SETTINGS_FILE,
    STORE_FILE,
    TEXTS_FOLDER,
    WEIGHTS_FILE,
)
from hanse_common.run_file import read_run_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained model in evaluation mode."""

    folder: Path
    model: InterestModel
    digest: str
    """SHA-256 of its weights file."""

    @property
    def config(self) -> InterestConfig:
        """The model's shape and vocabulary."""
        return self.model.config


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStore:
    """A store's histories in a model's vocabulary."""

    name: str
    histories: Histories
    categories: Mapping[str, str] = field(default_factory=dict)
    """Category path by item, where the store's catalogue was read."""


def _model_folder(path: Path) -> Path:
    """The folder of a model, given this folder or its run's.

    Raises:
        RunDirectoryError [model-not-found]: There is none.
    """
    for folder in (path, path / MODEL_FOLDER):
        if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
            return folder
    what = "holds no model" if path.is_dir() else "does not exist"
    raise RunDirectoryError(
        f"{path} {what}",
        code="model-not-found",
        hint=f"give a run's folder, or one with {CONFIG_FILE} and {WEIGHTS_FILE}",
    )


def open_model(path: Path) -> Trained:
    """Load a model for inference.

    Args:
        path: The model's folder, or its run's.

    Raises:
        RunDirectoryError [model-not-found]: There is no model, it is another kind of model, or
            weights are missing.
    """
    folder = _model_folder(path)
    hint = "is it a complete copy of the run's model folder?"
    with decoding(
        f"model {folder}", RunDirectoryError, *MODEL_ERRORS, code="model-not-found", hint=hint
    ):
        config = InterestConfig.from_pretrained(folder)
        if not config.classes or config.architectures != [InterestModel.__name__]:
            raise RunDirectoryError(
                f"{folder} holds another kind of model",
                code="model-not-found",
                hint="these commands use models of the task interest",
            )
        loaded: Any = InterestModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    model, loading = loaded
    # transformers only warns about missing weights, and leaves them random.
    if loading["missing_keys"] or loading.get("mismatched_keys"):
        raise RunDirectoryError(
            f"{folder / WEIGHTS_FILE} lacks weights that {CONFIG_FILE} names",
            code="model-not-found",
            hint="copy the run's complete model folder",
        )
    model.eval().requires_grad_(False)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return Trained(folder=folder, model=model, digest=digest)


def open_task_model(path: Path, task: str) -> Any:
    """Load the model of any task, as its stores do.

    Args:
        path: The model's folder, or its run's.
        task: Name of the task.

    Raises:
        ConfigError: No installed package has a task of that name.
        RunDirectoryError [model-not-found]: There is no model, or one of another task.
    """
    if task == "interest":
        return open_model(path).model
    folder = _model_folder(path)
    hint = f"is it a model that `hanse model init` made for the task {task!r}?"
    with decoding(
        f"model {folder}", RunDirectoryError, *MODEL_ERRORS, code="model-not-found", hint=hint
    ):
        return task_of(task).load_model(folder).eval()


def open_store(path: Path, trained: Trained, settings: RunSettings | None = None) -> OpenStore:
    """Load a store's histories in the model's vocabulary.

    Args:
        path: A node's folder with prepared histories; or a `store.toml`, whose data are ingested
            and prepared in memory.
        trained: The model.
        settings: The settings of the model's run: the encoder of item texts, and the first day of
            the records where the store does not set it. Needed for a `store.toml` only.

    Raises:
        DataError [other-catalogue]: The model ranks classes of another catalogue.
        ConfigError: There is no such store, settings are missing for a `store.toml`, or their
            encoder is not the model's.
        DataError: The store's data cannot be used.
    """
    if path.is_dir() and (path / NODE_FILE).exists():
        return _open_node(path, trained)
    if path.is_dir() and (path / STORE_FILE).exists():
        path = path / STORE_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} is no store", hint=f"give a node's folder ({NODE_FILE}) or a {STORE_FILE}"
        )
    return _open_toml(path, trained, settings)


def _open_node(path: Path, trained: Trained) -> OpenStore:
    node = Node(path)
    base = node.settings.base_model
    with decoding(
        f"the node's base model {base}", ConfigError, *MODEL_ERRORS, hint="prepare the store again"
    ):
        own = InterestConfig.from_pretrained(base)
    wanted = trained.config
    # Histories hold class indices: with another vocabulary they would silently mean others.
    if (own.classes, own.level, own.vector_size, own.own_vector_size) != (
        wanted.classes,
        wanted.level,
        wanted.vector_size,
        wanted.own_vector_size,
    ):
        raise DataError(
            f"store {node.name!r} is prepared for {len(own.classes)} classes at level "
            f"{own.level!r}, the model ranks {len(wanted.classes)} others at level "
            f"{wanted.level!r}",
            code="other-catalogue",
            hint=f"give the store's {STORE_FILE}: its data are then prepared for this model",
        )
    if wanted.kind != "categories" and own.kind == "categories":
        raise DataError(
            f"store {node.name!r} is prepared for a model of categories, and visits have no "
            "vectors, which this model reads",
            code="other-catalogue",
            hint=f"give the store's {STORE_FILE}: its data are then prepared for this model",
        )
    return OpenStore(name=node.name, histories=node.histories)


def _open_toml(path: Path, trained: Trained, settings: RunSettings | None) -> OpenStore:
    store, config = load_store(path), trained.config
    data = ingest(store)
    rows = list(zip(data.catalogue["item_id"], data.catalogue["category"], strict=True))
    listed = {item_class(category, item, config.level) for item, category in rows}
    if not listed & set(config.classes):
        raise DataError(
            f"none of the {len(config.classes)} classes that the model ranks is in the catalogue "
            f"of store {store.name!r}",
            code="other-catalogue",
            hint="is it the model of this federation, and does [catalogue] map category?",
        )
    reads_vectors = config.kind != "categories"
    # Only items that were bought need a vector; embedding a catalogue takes minutes.
    bought = data.catalogue.filter(data.catalogue["item_id"].is_in(data.events["item_id"].unique()))
    texts = sorted(bought["text"].unique())
    if settings is None:
        raise ConfigError(
            "the settings of the model's run, by which histories are read, are missing",
            hint="name the settings of the model's run with --settings",
        )
    encoder = settings.model.encoder
    histories = prepare(
        replace(data, catalogue=bought),
        classes=config.classes,
        level=config.level,
        text_vectors=_vectors(texts, trained, encoder, path.parent) if reads_vectors else None,
        own=own_vectors(bought, config.own_vector_size, required=trained.model.reads_texts()),
        observed_from=observed_from(store, settings),
    )
    return OpenStore(name=store.name, histories=histories, categories=dict(rows))


def _vectors(texts: list[str], trained: Trained, encoder: str, folder: Path) -> dict[str, Vectors]:
    size = trained.config.vector_size - trained.config.own_vector_size
    if not trained.model.reads_texts():
        # No answer depends on the vectors; embedding texts takes minutes.
        return dict.fromkeys(texts, np.zeros(size, dtype=np.float32))
    cache = Path(os.environ.get("HANSE_CACHE") or folder / "cache") / TEXTS_FOLDER
    vectors = encode_texts(texts, encoder=encoder, cache=cache)
    if vectors.shape[1] != size:
        raise ConfigError(
            f"encoder {encoder!r} makes vectors of {vectors.shape[1]}, the model reads {size}",
            hint="name the settings of the model's run with --settings",
        )
    return dict(zip(texts, vectors, strict=True))


def run_settings(trained: Trained, store: Path, given: Path | None) -> RunSettings | None:
    """The settings of the model's run: the given ones, those with the model, or the store's.

    Raises:
        ConfigError: The settings cannot be read.
    """
    places = (
        trained.folder.parent / SETTINGS_FILE,
        trained.folder / SETTINGS_FILE,
        store / SETTINGS_FILE,
    )
    path = given or next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    if path.suffix == ".toml":
        return read_run_file(path)
    with decoding(f"the run's settings {path}", ConfigError, hint="name others with --settings"):
        return RunSettings.parse(json_object(path.read_bytes()))
