"""The interface between a task and a round of training, and so between learning and privacy.

The privacy unit is the customer in every task. A task guarantees three properties, without
which clipping and noise protect nobody:

- a store's data has one entry per customer, and `active` names those who may be drawn;
- a row of a batch is one customer, and nothing in it depends on another customer;
- a loss is one number per row, a function of that row only. The check before a store's
  first private step compares it with gradients of one customer at a time, and refuses a
  model for which they differ.

Models, draws and batches belong to the task; a round only passes them on. A task may also
release statistics: bounded sums over customers, of which its model holds one frozen parameter
each, `released.<phase>` of shape [length + 1]. Its last number is the standard deviation of the
noise in each of the others, and all are zero before the release. A model that computes anything
from them does so in its method `absorb`, which is called whenever arrays were loaded into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hanse_client.features.array_files import concatenated, load_npz, save_npz
from hanse_client.tasks.contributions import Contributions
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hanse_client.features.prepare import PreparedData
    from hanse_client.ingest.store_config import StoreConfig
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
        """[N] number of each customer's entries: visits, items, reviews or offers."""
        ...

    def active(self) -> Ints:
        """Indices of the customers who have training examples."""
        ...

    def at_home(self, index: int, stores: int) -> Self:
        """Remove the entries of customers whose home is not the store with this index.

        Raises:
            ConfigError: A customer's home is unknown.
        """
        ...

    def save(self, path: Path) -> None:
        """Write to one file, atomically."""
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
    """A model's input and targets for rows of a draw."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def rows(self, start: int, stop: int) -> Self:
        """The rows of a slice."""
        ...


class Figures(Protocol):
    """The results of an evaluation at a store, case by case; they stay there."""

    def metrics(self) -> dict[str, float]:
        """Metrics for a table; NaN without any case."""
        ...

    def sums(self, allowed: Ints | None = None) -> dict[str, float]:
        """Sums over customers, which may leave the store under masks and noise.

        Args:
            allowed: Indices of the customers to count; all if left out.

        Returns:
            Each of `hanse_common.vector.evaluation_names(task)`.

        Guarantees:
            A customer adds a number in [0, 1] to each sum.
        """
        ...

    def save(self, path: Path) -> None:
        """Write to one file."""
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or of another task.
        """
        ...

    @classmethod
    def pooled(cls, parts: list[Self]) -> Self:
        """The figures of several stores, concatenated."""
        ...


class StoredFigures:
    """Base of figures that are dataclasses of arrays: how to save, read and pool them.

    It has no fields and no `__dict__`, so that a dataclass with slots can inherit from it.
    """

    __slots__ = ()

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_npz(cast("Any", self), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or of another kind.
        """
        return cast("Self", load_npz(cast("Any", cls), path, hint="evaluate again"))

    @classmethod
    def pooled(cls, parts: list[Self]) -> Self:
        """The figures of several stores, concatenated."""
        return cast("Self", concatenated(cast("Any", cls), cast("Any", parts)))


class WithoutStatistics:
    """Base of tasks that release gradients only."""

    def releases(self, model: Any, settings: RunSettings) -> Mapping[str, int]:
        """No statistics."""
        del model, settings
        return {}

    def contributions(
        self, phase: str, data: Any, model: Any, settings: RunSettings
    ) -> Contributions:
        """Refuse: there are no statistics.

        Raises:
            ConfigError [unproven-statistics]: Always.
        """
        raise ConfigError(
            f"{type(self).__name__} proves no bound for statistics {phase!r}",
            code="unproven-statistics",
        )


class InitialModel(NamedTuple):
    """An untrained model of a task."""

    model: PreTrainedModel
    classes: int
    """Number of classes, items or labels that it tells apart."""


class Task(Protocol):
    """A prediction task on a store's customers.

    `initial_model` and `prepare` are needed in a deployment only; a task without them can be
    simulated.
    """

    name: str
    """The value of `RunSettings.task`."""
    figures: type[Figures]

    def initial_model(
        self, public: Path | None, settings: RunSettings, *, cache: Path
    ) -> InitialModel:
        """Make the model that a federation starts from.

        Args:
            public: A file of what is public, such as a catalogue; None if none was named.
            settings: The run's: encoder, shape, seed.
            cache: Folder in which text vectors are cached.

        Raises:
            ConfigError: The task needs such a file, or a setting does not fit.
            DataError: The file cannot be used.

        Guarantees:
            The model depends on no customer. Its `config.json` names everything that it ranks,
            so that stores number classes, items and labels alike.
        """
        ...

    def prepare(
        self,
        store: StoreConfig,
        settings: RunSettings,
        *,
        model: Path,
        cache: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> PreparedData:
        """Read a store's tables into the data that `load_data` returns.

        Args:
            store: The store's `store.toml`.
            settings: The run's.
            model: Folder of the initial model.
            cache: Folder in which text vectors are cached.
            report: Called with a line before each step that may take minutes; it names no
                customer and no count of them.

        Raises:
            ConfigError: `store.toml` lacks a table that the task reads.
            DataError: The tables cannot be used.

        Guarantees:
            Customers are pseudonyms, and what is prepared of one depends on no other.
        """
        ...

    def load_model(self, folder: Path) -> nn.Module:
        """Read the initial model that `save_pretrained` wrote."""
        ...

    def freeze(self, model: Any, settings: RunSettings) -> None:
        """Make the parameters trainable that the settings name, and freeze the others."""
        ...

    def load_data(self, node: Node) -> StoreData:
        """Read all of the store's prepared data.

        Raises:
            DataError: It is missing, or of another task.
        """
        ...

    def training_data(self, data: Any, settings: RunSettings) -> StoreData:
        """The part of the data that training may use: no targets of validation or test."""
        ...

    def training_ends(self, settings: RunSettings) -> str:
        """What a store without training data lacks; completes `store 'x' has no`."""
        ...

    def draw(
        self,
        data: Any,
        customers: Ints,
        model: Any,
        settings: RunSettings,
        rng: np.random.Generator,
    ) -> Draw:
        """Draw a step's examples, one row for each customer in it.

        Args:
            data: From `training_data`.
            customers: [R] indices of the customers drawn.
            model: Used for its sizes only.
            settings: The run's.
            rng: The source of all randomness of the examples.

        Guarantees:
            A customer's row depends on `rng` and that customer's data, on no other customer's.
        """
        ...

    def rows_at_once(self, model: Any) -> int:
        """Number of rows that fit in memory together; it affects speed only."""
        ...

    def collate(self, data: Any, draw: Any, model: Any) -> Batch:
        """Build the model's input and targets for rows of a draw."""
        ...

    def losses(self, model: Any, batch: Any, settings: RunSettings) -> Tensor:
        """Each row's loss [B], a function of that row only."""
        ...

    def releases(self, model: Any, settings: RunSettings) -> Mapping[str, int]:
        """The statistics that the task can bound: the length of each vector by name.

        A name in it is a promise that `contributions` keeps for every customer; a property test
        of the task proves it.
        """
        ...

    def contributions(
        self, phase: str, data: Any, model: Any, settings: RunSettings
    ) -> Contributions:
        """What each customer adds to a sum of statistics.

        Args:
            phase: One of `releases`.
            data: From `training_data`.
            model: The global model, with the sums released so far.
            settings: The run's.

        Guarantees:
            One row for each customer of `data`, which depends on that customer's data only and
            has an L2 norm of at most 1.
        """
        ...

    def evaluate(self, data: Any, model: Any, settings: RunSettings, split: str) -> Figures:
        """Evaluate the model on a split of a store's customers: `validate` or `test`."""
        ...
