"""The adapter of the task `interest`; data are split in time.

A model of kind `visits` is trained at anchors (`features.py`), one of kind `categories` at past
moments (`past_moments.py`), after two sums of statistics that it starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.array_files import IN_MEMORY, total_bytes
from hanse_client.features.cut_histories import CutHistories
from hanse_client.features.histories import Histories, days, run_split
from hanse_client.node import Node
from hanse_client.tasks.base import InitialModel, Ints
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.interest import (
    Batch,
    InterestModel,
    category_pairs,
    class_residuals,
    customer_losses,
)
from hanse_client.tasks.interest.category_outlook import (
    CategoryOutlook,
    head_losses,
    token_batch_losses,
)
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once, training_anchors
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_client.tasks.interest.past_moments import (
    PastDraw,
    collate_past,
    head_inputs,
    past_examples,
    past_moments,
    random_moments,
)
from hanse_client.tasks.interest.token_batch import HeadBatch, TokenBatch
from hanse_common.config import RunSettings

if TYPE_CHECKING:
    from hanse_client.features.prepare import PreparedData
    from hanse_client.ingest.store_config import StoreConfig

TrainingData = Histories | CutHistories
Draw = Anchors | PastDraw
AnyBatch = Batch | HeadBatch | TokenBatch

_VISITS_WEIGHT = 0.3
"""Weight of the likelihood of numbers of visits while a base is trained, as in pre-training."""
_HEAD_ROWS, _BASE_ROWS = 256, 32
"""Customers at a time through the linear head, and through the base with its gradients."""


class InterestTask:
    """See `hanse_client.tasks.base.Task`."""

    name = "interest"
    figures = Figures

    def initial_model(
        self, public: Path | None, settings: RunSettings, *, cache: Path
    ) -> InitialModel:
        """A model over the classes of a public catalogue: see `fresh_model`."""
        # Imported on use, as in `prepare`: polars, which a round does not need.
        from hanse_client.ingest.pipeline import public_catalogue
        from hanse_client.tasks.interest.fresh_model import fresh_model, listed_classes

        catalogue = public_catalogue(public)
        model = fresh_model(catalogue, listed_classes(catalogue, settings), settings, cache=cache)
        return InitialModel(model=model, classes=len(model.config.classes))

    def prepare(
        self,
        store: StoreConfig,
        settings: RunSettings,
        *,
        model: Path,
        cache: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> PreparedData:
        """Histories of a store's events: see `prepare_histories`."""
        from hanse_client.tasks.interest.prepare import prepare_histories

        return prepare_histories(store, settings, model=model, cache=cache, report=report)

    def load_model(self, folder: Path) -> InterestModel:
        """Read an interest model."""
        model: InterestModel = InterestModel.from_pretrained(folder)
        return model

    def freeze(self, model: InterestModel, settings: RunSettings) -> None:
        """Train the part that `model.trainable` names."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Histories:
        """The store's prepared histories."""
        return node.histories

    def training_data(self, data: Histories, settings: RunSettings) -> TrainingData:
        """Visits before `train_until`; those of a store that is mapped stay on the disk."""
        until = days(run_split(settings).train_until)
        if total_bytes(data) > IN_MEMORY:
            return CutHistories.of(data, until=until)
        return data.until(until)

    def training_ends(self, settings: RunSettings) -> str:
        """See `Task.training_ends`."""
        return f"visit before {run_split(settings).train_until}"

    def releases(self, model: InterestModel, settings: RunSettings) -> dict[str, int]:
        """See `InterestModel.releases`."""
        return model.releases()

    def contributions(
        self, phase: str, data: TrainingData, model: InterestModel, settings: RunSettings
    ) -> Contributions:
        """What each customer adds to a phase's sum, a row of norm at most 1.

        Raises:
            ValueError: There is no such phase.
        """
        classes = len(model.config.classes)
        data, _ = _in_memory(data, np.arange(len(data)))
        if phase == category_pairs.PHASE:
            return category_pairs.pair_contributions(data, classes)
        if phase != class_residuals.PHASE:
            raise ValueError(f"phase={phase!r}: the model releases {list(model.releases())}")
        moments = _past_moments(data, settings)
        examples = past_examples(data, moments)
        return class_residuals.residual_contributions(
            examples.tokens,
            examples.targets,
            customers=len(data),
            moments=max(len(moments), 1),
            classes=classes,
        )

    def draw(
        self,
        data: TrainingData,
        customers: Ints,
        model: InterestModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> Draw:
        """Draw each customer's points in time, the same number for all.

        While only the linear head is trained they are the same in every step.
        """
        until, count = days(run_split(settings).train_until), settings.training.anchors
        if isinstance(model.outlook, CategoryOutlook):
            if model.outlook.trains_base():
                moments = random_moments(data, len(customers), until=until, count=count, rng=rng)
            else:
                moments = np.tile(_past_moments(data, settings), (len(customers), 1))
            return PastDraw(customers=customers, moments=moments)
        histories, index = _in_memory(data, customers)
        anchors = training_anchors(
            histories, index, count=count, until=until, config=model.config, rng=rng
        )
        return replace(anchors, customers=customers)

    def rows_at_once(self, model: InterestModel) -> int:
        """See `Task.rows_at_once`."""
        if isinstance(model.outlook, CategoryOutlook):
            return _BASE_ROWS if model.outlook.trains_base() else _HEAD_ROWS
        return rows_at_once(model.config)

    def collate(self, data: TrainingData, draw: Draw, model: InterestModel) -> AnyBatch:
        """Build the input of what is trained, with targets."""
        histories, index = _in_memory(data, draw.customers)
        if isinstance(draw, Anchors):
            return collate(histories, replace(draw, customers=index), model.config)
        if not isinstance(model.outlook, CategoryOutlook) or model.outlook.trains_base():
            return collate_past(histories, replace(draw, customers=index))
        moments = draw.moments[0] if len(draw) else np.zeros(0)
        # What the frozen base makes of a small store is kept from round to round; of a large one
        # it is made for the customers drawn.
        inputs = head_inputs(
            histories,
            moments,
            model.outlook,
            model.class_vectors,
            keep=not isinstance(data, CutHistories),
        )
        return inputs.of(index)

    def losses(self, model: InterestModel, batch: AnyBatch, settings: RunSettings) -> Tensor:
        """Weighted sum of the losses of what is trained [B]."""
        training = settings.training
        if isinstance(batch, Batch):
            return _anchor_losses(model, batch, settings)
        outlook = model.outlook
        if not isinstance(outlook, CategoryOutlook):
            raise TypeError("a model of visits is trained at anchors")
        if isinstance(batch, HeadBatch):
            return training.outlook_weight * head_losses(outlook.head, batch)
        # Dropout draws one mask for a whole batch: a customer's clipped gradient has none.
        outlook.base.train(settings.privacy.mode == "none")
        output = outlook(batch, model.class_vectors)
        outlooks, visits = token_batch_losses(output, batch)
        return training.outlook_weight * (outlooks + _VISITS_WEIGHT * visits)

    def evaluate(
        self, data: Histories, model: InterestModel, settings: RunSettings, split: str
    ) -> Figures:
        """See `hanse_client.tasks.interest.metrics.evaluate_histories`."""
        return evaluate_histories(data, model, settings, split)


def _in_memory(data: TrainingData, customers: Ints) -> tuple[Histories, Ints]:
    """Histories in memory that have these customers, and their indices there."""
    if isinstance(data, CutHistories):
        return data.select(customers), np.arange(len(customers))
    return data, customers


def _past_moments(data: TrainingData, settings: RunSettings) -> np.ndarray:
    until = days(run_split(settings).train_until)
    return past_moments(data, until=until)


def _anchor_losses(model: InterestModel, batch: Batch, settings: RunSettings) -> Tensor:
    """Weighted sum of the losses of basket, outlook and expected visits [B]."""
    training = settings.training
    low = training.precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        output = model(batch)
    # Losses in float32: sums over hundreds of classes would lose digits in bfloat16.
    output.basket_scores = output.basket_scores.float()
    output.outlook_logits = output.outlook_logits.float()
    output.expected_visits = output.expected_visits.float()
    basket, outlook, rates = customer_losses(
        output,
        batch,
        outlook_weight=training.outlook_weight,
        rate_weight=training.rate_weight,
    )
    return basket + outlook + rates
