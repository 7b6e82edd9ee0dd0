"""Measure what one store can do to a finished model by forging its vector.

The forged vector makes one class the first guess for as many baskets as it can. In a run that
trains the popularity of classes (`grocery-rules`) it is sent in the last round and raises the
class's score; in one that releases pairs of classes (`grocery`) it is sent in that phase, where
it makes the class look popular, and all others not. The model as it is is compared with three
others, each with one such vector: as long as the vectors of all stores could be together,
bounded as the coordinator bounds it, and as long as an honest store's with the largest clip.

    rows = forgery(RunFolder.open("grocery"))
    rich.print(render(rows))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.category_pairs import PHASE
from hanse_client.tasks.interest.features import collate, rows_at_once
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories, split_anchors
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, DataError
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.manifest_noise import (
    planned_customers,
    rate_share,
    statistics_norm,
    sum_norm,
)
from hanse_common.paths import GLOBAL_FILE, MANIFEST_FILE
from hanse_common.phases import RELEASED, TRAIN
from hanse_common.vector import UPDATE
from hanse_server.checkpoint import read_arrays
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.runs.folder import RunFolder

SHIFT = "basket.popularity.shift"
"""The trained array with one number per class, added to its score for every customer."""
PAIRS = RELEASED + PHASE
"""The released sum over pairs of classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgeryRow:
    """The model's scores with one vector added in the last round."""

    vector: str
    norm: float
    """L2 norm of what the vector adds to the sum, in the update's units."""
    category: str
    first: float
    """Fraction of the test weeks' baskets for which the class is on rank 1."""
    baskets: int
    ndcg: float


def forgery(
    folder: RunFolder, *, norm: float | None = None, category: str | None = None
) -> list[ForgeryRow]:
    """Measure the effect of one forged vector on a finished run's model.

    Args:
        folder: The run's folder; nothing is written to it.
        norm: L2 norm of the forged vector that is not bounded; by default the sum of all
            stores' clips.
        category: The class to raise; by default the one that is most often on rank 2.

    Raises:
        ConfigError: The run neither trains the popularity of classes nor releases pairs of
            them under secure aggregation.
        DataError [unknown-category]: The model ranks no such class.
    """
    disable_progress_bar()
    run = ArmRun.opened(folder)
    settings, arrays = run.settings, read_arrays(folder.path / GLOBAL_FILE)
    if not ({SHIFT, PAIRS} & arrays.keys() and settings.secure):
        raise ConfigError(
            f"run {folder.name!r} neither trains {SHIFT} nor releases {PHASE!r} under secure "
            "aggregation",
            hint="`hanse simulate grocery` makes a run that does",
        )
    manifest = SignedManifest.load(folder.path / MANIFEST_FILE).unchecked
    stores, model = run.stores.load(), run.model()
    names = list(model.config.classes)
    load_arrays(model, arrays)
    raised = _raised(model, stores, settings, names, category)
    forge = _shifted if SHIFT in arrays else _released
    rows = []
    for vector, length in _lengths(manifest, settings, norm, released=SHIFT not in arrays):
        load_arrays(model, forge(arrays, raised, length, manifest, settings))
        first, figures = _judged(model, stores, settings, raised)
        rows.append(
            ForgeryRow(
                vector=vector,
                norm=length,
                category=names[raised],
                first=float(first.mean()),
                baskets=len(first),
                ndcg=figures.metrics()["ndcg@10"],
            )
        )
    return rows


def _lengths(
    manifest: Manifest, settings: RunSettings, norm: float | None, *, released: bool
) -> list[tuple[str, float]]:
    """The vectors to compare, with their L2 norms."""
    kind, count = PHASE if released else TRAIN, len(manifest.stores)
    clip = next(part.clip for part in manifest.sections_of(kind) if part.name == UPDATE)
    # No sum of honest stores is longer, as each adds at most its clip.
    forged = count * clip if norm is None else norm
    if not released:
        return [
            ("none", 0.0),
            ("forged, not cut", forged),
            ("forged, cut to the public norm", min(forged, sum_norm(manifest))),
            ("honest, at the largest clip", clip),
        ]
    most = statistics_norm(manifest, settings, kind)
    return [
        ("none", 0.0),
        ("forged, not bounded", forged),
        ("forged, as long as a sum may be", min(forged, most)),
        ("honest, at the largest clip", clip),
        ("a store of the planned size", planned_customers(settings)),
    ]


def _shifted(
    arrays: Mapping[str, Any],
    raised: int,
    length: float,
    manifest: Manifest,
    settings: RunSettings,
) -> dict[str, Any]:
    """The model after a last round with the vector in its sum."""
    # A vector moves the model by its part of the mean, scaled as the last round's update was.
    factor = settings.update_factor(settings.federation.rounds) * rate_share(manifest, settings)
    step = abs(factor) / len(manifest.stores)
    shift = arrays[SHIFT].copy()
    shift[raised] += step * length
    return {**arrays, SHIFT: shift}


def _released(
    arrays: Mapping[str, Any],
    raised: int,
    length: float,
    manifest: Manifest,
    settings: RunSettings,
) -> dict[str, Any]:
    """The model with the vector in the released sum of pairs."""
    del manifest, settings
    sums = arrays[PAIRS].copy()
    rows, columns = np.triu_indices(_classes(len(sums) - 1))
    # Cells of a class with itself: one part up for the class, as much down for all others.
    alone = rows == columns
    direction = np.where(alone, -1.0, 0.0) / np.sqrt(alone.sum() - 1)
    direction[alone & (rows == raised)] = 1.0
    sums[:-1] += length * direction / np.linalg.norm(direction)
    return {**arrays, PAIRS: sums}


def _classes(cells: int) -> int:
    """The number of classes of a sum of pairs with so many cells."""
    return (math.isqrt(8 * cells + 1) - 1) // 2


def _raised(
    model: InterestModel,
    stores: Sequence[Histories],
    settings: RunSettings,
    names: Sequence[str],
    category: str | None,
) -> int:
    """The class to raise, as an index."""
    if category is not None:
        if category not in names:
            raise DataError(f"the model ranks no class {category!r}", code="unknown-category")
        return names.index(category)
    seconds = np.concatenate(
        [np.argsort(s, axis=1)[:, -2] for s in _scores(model, stores, settings)]
    )
    return int(np.bincount(seconds, minlength=len(names)).argmax())


def _judged(
    model: InterestModel,
    stores: Sequence[Histories],
    settings: RunSettings,
    raised: int,
) -> tuple[npt.NDArray[np.bool_], Figures]:
    """Whether the class is on rank 1 for each basket, and the model's metrics."""
    first = np.concatenate([s.argmax(axis=1) == raised for s in _scores(model, stores, settings)])
    figures = [evaluate_histories(store, model, settings, "test") for store in stores]
    return first, Figures.pooled(figures)


def _scores(
    model: InterestModel, stores: Sequence[Histories], settings: RunSettings
) -> Iterator[npt.NDArray[np.float32]]:
    """Class scores for the baskets of the test weeks, in batches [baskets, classes]."""
    rows = rows_at_once(model.config)
    for histories in stores:
        anchors = split_anchors(histories, settings, "test")
        for start in range(0, len(anchors), rows):
            batch = collate(histories, anchors.rows(start, start + rows), model.config)
            if batch.next_basket is None:
                continue
            with torch.inference_mode():
                scores = model(batch).basket_scores.numpy()
            has_basket = (batch.next_basket.numpy() > 0).any(axis=-1)
            yield scores[has_basket]


def render(rows: Sequence[ForgeryRow]) -> Table:
    """Lay the rows out."""
    table = Table(title=f"One vector, for {rows[0].category!r}")
    for heading in ("vector", "L2 norm", "on rank 1", "of baskets", "NDCG@10"):
        table.add_column(heading, justify="left" if heading == "vector" else "right")
    for row in rows:
        cells = (f"{row.norm:,.1f}", f"{row.first:.1%}", f"{row.baskets:,}", f"{row.ndcg:.4f}")
        table.add_row(row.vector, *cells)
    return table
