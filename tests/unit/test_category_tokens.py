"""Category tokens: a customer's own past alone, and the forecast of the rules."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_client.model.config import InterestConfig
from hanse_client.pretraining.shoppers import made_up_shoppers
from hanse_client.tasks.interest.category_tokens import (
    COUNT_WEEKS,
    HALF_LIVES,
    HORIZON_DAYS,
    INPUTS,
    MIN_VISITS,
    REFERENCE_DAYS,
    CategoryTokens,
    category_tokens,
    token_targets,
)
from hanse_client.tasks.interest.features import Anchors, collate
from kits.histories import made, model, weekly

__all__ = ["model"]

SHOPPERS = 40


@pytest.fixture(scope="module")
def histories():
    return made_up_shoppers(5, shoppers=SHOPPERS, categories=12, weeks=40)


def same(one: CategoryTokens, other: CategoryTokens, *, but: tuple[str, ...] = ()) -> None:
    for field in fields(CategoryTokens):
        if field.name not in but:
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def column(tokens: CategoryTokens, name: str) -> np.ndarray:
    return tokens.inputs[:, INPUTS.index(name)]


@settings(max_examples=25, deadline=None)
@given(customer=st.integers(0, SHOPPERS - 1), moment=st.floats(1.0, 290.0))
def test_a_customers_tokens_depend_on_that_customer_alone(histories, customer, moment):
    rows = np.arange(SHOPPERS)
    together = category_tokens(histories, rows, np.full(SHOPPERS, moment))
    alone = category_tokens(
        histories.only(np.array([customer])), np.array([customer]), np.array([moment])
    )
    own = together.rows == customer
    assert alone.sizes[0] == own.sum()
    for name in ("classes", "inputs", "rules", "expected", "reference_counts"):
        np.testing.assert_array_equal(getattr(together, name)[own], getattr(alone, name))


@settings(max_examples=25, deadline=None)
@given(moment=st.floats(1.0, 290.0))
def test_nothing_at_or_after_the_moment_is_an_input(histories, moment):
    rows, moments = np.arange(SHOPPERS), np.full(SHOPPERS, moment)
    same(
        category_tokens(histories, rows, moments),
        category_tokens(histories.until(moment), rows, moments),
    )


def test_a_visit_at_the_moment_is_to_be_predicted():
    histories, first, moment = made([weekly(0)]), np.array([0]), np.array([70.5])
    tokens = category_tokens(histories, first, moment)
    assert histories.visit_days[10] == moment[0]
    same(tokens, category_tokens(histories.until(70.5), first, moment))
    assert tokens.reference_counts.tolist() == [10]
    assert token_targets(histories, tokens).visits.tolist() == [4]


def test_rows_come_in_any_order_and_more_than_once(histories):
    rows, moments = np.array([3, 1, 3]), np.array([200.0, 150.0, 200.0])
    tokens = category_tokens(histories, rows, moments)
    parts = [category_tokens(histories, rows[i : i + 1], moments[i : i + 1]) for i in range(3)]
    assert tokens.sizes.tolist() == [len(part.classes) for part in parts]
    same(tokens, CategoryTokens.joined(parts))


def test_the_rules_and_outcomes_are_those_of_the_untrained_outlook(model):
    rng = np.random.default_rng(3)
    customers = [
        [
            (float(day), sorted(rng.choice(4, rng.integers(1, 4), replace=False)))
            for day in np.sort(rng.uniform(0, 300, 60))
        ]
        for _ in range(8)
    ]
    histories, rows, moment = made(customers), np.arange(8), 220.0
    wanted = np.ones((8, 1), dtype=bool)
    anchors = Anchors(
        customers=rows, moments=np.full((8, 1), moment), basket=wanted, outlook=wanted
    )
    batch = collate(histories, anchors, model.config)
    with torch.inference_mode():
        logits = model(batch).outlook_logits[:, 0].numpy()
    tokens = category_tokens(histories, rows, np.full(8, moment))
    assert len(tokens.classes) == int((batch.outlook >= 0).sum()) > 10
    np.testing.assert_allclose(tokens.rules, logits[tokens.rows, tokens.classes], atol=1e-4)
    outcomes = batch.outlook[:, 0].numpy()[tokens.rows, tokens.classes]
    targets = token_targets(histories, tokens)
    np.testing.assert_array_equal(targets.outlook, outcomes)


def test_an_interest_is_what_it_is_to_the_interest_model():
    config = InterestConfig(classes=["milk", "bread"])
    assert config.min_visits == MIN_VISITS
    assert (config.reference_days, config.horizon_days) == (REFERENCE_DAYS, HORIZON_DAYS)
    assert tuple(config.half_lives) == HALF_LIVES


def test_what_a_token_says():
    tokens = category_tokens(made([weekly(0, 2), weekly(1)]), np.array([0, 1]), np.full(2, 140.0))
    assert tokens.offsets.tolist() == [0, 2, 3]
    assert tokens.classes.tolist() == [0, 2, 1]
    assert tokens.reference_counts.tolist() == [12, 12, 12]
    for index, weeks in enumerate(COUNT_WEEKS):
        seen = min(weeks, 20)
        assert column(tokens, f"log_count_{weeks}") == pytest.approx(np.log1p(seen) - 1.5), index
    # The last visit was 6.5 days ago, as usual.
    assert column(tokens, "log_since") == pytest.approx(np.log1p(6.5) - 2.5)
    assert column(tokens, "log_observed") == pytest.approx(np.log(20) - 3.3)
    assert np.abs(column(tokens, "log_rate_0-1") - column(tokens, "log_rate_1-2")).max() < 1e-6
    # Weeks 26 to 52 lie before the records began: they say nothing, not that none was bought.
    assert not column(tokens, "log_rate_26-39").any()
    assert not column(tokens, "log_visits_39-52").any()
    assert tokens.expected == pytest.approx(4.0, abs=0.2)


def test_frequent_categories_come_first_and_rare_ones_not_at_all():
    often = weekly(1, weeks=12)
    history = sorted([*often, (2.0, [3]), (9.0, [3]), (16.0, [3]), (23.0, [0])])
    tokens = category_tokens(made([history]), np.array([0]), np.array([84.0]))
    assert tokens.classes.tolist() == [1, 3]
    assert tokens.reference_counts.tolist() == [12, 3]


def test_inputs_are_finite_and_of_about_unit_size(histories):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, SHOPPERS, 200)
    tokens = category_tokens(histories, rows, rng.uniform(0.0, 290.0, 200))
    for values in (tokens.inputs, tokens.rules, tokens.expected):
        assert np.isfinite(values).all()
    assert np.abs(tokens.inputs).max() < 8
    assert tokens.inputs.shape == (len(tokens.classes), len(INPUTS))
    targets = token_targets(histories, tokens)
    assert set(np.unique(targets.outlook)) <= {0, 1, 2}
    assert (targets.visits >= 0).all()


def test_no_history_has_no_tokens(histories):
    nobody = histories.only(np.array([], dtype=np.int64))
    tokens = category_tokens(nobody, np.arange(3), np.full(3, 100.0))
    assert len(tokens) == 3 and not tokens.sizes.any()
    assert token_targets(nobody, tokens).visits.shape == (0,)
    none = category_tokens(histories, np.array([], dtype=np.int64), np.array([]))
    assert len(none) == 0 and none.inputs.shape == (0, len(INPUTS))
    late = replace(histories, observed_from=500.0)
    assert np.isfinite(category_tokens(late, np.arange(3), np.full(3, 100.0)).inputs).all()
