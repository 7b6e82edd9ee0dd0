"""The untrained interest model, made from run settings and a public catalogue.

The catalogue is the assortment: the items on sale, whether or not they were ever bought. The
vocabulary, the text vectors and the initial popularity of classes come from it, and no
purchase is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from hanse_client.features.histories import item_class
from hanse_client.features.own_vectors import class_means, own_vector_size, own_vectors
from hanse_client.model.category_start import category_base, made_up_whitening
from hanse_client.model.item_texts import Vectors, encode_texts
from hanse_client.model.pretrained import ModelCheckpoint, read_checkpoint
from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_common.config import ModelSettings, RunSettings
from hanse_common.errors import DataError
from hanse_common.trainable import Trainable

# Scores, counts and features are dense [P, C] tables for each customer.
_MAX_CLASSES = 12_000


def listed_classes(catalogue: pl.DataFrame, settings: RunSettings) -> dict[str, int]:
    """The vocabulary: classes with at least `data.min_items` items in the public catalogue.

    Returns:
        Class -> number of its items.

    Raises:
        DataError: No class is left, or there are too many to rank densely.
    """
    rows = zip(catalogue["category"], catalogue["item_id"], strict=True)
    counts = Counter(item_class(path, item, settings.data.level) for path, item in rows)
    needed = 1 if settings.data.level == "product" else settings.data.min_items
    classes = {name: count for name, count in counts.items() if count >= needed}
    if not classes:
        raise DataError(
            f"no {settings.data.level} of the catalogue has {settings.data.min_items} items",
            hint="lower data.min_items",
        )
    # Refused, not cut to the most bought products: that list would depend on customers without
    # any noise (docs/privacy.md, *What is public*).
    if len(classes) > _MAX_CLASSES:
        raise DataError(
            f"{len(classes)} classes at level {settings.data.level!r}; at most {_MAX_CLASSES} "
            "can be ranked",
            hint="use data.level = 'type' or 'category', or a catalogue of the products to rank",
        )
    return classes


def fresh_model(
    catalogue: pl.DataFrame, listed: Mapping[str, int], settings: RunSettings, *, cache: Path
) -> InterestModel:
    """An untrained model over classes of a catalogue.

    Where the catalogue has vectors of its own, they follow those of the texts: an item has both,
    and a class its text's vector and the mean of its items' own.

    Args:
        catalogue: The canonical catalogue.
        listed: The classes to rank -> number of their items.
        settings: Encoder, shape, seed.
        cache: Folder in which text vectors are cached.

    Raises:
        ConfigError: There is no such encoder or checkpoint, or they do not match.
        DataError [other-catalogue]: The catalogue has vectors of different encoders.
    """
    # Sorted: the order of classes is part of the model's bytes, which all stores compare.
    classes, level = sorted(listed), settings.data.level
    encoder = settings.model.encoder
    texts = sorted(catalogue["text"].unique())
    vectors = encode_texts(texts, encoder=encoder, cache=cache)
    own_size = own_vector_size(catalogue)
    text_of = dict(catalogue.select("item_id", "text").iter_rows())
    labels = [_class_text(name, level, text_of) for name in classes]
    config = InterestConfig(
        classes=classes,
        level=level,
        vector_size=vectors.shape[1] + own_size,
        own_vector_size=own_size,
        n_layer=settings.model.n_layer,
        n_head=settings.model.n_head,
        n_embd=settings.model.n_embd,
        max_steps=settings.model.max_steps,
        backbone=settings.model.backbone,
    )
    class_texts = encode_texts(labels, encoder=encoder, cache=cache)
    if own_size:
        own = own_vectors(catalogue, own_size)
        rows = zip(catalogue["category"], catalogue["item_id"], strict=True)
        names = [item_class(path, item, level) for path, item in rows]
        class_texts = np.concatenate([class_texts, class_means(own, names, classes)], axis=1)
        vectors = _with_own(catalogue["text"].to_list(), texts, vectors, own)
    class_sizes = np.array([listed[name] for name in classes], dtype=np.float32)
    if settings.model.kind == "categories":
        centre, whitening = made_up_whitening()
        return InterestModel.on_base(
            config,
            category_base(settings.model.checkpoint),
            class_texts=class_texts,
            class_sizes=class_sizes,
            centre=centre,
            whitening=whitening,
        )
    checkpoint = _start(config, settings.model)
    return InterestModel.fresh(
        config,
        class_texts=class_texts,
        item_texts=vectors,
        class_sizes=class_sizes,
        seed=settings.seed,
        checkpoint=checkpoint,
    )


def _with_own(listed: list[str], texts: list[str], vectors: Vectors, own: Vectors) -> Vectors:
    """[M, vector_size] the different vectors of all items: of their texts, then their own."""
    places = {text: place for place, text in enumerate(texts)}
    rows = vectors[[places[text] for text in listed]]
    # Each once, as texts are: a text that a thousand items share counts once.
    return np.unique(np.concatenate([rows, own], axis=1), axis=0)


def _start(config: InterestConfig, settings: ModelSettings) -> ModelCheckpoint | None:
    """Read the checkpoint, if the settings name one, and set its shape in the configuration.

    Raises:
        ConfigError: It cannot be read, does not match, or lacks the layers to be trained.
    """
    chosen, checkpoint = Trainable.parse(settings.trainable), None
    if settings.checkpoint is not None:
        checkpoint = read_checkpoint(settings.checkpoint)
        checkpoint.fit(
            encoder=settings.encoder,
            max_steps=config.max_steps,
            vector_size=config.vector_size,
            visit_facts=config.visit_facts,
        )
        checkpoint.shape(config)
    # After the checkpoint's shape has been set, which may have fewer layers than the settings.
    chosen.check(layers=config.n_layer, width=config.n_embd)
    config.adaptation = chosen.adaptation
    return checkpoint


def _class_text(name: str, level: str, text_of: Mapping[str, str]) -> str:
    """The text to embed for a class: the steps of its path, last first, or the item's text."""
    if level == "product":
        return text_of[name]
    return ", ".join(part.strip().lower() for part in reversed(name.split("/")))
