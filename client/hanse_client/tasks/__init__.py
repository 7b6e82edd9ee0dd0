"""Tasks: what a store can train, each by the same rounds, clipping, noise, ledger and masks.

A run's settings name one (`task`), and a module here knows its model, its data and its
figures. A task comes with no privacy code: it says what a customer's loss is, and the round
(`hanse_client.training.train`) clips, adds up and noises.

>>> task_of("interest").name
'interest'
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from hanse_common.errors import ConfigError

if TYPE_CHECKING:
    from hanse_client.tasks.base import Task

_PLACES: Final = {
    "conversion": "hanse_client.tasks.conversion.task:ConversionTask",
    "interest": "hanse_client.tasks.interest.task:InterestTask",
    "next-item": "hanse_client.tasks.next_item.task:NextItemTask",
    "review": "hanse_client.tasks.review.task:ReviewTask",
}


@cache
def task_of(name: str) -> Task:
    """Find a task by the name that settings have for it; its packages are imported here.

    Raises:
        ConfigError: There is none of that name in this version.
    """
    place = _PLACES.get(name)
    if place is None:
        raise ConfigError(
            f"this store knows no task {name!r}", hint=f"it knows {', '.join(sorted(_PLACES))}"
        )
    module, _, attribute = place.partition(":")
    return cast("Task", getattr(importlib.import_module(module), attribute)())
