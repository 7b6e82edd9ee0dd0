"""What `hanse plan` says is what a run would do, and what was measured."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hanse_client.tasks.interest import InterestConfig, InterestModel
from hanse_common import trainable
from hanse_common.config import DataSettings, ModelSettings, RunSettings
from hanse_common.manifest_terms import manifest_for, planned_manifest
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.privacy.randomness import keystream
from hanse_common.recipes import grocery_rules
from hanse_common.vector import skellam_noise
from hanse_simulations.planning.advice import SIGNAL_TO_NOISE
from hanse_simulations.planning.feasible import price, solved_plan
from hanse_simulations.planning.forecast import Population, forecast
from hanse_simulations.planning.ledgers import ledger_rows
from hanse_simulations.planning.solve import solve
from hanse_simulations.planning.unknown import Unknown
from hanse_simulations.planning.variants import Variant, count_variant, planned_model, saved_model
from kits.errors import raises
from kits.ledger import charge, new

RULES = Variant("rules", 423)
MEASURED = Variant("rules", 413)
"""What the runs behind the table of docs/privacy.md trained: they ranked 268 classes."""
REGIONS = Population((203,) * 12)
DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"


def terms(**changes: object) -> RunSettings:
    """Twenty rounds at noise that needs no solving, unless changed."""
    plain = RunSettings(recipe="planned", data=DataSettings(source="synthetic"))
    known = {"federation.rounds": 20, "privacy.noise_multiplier": 2.0}
    return plain.with_changes(known | {key.replace("__", "."): v for key, v in changes.items()})


@pytest.fixture(scope="module")
def model() -> InterestModel:
    config = InterestConfig(classes=[f"c{i}" for i in range(278)])
    return InterestModel(config)


# The same figures as everywhere else


def test_sigma_is_that_of_the_recipes_own_plan():
    planned = forecast(grocery_rules(), REGIONS, [RULES], stores=(1,))
    plan = PrivacyPlan.from_settings(grocery_rules())
    assert planned.noise_multiplier == plan.noise_multiplier
    assert planned.epsilon == planned.at_stores[1] == plan.epsilon_after(rounds=80) <= 4
    # Without evaluations a repeated round costs what one more would.
    assert planned.spare == 4
    assert planned.epsilon < planned.granted_epsilon == plan.epsilon_after(rounds=84) <= 4


def test_planned_terms_are_those_of_the_manifest_that_would_be_signed():
    settings = terms()
    arrays = {"a": np.zeros((20, 10), np.float32), "b": np.zeros(7, np.float32)}
    ids = [f"{number:05}" for number in range(6)]
    signed = manifest_for(settings, arrays, ids, federation="planned")
    planned = planned_manifest(settings, 207, 6)
    named = {"model_digest": signed.model_digest, "arrays": signed.arrays}
    assert planned.model_copy(update=named) == signed


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_signal_and_noise_are_those_of_a_simulated_round(mode):
    """Customers who all push the same way with all they may, and the stores' real noise."""
    length, stores, each, clip = 400, 8, 250, 0.5
    steps = 3 if mode == "local" else 1
    settings = terms(privacy__mode=mode, privacy__max_grad_norm=clip, training__local_steps=steps)
    row = forecast(
        settings, Population((each,) * stores), [Variant("400", length)], stores=(1,)
    ).rows[0]
    rng = np.random.default_rng(5)
    direction = rng.normal(size=length)
    direction *= clip / np.linalg.norm(direction)
    update = planned_manifest(settings, length, stores).sections[0]
    norms, signals, values = [], [], []
    for number in range(60):
        drawn = rng.binomial(each, 0.1, size=(stores, steps)).sum()
        signals.append(np.linalg.norm(drawn * direction) / stores)
        if mode == "distributed":
            noises = [
                skellam_noise(keystream(bytes([number, store]) * 16), update.noise_variance, length)
                / update.scale
                for store in range(stores)
            ]
        else:
            noises = [rng.normal(0, 2.0 * clip, (steps, length)).sum(0) for _ in range(stores)]
        mean = np.sum(noises, axis=0) / stores
        norms.append(np.linalg.norm(mean))
        values.append(mean)
    assert np.std(values) == pytest.approx(row.noise, rel=0.03)
    assert np.mean(norms) == pytest.approx(row.noise_norm, rel=0.02)
    assert np.mean(signals) == pytest.approx(row.signal, rel=0.03)
    assert np.mean(signals) / np.mean(norms) == pytest.approx(row.signal_to_noise, rel=0.04)


def test_the_formula_is_the_one_that_is_stated():
    settings = terms(privacy__max_grad_norm=0.5)
    row = forecast(settings, REGIONS, [RULES], stores=(1,)).rows[0]
    stated = 0.1 * 2436 * 0.5 / (2.0 * 0.5 * math.sqrt(12 / 9) * math.sqrt(423))
    assert row.signal_to_noise == pytest.approx(stated, rel=2e-3)


def test_people_at_several_stores_share_the_clip_and_not_the_noise():
    one, two = (
        forecast(terms(privacy__max_stores_per_customer=m), REGIONS, [RULES], stores=(m,))
        for m in (1, 2)
    )
    assert two.rows[0].signal == pytest.approx(one.rows[0].signal / 2)
    assert two.rows[0].noise == pytest.approx(one.rows[0].noise, rel=1e-3)
    assert two.at_stores[2] == two.epsilon


def test_a_person_at_more_stores_pays_more():
    settings = terms(privacy__noise_multiplier=6.0)
    at = forecast(settings, REGIONS, [RULES], stores=(1, 2, 4)).at_stores
    assert at[1] < at[2] < at[4]


def test_a_store_that_draws_beyond_its_ball_has_no_more_signal_and_a_warning():
    small, large = (forecast(terms(), Population((n,) * 5), [RULES]) for n in (640, 5000))
    assert small.rows[0].signal == pytest.approx(large.rows[0].signal)
    assert not any("max_drawn" in warning for warning in small.warnings)
    assert any("max_drawn" in warning for warning in large.warnings)


def test_steps_that_their_noise_makes_short_are_a_warning():
    def warned(customers):
        changes = {
            "training__reference_noise": 0.005,
            "training__expected_batch_size": customers / 4,
        }
        found = forecast(terms(**changes), Population((customers,) * 5), [RULES]).warnings
        return [warning for warning in found if "training.learning_rate" in warning]

    assert warned(4000) == []
    (warning,) = warned(40)
    assert "so that they take" in warning


def test_more_customers_than_a_sum_of_statistics_is_used_for_are_a_warning():
    phases = [
        {"name": "pairs", "release": "statistics", "noise_multiplier": 9.0, "share": 0.5},
        {"share": 0.5},
    ]
    settings = terms(phases=phases, privacy__noise_multiplier=9.0)
    small, large = (forecast(settings, Population((n,) * 5), [RULES]) for n in (200, 5000))
    assert not any("max_norm" in warning for warning in small.warnings)
    assert any("25,000 customers" in w and "max_norm" in w for w in large.warnings)


def test_bytes_are_the_whole_masked_vector():
    row = forecast(terms(), REGIONS, [RULES], stores=(1,)).rows[0]
    assert row.upload_bytes == 4 * (423 + 2 + 4096)


# Counting


@pytest.mark.parametrize("part", trainable.WORDS)
def test_counts_are_the_real_models_for_everything_that_it_can_train(part, model):
    names = set(model.train_only(part))
    trained = sum(p.numel() for name, p in model.named_parameters() if name in names)
    assert trained == {"rules": 423, "heads": 6_475, "all": 138_059}[part]
    assert count_variant(part, model).parameters == trained
    settings = ModelSettings(kind="visits")
    assert count_variant(part, planned_model(settings, 278)).parameters == trained


@pytest.mark.parametrize(("part", "trained"), [("rules", 171), ("heads", 171), ("all", 44_823)])
def test_a_model_of_categories_trains_its_head_or_its_transformer_too(part, trained):
    planned = planned_model(ModelSettings(), 278)
    assert count_variant(part, planned).parameters == trained
    with raises("config"):
        count_variant("top:1", planned)


def test_parts_of_the_transformer_are_counted_as_training_would_choose_them(model):
    heads = count_variant("heads", model).parameters
    block = sum(p.numel() for p in model.visits.blocks.h[-1].parameters())
    assert count_variant("top:1", model).parameters == heads + block + 2 * 64
    assert count_variant("top:2", model).parameters == heads + 2 * block + 2 * 64
    shapes = [(64, 3 * 64), (64, 64), (64, 4 * 64), (4 * 64, 64)]
    factors = 2 * 8 * sum(a + b for a, b in shapes)
    assert count_variant("lora:8", model).parameters == heads + factors
    assert count_variant("adapters:8", model).parameters == heads + 2 * (2 * 8 * 64 + 8 + 64)
    assert count_variant("full", model).parameters == count_variant("all", model).parameters


@pytest.mark.parametrize("backbone", ["gpt2", "bert"])
@pytest.mark.parametrize("part", ["top:1", "lora:2", "adapters:3"])
def test_a_plan_counts_what_a_model_made_for_it_trains(part, backbone):
    settings = ModelSettings(kind="visits", backbone=backbone)
    planned = count_variant(part, planned_model(settings, 30)).parameters
    classes = [f"c{i}" for i in range(30)]
    made = InterestModel(
        InterestConfig(
            classes=classes,
            backbone=backbone,
            adaptation=trainable.Trainable.parse(part).adaptation,
        )
    )
    made.train_only(part)
    assert planned == sum(p.numel() for p in made.parameters() if p.requires_grad)


def test_counting_leaves_the_model_as_it_was(model):
    model.train_only("rules")
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    count_variant("lora:8", model)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before


def test_a_saved_model_counts_as_the_one_that_was_saved(tmp_path, model):
    model.save_pretrained(tmp_path)
    assert count_variant("heads", saved_model(tmp_path)).parameters == 6_475


@pytest.mark.parametrize("text", ["head", "top", "top:x", "lora:", "heads:2", "-3", "1.5"])
def test_what_is_no_variant_says_what_would_be(text, model):
    with raises("config", match="no variant") as caught:
        count_variant(text, model)
    assert "lora:R" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["0", "top:0", "top:3", "lora:0", "lora:65", "adapters:65", "2000000000"]
)
def test_impossible_sizes_are_refused(text, model):
    with raises("config"):
        count_variant(text, model)


def test_without_torch_a_hint_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises("missing-dependency") as caught:
        planned_model(ModelSettings(kind="visits"), 10)
    assert "hanse[client]" in caught.value.hint


# Delta


@pytest.mark.parametrize("total", [1, 7, 100, 2440, 99_999, 10**6])
def test_the_default_delta_is_small_enough_and_no_smaller_than_need_be(total):
    delta = Population((total,)).delta
    assert delta <= max(total**-1.1, 0.1)
    assert total < 10 or 2.1 * delta > total**-1.1


def test_a_larger_delta_is_warned_about():
    good, bad = (
        forecast(terms(privacy__target_delta=delta), REGIONS, [RULES], stores=(1,)).warnings
        for delta in (REGIONS.delta, 10 * REGIONS.delta)
    )
    assert not good
    assert any("1/N^1.1" in warning and f"{REGIONS.delta:g}" in warning for warning in bad)


# What to train


def test_signal_to_noise_falls_with_parameters_and_grows_with_customers():
    sizes = [Variant(str(n), n) for n in (10, 100, 1000, 10_000)]
    few, many = (forecast(terms(), Population((n,) * 6), sizes).rows for n in (100, 200))
    assert all(a.signal_to_noise > b.signal_to_noise for a, b in pairwise(few))
    assert all(a.signal_to_noise < b.signal_to_noise for a, b in zip(few, many, strict=True))


def test_the_largest_variant_above_the_threshold_is_recommended():
    sizes = [Variant(str(n), n) for n in (10, 100, 1000, 1_000_000)]
    planned = forecast(terms(), REGIONS, sizes, stores=(1,))
    chosen = planned.recommendation
    above = [row for row in planned.rows if row.signal_to_noise >= SIGNAL_TO_NOISE]
    assert chosen.variant == above[-1].variant != planned.rows[-1].variant
    assert above[-1].parameters <= chosen.parameters
    for more, good in ((0, True), (0.01, False)):
        edge = Variant("edge", int(chosen.parameters * (1 + more)))
        ratio = forecast(terms(), REGIONS, [edge], stores=(1,)).rows[0].signal_to_noise
        assert (ratio >= SIGNAL_TO_NOISE * 0.999) == good


def test_where_nothing_is_above_the_threshold_nothing_is_recommended():
    chosen = forecast(terms(), Population((5,) * 6), [Variant("9999", 9999)]).recommendation
    assert chosen.variant is None
    assert "none of these" in chosen.reason


# Solving

SMALL = Population((300,) * 8)
VARIANT = Variant("400", 400)


@pytest.mark.parametrize("unknown", list(Unknown))
def test_what_is_found_is_above_the_threshold_within_the_target_and_hardly_more(unknown):
    given = terms(privacy__noise_multiplier=None, privacy__target_epsilon=2.0)
    found = solve(unknown, given, SMALL, VARIANT)
    planned = forecast(found.settings, found.population, [VARIANT], stores=(1,))
    assert planned.epsilon <= found.settings.privacy.target_epsilon
    assert SIGNAL_TO_NOISE <= planned.rows[0].signal_to_noise <= 1.03 * SIGNAL_TO_NOISE


def test_epsilon_of_the_rounds_that_were_found_is_the_one_that_was_given():
    given = terms(privacy__noise_multiplier=None, privacy__target_epsilon=2.0)
    rounds = solve(Unknown.ROUNDS, given, SMALL, VARIANT)
    back = solve(Unknown.EPSILON, rounds.settings, SMALL, VARIANT)
    assert back.value == pytest.approx(2.0, rel=0.01)


def test_at_given_noise_the_accountant_alone_decides():
    given = terms(privacy__target_epsilon=3.0)
    rounds = int(solve(Unknown.ROUNDS, given, SMALL, VARIANT).value)
    assert price(given, 2.0, rounds=rounds) <= 3.0 < price(given, 2.0, rounds=rounds + 1)
    found = solve(Unknown.Q, given, SMALL, VARIANT).value
    for rate, good in ((found, True), (found * 1.002, False)):
        cost = price(given.with_changes({"training.sample_rate": rate}), 2.0)
        assert (cost <= 3.0) == good
    least = solve(Unknown.EPSILON, given, SMALL, VARIANT).value
    assert price(given, 2.0) <= least <= price(given, 2.0) + 0.01


def test_more_of_anything_never_affords_less():
    given = terms(privacy__noise_multiplier=None)
    loose, tight = (
        solve(Unknown.ROUNDS, given.with_changes({"privacy.target_epsilon": e}), SMALL, VARIANT)
        for e in (2.0, 1.0)
    )
    assert loose.value > tight.value
    few, many = (
        solve(Unknown.EPSILON, given, Population((n,) * 8), VARIANT).value for n in (200, 400)
    )
    assert few > many


def test_what_cannot_be_found_says_what_is_possible():
    given = terms(privacy__noise_multiplier=None, privacy__target_epsilon=2.0)
    with raises("privacy") as caught:
        solve(Unknown.ROUNDS, given, Population((100,) * 4), Variant("100000", 100_000))
    parameters = int(re.search(r"possible: ([\d,]+) parameters", caught.value.hint)[1])
    one = given.with_changes({"federation.rounds": 1})
    row = forecast(one, Population((100,) * 4), [Variant("p", parameters)], stores=(1,)).rows[0]
    assert row.signal_to_noise >= 0.99 * SIGNAL_TO_NOISE


def test_an_impossible_budget_says_which_is_possible():
    given = terms(
        privacy__noise_multiplier=None, privacy__target_epsilon=0.3, federation__rounds=1000
    )
    with raises("privacy") as caught:
        solved_plan(given)
    least, rounds = re.search(r"epsilon >= ([\d.]+) .* or (\d+) round", caught.value.hint).groups()
    solved_plan(given.with_changes({"privacy.target_epsilon": float(least)}))
    solved_plan(given.with_changes({"federation.rounds": int(rounds)}))


def test_without_privacy_there_is_nothing_to_plan():
    with raises("config", match="no noise"):
        forecast(terms().with_changes({"privacy.mode": "none"}), REGIONS, [RULES])


# Ledgers


def test_a_ledger_leaves_the_rounds_that_its_limit_still_pays_for(tmp_path):
    charge(new(tmp_path), 10)
    plan = solved_plan(terms(privacy__target_epsilon=3.0))
    (row,) = ledger_rows(tmp_path, plan)
    spent = [SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=10)]
    assert row.spent == epsilon(spent, target_delta=plan.target_delta)
    assert row.limit == 3.0
    for more, fits in ((0, True), (1, False)):
        round_ = plan.round_charge().steps
        after = replace(round_, count=round_.count * (row.rounds_left + more))
        assert (epsilon([*spent, after], target_delta=plan.target_delta) <= 3.0) == fits
    assert row.enough == (row.rounds_left >= 20)


# The documentation


@pytest.mark.slow
def test_the_rule_of_thumb_agrees_with_what_was_measured():
    """The table of docs/privacy.md: from 3 on as good as alone within the spread, lower below."""
    text = DOCS.read_text(encoding="utf-8").split("## Planning")[1]
    rows = re.findall(
        r"^\| (distributed|local) \| (\d) \| ([\d.]+) \| \.(\d+) ±\.(\d+) \|", text, re.M
    )
    assert len(rows) == 8
    for mode, target, ratio, auc, spread in rows:
        settings = grocery_rules().with_changes(
            {
                "privacy.mode": mode,
                "privacy.target_epsilon": float(target),
                # As it was measured.
                "federation.spare_exchanges": 0,
                "federation.minimum_survivors": 11,
            }
        )
        people = Population((203,) * 8 + (204,) * 4)
        row = forecast(settings, people, [MEASURED], stores=(1,)).rows[0]
        assert row.signal_to_noise == pytest.approx(float(ratio), abs=0.06)
        if row.signal_to_noise >= SIGNAL_TO_NOISE:
            assert int(auc) + int(spread) >= 704
        else:
            assert int(auc) < 704
