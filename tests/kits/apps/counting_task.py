"""A task of another package that releases statistics: how many of its customers buy a class."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hanse_client.features.histories import Histories
from hanse_client.tasks import task_of
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.task import InterestTask

PHASE = "class-buyers"


class CountingModel(InterestModel):
    """Its popularity of classes is learnt from a released sum."""

    def __init__(self, config) -> None:
        super().__init__(config)
        length = len(config.classes) + 1
        frozen = nn.Parameter(torch.zeros(length), requires_grad=False)
        self.released = nn.ParameterDict({PHASE: frozen})
        self.absorbed = 0

    def absorb(self) -> None:
        self.absorbed += 1
        sums = self.released[PHASE]
        if sums.any():
            self.class_popularity.copy_(sums[:-1].clamp(min=float(sums[-1])).add(1).log())

    def train_only(self, trainable: str) -> None:
        super().train_only(trainable)
        self.released.requires_grad_(False)


class CountingTask(InterestTask):
    """Customers add 1/sqrt(n) to each of the n classes that they have bought."""

    name = "counting"
    longest = 1.0
    """Norm of a customer's row; above 1 the task breaks its promise."""

    def load_model(self, folder: Path) -> CountingModel:
        plain = InterestModel.from_pretrained(folder)
        model = CountingModel(plain.config)
        model.load_state_dict(plain.state_dict(), strict=False)
        return model

    def releases(self, model, settings):
        return {PHASE: len(model.config.classes)}

    def contributions(self, phase, data: Histories, model, settings) -> Contributions:
        assert phase == PHASE
        cells, values, offsets = [], [], [0]
        for customer in range(len(data)):
            first, last = data.visit_offsets[customer : customer + 2]
            bought = np.unique(
                data.pair_classes[data.pair_offsets[first] : data.pair_offsets[last]]
            )
            cells.append(bought)
            values.append(np.full(len(bought), self.longest / max(len(bought), 1) ** 0.5))
            offsets.append(offsets[-1] + len(bought))
        return Contributions(
            offsets=np.array(offsets),
            cells=np.concatenate(cells).astype(np.int64),
            values=np.concatenate(values),
            length=len(model.config.classes),
        )


class BoundlessTask(CountingTask):
    """Promises rows of norm 1 and adds rows of norm 3."""

    longest = 3.0


def install(monkeypatch: pytest.MonkeyPatch, task: type = CountingTask) -> None:
    """Install a task for the rest of a test, as another package would."""
    task_of.cache_clear()
    found = EntryPoint("counting", f"{__name__}:{task.__name__}", "hanse.tasks")
    interest = EntryPoint(
        "interest", "hanse_client.tasks.interest.task:InterestTask", "hanse.tasks"
    )
    monkeypatch.setattr("hanse_client.tasks.entry_points", lambda group: [found, interest])
