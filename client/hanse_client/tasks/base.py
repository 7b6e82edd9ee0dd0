"""What a round of training asks of a task: the seam between learning and privacy.

The privacy unit is the customer, whatever is learnt. A task answers for three things, and
clipping and noise are worth nothing without them:

- a store's data has one entry per customer, and `active` tells who may be drawn;
- a row of a batch is one customer, and nothing in it depends on another customer;
- a loss is one number per row, a function of that row alone. The check before a store's
  first private step compares gradients one customer at a time and refuses what is not so.

Models, draws and batches are each task's own; here they are only passed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hanse_common.config import RunSettings

if TYPE_CHECKING:
    from hanse_client.node import Node

Ints: TypeAlias = npt.NDArray[np.int64]


class StoreData(Protocol):
    """A store's prepared data, by customer."""

    @property
    def customers(self) -> npt.NDArray[np.str_]:
        """[N] pseudonyms, sorted."""
        ...

    @property
    def sizes(self) -> Ints:
        """[N] length of each customer's history, in the task's own entries."""
        ...

    def active(self) -> Ints:
        """Indices of the customers who have something to learn from."""
        ...

    def at_home(self, index: int, stores: int) -> Self:
        """Only the customers whose home is the store with this index; the others stay, empty.

        Raises:
            ConfigError: A customer's home is not known.
        """
        ...


class Draw(Protocol):
    """Examples of the customers drawn for one step, one row each."""

    @property
    def customers(self) -> Ints:
        """[R] indices into the store's data."""
        ...

    def __len__(self) -> int:
        """R."""
        ...

    def rows(self, start: int, stop: int) -> Self:
        """The rows of a slice."""
        ...


class Batch(Protocol):
    """A model's input and targets for some rows of a draw."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def rows(self, start: int, stop: int) -> Self:
        """The rows of a slice."""
        ...


class Figures(Protocol):
    """What an evaluation found at a store; they stay there."""

    def metrics(self) -> dict[str, float]:
        """Figures for a table; NaN where there is nothing to judge."""
        ...

    def sums(self, allowed: Ints | None = None) -> dict[str, float]:
        """What may leave the store under masks and noise: sums over customers.

        Args:
            allowed: Indices of the customers to count; all if left out.

        Returns:
            Each of `hanse_common.vector.evaluation_names(task)`; every customer adds a
            number in [0, 1] to each.
        """
        ...

    def save(self, path: Path) -> None:
        """Write to one file."""
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or holds no such figures.
        """
        ...

    @classmethod
    def pooled(cls, parts: list[Self]) -> Self:
        """The figures of several stores as if they were one."""
        ...


class Task(Protocol):
    """One thing to learn from a store's customers."""

    name: str
    """As `RunSettings.task` has it."""
    figures: type[Figures]

    def load_model(self, folder: Path) -> nn.Module:
        """Read the frozen start of the model, as `save_pretrained` wrote it."""
        ...

    def freeze(self, model: Any, settings: RunSettings) -> None:
        """Leave trainable what the settings train, and freeze the rest."""
        ...

    def load_data(self, node: Node) -> StoreData:
        """The store's prepared data, all of it.

        Raises:
            DataError: It is missing, or of another task.
        """
        ...

    def training_data(self, data: Any, settings: RunSettings) -> StoreData:
        """What of it training may look at: nothing that validation or test ask for."""
        ...

    def training_ends(self, settings: RunSettings) -> str:
        """What a store without anything to train on lacks, after `store 'x' has no`."""
        ...

    def draw(
        self,
        data: Any,
        customers: Ints,
        model: Any,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> Draw:
        """Make a step's examples of the customers who are in it.

        Args:
            data: From `training_data`.
            customers: [R] who was drawn.
            model: Gives sizes; nothing is asked of it.
            settings: The run's.
            rng: For all that is random about the examples.

        Guarantees:
            A customer's row depends on `rng` and on that customer's data, on nobody else's.
        """
        ...

    def rows_at_once(self, model: Any) -> int:
        """How many rows fit in memory together; changes no result."""
        ...

    def collate(self, data: Any, draw: Any, model: Any) -> Batch:
        """Build the model's input and targets for some rows of a draw."""
        ...

    def losses(self, model: Any, batch: Any, settings: RunSettings) -> Tensor:
        """Each row's own loss [B], a function of nobody else's data."""
        ...

    def evaluate(self, data: Any, model: Any, settings: RunSettings, split: str) -> Figures:
        """Judge the model on a split of a store's customers: `validate` or `test`."""
        ...
