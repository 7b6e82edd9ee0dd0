"""The adapter of the task `next-item`, for the data sets of published papers; leave-one-out.

The item table grows with the list of items, and so does the noise on it in private training;
`docs/published.md` has the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.node import Node
from hanse_client.tasks.base import Ints, WithoutStatistics
from hanse_client.tasks.next_item.features import HELD_OUT, Sequences
from hanse_client.tasks.next_item.metrics import Past, Ranks, judge
from hanse_client.tasks.next_item.model import NOTHING, SequenceModel
from hanse_common.config import NextItemSettings, RunSettings

_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class _SequenceDraw:
    """The customers of a step, and the randomness that they share."""

    customers: Ints
    candidates: Ints
    """[K] item ids of the sampled softmax, ascending."""
    seed: int
    """Of dropout."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> _SequenceDraw:
        """The rows of a slice."""
        # Another seed for each slice, or all slices of a step would have the same dropout.
        return replace(self, customers=self.customers[start:stop], seed=self.seed + start)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SequenceBatch:
    """Histories of B customers, padded on the right."""

    inputs: Tensor
    """[B, T] item ids."""
    targets: Tensor
    """[B, T] the next item of each, or `NOTHING`."""
    candidates: Tensor
    """[B, K] the same in every row."""
    seed: int

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, start: int, stop: int) -> _SequenceBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self,
            inputs=self.inputs[part],
            targets=self.targets[part],
            candidates=self.candidates[part],
        )


class NextItemTask(WithoutStatistics):
    """See `hanse_client.tasks.base.Task`."""

    name = "next-item"
    figures = Ranks

    def load_model(self, folder: Path) -> SequenceModel:
        """Read a sequence model."""
        model: SequenceModel = SequenceModel.from_pretrained(folder)
        return model

    def freeze(self, model: SequenceModel, settings: RunSettings) -> None:
        """Train the part that `model.trainable` names."""
        model.train_only(settings.model.trainable)

    def load_data(self, node: Node) -> Sequences:
        """The store's prepared sequences."""
        return node.prepared(Sequences)

    def training_data(self, data: Sequences, settings: RunSettings) -> Sequences:
        """Items before the validation target, or with it under `train_through_validation`."""
        through = next_item(settings).train_through_validation
        return data.without_last(HELD_OUT["test" if through else "validate"])

    def training_ends(self, settings: RunSettings) -> str:
        """See `Task.training_ends`."""
        return "customer with two items before those held out"

    def draw(
        self,
        data: Sequences,
        customers: Ints,
        model: SequenceModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> _SequenceDraw:
        """Draw the candidates that all customers of the step share.

        Customers are ordered by the length of their sequences, which reduces padding.

        Guarantees:
            What `rng` draws depends only on the number of items.
        """
        count, items = next_item(settings).negatives, model.config.items
        every = count >= items
        sizes = data.sizes[customers]
        return _SequenceDraw(
            customers=customers[np.argsort(sizes, kind="stable")],
            candidates=np.arange(items)
            if every
            else np.sort(rng.choice(items, count, replace=False)),
            seed=int(rng.integers(2**62)),
        )

    def rows_at_once(self, model: SequenceModel) -> int:
        """A constant: the scores are [T, K] a customer."""
        return _ROWS

    def collate(self, data: Sequences, draw: _SequenceDraw, model: SequenceModel) -> _SequenceBatch:
        """Pair each of a customer's latest items with the next one.

        Guarantees:
            A row depends only on that customer's sequence.
        """
        length = model.config.max_steps + 1  # one more than is read: the last target
        recent = [data.of_customer(int(customer))[-length:] for customer in draw.customers]
        inputs = _padded([one[:-1] for one in recent], 0)
        targets = _padded([one[1:] for one in recent], NOTHING)
        candidates = torch.from_numpy(draw.candidates).expand(len(draw), -1)
        return _SequenceBatch(inputs=inputs, targets=targets, candidates=candidates, seed=draw.seed)

    def losses(self, model: SequenceModel, batch: _SequenceBatch, settings: RunSettings) -> Tensor:
        """Each customer's mean cross-entropy of the next item [B]."""
        private = settings.privacy.mode != "none"
        # No dropout under privacy: its masks depend on a customer's place in the batch, and a
        # loss must be a function of the customer's row only.
        noise = None if private else torch.Generator().manual_seed(batch.seed)
        return model.sampled_losses(
            batch.inputs, batch.targets, batch.candidates, noise=noise, apart=private
        )

    def evaluate(
        self, data: Sequences, model: SequenceModel, settings: RunSettings, split: str
    ) -> Ranks:
        """Rank all items for every customer's held-out target."""

        def scores(past: Past) -> npt.NDArray[np.float32]:
            recent = [one[-model.config.max_steps :] for one in past]
            last = torch.tensor([len(one) - 1 for one in recent])
            states = model.states(_padded(recent, 0))[torch.arange(len(past)), last]
            item_scores: npt.NDArray[np.float32] = model.scores(states).numpy()
            return item_scores

        with torch.inference_mode():
            return judge(data, split, scores)


def next_item(settings: RunSettings) -> NextItemSettings:
    """The settings of this task, or their defaults."""
    return settings.next_item or NextItemSettings()


def _padded(rows: list[npt.NDArray[np.int32]], filler: int) -> Tensor:
    width = max((len(row) for row in rows), default=0) or 1
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)
