"""The adapter of the task `interest`; data are split in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hanse_client.features.histories import Histories, days, run_split
from hanse_client.node import Node
from hanse_client.tasks.base import Ints, WithoutStatistics
from hanse_client.tasks.interest import Batch, InterestModel, customer_losses
from hanse_client.tasks.interest.features import Anchors, collate, rows_at_once, training_anchors
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_common.config import RunSettings


class InterestTask(WithoutStatistics):
    """See `hanse_client.tasks.base.Task`."""

    name = "interest"
    figures = Figures

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

    def training_data(self, data: Histories, settings: RunSettings) -> Histories:
        """Visits before `train_until`."""
        return data.until(days(run_split(settings).train_until))

    def training_ends(self, settings: RunSettings) -> str:
        """See `Task.training_ends`."""
        return f"visit before {run_split(settings).train_until}"

    def draw(
        self,
        data: Histories,
        customers: Ints,
        model: InterestModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> Anchors:
        """Draw each customer's anchors, the same number for all."""
        return training_anchors(
            data,
            customers,
            count=settings.training.anchors,
            until=days(run_split(settings).train_until),
            config=model.config,
            rng=rng,
        )

    def rows_at_once(self, model: InterestModel) -> int:
        """See `hanse_client.tasks.interest.features.rows_at_once`."""
        return rows_at_once(model.config)

    def collate(self, data: Histories, draw: Anchors, model: InterestModel) -> Batch:
        """See `hanse_client.tasks.interest.features.collate`."""
        return collate(data, draw, model.config)

    def losses(self, model: InterestModel, batch: Batch, settings: RunSettings) -> Tensor:
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

    def evaluate(
        self, data: Histories, model: InterestModel, settings: RunSettings, split: str
    ) -> Figures:
        """See `hanse_client.tasks.interest.metrics.evaluate_histories`."""
        return evaluate_histories(data, model, settings, split)
