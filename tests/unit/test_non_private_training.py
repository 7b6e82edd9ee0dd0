"""What only training without privacy may do: stop early, and compute in bfloat16."""

import numpy as np
import pytest
import torch

from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.metrics import evaluate_histories
from hanse_client.tasks.interest.task import InterestTask
from hanse_client.training import early_stopping, train
from hanse_client.training.train import load_arrays, train_alone, train_round, trained_arrays
from hanse_simulations.bench.folds import fold_of
from kits.errors import raises

OPEN = {"privacy": {"mode": "none"}, "federation.evaluate_every": 1}


def model_of(node, settings):
    model = InterestModel.from_pretrained(node.settings.base_model)
    model.train_only(settings.model.trainable)
    return model


def rounds_in(node):
    return (node.folder / "log.jsonl").read_text().count('"round"')


def test_a_store_stops_when_validation_gets_no_better_and_keeps_its_best(small_node, monkeypatch):
    node, settings = small_node
    settings = settings.with_changes(OPEN | {"federation.rounds": 6, "federation.patience": 2})
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9, 0.9])
    seen = []

    def score(figures):
        seen.append(next(scores))
        return seen[-1]

    kept = []
    real = early_stopping.EarlyStopping.is_enough

    def remember(self, value, arrays):
        kept.append(arrays)
        return real(self, value, arrays)

    monkeypatch.setattr(train, "validation_score", score)
    monkeypatch.setattr(early_stopping.EarlyStopping, "is_enough", remember)
    model = model_of(node, settings)
    train_alone(node, model, settings)
    assert (seen, rounds_in(node)) == ([0.2, 0.5, 0.4, 0.3], 4)
    for name, array in trained_arrays(model).items():
        np.testing.assert_array_equal(array, kept[1][name])


def test_with_enough_patience_the_best_round_by_validation_is_kept(small_node):
    node, settings = small_node
    settings = settings.with_changes(OPEN | {"federation.rounds": 3, "federation.patience": 9})
    model = model_of(node, settings)
    train_alone(node, model, settings)
    found = early_stopping.validation_score(
        evaluate_histories(node.histories, model, settings, "validate")
    )
    assert np.isfinite(found)
    assert rounds_in(node) == 3


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"federation.patience": 2}, "has no noise"),
        ({"training.precision": "bfloat16"}, "exceed the clip"),
    ],
)
def test_both_are_refused_under_privacy(small_settings, mode, change, reason):
    terms = {"privacy.mode": mode, "training.local_steps": 1}
    terms["federation.secure_aggregation"] = True
    with raises("config", match=reason):
        small_settings.with_changes(terms | change)


def test_bfloat16_moves_an_open_round_by_little_and_does_move_it(small_node):
    node, settings = small_node
    settings = settings.with_changes(OPEN | {"model.trainable": "all"})
    updates = []
    for precision in ("float32", "bfloat16"):
        model = model_of(node, settings)
        start = trained_arrays(model)
        chosen = settings.with_changes({"training.precision": precision})
        found = train_round(node, model, chosen, start, 1).update
        assert all(array.dtype == np.float32 for array in found.values())
        updates.append(np.concatenate([found[name].ravel() for name in sorted(found)]))
    plain, low = updates
    difference = np.linalg.norm(plain - low) / np.linalg.norm(plain)
    assert 0 < difference < 0.05


def test_private_losses_and_gradients_are_float32(small_node, monkeypatch):
    node, settings = small_node
    model = model_of(node, settings)
    seen = []
    real = InterestTask.losses

    def watched(*arguments):
        losses = real(*arguments)
        seen.append((losses.dtype, torch.is_autocast_enabled("cpu")))
        return losses

    monkeypatch.setattr(InterestTask, "losses", watched)
    load_arrays(model, start := trained_arrays(model))
    train_round(node, model, settings, start, 1)
    assert set(seen) == {(torch.float32, False)}


def test_folds_take_every_customer_once_and_a_person_to_one_fold_everywhere(small_stores):
    _, prepared = small_stores
    stores = prepared.load()
    for store in stores:
        lots = fold_of(store, 3, seed=1)
        assert set(lots) <= {0, 1, 2}
        parts = [store.only(np.flatnonzero(lots == fold)) for fold in range(3)]
        assert sum(len(part.visit_days) for part in parts) == len(store.visit_days)
        assert sum(len(part.active()) for part in parts) == len(store.active())
        known = store.homes >= 0
        np.testing.assert_array_equal(lots[known], store.homes[known] % 3)
