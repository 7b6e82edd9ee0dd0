"""Canaries: fair coins, real customers to the production code, and a clip that is not theirs."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from hanse_client.clipping.per_customer import customer_clipper
from hanse_client.features.histories import days
from hanse_client.features.ragged import offsets_of
from hanse_client.rounds import local_update
from hanse_client.tasks.contributions import Contributions
from hanse_client.tasks.interest import InterestModel
from hanse_client.training import statistics, train
from hanse_client.training.statistics import exchanged_arrays
from hanse_client.training.train import train_round, trained_arrays
from hanse_common.manifest_noise import honest_survivors
from hanse_common.manifest_terms import manifest_for
from hanse_common.phases import trained
from hanse_common.privacy.plan import PrivacyPlan, solved, unsolved
from hanse_common.run_file import load_recipe
from hanse_common.vector import NOISE_ONLY, UPDATE, Draws, flatten
from hanse_simulations.privacy_audit.canaries import (
    PREFIX,
    Direction,
    draw_canaries,
    with_canaries,
)
from hanse_simulations.privacy_audit.canary_clipper import CanaryClipper
from hanse_simulations.privacy_audit.canary_rows import replace_rows
from hanse_simulations.privacy_audit.faults import Fault, faulty_draws, faulty_manifest
from hanse_simulations.privacy_audit.run import attack
from hanse_simulations.privacy_audit.scoring import guess, scores
from hanse_simulations.privacy_audit.store_app import Known, Orders, _Attack
from kits.apps import counting_task
from kits.apps.counting_task import PHASE
from kits.errors import raises


def test_coins_are_fair_and_repeatable():
    drawn = draw_canaries(["a", "b", "c"], count=3000, seed=3)
    again = draw_canaries(["a", "b", "c"], count=3000, seed=3)
    other = draw_canaries(["a", "b", "c"], count=3000, seed=4)
    assert np.array_equal(drawn.included, again.included)
    assert not np.array_equal(drawn.included, other.included)
    assert stats.binomtest(int(drawn.included.sum()), 3000).pvalue > 1e-3
    inside = {name for store in "abc" for name in drawn.of_store(store)}
    assert inside == {
        name for name, there in zip(drawn.names, drawn.included, strict=True) if there
    }


def test_every_canary_has_a_number_of_its_own_where_there_are_enough():
    drawn = draw_canaries(["a"], count=300, seed=3)
    one, two = (drawn.directions(number=number, length=301) for number in (1, 2))
    assert len(set(one.places)) == len(set(two.places)) == 300
    assert not np.array_equal(one.places, two.places)
    assert set(one.signs) == {-1.0, 1.0}


def test_where_numbers_are_few_canaries_share_them_evenly_and_with_others_in_every_round():
    drawn = draw_canaries(["a"], count=100, seed=3)
    rounds = [drawn.directions(number=number, length=30) for number in range(1, 41)]
    for one in rounds:
        shared = np.bincount(one.places, minlength=30)
        assert shared.max() <= 4 and len(one.places) == 100
    # A sum along canary 0's direction holds others with signs that cancel out over rounds.
    others = [one.signs[0] * one.signs[1:][one.places[1:] == one.places[0]].sum() for one in rounds]
    assert abs(np.mean(others)) < 4 * (3 / 40) ** 0.5
    pairs = [set(np.flatnonzero(one.places == one.places[0])) for one in rounds[:2]]
    assert pairs[0] != pairs[1]


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
    numbers = {f"{PREFIX}{i}": i for i in range(3)}
    path = node.folder / "with-canaries.npz"
    until = days(settings.data.split.train_until)
    with_canaries(node.histories, list(numbers), until=until).save(path)
    table = json.loads((node.folder / "node.json").read_text())
    (node.folder / "node.json").write_text(
        json.dumps({**table, "histories": str(path), "enrolment": None})
    )
    orders = Orders(canaries=numbers, count=3, seed=1)
    orders.save(node.folder)
    model = InterestModel.from_pretrained(node.settings.base_model)
    model.train_only("rules")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return type(node)(node.folder), settings, model, orders


def test_a_drawn_canary_adds_the_clip_along_its_parameter_and_others_what_they_always_do(attacked):
    node, settings, model, orders = attacked
    arrays = trained_arrays(model)
    with _Attack(node).under_way():
        found = train.train_round(node, model, settings, arrays, 1)
    known = Known.load(node.folder, 1)
    clip = settings.privacy.max_grad_norm
    only = flatten(found.update) - known.others
    expected = np.zeros_like(only)
    for place, sign in orders.directions(1, len(only)).values():
        expected[place] = sign * clip
    assert np.count_nonzero(expected) == 3
    np.testing.assert_allclose(only, expected, atol=1e-4 * clip)
    assert np.linalg.norm(known.others) > clip
    np.testing.assert_array_equal(known.model, flatten(arrays))
    # The production clipper, of the same people: the canaries' own gradients are in it then.
    plain = train_round(node, model, settings, arrays, 1)
    assert plain.drawn == found.drawn == 27
    assert np.linalg.norm(flatten(plain.update) - known.others) <= 3 * clip * (1 + 1e-4)


@pytest.fixture
def counting(attacked, monkeypatch):
    """The same node, asked for a sum of statistics: settings, model, arrays and manifest."""
    counting_task.install(monkeypatch)
    node, settings, _, orders = attacked
    settings = unsolved(settings).with_changes(
        {
            "task": "counting",
            "phases": [{"name": PHASE, "release": "statistics", "share": 0.5}, {"share": 0.5}],
            "privacy.max_stores_per_customer": 2,
            "privacy.statistics_noise_multiplier": 100.0,
        }
    )
    settings = solved(settings)
    task = counting_task.CountingTask()
    model = task.load_model(node.settings.base_model)
    task.freeze(model, settings)
    arrays = exchanged_arrays(task, model, settings)
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(10)], federation="f")
    yield node, settings, model, settings.schedule.known(arrays, after=0), manifest, orders
    counting_task.task_of.cache_clear()


def statistics_vector(counting):
    """The sum of a store under attack in round 1, and the integers that it would mask."""
    node, settings, model, arrays, manifest, _ = counting
    streams = [np.random.default_rng(seed) for seed in (1, 2)]
    with _Attack(node).under_way():
        total = local_update.statistics_sum(node, model, settings, arrays, 1)
        vector = local_update.encode_statistics(
            total,
            manifest,
            PHASE,
            plan=PrivacyPlan.from_settings(settings),
            draws=Draws(rounding=streams[0], noise=streams[1]),
        )
    return total, vector


def test_a_canary_adds_the_most_that_statistics_allow_and_others_what_they_always_do(counting):
    node, settings, model, arrays, _, orders = counting
    total, _ = statistics_vector(counting)
    known = Known.load(node.folder, 1)
    expected = np.zeros_like(total)
    for place, sign in orders.directions(1, len(total)).values():
        expected[place] = sign / 2  # half of a person's bound at each of two stores
    assert np.count_nonzero(expected) == 3
    np.testing.assert_allclose(total - known.others, expected, atol=1e-12)
    # The production sum of the same people: their histories' rows are in it, and no more.
    plain = statistics.statistics_sum(node, model, settings, arrays, 1)
    assert 0 < np.linalg.norm(plain - known.others) <= 3 / 2 + 1e-9
    np.testing.assert_array_equal(known.model, flatten(trained(arrays)))
    assert not known.released.size and not known.noised.size


def test_a_store_that_breaks_its_bound_sends_noise_alone_and_the_attacker_knows_nothing(
    counting, monkeypatch
):
    counting_task.install(monkeypatch, counting_task.BoundlessTask)
    node, settings, model, arrays, *_ = counting
    with _Attack(node).under_way():
        with raises("unbounded-statistics"):
            local_update.statistics_sum(node, model, settings, arrays, 1)
        alone = local_update.statistics_sum(node, model, settings, arrays, 1, noise_alone=True)
    assert not alone.any()
    with raises("data"):
        Known.load(node.folder, 1)


def test_nothing_of_the_attack_is_left_in_the_production_code(attacked):
    node = attacked[0]
    modules = (train, statistics, local_update)
    before = [dict(vars(module)) for module in modules]
    with pytest.raises(ZeroDivisionError), _Attack(node).under_way():
        assert train.customer_clipper != customer_clipper
        assert [dict(vars(module)) for module in modules] != before
        1 / 0  # noqa: B018
    assert [dict(vars(module)) for module in modules] == before


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
        there = {"c": Direction(place=4, sign=-1.0)}
        with kind(model, max_grad_norm=0.5, directions=there) as clipper:
            clipper.expect(["c"])
            clipper.backward(model(torch.ones(1, 5)).sum(1))
        assert not model.bias.grad.any()  # three parameters come before the weights
        seen.append(-float(model.weight.grad[0, 1]))
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


def test_faults_touch_the_sums_of_every_phase(small_settings):
    settings = unsolved(small_settings).with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
            "privacy.target_epsilon": 100.0,
            "phases": [
                {"name": "pairs", "release": "statistics", "share": 0.5},
                {"share": 0.5},
            ],
        }
    )
    settings = solved(settings)
    arrays = {"w": np.zeros(40, np.float32), "released.pairs": np.zeros(9, np.float32)}
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(10)], federation="f")
    due = {part.name: part.noise_variance for part in manifest.sections_of("pairs")}
    assert due.keys() == {UPDATE, NOISE_ONLY} and due[UPDATE] > 0
    for fault in (Fault.NO_NOISE, Fault.NOISE_OVER_N):
        left = {
            s.name: s.noise_variance for s in faulty_manifest(manifest, fault).sections_of("pairs")
        }
        assert left[NOISE_ONLY] == due[NOISE_ONLY]
        part = 0.0 if fault is Fault.NO_NOISE else 1 / honest_survivors(manifest.terms("pairs"))
        assert left[UPDATE] == pytest.approx(part * due[UPDATE])


def test_faulty_draws_are_a_fraction_of_a_stores_own_noise():
    def noise(factor):
        streams = [np.random.default_rng(seed) for seed in (1, 2)]
        return faulty_draws(Draws(rounding=streams[0], noise=streams[1]), factor).noise

    whole = noise(1.0).normal(0.0, 3.0, 5)
    np.testing.assert_array_equal(whole, np.random.default_rng(2).normal(0.0, 3.0, 5))
    np.testing.assert_allclose(noise(0.25).normal(0.0, 3.0, 5), whole / 4)
    assert not noise(0.0).normal(0.0, 3.0, 5).any()


def test_a_canarys_row_is_a_unit_vector_and_others_rows_stay():
    rng = np.random.default_rng(5)
    sizes = np.array([3, 0, 2, 4])
    rows = Contributions(
        offsets=offsets_of(sizes),
        cells=rng.integers(0, 9, sizes.sum()),
        values=rng.random(sizes.sum()) / 9,
        length=9,
    )
    changed = replace_rows(rows, {1: Direction(place=8, sign=1.0), 2: Direction(3, -1.0)})
    others = replace_rows(rows, {1: None, 2: None})
    np.testing.assert_allclose(changed.norms()[[1, 2]], 1.0)
    np.testing.assert_array_equal(others.norms()[[1, 2]], 0.0)
    for kept in (np.array([0]), np.array([3])):
        np.testing.assert_array_equal(changed.sum(kept), rows.sum(kept))
    expected = others.sum()
    expected[8] += 1
    expected[3] -= 1
    np.testing.assert_allclose(changed.sum(), expected)
    # A store whose customers all are canaries, and one without any.
    everyone = replace_rows(rows, dict.fromkeys(range(4)))
    assert len(everyone) == 4 and not everyone.sum().any()
    np.testing.assert_array_equal(replace_rows(rows, {}).sum(), rows.sum())


def test_scores_follow_the_likelihood_and_guesses_abstain_in_the_middle():
    rng = np.random.default_rng(2)
    included = rng.random(400) < 0.5
    drawn = included & (rng.random((30, 400)) < 0.3)
    found = scores(drawn + rng.normal(0, 0.3, drawn.shape), sample_rate=0.3, noise=0.3)
    assert guess(found, included, 200).right == guess(found, included, 200).count == 200
    assert np.isfinite(scores(drawn.astype(float), sample_rate=1.0, noise=0.0)).all()
    # Where every customer is in every sum, a round counts by its own noise.
    apart = scores(np.array([[3.0]]), sample_rate=1.0, noise=2.0)
    np.testing.assert_allclose(apart, (3.0 - 0.5) / 4)
    nothing = guess(rng.normal(size=400), included, 200)
    assert stats.binomtest(nothing.right, nothing.count).pvalue > 1e-3


@pytest.mark.parametrize(
    ("changes", "canaries", "words"),
    [
        ({"privacy.mode": "none"}, 100, "claims nothing"),
        ({"federation.strategy": "FedAdam"}, 100, "FedAvg"),
        ({"privacy.one_home": True}, 100, "at home nowhere"),
        (
            {
                "federation.secure_aggregation": False,
                "privacy.mode": "local",
                "phases": [
                    {"name": "pairs", "release": "statistics", "share": 0.5},
                    {"share": 0.5},
                ],
            },
            100,
            "encoded for masks",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_runs(changes, canaries, words):
    with raises("config", match=words):
        attack(load_recipe("attack").with_changes(changes), canaries=canaries, quiet=True)
