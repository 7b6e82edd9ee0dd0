"""Task `next-item`: which item a customer takes next, from item ids alone, leave-one-out.

For data sets that papers publish figures on. The item table is as large as the list of items,
and so is the noise on it where training is private: `docs/published.md` has what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hanse_client.node import Node
from hanse_client.tasks.base import Ints
from hanse_client.tasks.next_item.features import HELD_OUT, Sequences
from hanse_client.tasks.next_item.metrics import Past, Ranks, judge
from hanse_client.tasks.next_item.model import NOTHING, SequenceModel
from hanse_common.config import NextItemSettings, RunSettings

_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceDraw:
    """The customers of a step, and chance that all of them share."""

    customers: Ints
    candidates: Ints
    """[K] items to tell the next ones from, rising."""
    seed: int
    """Of dropout."""

    def __len__(self) -> int:
        return len(self.customers)

    def rows(self, start: int, stop: int) -> SequenceDraw:
        """The rows of a slice."""
        return replace(self, customers=self.customers[start:stop], seed=self.seed + start)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceBatch:
    """Histories of B customers, padded on the right."""

    inputs: Tensor
    """[B, T] item ids."""
    targets: Tensor
    """[B, T] the next of each, or `NOTHING`."""
    candidates: Tensor
    """[B, K] the same in every row."""
    seed: int

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, start: int, stop: int) -> SequenceBatch:
        """The customers of a slice."""
        part = slice(start, stop)
        return replace(
            self,
            inputs=self.inputs[part],
            targets=self.targets[part],
            candidates=self.candidates[part],
        )


class NextItemTask:
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
        """Sequences."""
        return node.prepared(Sequences)

    def training_data(self, data: Sequences, settings: RunSettings) -> Sequences:
        """Everything before the validation item; through it, if the settings say so."""
        through = next_item(settings).train_through_validation
        return data.without_last(HELD_OUT["test" if through else "validate"])

    def training_ends(self, settings: RunSettings) -> str:
        """Somebody with an item and a next one."""
        return "customer with two items before those held out"

    def draw(
        self,
        data: Sequences,
        customers: Ints,
        model: SequenceModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> SequenceDraw:
        """Draw the step's candidates; nothing about a customer is by chance.

        Customers come in the order of how much they took, so that little is padded.

        Guarantees:
            What `rng` draws depends on the number of items alone.
        """
        count, items = next_item(settings).negatives, model.config.items
        every = count >= items
        sizes = data.sizes[customers]
        return SequenceDraw(
            customers=customers[np.argsort(sizes, kind="stable")],
            candidates=np.arange(items)
            if every
            else np.sort(rng.choice(items, count, replace=False)),
            seed=int(rng.integers(2**62)),
        )

    def rows_at_once(self, model: SequenceModel) -> int:
        """Scores of [T, K] a customer."""
        return _ROWS

    def collate(self, data: Sequences, draw: SequenceDraw, model: SequenceModel) -> SequenceBatch:
        """Each item of a history, and the one after it.

        Guarantees:
            A row depends on that customer's sequence alone.
        """
        kept = model.config.max_steps + 1
        recent = [data.of_customer(int(customer))[-kept:] for customer in draw.customers]
        inputs = _padded([one[:-1] for one in recent], 0)
        targets = _padded([one[1:] for one in recent], NOTHING)
        candidates = torch.from_numpy(draw.candidates).expand(len(draw), -1)
        return SequenceBatch(inputs=inputs, targets=targets, candidates=candidates, seed=draw.seed)

    def losses(self, model: SequenceModel, batch: SequenceBatch, settings: RunSettings) -> Tensor:
        """Mean over a customer's items of the cross-entropy of the next one, [B]."""
        private = settings.privacy.mode != "none"
        noise = None if private else torch.Generator().manual_seed(batch.seed)
        return model.sampled_losses(
            batch.inputs, batch.targets, batch.candidates, noise=noise, apart=private
        )

    def evaluate(
        self, data: Sequences, model: SequenceModel, settings: RunSettings, split: str
    ) -> Ranks:
        """Rank all items for every customer, and find the one held out."""

        def scores(past: Past) -> npt.NDArray[np.float32]:
            recent = [one[-model.config.max_steps :] for one in past]
            last = torch.tensor([len(one) - 1 for one in recent])
            states = model.states(_padded(recent, 0))[torch.arange(len(past)), last]
            found: npt.NDArray[np.float32] = model.scores(states).numpy()
            return found

        with torch.inference_mode():
            return judge(data, split, scores)


def next_item(settings: RunSettings) -> NextItemSettings:
    """The task's own settings."""
    return settings.next_item or NextItemSettings()


def _padded(rows: list[npt.NDArray[np.int32]], filler: int) -> Tensor:
    width = max((len(row) for row in rows), default=0) or 1
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)
