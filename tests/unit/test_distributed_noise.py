"""The noise that stores really add: as much as the manifest says, and nobody's copy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message
from scipy import stats

from hanse_client.node import Node
from hanse_client.rounds.local_update import evaluation_vector, training_vector
from hanse_client.tasks.interest import InterestModel
from hanse_client.training.train import train_round, trained_arrays
from hanse_common.manifest_noise import (
    LARGEST_VARIANCE,
    honest_survivors,
    rate_share,
    step_noise,
)
from hanse_common.manifest_terms import manifest_for
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.privacy.randomness import keystream
from hanse_common.recipes import synthetic
from hanse_common.vector import EVALUATION_NAMES, Trained, skellam_noise
from kits.errors import raises
from kits.federation import Federation

STORES, LENGTH, ONLY = 10, 40, 64
NOISE, STATISTICS, EVALUATION, CLIP = 4.0, 10.0, 6.0, 0.5


@pytest.fixture(scope="module")
def settings():
    return synthetic().with_changes(
        {
            "privacy.mode": "distributed",
            "privacy.noise_multiplier": NOISE,
            "privacy.statistics_noise_multiplier": STATISTICS,
            "privacy.evaluation_noise_multiplier": EVALUATION,
            "privacy.max_grad_norm": CLIP,
            "privacy.target_epsilon": 100.0,
            "federation.rounds": 2,
            "federation.noise_only": ONLY,
        }
    )


@pytest.fixture(scope="module")
def plan(settings):
    return PrivacyPlan.from_settings(settings)


@pytest.fixture(scope="module")
def manifest(settings):
    arrays = {"w": np.zeros(LENGTH, np.float32)}
    ids = [f"store-{number:03}" for number in range(STORES)]
    return manifest_for(settings, arrays, ids, federation="f")


def node(folder, seed):
    folder.mkdir(exist_ok=True)
    table = {"name": folder.name, "histories": "none", "base_model": "none", "seed": seed}
    (folder / "node.json").write_text(json.dumps(table))
    return Node(folder)


NOBODY = Trained(update={"w": np.zeros(LENGTH, np.float32)}, drawn=0, losses=0.0, steps=1)


def noise_of(store, manifest, plan, exchange=3):
    vector = training_vector(store, NOBODY, manifest, plan=plan, exchange=exchange)
    return manifest.terms().layout.split(vector)


def variances(manifest):
    return {part.name: part.noise_variance for part in (*manifest.sections, *manifest.evaluation)}


def assert_variance(values, expected):
    """Within five standard deviations of the estimate, for nearly normal values of mean 0."""
    tolerance = 5 * np.sqrt(2 / values.size)
    assert np.mean(np.square(values)) == pytest.approx(expected, rel=tolerance)
    assert abs(values.mean()) < 5 * np.sqrt(expected / values.size)


def test_the_stores_noise_adds_up_to_what_was_promised(tmp_path, manifest, plan):
    """Real nodes without a seed, nobody drawn: 300 rounds of ten stores."""
    nodes = [node(tmp_path / f"s{number}", None) for number in range(STORES)]
    sums = {"update": [], "statistics": [], "noise_only": [], "evaluation": []}
    zero = dict.fromkeys(EVALUATION_NAMES, 0.0)
    for exchange in range(300):
        parts = [noise_of(store, manifest, plan, exchange) for store in nodes]
        for name in ("update", "statistics", "noise_only"):
            sums[name].append(np.sum([part[name] for part in parts], axis=0))
        judged = [
            evaluation_vector(store, zero, manifest, plan=plan, exchange=exchange)
            for store in nodes
        ]
        sums["evaluation"].append(np.sum(judged, axis=0))
    each, honest = variances(manifest), honest_survivors(manifest.terms())
    assert honest == 8  # nine of ten must survive, one of whom may collude
    scales = {part.name: part.scale for part in (*manifest.sections, *manifest.evaluation)}
    for name, person, sigma in (
        ("update", CLIP, NOISE),
        ("noise_only", CLIP, NOISE),
        ("statistics", np.sqrt(2), STATISTICS),
        ("evaluation", np.sqrt(8), EVALUATION),
    ):
        found = np.concatenate(sums[name])
        assert_variance(found, STORES * each[name])
        # What the accounting assumes of the smallest sum, and at most 2 % more than that.
        promised = (sigma * person * scales[name]) ** 2
        assert promised <= honest * each[name] <= 1.02 * promised


def test_a_real_rounds_vector_holds_the_noise_and_no_more(small_node):
    """A whole client step in which nobody is drawn: what it sends is noise alone."""
    store, settings = small_node
    settings = settings.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
            "training.sample_rate": 1e-9,
            "privacy.target_epsilon": 100.0,
        }
    )
    model = InterestModel.from_pretrained(store.settings.base_model)
    model.train_only("rules")
    arrays = trained_arrays(model)
    manifest = manifest_for(settings, arrays, [f"s{i}" for i in range(6)], federation="f")
    trained = train_round(store, model, settings, arrays, 1)
    assert trained.drawn == 0
    assert not any(part.any() for part in trained.update.values())
    plan = PrivacyPlan.from_settings(settings)
    vector = training_vector(store, trained, manifest, plan=plan, exchange=3)
    parts = manifest.terms().layout.split(vector)
    for name in ("update", "noise_only"):
        assert_variance(parts[name], variances(manifest)[name])


def test_real_nodes_never_repeat_their_noise(tmp_path, manifest, plan):
    store = node(tmp_path / "s", None)
    drawn = [noise_of(store, manifest, plan)["noise_only"] for _ in range(20)]
    drawn += [noise_of(Node(store.folder), manifest, plan)["noise_only"] for _ in range(20)]
    assert len({noise.tobytes() for noise in drawn}) == 40


def test_seeded_nodes_repeat_theirs_and_differ_by_store_round_and_section(tmp_path, manifest, plan):
    one, other = node(tmp_path / "one", 1), node(tmp_path / "other", 2)
    first = noise_of(one, manifest, plan, 3)
    again = noise_of(one, manifest, plan, 3)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["update"], noise_of(one, manifest, plan, 6)["update"])
    assert not np.array_equal(first["update"], noise_of(other, manifest, plan, 3)["update"])
    assert not np.array_equal(first["update"], first["noise_only"][:LENGTH])


def test_stores_coordinates_and_rounds_are_uncorrelated(tmp_path, manifest, plan):
    nodes = [node(tmp_path / f"s{number}", None) for number in range(4)]
    rounds = [
        [noise_of(store, manifest, plan)["noise_only"] for store in nodes] for _ in range(200)
    ]
    table = np.array(rounds, np.float64)  # [rounds, stores, coordinates]
    limit = 5.5 / np.sqrt(table[:, 0].size)
    stores = np.corrcoef(table.transpose(1, 0, 2).reshape(4, -1))
    assert np.abs(stores[np.triu_indices(4, 1)]).max() < limit
    one = table[:, 0]
    assert abs(np.corrcoef(one[:-1].ravel(), one[1:].ravel())[0, 1]) < limit
    assert abs(np.corrcoef(one[:, :-1].ravel(), one[:, 1:].ravel())[0, 1]) < limit


def test_the_noise_of_a_step_is_that_of_the_stores_draws(settings, manifest):
    update = manifest.sections[0]
    rng = np.random.default_rng(1)
    draws = [skellam_noise(rng, update.noise_variance, 40_000) for _ in range(STORES)]
    batch = settings.training.expected_batch_size
    mean = np.sum(draws, axis=0) / update.scale / (STORES * batch)
    assert step_noise(manifest, settings) == pytest.approx(mean.std() / CLIP, rel=0.02)


@pytest.mark.parametrize(("times", "share"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1 / 16), (10.0, 1e-4)])
def test_steps_shrink_with_the_fourth_power_of_noise_above_the_reference(
    settings, manifest, times, share
):
    reference = step_noise(manifest, settings) / times
    follows = settings.with_changes({"training.reference_noise": reference})
    assert rate_share(manifest, follows) == pytest.approx(share)
    assert rate_share(manifest, settings) == 1.0
    local = manifest.model_copy(
        update={"privacy": manifest.privacy.model_copy(update={"mode": "local"})}
    )
    assert rate_share(local, follows) == 1.0


@pytest.mark.parametrize("variance", [0.3, 8.0, 400.0])
def test_skellam_draws_have_the_skellam_distribution(variance):
    drawn = skellam_noise(keystream(bytes(32)), variance, 200_000)
    reach = int(4 * np.sqrt(variance)) + 2
    values = np.arange(-reach, reach + 1)
    expected = stats.skellam.pmf(values, variance / 2, variance / 2) * drawn.size
    seen = np.array([(drawn == value).sum() for value in values])
    often = expected > 10
    found = np.append(seen[often], drawn.size - seen[often].sum())
    wanted = np.append(expected[often], drawn.size - expected[often].sum())
    keep = wanted > 5
    statistic = float((np.square(found - wanted) / wanted)[keep].sum())
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-4


@pytest.mark.parametrize("variance", [1e8, 5e11, LARGEST_VARIANCE])
def test_large_skellam_draws_are_normal_as_they_should_be(variance):
    """At manifests' variances the two distributions cannot be told apart."""
    drawn = skellam_noise(keystream(bytes(31) + b"1"), variance, 200_000) / np.sqrt(variance)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert drawn.var() == pytest.approx(1.0, rel=5 * np.sqrt(2 / drawn.size))
    assert stats.kurtosis(drawn) == pytest.approx(0.0, abs=0.06)
    assert np.abs(drawn).max() < 6


def test_shares_add_up_to_the_distribution_of_the_whole():
    shares = [skellam_noise(keystream(bytes([n]) * 32), 6.0, 100_000) for n in range(1, 9)]
    total = np.sum(shares, axis=0)
    values = np.arange(-20, 21)
    expected = stats.skellam.pmf(values, 24, 24) * total.size
    seen = np.array([(total == value).sum() for value in values])
    assert stats.chi2.sf((np.square(seen - expected) / expected).sum(), len(values) - 1) > 1e-4


# Too few survivors


@pytest.fixture
def masked(manifest, tmp_path, plan):
    """The manifest's own terms, in the protocol core; every vector is a store's real noise."""
    terms = manifest.terms()
    federation = Federation(
        STORES,
        layout=terms.layout,
        minimum_cohort=terms.minimum_cohort,
        maximum_cohort=terms.maximum_cohort,
        minimum_survivors=terms.minimum_survivors,
        colluders=terms.colluders,
        stores=terms.stores,
    )
    nodes = {name: node(tmp_path / name, None) for name in federation.names}
    federation.vectors = {
        name: training_vector(nodes[name], NOBODY, manifest, plan=plan, exchange=3)
        for name in federation.names
    }
    return federation


@pytest.mark.parametrize("stage", ["share", "mask"])
def test_a_round_with_one_survivor_too_few_ends_before_any_share_is_given(masked, stage):
    released = []

    def watch(name, message):
        if type(message).__name__ in ("Unmasking", "Confirmation"):
            released.append(name)
        return message

    lost = {"store-003", "store-007"}  # eight of ten are left, nine are needed
    with raises("round-failed", match="needed are 9"):
        masked.run(drop={stage: lost}, to_coordinator=watch)
    assert released == []


def test_a_roster_too_small_for_the_noise_does_not_begin(masked):
    with raises("round-failed", match="needed are 9"):
        masked.run(drop={"hello": {"store-003", "store-007"}})


def test_stores_refuse_a_coordinators_survivors_that_are_too_few_for_the_noise(masked):
    """It believes in fewer; the stores hold the manifest."""
    weaker = replace(masked.attempt.terms, minimum_survivors=0)
    masked.coordinator.attempt = replace(masked.attempt, terms=weaker)
    with raises("round-failed"):
        masked.run(drop={"mask": {"store-003", "store-007"}})
    assert len(masked.errors) == 8
    for _, error in masked.errors:
        assert error.code in {"bad-survivors", "cohort-too-small"}


def test_the_smallest_admissible_sum_is_exact_and_has_its_noise(masked, manifest):
    total = masked.run(drop={"mask": {"store-003"}})
    masked.assert_exact(total)
    part = manifest.terms().layout.split(total.total)["noise_only"]
    assert_variance(part, 9 * variances(manifest)["noise_only"])


# Refusals


def test_several_steps_and_open_sums_are_refused(settings):
    with raises("config", match="one step"):
        settings.with_changes({"training.local_steps": 2})
    with raises("config", match="noise"):
        settings.with_changes({"federation.secure_aggregation": False})


def test_an_accountant_that_underestimates_cannot_be_chosen(settings):
    with raises("config", match=r"privacy\.accountant"):
        settings.with_changes({"privacy.accountant": "gdp"})


def test_a_store_that_is_no_member_does_not_train_for_a_shared_sum(small_node, monkeypatch):
    """Simulated or real, a store without an enrolment would send its sum open."""
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    from kits.apps.local_grid import LocalGrid

    store, settings = small_node
    asked = settings.with_changes(
        {
            "privacy.mode": "distributed",
            "federation.secure_aggregation": True,
            "training.local_steps": 1,
        }
    )
    config = ConfigRecord({"settings": asked.model_dump_json(), "server-round": 1})
    content = RecordDict({"arrays": ArrayRecord({}), "config": config})
    monkeypatch.setenv("HANSE_FEDERATION", str(store.folder.parent))
    grid = LocalGrid(1, "hanse_simulations.engines.store_app:app")
    (node_id,) = grid.get_node_ids()
    (reply,) = grid.send_and_receive([Message(content, node_id, "train")])
    assert "has no masks, and its share of the noise alone is too little" in reply.error.reason
    assert store.spent() == []
