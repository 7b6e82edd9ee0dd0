"""Canaries: fair coins, real customers to the production code, and a clip that is not theirs."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from hanse_client.clipping.per_customer import customer_clipper
from hanse_client.features.histories import days
from hanse_client.rounds import local_update
from hanse_client.tasks.interest import InterestModel
from hanse_client.training import train
from hanse_client.training.train import train_round, trained_arrays
from hanse_common.manifest_noise import honest_survivors
from hanse_common.manifest_terms import manifest_for
from hanse_common.vector import NOISE_ONLY, flatten
from hanse_simulations.privacy_audit.canaries import PREFIX, draw_canaries, with_canaries
from hanse_simulations.privacy_audit.canary_clipper import CanaryClipper
from hanse_simulations.privacy_audit.faults import Fault, faulty_manifest
from hanse_simulations.privacy_audit.run import attack
from hanse_simulations.privacy_audit.scoring import guess, scores
from hanse_simulations.privacy_audit.store_app import Known, Orders, _Attack
from hanse_simulations.recipes import load_recipe
from kits.errors import raises


def test_coins_are_fair_repeatable_and_every_canary_has_its_own_parameter():
    drawn = draw_canaries(["a", "b", "c"], count=3000, parameters=5000, seed=3)
    again = draw_canaries(["a", "b", "c"], count=3000, parameters=5000, seed=3)
    other = draw_canaries(["a", "b", "c"], count=3000, parameters=5000, seed=4)
    assert np.array_equal(drawn.included, again.included)
    assert not np.array_equal(drawn.included, other.included)
    assert stats.binomtest(int(drawn.included.sum()), 3000).pvalue > 1e-3
    assert len(set(drawn.coordinates)) == 3000
    inside = {name for store in "abc" for name in drawn.of_store(store)}
    assert inside == {
        name for name, there in zip(drawn.names, drawn.included, strict=True) if there
    }


def test_more_canaries_than_parameters_are_refused():
    with raises("config", match="11 canaries"):
        draw_canaries(["a"], count=11, parameters=10, seed=0)


def test_canaries_join_the_histories_and_leave_everybody_elses_alone(small_stores):
    settings, prepared = small_stores
    until = days(settings.data.split.train_until)
    before = prepared.load()[0]
    after = with_canaries(before, ["~canary-1", "~canary-2"], until=until)
    count = len(before)
    assert list(after.customers) == [*before.customers, "~canary-1", "~canary-2"]
    assert np.array_equal(after.visit_offsets[: count + 1], before.visit_offsets)
    assert np.array_equal(after.visit_days[: len(before.visit_days)], before.visit_days)
    assert np.array_equal(after.pair_classes[: len(before.pair_classes)], before.pair_classes)
    assert after.observed_from == before.observed_from
    active = after.until(until).active()
    assert {count, count + 1} <= set(active.tolist())  # they can be drawn
    assert after.pair_offsets[-1] == len(after.pair_classes)


@pytest.fixture
def attacked(small_node):
    """A node with three canaries, and a model in which nothing is zero."""
    node, settings = small_node
    settings = settings.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
            "training.sample_rate": 1.0,
            "model.trainable": "rules",
            "privacy.noise_multiplier": 50.0,
        }
    )
    coordinates = {f"{PREFIX}{i}": place for i, place in enumerate((2, 70, 150))}
    path = node.folder / "with-canaries.npz"
    until = days(settings.data.split.train_until)
    with_canaries(node.histories, list(coordinates), until=until).save(path)
    table = json.loads((node.folder / "node.json").read_text())
    (node.folder / "node.json").write_text(
        json.dumps({**table, "histories": str(path), "enrolment": None})
    )
    Orders(coordinates=coordinates).save(node.folder)
    model = InterestModel.from_pretrained(node.settings.base_model)
    model.train_only("rules")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return type(node)(node.folder), settings, model, coordinates


def test_a_drawn_canary_adds_the_clip_along_its_parameter_and_others_what_they_always_do(attacked):
    node, settings, model, coordinates = attacked
    arrays = trained_arrays(model)
    with _Attack(node).under_way():
        found = train.train_round(node, model, settings, arrays, 1)
    known = Known.load(node.folder, 1)
    clip = settings.privacy.max_grad_norm
    only = flatten(found.update) - known.others
    expected = np.zeros_like(only)
    expected[list(coordinates.values())] = clip
    np.testing.assert_allclose(only, expected, atol=1e-4 * clip)
    assert np.linalg.norm(known.others) > clip
    np.testing.assert_array_equal(known.model, flatten(arrays))
    # The production clipper, of the same people: the canaries' own gradients are in it then.
    plain = train_round(node, model, settings, arrays, 1)
    assert plain.drawn == found.drawn == 27
    assert np.linalg.norm(flatten(plain.update) - known.others) <= 3 * clip * (1 + 1e-4)


def test_nothing_of_the_attack_is_left_in_the_production_code(attacked):
    node = attacked[0]
    names = ("train_round", "customer_clipper", "task_of", "KeystreamOptimizer")
    before = [getattr(train, name) for name in names] + [local_update.training_vector]
    with pytest.raises(ZeroDivisionError), _Attack(node).under_way():
        assert train.customer_clipper != customer_clipper
        1 / 0  # noqa: B018
    assert [getattr(train, name) for name in names] + [local_update.training_vector] == before


def test_a_clip_that_does_not_hold_shows_in_a_canary():
    """Canaries are clipped by the production code: what it lets through is what is seen."""

    class Leaky(CanaryClipper):
        def _add_clipped(self, uses):
            self.max_grad_norm, kept = 2 * self.max_grad_norm, self.max_grad_norm
            super()._add_clipped(uses)
            self.max_grad_norm = kept

    seen = []
    for kind in (CanaryClipper, Leaky):
        model = torch.nn.Linear(5, 3)
        with kind(model, max_grad_norm=0.5, coordinates={"c": 4}) as clipper:
            clipper.expect(["c"])
            clipper.backward(model(torch.ones(1, 5)).sum(1))
        assert not model.bias.grad.any()  # three parameters come before the weights
        seen.append(float(model.weight.grad[0, 1]))
    assert seen == pytest.approx([0.5, 1.0], rel=1e-5)


def test_faults_touch_update_and_statistics_and_leave_the_noise_only_coordinates(small_settings):
    settings = small_settings.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
            "privacy.target_epsilon": 100.0,
        }
    )
    arrays = {"w": np.zeros(40, np.float32)}
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(10)], federation="f")
    due = {part.name: part.noise_variance for part in manifest.sections}
    honest = honest_survivors(manifest.terms())
    for fault, part in ((Fault.NONE, 1), (Fault.NOISE_OVER_N, 1 / honest), (Fault.NO_NOISE, 0)):
        for section in faulty_manifest(manifest, fault).sections:
            left = 1 if section.name == NOISE_ONLY else part
            assert section.noise_variance == pytest.approx(due[section.name] * left)


def test_scores_follow_the_likelihood_and_guesses_abstain_in_the_middle():
    rng = np.random.default_rng(2)
    included = rng.random(400) < 0.5
    drawn = included & (rng.random((30, 400)) < 0.3)
    found = scores(drawn + rng.normal(0, 0.3, drawn.shape), sample_rate=0.3)
    assert guess(found, included, 200).right == guess(found, included, 200).count == 200
    assert np.isfinite(scores(drawn.astype(float), sample_rate=1.0)).all()
    nothing = guess(rng.normal(size=400), included, 200)
    assert stats.binomtest(nothing.right, nothing.count).pvalue > 1e-3


@pytest.mark.parametrize(
    ("changes", "canaries", "words"),
    [
        ({"privacy.mode": "none"}, 100, "claims nothing"),
        ({"federation.strategy": "FedAdam"}, 100, "FedAvg"),
        ({"privacy.one_home": True}, 100, "at home nowhere"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_runs(changes, canaries, words):
    with raises("config", match=words):
        attack(load_recipe("attack").with_changes(changes), canaries=canaries, quiet=True)
