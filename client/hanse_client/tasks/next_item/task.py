"""The adapter of the task `next-item`, for the data sets of published papers; leave-one-out.

There are two models. Without privacy a sequence model trains a table of items. The table grows
with the list of items, and so does the noise on it in private training; under privacy a text
model takes public vectors of the items in its place (`docs/published.md` has both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from hanse_client.model.config import TextItemConfig
from hanse_client.node import Node
from hanse_client.tasks.base import InitialModel, Ints
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.next_item import pairs, text_model
from hanse_client.tasks.next_item.features import HELD_OUT, Sequences
from hanse_client.tasks.next_item.metrics import Ranks, judge
from hanse_client.tasks.next_item.model import NOTHING, SequenceModel, padded
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_common.config import NextItemSettings, RunSettings
from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from hanse_client.features.prepare import PreparedData
    from hanse_client.ingest.store_config import StoreConfig

_ROWS = 32

NextItemModel: TypeAlias = SequenceModel | TextItemModel


@dataclass(frozen=True, kw_only=True, slots=True)
class _SequenceDraw:
    """The customers of a step, and the randomness that they share."""

    customers: Ints
    candidates: Ints
    """[K] item ids of the sampled softmax, ascending."""
    usual_targets: float
    """Mean number of targets of the step's customers, at least 1; not used under privacy."""
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
    usual_targets: float
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


class NextItemTask:
    """See `hanse_client.tasks.base.Task`."""

    name = "next-item"
    figures = Ranks

    def initial_model(
        self, public: Path | None, settings: RunSettings, *, cache: Path
    ) -> InitialModel:
        """A model of the items of a public catalogue: see `model_of_items`."""
        # Imported on use, as in `prepare`: polars, which a round does not need.
        from hanse_client.tasks.next_item.prepare import model_of_items

        model = model_of_items(public, settings, cache=cache)
        return InitialModel(model=model, classes=model.config.items)

    def prepare(
        self,
        store: StoreConfig,
        settings: RunSettings,
        *,
        model: Path,
        cache: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> PreparedData:
        """The sequences of what customers bought: see `prepare_sequences`."""
        from hanse_client.tasks.next_item.prepare import prepare_sequences

        return prepare_sequences(store, model=model)

    def load_model(self, folder: Path) -> NextItemModel:
        """Read a sequence model or a text model, whichever the folder holds."""
        table, _ = PretrainedConfig.get_config_dict(folder)
        by_texts = table.get("model_type") == TextItemConfig.model_type
        kind = TextItemModel if by_texts else SequenceModel
        model: NextItemModel = kind.from_pretrained(folder)
        return model

    def freeze(self, model: NextItemModel, settings: RunSettings) -> None:
        """Train the part that `model.trainable` names."""
        model.train_only(settings.model.trainable)

    def releases(self, model: NextItemModel, settings: RunSettings) -> dict[str, int]:
        """Length of each sum of statistics: of popularity and pairs for the text model.

        Raises:
            ConfigError: Pairs are released before what their graph is derived from is final.
        """
        names = [phase.name for phase in settings.schedule.all]
        if pairs.PHASE in names[:-1]:
            raise ConfigError(
                f"phases={names}: a change of the model after the release of 'pairs' would change "
                "the graph of pairs that the sum is about",
                hint="make 'pairs' the last phase",
            )
        return text_model.releases(model.config) if isinstance(model, TextItemModel) else {}

    def contributions(
        self, phase: str, data: Sequences, model: TextItemModel, settings: RunSettings
    ) -> Contributions:
        """What each customer adds to a phase's sum: see `TextItemModel.contributions`."""
        return model.contributions(phase, data)

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
        model: NextItemModel,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> _SequenceDraw:
        """Draw the candidates that all customers of the step share.

        Customers are ordered by the length of their sequences, which reduces padding.

        Guarantees:
            What `rng` draws depends only on the number of items and, for the text model, on
            the released popularity.
        """
        sizes = data.sizes[customers]
        targets = np.minimum(sizes - 1, model.config.max_steps)
        return _SequenceDraw(
            customers=customers[np.argsort(sizes, kind="stable")],
            candidates=model.draw_candidates(next_item(settings).negatives, rng),
            usual_targets=max(float(targets.mean()), 1.0) if len(targets) else 1.0,
            seed=int(rng.integers(2**62)),
        )

    def rows_at_once(self, model: NextItemModel) -> int:
        """A constant: the scores are [T, K] a customer."""
        return _ROWS

    def collate(self, data: Sequences, draw: _SequenceDraw, model: NextItemModel) -> _SequenceBatch:
        """Pair each of a customer's latest items with the next one.

        Guarantees:
            A row depends only on that customer's sequence.
        """
        length = model.config.max_steps + 1  # one more than is read: the last target
        recent = [data.of_customer(int(customer))[-length:] for customer in draw.customers]
        inputs = padded([one[:-1] for one in recent], 0)
        targets = padded([one[1:] for one in recent], NOTHING)
        candidates = torch.from_numpy(draw.candidates).expand(len(draw), -1)
        return _SequenceBatch(
            inputs=inputs,
            targets=targets,
            candidates=candidates,
            usual_targets=draw.usual_targets,
            seed=draw.seed,
        )

    def losses(self, model: NextItemModel, batch: _SequenceBatch, settings: RunSettings) -> Tensor:
        """Each customer's cross-entropy of the next item [B]: see `sampled_losses`.

        Without privacy customers count by their number of targets, so that the mean over
        customers is one over targets, as in papers.
        """
        private = settings.privacy.mode != "none"
        # No dropout under privacy: its masks depend on a customer's place in the batch, and a
        # loss must be a function of the customer's row only.
        noise = None if private else torch.Generator().manual_seed(batch.seed)
        means = model.sampled_losses(
            batch.inputs, batch.targets, batch.candidates, noise=noise, apart=private
        )
        if private:  # a weight would depend on the other customers of the step
            return means
        return means * (batch.targets != NOTHING).sum(1) / batch.usual_targets

    def evaluate(
        self, data: Sequences, model: NextItemModel, settings: RunSettings, split: str
    ) -> Ranks:
        """Rank all items for every customer's held-out target."""
        with torch.inference_mode():
            return judge(data, split, model.next_scores)


def next_item(settings: RunSettings) -> NextItemSettings:
    """The settings of this task, or their defaults."""
    return settings.next_item or NextItemSettings()
