"""The two sums of statistics of task `interest`: no customer adds a row of norm above 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse_client.tasks.interest import category_pairs, class_residuals
from hanse_client.tasks.interest.past_moments import past_examples, past_moments
from kits.histories import made

C = 7
UNTIL = 260.0

# Duplicates of classes and of days, customers without a visit, and many visits of one class.
visit = st.tuples(st.integers(0, 259), st.lists(st.integers(0, C - 1), max_size=12))
customer = st.lists(visit, max_size=25).map(lambda visits: sorted(visits, key=lambda v: v[0]))
devoted = st.builds(
    lambda step, own: [(float(day), [own] * 3) for day in range(0, 259, step)],
    st.integers(1, 9),
    st.integers(0, C - 1),
)
everything = st.integers(1, 30).map(
    lambda step: [(float(day), list(range(C))) for day in range(0, 259, step)]
)
stopped = st.integers(20, 250).map(
    lambda end: [(float(day), list(range(C))) for day in range(0, end, 2)]
)
customers = st.lists(st.one_of(customer, devoted, everything, stopped), min_size=1, max_size=6)


def contributions(phase, people):
    histories = made(people)
    if phase == category_pairs.PHASE:
        return category_pairs.pair_contributions(histories, C)
    moments = past_moments(histories, until=UNTIL, count=6)
    examples = past_examples(histories, moments)
    return class_residuals.residual_contributions(
        examples.tokens,
        examples.targets,
        customers=len(histories),
        moments=len(moments),
        classes=C,
    )


PHASES = [category_pairs.PHASE, class_residuals.PHASE]


@pytest.mark.parametrize("phase", PHASES)
@given(people=customers)
def test_every_row_has_a_norm_of_at_most_1(phase, people):
    rows = contributions(phase, people)
    assert len(rows) == len(people)
    rows.check()
    assert np.isfinite(rows.values).all()


@given(people=customers)
def test_who_bought_anything_adds_a_row_of_pairs_of_norm_1(people):
    norms = contributions(category_pairs.PHASE, people).norms()
    bought = [any(classes for _, classes in visits) for visits in people]
    np.testing.assert_allclose(norms, np.array(bought, dtype=float), atol=1e-12)


@pytest.mark.parametrize("phase", PHASES)
@given(people=customers, other=customer)
def test_a_row_depends_on_its_customer_alone(phase, people, other):
    rows, among_others = contributions(phase, people), contributions(phase, [other, *people, other])
    for index in range(len(people)):
        only = np.array([index])
        np.testing.assert_array_equal(rows.sum(only), among_others.sum(only + 1))


@pytest.mark.parametrize("phase", PHASES)
def test_nobody_and_empty_histories_add_nothing(phase):
    rows = contributions(phase, [[], []])
    assert len(rows) == 2
    assert not rows.sum().any()
    assert len(rows.sum()) == rows.length


@given(people=customers)
def test_the_sum_of_pairs_is_the_gram_matrix_of_rows_of_norm_1(people):
    bought = np.zeros((len(people), C))
    for row, visits in enumerate(people):
        for _, classes in visits:
            bought[row, classes] = 1
    rows = bought / np.maximum(np.linalg.norm(bought, axis=1, keepdims=True), 1e-9)
    scale = np.where(np.eye(C, dtype=bool), 1, np.sqrt(2))
    expected = (rows.T @ rows * scale)[np.triu_indices(C)]
    np.testing.assert_allclose(
        contributions(category_pairs.PHASE, people).sum(), expected, atol=1e-9
    )
