"""One release of statistics at a store: the bounded sum of what its customers add.

The task says what a customer adds (`Task.contributions`); this module has what privacy depends
on: the bound of each row is checked, people whose home is another store are left out, and a
person's clip is divided among their stores. Noise is added to the integers of the vector
(`hanse_common.vector.encode_statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.base import Ints, StoreData, Task
from hanse_client.training.subnormals import flushing_subnormals
from hanse_client.training.train import check_size, load_arrays, trained_arrays, training_data
from hanse_common.config import RunSettings
from hanse_common.errors import ConfigError, PrivacyError
from hanse_common.phases import is_released
from hanse_common.privacy.plan import PrivacyPlan

_CUSTOMERS = 4_096
"""Customers whose rows are in memory together: of those with 30 classes each, some 100 MB."""


@flushing_subnormals
def statistics_sum(
    node: Node,
    model: nn.Module,
    settings: RunSettings,
    arrays: Mapping[str, Any],
    number: int,
    *,
    noise_alone: bool = False,
) -> npt.NDArray[np.float64]:
    """Return a store's sum of statistics in a round, without noise.

    The caller charges the round to the ledger before it lets the result leave the store.

    Args:
        node: The store.
        model: The task's model; its parameters are overwritten with `arrays`.
        settings: The run's settings.
        arrays: Parameters and released sums of the global model, by name.
        number: The round, from 1, counted over all phases.
        noise_alone: Read no data, and return zeros.

    Returns:
        Shape [numbers of the phase]; one customer adds a vector of norm at most 1, divided by
        the number of stores at which one person may be a customer in mode `distributed`.

    Raises:
        PrivacyError [unbounded-statistics]: A customer would add more than that.
        ConfigError [unproven-statistics]: The task has no such statistics.
        EmptyStore, DataError [too-few-customers]: Without privacy, see `check_size`.
    """
    load_arrays(model, arrays)
    task, plan = task_of(settings.task), PrivacyPlan.from_settings(settings)
    phase = settings.schedule.at(number)
    length = release_length(task, model, settings, phase.name)
    if noise_alone:
        return np.zeros(length)
    if plan is None:
        check_size(node.name, task.load_data(node), settings)
    total = np.zeros(length)
    for data in _parts(training_data(node, settings)):
        rows = task.contributions(phase.name, data, model, settings)
        if rows.length != length or len(rows) != len(data.customers):
            raise PrivacyError(
                f"task {task.name!r} returns {len(rows)} rows of length {rows.length} for "
                f"{phase.name!r}, and not {len(data.customers)} of {length}",
                code="unbounded-statistics",
            )
        rows.check()
        rows.add_to(total, data.active())
    node.log(round=number, phase=phase.name)
    return total * (1.0 if plan is None else plan.person_share)


def absorb_own_statistics(node: Node, model: nn.Module, settings: RunSettings) -> None:
    """Let a model hold the exact sums of this store's customers alone, without noise.

    For training without a federation and without privacy; nothing of it may leave the store.

    Args:
        node: The store.
        model: The task's model; its parameters `released.<phase>` are overwritten.
        settings: The run's settings, without privacy.

    Raises:
        PrivacyError: The settings promise privacy.
        EmptyStore, DataError [too-few-customers]: See `check_size`.
    """
    if PrivacyPlan.from_settings(settings) is not None:
        raise PrivacyError("exact sums are for training without privacy only")
    for phase in settings.schedule.statistics:
        total = statistics_sum(node, model, settings, {}, phase.first)
        load_arrays(model, {phase.array: np.append(total, 0.0)})


def _parts(data: StoreData) -> Iterator[StoreData]:
    """A store's customers, some at a time: their rows can be larger than all of their data.

    Data of another package's task that cannot be selected from are one part.
    """
    select: Callable[[Ints], StoreData] | None = getattr(data, "select", None)
    count = len(data.customers)
    if select is None or count <= _CUSTOMERS:
        yield data
        return
    for start in range(0, count, _CUSTOMERS):
        yield select(np.arange(start, min(start + _CUSTOMERS, count)))


def release_length(task: Task, model: nn.Module, settings: RunSettings, phase: str) -> int:
    """Return how many numbers a phase of a task releases.

    Raises:
        ConfigError [unproven-statistics]: The task has no such statistics.
    """
    lengths = task.releases(model, settings)
    if phase not in lengths:
        names = ", ".join(sorted(lengths)) or "none"
        raise ConfigError(
            f"task {task.name!r} proves no bound for statistics {phase!r}",
            code="unproven-statistics",
            hint=f"its statistics: {names}; a task lists what it can bound in `releases`",
        )
    return lengths[phase]


def exchanged_arrays(
    task: Task, model: nn.Module, settings: RunSettings
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what a run exchanges of a model, by name: trained parameters and released sums.

    Args:
        task: The model's task.
        model: The model, of which the trained parameters require a gradient.
        settings: The run's settings.

    Returns:
        Copies, sorted by name. Of the model's sums, those that the run releases, and those that
        an earlier run released, which are not zero.

    Raises:
        ConfigError [unproven-statistics]: The task lacks a phase's statistics.
    """
    phases = {phase.array: phase.name for phase in settings.schedule.statistics}
    sums = {
        name: parameter.detach().numpy().astype(np.float32, copy=True)
        for name, parameter in model.named_parameters()
        if is_released(name) and (name in phases or bool(parameter.any()))
    }
    for array, phase in phases.items():
        length = release_length(task, model, settings, phase)
        if array not in sums or sums[array].shape != (length + 1,):
            raise ConfigError(
                f"the model of task {task.name!r} holds no {length + 1} numbers {array!r}",
                code="unproven-statistics",
                hint="a model holds one frozen parameter for each of its statistics",
            )
    return dict(sorted({**trained_arrays(model), **sums}.items()))
