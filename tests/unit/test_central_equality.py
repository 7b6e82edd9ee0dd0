"""A federation with shared noise takes the step that one trusted party would take."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from hanse_client.features.histories import Histories, days
from hanse_client.node import Node, list_nodes
from hanse_client.tasks.interest import InterestModel, task
from hanse_client.tasks.interest.features import Anchors, training_anchors
from hanse_client.training.train import train_round, trained_arrays
from hanse_common.manifest_noise import rate_share
from hanse_common.manifest_terms import planned_manifest
from hanse_common.vector import flatten
from hanse_simulations.experiment.prepare import make_nodes
from hanse_simulations.experiment.sweep import (
    METRICS,
    SweepFigures,
    points,
    summarise,
)
from hanse_simulations.runs.arm_folder import ArmFolder
from hanse_simulations.runs.results import Spread


@pytest.fixture
def settings(small_stores):
    found, _ = small_stores
    return found.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
            "training.sample_rate": 1.0,
            "training.learning_rate": 0.8,
            "privacy.noise_multiplier": 50.0,
            "federation.rounds": 4,
        }
    )


def model_of(node, trainable):
    model = InterestModel.from_pretrained(node.settings.base_model)
    model.train_only(trainable)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model, trained_arrays(model)


@pytest.fixture
def same_anchors(monkeypatch, small_stores):
    """Anchors that depend on the customer alone, wherever they are a customer."""
    _, prepared = small_stores
    whole = Histories.pooled(prepared.load())

    def draw(histories, customers, **terms):
        parts = []
        for customer in customers:
            days_of = histories.visit_days[slice(*histories.visit_offsets[customer : customer + 2])]
            seed = int(days_of.sum() * 1e6) % 2**63
            one = np.array([customer])
            part = training_anchors(histories, one, **{**terms, "rng": np.random.default_rng(seed)})
            parts.append(part)
        names = [f.name for f in fields(Anchors)]
        return Anchors(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    monkeypatch.setattr(task, "training_anchors", draw)
    return whole


@pytest.mark.parametrize("trainable", ["rules", "heads", "all"])
def test_the_stores_sums_are_the_sum_over_all_customers_in_one_place(
    trainable, settings, small_stores, same_anchors, tmp_path
):
    _, prepared = small_stores
    settings = settings.with_changes({"model.trainable": trainable})
    apart, together = ArmFolder(tmp_path / "apart"), ArmFolder(tmp_path / "together")
    nodes = [Node(f) for f in list_nodes(make_nodes(prepared, apart, settings, salt="x"))]
    one = prepared.centralized(prepared.load(), tmp_path / "data.npz")
    (center,) = (Node(f) for f in list_nodes(make_nodes(one, together, settings, salt="x")))
    model, arrays = model_of(center, trainable)
    central = train_round(center, model, settings, arrays, 1)
    federated = [train_round(node, model, settings, arrays, 1) for node in nodes]
    total = np.sum([flatten(part.update) for part in federated], axis=0)
    expected = flatten(central.update)
    assert sum(part.drawn for part in federated) == central.drawn == 48
    assert sum(part.losses for part in federated) == pytest.approx(central.losses, rel=1e-5)
    scale = np.linalg.norm(expected)
    assert scale > 1.0
    assert np.linalg.norm(total - expected) < 1e-5 * scale


def test_the_servers_step_is_gradient_descent_by_the_public_constant(settings):
    """What the mean over stores is multiplied by, against torch's own SGD on the mean sum."""
    generator = torch.Generator().manual_seed(3)
    start, total = (torch.randn(6, generator=generator) for _ in range(2))
    stores, batch = 2, settings.training.expected_batch_size
    for number in (1, 2, 4):
        rate = settings.training.learning_rate * settings.learning_rate_decay(number)
        parameter = torch.nn.Parameter(start.clone())
        parameter.grad = total / (stores * batch)
        torch.optim.SGD([parameter], lr=rate).step()
        moved = start + settings.update_factor(number) * total / stores
        torch.testing.assert_close(moved, parameter.detach())
    assert settings.learning_rate_decay(1) > settings.learning_rate_decay(4) > 0.1
    assert settings.with_changes({"privacy.mode": "local"}).update_factor(3) == 1.0


def test_the_centralized_arm_takes_the_same_step(settings):
    """Its divisor is the stores' together, so that its step is theirs on the mean."""
    sweep = settings.with_changes({"sweep": {"epsilons": [4.0], "seeds": 1}})
    found = {point.arm.name: point.arm.settings(sweep) for point in points(sweep, 2)}
    central, shared = found["centralized_private"], found["distributed"]
    assert central.training.expected_batch_size == 2 * shared.training.expected_batch_size
    for name in ("learning_rate", "sample_rate", "local_steps"):
        assert getattr(central.training, name) == getattr(shared.training, name)
    assert central.privacy.max_grad_norm == shared.privacy.max_grad_norm


def test_where_the_noise_shortens_steps_all_private_arms_follow_it(settings):
    changes = {
        "sweep": {"epsilons": [0.5], "seeds": 1},
        "privacy.noise_multiplier": None,
        "privacy.statistics_noise_multiplier": 1000.0,
    }
    follows = settings.with_changes({**changes, "training.reference_noise": 0.05})
    found = {point.arm.name: point.arm.settings(follows) for point in points(follows, 4)}
    shared = found["distributed"]
    share = rate_share(planned_manifest(shared, 1, 4), shared)
    rate = settings.training.learning_rate
    assert share < 0.5
    assert shared.training.learning_rate == rate
    assert found["centralized_private"].training.learning_rate == pytest.approx(rate * share)
    # The noise of a store alone is the root of the number of stores times the shared noise.
    assert found["local"].training.learning_rate == pytest.approx(rate * share / 4**2)


# The sweep

PRIVATE = ("distributed", "local", "centralized_private")
SWEPT = ("alone", "local", "distributed", "federated", "centralized_private", "centralized")


def test_a_sweep_lists_every_arm_epsilon_and_seed_once(settings):
    sweep = settings.with_changes({"sweep": {"epsilons": [8.0, 1.0], "seeds": 3}})
    found = list(points(sweep, 2))
    names = [point.name for point in found]
    assert len(set(names)) == len(names) == 3 * (3 + 3 * 2)
    keys = {(point.arm.name, point.epsilon, point.seed) for point in found}
    seeds = range(settings.seed, settings.seed + 3)
    assert keys == {
        (arm, epsilon, seed)
        for seed in seeds
        for arm in SWEPT
        for epsilon in ((8.0, 1.0) if arm in PRIVATE else (None,))
    }
    for point in found:
        point_settings = point.arm.settings(sweep)
        private = point_settings.privacy.mode != "none"
        assert private == (point.epsilon is not None)
        assert point_settings.sweep is None
        assert point_settings.seed == point.seed
        if private:
            assert point_settings.privacy.target_epsilon == point.epsilon
            assert point_settings.privacy.noise_multiplier is None
    assert list(points(settings, 2)) == []


def found_at(value):
    spread = Spread(mean=value, std=0.25, min=value, max=value)
    return SweepFigures(
        overall=dict.fromkeys(METRICS, value), over_stores=dict.fromkeys(METRICS, spread)
    )


def test_a_summary_joins_seeds_and_keeps_arms_and_epsilons_apart(settings):
    sweep = settings.with_changes({"sweep": {"epsilons": [1.0, 8.0], "seeds": 2}})
    found = [(point, found_at(point.seed + (point.epsilon or 0.0))) for point in points(sweep, 2)]
    rows = summarise(found[::-1])
    assert [(row.arm, row.epsilon) for row in rows] == [
        (arm, epsilon) for arm in SWEPT for epsilon in ((8.0, 1.0) if arm in PRIVATE else (None,))
    ]
    for row in rows:
        assert row.over_stores["ndcg@10"].std == 0.25
        spread, base = row.figures["ndcg@10"], settings.seed + (row.epsilon or 0.0)
        assert (row.seeds, spread.min, spread.max) == (2, base, base + 1)
        assert (spread.mean, spread.std) == (base + 0.5, 0.5)


def test_pooling_keeps_every_customers_visits(small_stores):
    _, prepared = small_stores
    parts = prepared.load()
    whole = Histories.pooled(parts)
    assert len(whole) == sum(map(len, parts)) == len(set(whole.customers))
    place = 0
    for part in parts:
        for customer in range(len(part)):
            mine = slice(*part.visit_offsets[customer : customer + 2])
            theirs = slice(*whole.visit_offsets[place : place + 2])
            for name in ("visit_days", "visit_vectors", "visit_facts"):
                np.testing.assert_array_equal(
                    getattr(part, name)[mine], getattr(whole, name)[theirs]
                )
            own = part.pair_classes[slice(*part.pair_offsets[[mine.start, mine.stop]])]
            kept = whole.pair_classes[slice(*whole.pair_offsets[[theirs.start, theirs.stop]])]
            np.testing.assert_array_equal(own, kept)
            place += 1
    until = days(small_stores[0].data.split.train_until)
    counts = [np.diff(part.until(until).visit_offsets) for part in parts]
    np.testing.assert_array_equal(np.concatenate(counts), np.diff(whole.until(until).visit_offsets))
