"""Task `review`: stars or sentiment from what customers write, some customers held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hanse_client.node import Node
from hanse_client.tasks.base import Ints
from hanse_client.tasks.review.features import PARTS, TRAIN, Reviews
from hanse_client.tasks.review.metrics import Verdicts
from hanse_client.tasks.review.model import ReviewModel, load_review_model
from hanse_common.config import RunSettings

_ROWS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewDraw:
    """One review of each customer in a step."""

    customers: Ints
    reviews: Ints
    """[R] rows of the store's reviews."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> ReviewDraw:
        """The rows of a slice."""
        return ReviewDraw(customers=self.customers[start:stop], reviews=self.reviews[start:stop])


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewBatch:
    """Reviews of B customers."""

    tokens: Tensor
    """[B, T]."""
    mask: Tensor
    """[B, T]."""
    labels: Tensor
    """[B]."""

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> ReviewBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self, tokens=self.tokens[part], mask=self.mask[part], labels=self.labels[part]
        )


class ReviewTask:
    """See `hanse_client.tasks.base.Task`."""

    name = "review"
    figures = Verdicts

    def load_model(self, folder: Path) -> ReviewModel:
        """Read a review model."""
        return load_review_model(folder)

    def freeze(self, model: ReviewModel, settings: RunSettings) -> None:
        """Train the part that `model.trainable` names."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Reviews:
        """Reviews."""
        return node.prepared(Reviews)

    def training_data(self, data: Reviews, settings: RunSettings) -> Reviews:
        """Those of the customers who are not held out."""
        return data.of(TRAIN)

    def training_ends(self, settings: RunSettings) -> str:
        """Somebody's review."""
        return "review of a customer who is not held out"

    def draw(
        self,
        data: Reviews,
        customers: Ints,
        model: ReviewModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> ReviewDraw:
        """One review of each, by chance: who writes much does not count for more.

        Guarantees:
            Chance is drawn for all customers of the store, in their order, so that nobody's
            draw depends on who else is in the step.
        """
        chance = rng.random(len(data))[customers]
        first, count = data.offsets[customers], data.sizes[customers]
        return ReviewDraw(customers=customers, reviews=first + (chance * count).astype(np.int64))

    def rows_at_once(self, model: ReviewModel) -> int:
        """Texts of up to a few hundred tokens."""
        return _ROWS

    def collate(self, data: Reviews, draw: ReviewDraw, model: ReviewModel) -> ReviewBatch:
        """Tokens, cut to the longest text of the batch."""
        return _batch(data, draw.reviews)

    def losses(self, model: ReviewModel, batch: ReviewBatch, settings: RunSettings) -> Tensor:
        """Cross-entropy of the label, [B]."""
        return torch.nn.functional.cross_entropy(
            model(batch.tokens, batch.mask), batch.labels, reduction="none"
        )

    def evaluate(
        self, data: Reviews, model: ReviewModel, settings: RunSettings, split: str
    ) -> Verdicts:
        """Judge every review of the customers held out."""
        held = data.of(PARTS[split])
        owner = held.owners
        order = np.argsort(held.lengths, kind="stable")  # texts of like length: little padding
        chances = np.zeros((len(order), len(model.config.labels)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), _ROWS):
                some = order[start : start + _ROWS]
                batch = _batch(held, some)
                chances[some] = torch.softmax(model(batch.tokens, batch.mask), -1).numpy()
        return Verdicts(chances=chances, labels=held.labels, customers=owner)


def _batch(data: Reviews, rows: Ints) -> ReviewBatch:
    lengths = torch.from_numpy(data.lengths[rows])
    width = int(lengths.max()) if len(rows) else 1
    tokens = torch.from_numpy(data.tokens[rows, :width].astype(np.int64))
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return ReviewBatch(tokens=tokens, mask=mask, labels=torch.from_numpy(data.labels[rows]))
