"""One evaluation of the global model at a store, for any task; the figures stay at the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hanse_client.node import Node
from hanse_client.tasks import base as tasks
from hanse_client.tasks import task_of
from hanse_client.training.subnormals import flushing_subnormals
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings


@flushing_subnormals
def evaluate_round(
    node: Node,
    model: nn.Module,
    settings: RunSettings,
    arrays: Mapping[str, Any],
    *,
    split: str,
    number: int,
) -> tasks.Figures:
    """Evaluate the global model of a round, of any task, and write the figures at the store."""
    load_arrays(model, arrays)
    task = task_of(settings.task)
    figures = task.evaluate(task.load_data(node), model, settings, split)
    figures.save(node.evaluation(split, number))
    return figures
