"""What the coordinator reads beside the model: sums over stores, exact or with the agreed noise."""

import json
import math

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from hanse_client.node import Randomness
from hanse_client.rounds.local_update import evaluation_vector, training_vector
from hanse_client.tasks.interest.metrics import Figures
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.charge import Charge
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.secagg import dequantize
from hanse_common.vector import EVALUATION_NAMES, STATISTICS_NAMES, Trained, flatten
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.errors import raises

OPEN = {"privacy.mode": "none", "federation.secure_aggregation": True}
NOISY = {"privacy.evaluation_noise_multiplier": 40.0}
DRAWS = 1500


def test_without_privacy_the_sums_are_the_stores_own_figures(found_federation, monkeypatch):
    federation = found_federation(OPEN)
    from hanse_client.rounds import local_update

    trained = {}
    real = local_update.training_vector

    def spy(node, found, *args, **kwargs):
        trained.setdefault(kwargs["exchange"], []).append((found.drawn, found.losses))
        return real(node, found, *args, **kwargs)

    monkeypatch.setattr(local_update, "training_vector", spy)
    run_rounds(federation.grid(), federation.folder.path, federation.settings)

    stages = [s for s in read_stages(federation.folder.path) if s["stage"] != "done"]
    lines = {(s["round"], s["split"]): s for s in stages}
    for number, split in ((0, "validate"), (2, "validate"), (2, "test")):
        sums = lines[number, split]["sums"]
        assert list(sums) == sorted(EVALUATION_NAMES)
        stores = [Figures.load(n.evaluation(split, number)).sums() for n in federation.nodes()]
        (section,) = federation.manifest().terms("evaluate").layout.sections
        for name in EVALUATION_NAMES:
            true = sum(store[name] for store in stores)
            assert sums[name] == pytest.approx(true, abs=5 / section.scale)
        assert sums["customers"] > 0
        assert 0 < sums["ndcg@10"] <= sums["customers"]
    for number in (1, 2):
        true = np.sum(trained[3 * number], axis=0)
        sums = lines[number, None]["sums"]
        scale = federation.manifest().terms("train").layout.sections[1].scale
        assert [sums[n] for n in STATISTICS_NAMES] == pytest.approx(true, abs=5 / scale)
    assert all(federation.charged(name) == 0 for name in federation.names)


def test_each_evaluation_is_charged_once_and_the_plan_had_reserved_it(found_federation):
    federation = found_federation(NOISY)
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    plan = PrivacyPlan.from_settings(federation.settings)
    for node in federation.nodes():
        evaluations = [entry for entry in node.ledger if entry.release.kind == "evaluate"]
        # Before the first round, after the last, and on the test weeks.
        assert [entry.steps.count for entry in evaluations] == [1, 1, 1]
        terms = {(e.steps.noise_multiplier, e.steps.sample_rate) for e in evaluations}
        assert terms == {(40.0, 1.0)}
        assert epsilon(node.spent(), target_delta=1e-6) == plan.epsilon_after(rounds=2)
    alone = PrivacyPlan.from_settings(
        federation.settings.with_changes({"privacy.evaluation_noise_multiplier": None})
    )
    assert alone.epsilon_after(rounds=2) < plan.epsilon_after(rounds=2)


def test_a_plan_that_forgets_the_evaluations_does_not_exist(found_federation):
    settings = found_federation(NOISY).settings
    with raises("privacy", match="cost"):
        PrivacyPlan.from_settings(
            settings.with_changes({"privacy.evaluation_noise_multiplier": 0.5})
        )


def test_evaluations_that_the_policy_cannot_pay_for_stay_at_the_store(found_federation):
    federation = found_federation(NOISY)
    store = federation.names[0]
    spent = SampledGaussianSteps(noise_multiplier=1.0, sample_rate=0.5, count=100)
    federation.node(store).ledger.charge(Charge(steps=spent, target_delta=1e-6))
    reply = federation.tell(store, "evaluate", split="test", **{"server-round": 2})
    assert reply.error.reason.startswith("[budget-spent] ")
    assert not federation.node(store).evaluation("test", 2).exists()


def within(sample, deviation):
    """Check by chi-square and Kolmogorov-Smirnov that a sample is N(0, deviation^2)."""
    square = float((sample**2).sum()) / deviation**2
    assert 1e-6 < chi2.cdf(square, sample.size) < 1 - 1e-6
    assert kstest(sample / deviation, "norm").pvalue > 1e-6


def test_evaluation_noise_has_the_deviation_that_is_accounted_for(found_federation):
    """A multiple of what one customer adds: a vector of eight numbers in [0, 1]."""
    federation = found_federation(NOISY)
    node = federation.nodes()[0]
    plan = PrivacyPlan.from_settings(federation.settings)
    layout = federation.manifest().terms("evaluate").layout
    sums = {name: 10.0 * i for i, name in enumerate(EVALUATION_NAMES)}
    draws = np.stack(
        [
            evaluation_vector(node, sums, federation.manifest(), plan=plan, exchange=exchange)
            for exchange in range(DRAWS)
        ]
    )
    noise = dequantize(draws, layout.sections[0]) - np.array(list(sums.values()))
    within(noise.ravel(), 40.0 * math.sqrt(8))
    # Coordinates are noised apart from each other.
    assert np.abs(np.corrcoef(noise.T) - np.eye(8)).max() < 6 / math.sqrt(DRAWS)


def test_noise_on_counts_has_the_deviation_that_is_accounted_for(federation):
    """For every step a multiple of what one customer adds: 1, and a loss in [0, 1]."""
    node = federation.nodes()[0]
    plan = PrivacyPlan.from_settings(federation.settings)
    layout = federation.manifest().terms("train").layout
    still = {name: np.zeros_like(array) for name, array in federation.arrays.items()}
    trained = Trained(update=still, drawn=100, losses=31.5, steps=2)
    draws = np.stack(
        [
            training_vector(node, trained, federation.manifest(), plan=plan, exchange=exchange)
            for exchange in range(DRAWS)
        ]
    )
    update, statistics = layout.split(draws.T).values()
    assert not update.any()
    noise = dequantize(statistics, layout.sections[1]) - np.array([[100.0], [31.5]])
    within(noise.ravel(), 10.0 * math.sqrt(2) * math.sqrt(2))
    assert abs(np.corrcoef(noise)[0, 1]) < 6 / math.sqrt(DRAWS)


def test_a_real_stores_noise_cannot_be_repeated(federation):
    """Without a seed in node.json two draws for the same purpose differ."""
    path = federation.nodes()[0].folder / "node.json"
    assert json.loads(path.read_text())["seed"] is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": None}))
    node = federation.nodes()[0]
    first, second = (node.generator(3, Randomness.RELEASE_NOISE).normal(size=4) for _ in range(2))
    assert (first != second).all()


def test_an_update_beyond_the_norm_counts_like_any_other(federation):
    node = federation.nodes()[0]
    layout = federation.manifest().terms("train").layout
    far = {name: np.full_like(array, 1e30) for name, array in federation.arrays.items()}
    trained = Trained(update=far, drawn=10**12, losses=0.0, steps=2)
    vector = training_vector(node, trained, federation.manifest(), plan=None, exchange=3)
    for section, part in zip(layout.sections, layout.split(vector).values(), strict=True):
        assert np.linalg.norm(part) <= section.l2_bound
    assert np.isfinite(flatten(far)).all()
