"""The adapter of the task `review`; validation and test hold out customers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hanse_client.node import Node
from hanse_client.tasks.base import InitialModel, Ints, WithoutStatistics
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.review.features import PARTS, TRAIN, Reviews
from hanse_client.tasks.review.metrics import Verdicts
from hanse_client.tasks.review.model import ReviewModel, load_review_model
from hanse_client.tasks.review.statistics import (
    LABEL_MEANS,
    TEXT_MOMENTS,
    label_means,
    lengths,
    text_moments,
)
from hanse_common.config import RunSettings

if TYPE_CHECKING:
    from hanse_client.features.prepare import PreparedData
    from hanse_client.ingest.store_config import StoreConfig

_ROWS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReviewDraw:
    """One review of each customer in a step."""

    customers: Ints
    reviews: Ints
    """[R] indices into the store's reviews."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> _ReviewDraw:
        """The rows of a slice."""
        return _ReviewDraw(customers=self.customers[start:stop], reviews=self.reviews[start:stop])


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReviewBatch:
    """One review of each of B customers."""

    tokens: Tensor
    """[B, T] token ids, padded on the right."""
    mask: Tensor
    """[B, T] 1 for a token, 0 for padding."""
    labels: Tensor
    """[B] index of the label."""

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> _ReviewBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self, tokens=self.tokens[part], mask=self.mask[part], labels=self.labels[part]
        )


class ReviewTask(WithoutStatistics):
    """See `hanse_client.tasks.base.Task`."""

    name = "review"
    figures = Verdicts

    def initial_model(
        self, public: Path | None, settings: RunSettings, *, cache: Path
    ) -> InitialModel:
        """A model of the labels of a public list: see `model_of_labels`."""
        # Imported on use, as in `prepare`: polars, which a round does not need.
        from hanse_client.tasks.review.prepare import model_of_labels

        model = model_of_labels(public, settings)
        return InitialModel(model=model, classes=len(model.config.labels))

    def prepare(
        self,
        store: StoreConfig,
        settings: RunSettings,
        *,
        model: Path,
        cache: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> PreparedData:
        """The store's reviews: see `prepare_own_reviews`."""
        from hanse_client.tasks.review.prepare import prepare_own_reviews

        return prepare_own_reviews(store, settings, model=model)

    def load_model(self, folder: Path) -> ReviewModel:
        """Read a review model."""
        return load_review_model(folder)

    def freeze(self, model: ReviewModel, settings: RunSettings) -> None:
        """Train the part that `model.trainable` names."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Reviews:
        """The store's prepared reviews."""
        return node.prepared(Reviews)

    def training_data(self, data: Reviews, settings: RunSettings) -> Reviews:
        """The reviews of customers who are not held out."""
        return data.of(TRAIN)

    def training_ends(self, settings: RunSettings) -> str:
        """See `Task.training_ends`."""
        return "review of a customer who is not held out"

    def draw(
        self,
        data: Reviews,
        customers: Ints,
        model: ReviewModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> _ReviewDraw:
        """Draw one review of each customer, so that writing much gives no more weight.

        Guarantees:
            Random numbers are drawn for all customers of the store, in their order, so that no
            customer's draw depends on who else is in the step.
        """
        chance = rng.random(len(data))[customers]
        first, count = data.offsets[customers], data.sizes[customers]
        return _ReviewDraw(customers=customers, reviews=first + (chance * count).astype(np.int64))

    def rows_at_once(self, model: ReviewModel) -> int:
        """A constant, for texts of up to a few hundred tokens."""
        return _ROWS

    def collate(self, data: Reviews, draw: _ReviewDraw, model: ReviewModel) -> _ReviewBatch:
        """Token ids, cut to the longest text of the batch."""
        return _batch(data, draw.reviews)

    def losses(self, model: ReviewModel, batch: _ReviewBatch, settings: RunSettings) -> Tensor:
        """Cross-entropy of each customer's label [B]."""
        return torch.nn.functional.cross_entropy(
            model(batch.tokens, batch.mask), batch.labels, reduction="none"
        )

    def releases(self, model: ReviewModel, settings: RunSettings) -> Mapping[str, int]:
        """Sums by label and second moments, if the model reads them."""
        return {} if model.reader is None else lengths(*model.reader.weights.shape)

    def contributions(
        self, phase: str, data: Reviews, model: ReviewModel, settings: RunSettings
    ) -> Contributions:
        """The mean over a customer's reviews of what one review adds."""
        if model.reader is None or phase not in (LABEL_MEANS, TEXT_MOMENTS):
            return super().contributions(phase, data, model, settings)
        model.train(False)
        with torch.inference_mode():
            states = torch.zeros(len(data.labels), model.width, dtype=torch.float64)
            for rows in _by_length(data):
                batch = _batch(data, rows)
                states[rows] = model.states(batch.tokens, batch.mask).double()
            vectors = model.reader.vectors(states).numpy()
        if phase == LABEL_MEANS:
            return label_means(vectors, data.labels, data.offsets, count=len(model.reader.biases))
        return text_moments(vectors, data.offsets, model.reader.space)

    def evaluate(
        self, data: Reviews, model: ReviewModel, settings: RunSettings, split: str
    ) -> Verdicts:
        """Classify every review of the held-out customers."""
        held_out = data.of(PARTS[split])
        chances = np.zeros((len(held_out.labels), len(model.config.labels)), dtype=np.float32)
        with torch.inference_mode():
            for rows in _by_length(held_out):
                batch = _batch(held_out, rows)
                chances[rows] = torch.softmax(model(batch.tokens, batch.mask), -1).numpy()
        return Verdicts(chances=chances, labels=held_out.labels, customers=held_out.owners)


def _by_length(data: Reviews) -> Iterator[Ints]:
    """Batches of reviews of similar length, which have little padding."""
    order = np.argsort(data.lengths, kind="stable")
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]


def _batch(data: Reviews, rows: Ints) -> _ReviewBatch:
    lengths = torch.from_numpy(data.lengths[rows])
    width = int(lengths.max()) if len(rows) else 1
    tokens = torch.from_numpy(data.tokens[rows, :width].astype(np.int64))
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return _ReviewBatch(tokens=tokens, mask=mask, labels=torch.from_numpy(data.labels[rows]))
