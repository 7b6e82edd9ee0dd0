"""Tasks that a store can train, all with the same rounds, clipping, noise, ledger and masks.

A task is one folder with its features, model, loss and metrics. It is found by its name (the
setting `task`) among the entry points of the group `hanse.tasks`, so that other packages can
add tasks. A task contains no privacy code: it defines a customer's loss, and the round
(`hanse_client.training.train`) clips, sums and adds noise.

>>> task_of("interest").name
'interest'
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from hanse_client.tasks.base import Task


@cache
def task_of(name: str) -> Task:
    """Find a task by its name and import its packages.

    Raises:
        ConfigError: No installed package has a task of that name.
    """
    installed = _installed()
    if name not in installed:
        raise ConfigError(
            f"this store has no task {name!r}", hint=f"it has {', '.join(sorted(installed))}"
        )
    return cast("Task", installed[name].load()())


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="hanse.tasks")}
