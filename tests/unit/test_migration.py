"""Who leads next: probabilities that follow the heads, and know nothing of the future."""

import numpy as np
import pytest
import torch

from hanse_client.analytics.migration import leads, migrations
from kits.histories import CONFIG, made, model, weekly

__all__ = ["model"]


def ask(histories, model, moment, customers=None, **options):
    customers = np.arange(len(histories)) if customers is None else customers
    moments = np.full(len(customers), float(moment))
    return migrations(histories, customers, moments, model, **options)


def test_a_narrow_lead_is_likelier_lost_than_a_wide_one(model):
    wide = weekly(0, weeks=20)
    narrow = [(7.0 * week + 0.5, [week % 2]) for week in range(20)]
    found = ask(made([wide, narrow]), model, 140)
    assert found.leading[0] == 0
    assert found.change[0] < found.change[1]


def test_interest_migrates_to_what_was_bought_of_late(model):
    moved = [(7.0 * week + 0.5, [0 if week < 12 else 2]) for week in range(20)]
    found = ask(made([moved]), model, 140)
    assert found.leads[0].argmax() == 2


@pytest.mark.parametrize("use_outlook", [True, False])
def test_answers_are_probabilities_and_an_empty_history_has_no_leader(model, use_outlook):
    histories = made([weekly(0, 1), [], [(1.0, [3])]])
    found = ask(histories, model, 140, use_outlook=use_outlook)
    assert (found.leads >= 0).all()
    assert (found.leads <= 1).all()
    assert found.leads[0].sum() > 0.9
    assert found.leading.tolist() == [0, -1, -1]
    assert found.change[1:].tolist() == [1, 1]


def test_an_answer_depends_on_no_later_visit_and_on_no_other_customer(model):
    first = ask(made([weekly(0, 1), weekly(2)]), model, 70, np.array([0]))
    second = ask(made([[*weekly(0, 1, weeks=10), (70.0, [3])], []]), model, 70, np.array([0]))
    assert first.leads == pytest.approx(second.leads)


def test_the_outlook_head_is_heard_when_it_says_that_the_leader_falls(model):
    histories = made([[(3.5 * i + 0.5, [0] if i % 3 else [0, 1]) for i in range(40)]])
    before = ask(histories, model, 140).change[0]
    bias = model.outlook.rule.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.copy_(torch.tensor([6.0, 0.0, 0.0]))
    try:
        after = ask(histories, model, 140)
        unheard = ask(histories, model, 140, use_outlook=False).change[0]
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert np.isfinite(after.leads).all()
    assert after.change[0] != pytest.approx(before)
    assert unheard == pytest.approx(ask(histories, model, 140, use_outlook=False).change[0])


def test_equal_classes_lead_with_equal_probability_and_may_lead_together():
    found = leads(torch.tensor([[[0.5, 0.3, 0.2]] * 3]))[0]
    assert found.tolist() == pytest.approx([0.3 * 0.8**2 + 0.2] * 3)
    assert len(CONFIG.classes) == 4
