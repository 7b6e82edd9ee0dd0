"""A round at a store: what is charged, what is sent, what is refused."""

import json

import numpy as np
import pytest
import torch

from hanse_client.node import Node, NodeSettings
from hanse_client.tasks.interest import InterestModel
from hanse_client.training.train import load_arrays, train_alone, train_round, trained_arrays
from hanse_common.privacy.plan import PrivacyPlan
from kits.errors import raises


def start(node, settings):
    model = InterestModel.from_pretrained(node.settings.base_model)
    model.train_only(settings.model.trainable)
    return model, trained_arrays(model)


def test_a_round_changes_every_trained_parameter_and_sends_nothing_else(small_node):
    node, settings = small_node
    model, arrays = start(node, settings)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    update = train_round(node, model, settings, arrays, 1).update
    assert list(update) == sorted(arrays)
    assert all(update[name].any() for name in arrays)
    assert frozen
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if n in frozen)


def test_the_same_seed_gives_the_same_bits_and_another_round_does_not(small_node):
    node, settings = small_node
    model, arrays = start(node, settings)
    one = train_round(node, model, settings, arrays, 1).update
    again = train_round(node, model, settings, arrays, 1).update
    other = train_round(node, model, settings, arrays, 2).update
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_without_a_seed_noise_comes_from_the_operating_system(small_node):
    node, settings = small_node
    table = json.loads((node.folder / "node.json").read_text()) | {"seed": None}
    (node.folder / "node.json").write_text(json.dumps(table))
    node = Node(node.folder)
    model, arrays = start(node, settings)
    one = train_round(node, model, settings, arrays, 1).update
    again = train_round(node, model, settings, arrays, 1).update
    assert any(not np.array_equal(one[name], again[name]) for name in one)


def test_charges_add_up_over_restarts(small_node):
    node, settings = small_node
    plan = PrivacyPlan.from_settings(settings)
    for number in (1, 2):
        Node(node.folder).charge(plan.round_charge().of(round=number))
    (spent,) = Node(node.folder).spent()
    assert spent.count == 2 * settings.training.local_steps
    lines = [json.loads(x) for x in (node.folder / "log.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == [
        pytest.approx(plan.epsilon_after(rounds=number)) for number in (1, 2)
    ]


def test_a_damaged_record_of_spending_stops_all_spending(small_node):
    node, settings = small_node
    plan = PrivacyPlan.from_settings(settings)
    (node.folder / "ledger.sqlite").write_text("no ledger")
    with raises("ledger"):
        node.charge(plan.round_charge().of(round=1))


def test_counts_and_losses_of_a_round_are_exact_before_noise(small_node):
    node, settings = small_node
    settings = settings.with_changes({"privacy": {"mode": "none"}, "training.loss_clip": 1e-6})
    model, arrays = start(node, settings)
    trained = train_round(node, model, settings, arrays, 1)
    assert 0 < trained.drawn <= 24 * settings.training.local_steps
    assert trained.losses == trained.drawn  # every loss is above so low a clip
    lines = [json.loads(x) for x in (node.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, trained.steps + 1))


def test_clipping_is_checked_before_the_first_private_step_only(small_node):
    node, settings = small_node
    model, arrays = start(node, settings)
    train_round(node, model, settings, arrays, 1)
    record = node.folder / "clipping-check.json"
    (entry,) = json.loads(record.read_text()).values()
    assert entry["worst_relative_error"] < 1e-4
    written = record.stat().st_mtime_ns
    train_round(node, model, settings, arrays, 2)
    assert record.stat().st_mtime_ns == written


def test_an_empty_poisson_batch_is_a_step_of_noise(small_node):
    node, settings = small_node
    settings = settings.with_changes(
        {"training.sample_rate": 1e-9, "privacy.target_epsilon": 100.0}
    )
    model, arrays = start(node, settings)
    update = train_round(node, model, settings, arrays, 1).update
    plan = PrivacyPlan.from_settings(settings)
    moved = np.concatenate([(update[n]).ravel() for n in arrays])
    steps, rate = settings.training.local_steps, settings.training.learning_rate
    scale = plan.noise_multiplier * plan.max_grad_norm / settings.training.expected_batch_size
    expected = rate * scale * np.sqrt(steps)
    assert moved.std() == pytest.approx(expected, rel=0.1)
    assert abs(moved.mean()) < 5 * expected / np.sqrt(moved.size)


def test_the_divisor_is_the_public_constant_whatever_the_store_holds(small_node):
    """Doubling the constant halves the update: no count of customers enters it."""
    node, settings = small_node
    settings = settings.with_changes({"training.local_steps": 1})
    model, arrays = start(node, settings)
    moved = {}
    for constant in (8.0, 16.0):
        changed = settings.with_changes({"training.expected_batch_size": constant})
        update = train_round(node, model, changed, arrays, 1).update
        moved[constant] = np.concatenate([(update[n]).ravel() for n in arrays])
    np.testing.assert_allclose(moved[8.0], 2 * moved[16.0], rtol=1e-2, atol=1e-5)


def test_without_privacy_nothing_is_charged(small_node):
    node, settings = small_node
    settings = settings.with_changes({"privacy": {"mode": "none"}})
    model, arrays = start(node, settings)
    train_round(node, model, settings, arrays, 1)
    assert node.spent() == []
    assert "epsilon" not in (node.folder / "log.jsonl").read_text()


def test_training_alone_lowers_the_loss(small_node):
    node, settings = small_node
    settings = settings.with_changes(
        {"privacy": {"mode": "none"}, "model.trainable": "all", "federation.rounds": 15}
    )
    model, arrays = start(node, settings)
    load_arrays(model, arrays)
    train_alone(node, model, settings)
    lines = [json.loads(x) for x in (node.folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


OPEN = {"privacy.mode": "none", "privacy.noise_multiplier": None}


def test_without_privacy_a_store_with_too_few_customers_is_refused(small_node):
    node, settings = small_node
    settings = settings.with_changes({"data.min_customers": 25, **OPEN})
    model, arrays = start(node, settings)
    with raises("too-few-customers", match="'synthetic-01' has 24"):
        train_round(node, model, settings, arrays, 1)


def test_with_privacy_a_store_with_too_few_customers_trains_like_any_other(small_node):
    """Were it to refuse, the coordinator would learn exactly how many there are."""
    node, settings = small_node
    settings = settings.with_changes({"data.min_customers": 25})
    model, arrays = start(node, settings)
    assert train_round(node, model, settings, arrays, 1).update.keys() == arrays.keys()


def test_a_store_that_opened_after_training_ended_is_empty(small_node):
    node, settings = small_node
    split = {
        "train_until": "1980-01-01T00:00:00",
        "validate_until": "1980-02-01T00:00:00",
        "test_until": "1980-03-01T00:00:00",
    }
    settings = settings.with_changes({"data.split": split})
    model, arrays = start(node, settings)
    with raises("empty-store", match="1980"):
        train_round(node, model, settings.with_changes(OPEN), arrays, 1)
    assert train_round(node, model, settings, arrays, 1).drawn == 0


def test_a_folder_without_a_node_says_what_to_do(tmp_path):
    with raises("config"):
        Node(tmp_path)


def test_unknown_keys_of_a_node_are_errors(small_node):
    node, _ = small_node
    table = NodeSettings.model_dump(node.settings, mode="json") | {"epsilon": 3}
    (node.folder / "node.json").write_text(json.dumps(table))
    with raises("config", match="'epsilon'"):
        Node(node.folder)


def test_customers_taken_in_parts_make_the_same_private_step(small_node, monkeypatch):
    """How many gradients are held at once is a matter of memory: clip, noise and sum stay."""
    node, settings = small_node
    model, arrays = start(node, settings)
    whole = train_round(node, model, settings, arrays, 1).update
    monkeypatch.setattr("hanse_client.tasks.interest.task.rows_at_once", lambda _: 3)
    parts = train_round(node, model, settings, arrays, 1).update
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["local", "none"])
def test_fedprox_pulls_the_update_back_to_the_global_model(small_node, mode):
    node, settings = small_node
    settings = settings.with_changes({"privacy": {"mode": mode}})
    model, arrays = start(node, settings)

    def moved(mu):
        update = train_round(node, model, settings, arrays, 1, proximal_mu=mu).update
        return sum(float(np.square(update[name]).sum()) for name in arrays)

    assert 0 < moved(0.1) < moved(0.0)
    assert moved(1e9) == 0
