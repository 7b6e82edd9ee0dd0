"""Phases: how settings list them, how a plan pays for them, what a manifest says of them."""

import numpy as np
import pytest

from hanse_client.rounds.local_update import base_model
from hanse_client.tasks.contributions import Contributions
from hanse_client.training.train import load_arrays
from hanse_common.config import RunSettings
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import grant_of, manifest_for, plan_of
from hanse_common.phases import Phases
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.plan import PrivacyPlan, solved, unsolved
from kits.apps import counting_task
from kits.errors import raises

PHASES = [
    {"name": "pairs", "release": "statistics", "share": 0.1},
    {"name": "residuals", "release": "statistics", "rounds": 2, "share": 0.3},
    {"share": 0.6},
]
STORES = ("bremen", "hamburg", "luebeck", "rostock", "wismar")
ARRAYS = {
    "head": np.zeros((2, 3), np.float32),
    "released.pairs": np.zeros(7, np.float32),
    "released.residuals": np.zeros(5, np.float32),
}


def settings(**changes) -> RunSettings:
    plain = RunSettings.parse(
        {
            "recipe": "phases",
            "data": {"source": "synthetic"},
            "training": {"sample_rate": 1.0},
            "privacy": {"target_epsilon": 4.0, "statistics_noise_multiplier": 100.0},
            "federation": {"rounds": 23, "evaluate_every": 23, "spare_exchanges": 2},
            "phases": PHASES,
        }
    )
    return plain.with_changes(changes)


def manifest(**changes) -> Manifest:
    return manifest_for(solved(settings(**changes)), ARRAYS, STORES, federation="hanse")


def test_rounds_are_numbered_over_all_phases():
    schedule = settings().schedule
    assert [(p.name, p.first, p.last) for p in schedule.all] == [
        ("pairs", 1, 1),
        ("residuals", 2, 3),
        ("train", 4, 23),
    ]
    assert [schedule.at(number).name for number in (1, 3, 4, 23)] == [
        "pairs",
        "residuals",
        "train",
        "train",
    ]


def test_without_phases_every_round_releases_a_gradient():
    schedule = settings(phases=[]).schedule
    assert [(p.name, p.release, p.rounds) for p in schedule.all] == [("train", "gradient", 23)]


def test_the_learning_rate_falls_over_the_gradient_rounds_alone():
    at = settings(**{"training.final_learning_rate": 0.5})
    assert at.learning_rate_decay(4) == 1
    assert at.learning_rate_decay(14) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phases": [*PHASES[:2], {"share": 0.5}]}, r"add up to 0\.9"),
        ({"phases": [*PHASES[:2], {}]}, "'train' has no share"),
        ({"phases": [PHASES[0], *PHASES]}, "named twice"),
        ({"federation.rounds": 3}, "leaves no round for the gradient"),
        ({"phases": [{**PHASES[0], "share": 1.0}]}, "set it to 1"),
        ({"phases": [{**PHASES[0], "name": "train"}]}, "name of its own"),
        ({"phases": [{**PHASES[0], "name": "evaluate"}]}, "name of its own"),
        ({"phases": [{**PHASES[0], "name": "Pairs!"}]}, "name of its own"),
        ({"phases": [{"name": "pairs", "share": 1.0}]}, "is called 'train'"),
        (
            {"phases": [{**PHASES[0], "noise_multiplier": 4.0}, *PHASES[1:]]},
            r"noise of \['pairs'\] is given",
        ),
        ({"phases": [{"share": 1.0, "noise_multiplier": 2.0}]}, "privacy.noise_multiplier"),
    ],
)
def test_phases_that_do_not_fit_together_are_refused_with_what_to_change(change, says):
    with raises("config", match=says):
        settings(**change)


def test_without_privacy_shares_are_not_needed():
    bare = [{k: v for k, v in phase.items() if k != "share"} for phase in PHASES]
    changed = settings(**{"privacy": {"mode": "none"}, "phases": bare})
    assert PrivacyPlan.from_settings(changed) is None


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize("stores", [1, 3])
@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_the_noise_of_all_phases_together_keeps_the_target(mode, stores, rate):
    plan = PrivacyPlan.from_settings(
        settings(
            **{
                "privacy.mode": mode,
                "privacy.max_stores_per_customer": stores,
                "training.sample_rate": rate,
            }
        )
    )
    assert 3.9 < plan.granted_epsilon <= 4
    charges = [plan.charge("pairs"), *[plan.charge("residuals")] * 2]
    charges += [plan.charge("train")] * (20 + plan.spare)
    paid = epsilon([charge.steps for charge in charges], target_delta=plan.target_delta)
    assert paid == pytest.approx(plan.granted_epsilon)


def test_a_phase_with_four_times_the_share_has_half_the_noise():
    phases = [
        {**PHASES[0], "share": 0.16},
        {**PHASES[1], "rounds": 1, "share": 0.04},
        {"share": 0.8},
    ]
    plan = PrivacyPlan.from_settings(settings(phases=phases))
    assert plan.phase_noise["residuals"] == pytest.approx(2 * plan.phase_noise["pairs"])


def test_epsilon_after_a_round_is_of_the_phases_until_then():
    plan = PrivacyPlan.from_settings(settings())
    first = epsilon([plan.charge("pairs").steps], target_delta=plan.target_delta)
    assert plan.epsilon_after(rounds=1) == pytest.approx(first)
    assert plan.epsilon_after(rounds=1) < plan.epsilon_after(rounds=3) < 4


def test_noise_is_solved_once_and_written_into_the_settings():
    fixed = solved(settings())
    assert PrivacyPlan.from_settings(fixed) == PrivacyPlan.from_settings(settings())
    assert unsolved(fixed) == settings()


def test_the_gradients_noise_alone_gives_the_others_theirs_by_their_shares():
    found = PrivacyPlan.from_settings(settings())
    given = PrivacyPlan.from_settings(settings(**{"privacy.noise_multiplier": 20.0}))
    # A little more than the ratio of multipliers: counts and losses share the gradient's part.
    factor = 20.0 / found.noise_multiplier
    assert given.phase_noise["pairs"] == pytest.approx(factor * found.phase_noise["pairs"], rel=0.1)
    assert given.phase_noise["residuals"] / given.phase_noise["pairs"] == pytest.approx(
        found.phase_noise["residuals"] / found.phase_noise["pairs"]
    )


def test_a_manifest_lists_every_phase_with_its_own_noise_and_sections():
    terms = manifest()
    assert [(p.name, p.release, p.rounds) for p in terms.phases] == [
        ("pairs", "statistics", 1),
        ("residuals", "statistics", 2),
        ("train", "gradient", 20),
    ]
    assert terms.kinds == ("pairs", "residuals", "train")
    assert [terms.terms(kind).layout.sections[0].length for kind in terms.kinds] == [6, 4, 6]
    assert plan_of(terms) == PrivacyPlan.from_settings(solved(settings()))
    # No second sum of statistics is granted: it would cost as much as the first.
    assert grant_of(terms).exchanges == {"pairs": 1, "residuals": 2, "train": 22, "evaluate": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["phases"].pop(), "phases have 3 rounds"),
        (lambda t: t["phases"].append(t["phases"][0]), "named twice"),
        (lambda t: t["phases"][0].update(sections=[]), "sections go with a statistics phase"),
        (lambda t: t["phases"][0].update(name="train"), "cannot be the name"),
        (lambda t: t["phases"][2].update(name="other"), "cannot be the name"),
        (lambda t: t["arrays"].pop("released.pairs"), "has the shape None"),
        (lambda t: t["arrays"].update({"released.pairs": [9]}), r"has the shape \(9,\)"),
        (lambda t: t.update(sections=[]), "sections go with a gradient phase"),
    ],
)
def test_a_manifest_whose_phases_do_not_fit_is_refused(change, says):
    table = manifest().model_dump(mode="json")
    change(table)
    with pytest.raises(ValueError, match=says):
        Manifest.model_validate(table)


def test_a_manifest_with_too_little_noise_on_one_phase_is_refused():
    table = manifest().model_dump(mode="json")
    table["phases"][1]["noise_multiplier"] /= 1.2
    with raises("privacy", match="more than target_epsilon"):
        plan_of(Manifest.model_validate(table))


def test_a_task_with_statistics_alone_needs_no_gradient_phase():
    phases = [{**PHASES[0], "share": 1.0}]
    alone = solved(settings(**{"phases": phases, "federation.rounds": 1}))
    arrays = {"released.pairs": np.zeros(7, np.float32)}
    terms = manifest_for(alone, arrays, STORES, federation="hanse")
    assert (terms.sections, terms.kinds) == ((), ("pairs",))
    assert 3.9 < plan_of(terms).granted_epsilon <= 4


def test_a_sum_is_sent_in_the_rounds_after_its_release_only():
    schedule = Phases.of([("train", "gradient", 2), ("pairs", "statistics", 1)])
    arrays = {"head": 1, "released.pairs": 2, "released.of-an-earlier-run": 3}
    assert set(schedule.known(arrays, after=2)) == {"head", "released.of-an-earlier-run"}
    assert schedule.known(arrays, after=3) == arrays


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ([0, 0], [0.8, 0.8]),  # one cell twice
        ([0, 1], [1.0, 0.1]),
        ([0, 1], [np.nan, 0.0]),
        ([0, 1], [np.inf, 0.0]),
        ([0, 4], [0.1, 0.1]),
        ([-1, 1], [0.1, 0.1]),
    ],
)
def test_a_row_beyond_its_bound_is_refused(cells, values):
    rows = Contributions(
        offsets=np.array([0, 2]), cells=np.array(cells), values=np.array(values), length=4
    )
    with raises("unbounded-statistics"):
        rows.check()


def test_the_sum_counts_the_named_customers_alone():
    rows = Contributions(
        offsets=np.array([0, 1, 1, 3]),
        cells=np.array([2, 0, 2]),
        values=np.array([1.0, 0.6, 0.8]),
        length=3,
    )
    rows.check()
    np.testing.assert_allclose(rows.sum(np.array([1, 2])), [0.6, 0.0, 0.8])
    np.testing.assert_allclose(rows.sum(), [0.6, 0.0, 1.8])


def test_a_model_that_served_another_run_begins_without_its_sums(small_node, monkeypatch):
    """One process serves runs one after the other, and reads the base model once."""
    node, chosen = small_node
    counting_task.install(monkeypatch)
    chosen = chosen.with_changes({"task": "counting"})
    array = f"released.{counting_task.PHASE}"
    model = base_model(node, chosen)
    load_arrays(model, {array: np.ones(len(model.config.classes) + 1, np.float32)})
    again = dict(base_model(node, chosen).named_parameters())
    assert again[array] is dict(model.named_parameters())[array]
    assert not again[array].any()
    counting_task.task_of.cache_clear()
