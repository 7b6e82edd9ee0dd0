"""Another task trains by the same rounds: its losses are clipped, charged and noised alike."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from torch import nn

from hanse_client.tasks import task_of
from hanse_client.tasks.interest.task import InterestTask
from hanse_client.training.train import train_alone, train_round, trained_arrays
from hanse_common.manifest_terms import settings_digest
from hanse_common.vector import evaluation_names
from kits.errors import raises


class Rows:
    """Rows of anything that slices; their customers are data and draw at once."""

    def __init__(self, customers, values):
        self.customers, self.values = customers, values

    def __len__(self):
        return len(self.customers)

    def rows(self, start, stop):
        return Rows(self.customers[start:stop], self.values[start:stop])


class VisitsTask(InterestTask):
    """Guesses the logarithm of a customer's number of visits from the mean of their facts."""

    name = "visits"

    def freeze(self, model, settings):
        model.requires_grad_(True)

    def draw(self, data, customers, model, settings, rng):
        starts, stops = data.visit_offsets[customers], data.visit_offsets[customers + 1]
        means = [data.visit_facts[a:b].mean(0) for a, b in zip(starts, stops, strict=True)]
        values = np.zeros((len(customers), 12), np.float32)
        for row, mean in enumerate(means):
            values[row] = [*mean, np.log(stops[row] - starts[row])]
        return Rows(customers, values)

    def rows_at_once(self, model):
        return 5

    def collate(self, data, draw, model):
        return Rows(draw.customers, torch.from_numpy(draw.values))

    def losses(self, model, batch, settings):
        return (model(batch.values[:, :-1]).squeeze(-1) - batch.values[:, -1]).square()


class MixingTask(VisitsTask):
    """Centres on the mean of the batch: a loss of all customers, not of one."""

    def losses(self, model, batch, settings):
        guessed = model(batch.values[:, :-1]).squeeze(-1)
        return (guessed - guessed.mean() - batch.values[:, -1]).square()


@pytest.fixture
def another(small_node, monkeypatch):
    """A node whose settings name a task of this file, and a model for it."""

    def make(task, **changes):
        monkeypatch.setattr(
            "hanse_client.training.train.task_of", lambda name: {"visits": task}[name]
        )
        node, settings = small_node
        settings = settings.with_changes(changes | {"task": "visits"})
        torch.manual_seed(0)
        return node, settings, nn.Linear(11, 1)

    return make


MODES = {
    "none": {"privacy": {"mode": "none"}},
    "local": {},
    "distributed": {
        "privacy.mode": "distributed",
        "federation.secure_aggregation": True,
        "training.local_steps": 1,
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_another_task_trains_in_every_mode(another, mode):
    node, settings, model = another(VisitsTask(), **MODES[mode])
    arrays = trained_arrays(model)
    trained = train_round(node, model, settings, arrays, 1)
    assert sorted(trained.update) == ["bias", "weight"]
    assert all(array.any() for array in trained.update.values())
    assert 0 < trained.drawn <= 24 * settings.training.local_steps
    assert (node.folder / "clipping-check.json").exists() == (mode != "none")


def test_another_tasks_sum_is_of_clipped_gradients(another):
    everybody = {"training.sample_rate": 1.0, "privacy.max_grad_norm": 0.01}
    node, settings, model = another(VisitsTask(), **MODES["distributed"], **everybody)
    trained = train_round(node, model, settings, trained_arrays(model), 1)
    norm = np.sqrt(sum(float(np.square(array).sum()) for array in trained.update.values()))
    assert 0 < norm <= 0.01 * trained.drawn * (1 + 1e-5)


def test_what_another_task_learns_alone_lowers_its_loss(another):
    node, settings, model = another(VisitsTask(), **MODES["none"], **{"federation.rounds": 30})
    train_alone(node, model, settings)
    losses = [json.loads(x)["loss"] for x in (node.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 4


def test_a_task_whose_losses_mix_customers_trains_nobody_privately(another):
    node, settings, model = another(MixingTask())
    with raises("inexact-clipping", match="weight"):
        train_round(node, model, settings, trained_arrays(model), 1)


def test_a_task_that_is_not_installed_is_refused_by_name(small_node):
    _, settings = small_node
    with raises("config", match="'Horo scope'"):
        settings.with_changes({"task": "Horo scope"})
    with raises("config", match="'horoscope'"):
        task_of(settings.with_changes({"task": "horoscope"}).task)


def test_another_package_brings_a_task_by_an_entry_point(monkeypatch):
    monkeypatch.setattr(
        "hanse_client.tasks.entry_points",
        lambda group: [EntryPoint("visits", f"{__name__}:VisitsTask", group)],
    )
    task_of.cache_clear()
    try:
        assert isinstance(task_of("visits"), VisitsTask)
        assert evaluation_names("visits") == ("customers",)
    finally:
        task_of.cache_clear()


FREE = ("recipe", "seed", "privacy", "compute", "compare", "sweep", "continues")
"""Settings that no store's work depends on, or whose terms are compared one by one."""


def test_the_digest_of_settings_covers_every_setting_that_a_store_works_by(small_node):
    """A coordinator who could change one could ask a store's customers something by it."""
    _, settings = small_node
    digest = settings_digest(settings)
    others = {"task": "review", "data": settings.data.model_copy(update={"min_items": 2})}
    for field in type(settings).model_fields:
        other = settings.model_copy(update={field: others.get(field)})
        covered = settings_digest(other) != digest
        unset = getattr(settings, field) is None
        assert covered == (field not in (*FREE, "transformer_training") and not unset), field
