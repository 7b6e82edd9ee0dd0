"""Measure what one store can do to a finished model by forging its vector in the last round.

The forged vector points where it raises one class's basket score for every customer. The model
as it is is compared with three others, each with one such vector added in the last round: as
long as a sum of honest stores could be, clipped to the public norm as the coordinator does, and
as long as an honest store's with the largest clip.

    rows = forgery(RunFolder.open("grocery"))
    rich.print(render(rows))
"""

from __future__ import annotations

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
from hanse_client.tasks.interest.features import collate, rows_at_once
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories, split_anchors
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, DataError
from hanse_common.manifest import SignedManifest
from hanse_common.manifest_noise import sum_norm
from hanse_common.paths import GLOBAL_FILE, MANIFEST_FILE
from hanse_common.vector import UPDATE
from hanse_server.checkpoint import read_arrays
from hanse_simulations.experiment.arm_run import ArmRun
from hanse_simulations.runs.folder import RunFolder

SHIFT = "basket.popularity.shift"
"""The trained array with one number per class, added to its score for every customer."""


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
        norm: L2 norm of the forged vector that is not clipped; by default the sum of all
            stores' clips.
        category: The class to raise; by default the one that is most often on rank 2.

    Raises:
        ConfigError: The run does not train the popularity of classes under secure aggregation.
        DataError [unknown-category]: The model ranks no such class.
    """
    disable_progress_bar()
    run = ArmRun.opened(folder)
    settings, arrays = run.settings, read_arrays(folder.path / GLOBAL_FILE)
    if SHIFT not in arrays or not settings.secure:
        raise ConfigError(
            f"run {folder.name!r} trains no {SHIFT} under secure aggregation",
            hint="`hanse simulate grocery` makes a run that does",
        )
    manifest = SignedManifest.load(folder.path / MANIFEST_FILE).unchecked
    stores, model = run.stores.load(), run.model()
    names = list(model.config.classes)
    raised = _raised(model, stores, settings, names, category)
    clip = next(part.clip for part in manifest.sections if part.name == UPDATE)
    # No sum of honest stores is longer, as each adds at most its clip.
    forged = len(manifest.stores) * clip if norm is None else norm
    # A vector moves the model by its part of the mean, scaled as the last round's update was.
    step = abs(settings.update_factor(settings.federation.rounds)) / len(manifest.stores)
    rows = []
    for vector, length in (
        ("none", 0.0),
        ("forged, not cut", forged),
        ("forged, cut to the public norm", min(forged, sum_norm(manifest))),
        ("honest, at the largest clip", clip),
    ):
        moved = dict(arrays)
        moved[SHIFT] = arrays[SHIFT].copy()
        moved[SHIFT][raised] += step * length
        first, figures = _judged(model, stores, settings, moved, raised)
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
    arrays: Mapping[str, Any],
    raised: int,
) -> tuple[npt.NDArray[np.bool_], Figures]:
    """Whether the class is on rank 1 for each basket, and the model's metrics."""
    load_arrays(model, arrays)
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
    table = Table(title=f"One vector in the last round, for {rows[0].category!r}")
    for heading in ("vector", "L2 norm", "on rank 1", "of baskets", "NDCG@10"):
        table.add_column(heading, justify="left" if heading == "vector" else "right")
    for row in rows:
        cells = (f"{row.norm:,.1f}", f"{row.first:.1%}", f"{row.baskets:,}", f"{row.ndcg:.4f}")
        table.add_row(row.vector, *cells)
    return table
