"""Tasks: what a store can train, each by the same rounds, clipping, noise, ledger and masks.

A task is one folder with its features, model, loss and metrics. It is found by the name that
settings have for it (`task`), through the entry points of the group `hanse.tasks`, so that
another package may bring one. A task holds no privacy code: it says what a customer's loss is,
and the round (`hanse_client.training.train`) clips, sums and adds noise.

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
    """Find a task by the name that settings have for it; its packages are imported here.

    Raises:
        ConfigError: No installed package has a task of that name.
    """
    installed = _installed()
    if name not in installed:
        raise ConfigError(
            f"this store knows no task {name!r}", hint=f"it knows {', '.join(sorted(installed))}"
        )
    return cast("Task", installed[name].load()())


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="hanse.tasks")}
