"""The heads start as the simple rules they amend, and each customer is judged alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.features.histories import FACTS, Histories
from hanse_client.tasks.interest import InterestConfig, InterestModel, customer_losses
from hanse_client.tasks.interest.features import collate, evaluation_anchors, training_anchors
from hanse_client.tasks.interest.heads import feature_count, interest_features

CLASSES, CUSTOMERS, UNTIL = 12, 6, 200.0


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Customers with 10 to 60 visits on days 0 to 200; class 11 is never bought."""
    rng = np.random.default_rng(3)
    visits = [10, 20, 30, 40, 50, 60]
    days = [np.sort(rng.uniform(0, UNTIL, count)) for count in visits]
    bought = [
        np.sort(rng.choice(CLASSES - 1, size=rng.integers(1, 5), replace=False))
        for _ in range(sum(visits))
    ]
    return Histories(
        customers=np.array([f"c{i}" for i in range(CUSTOMERS)]),
        homes=np.full(CUSTOMERS, -1),
        visit_offsets=np.concatenate([[0], np.cumsum(visits)]),
        visit_days=np.concatenate(days),
        visit_vectors=rng.normal(size=(sum(visits), 8)).astype(np.float16),
        visit_facts=rng.normal(size=(sum(visits), len(FACTS))).astype(np.float32),
        pair_offsets=np.concatenate([[0], np.cumsum([len(b) for b in bought])]),
        pair_classes=np.concatenate(bought).astype(np.int32),
        observed_from=0.0,
    )


@pytest.fixture
def model() -> InterestModel:
    """A small untrained model; class 0 lists the most items, class 11 the fewest."""
    rng = np.random.default_rng(4)
    config = InterestConfig(
        classes=[f"class {i}" for i in range(CLASSES)],
        vector_size=8,
        class_vector_size=4,
        n_embd=16,
        n_head=2,
        hidden_size=8,
        max_steps=32,
    )
    return InterestModel.fresh(
        config,
        class_texts=rng.normal(size=(CLASSES, 8)).astype(np.float32),
        item_texts=rng.normal(size=(40, 8)).astype(np.float32),
        class_sizes=np.arange(CLASSES, 0, -1, dtype=np.float32),
        seed=7,
    )


def training_batch(histories, model, count=8):
    anchors = training_anchors(
        histories,
        histories.active(),
        count=count,
        until=UNTIL,
        config=model.config,
        rng=np.random.default_rng(0),
    )
    return collate(histories, anchors, model.config)


def test_untrained_ranks_by_own_decayed_frequency(histories, model):
    batch = training_batch(histories, model)
    scores = model(batch).basket_scores
    decayed = batch.past.decayed[..., 2]  # half-life of 180 days
    found = decayed.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
    assert (found > decayed.amax(-1) - 0.1).all()  # what all are credited with breaks near ties


def test_what_was_never_bought_is_ranked_by_what_the_catalogue_lists(histories, model):
    batch = training_batch(histories, model)
    never = torch.zeros_like(batch.past.decayed)
    fresh = type(batch.past)(
        counts=torch.zeros_like(batch.past.counts),
        decayed=never,
        days_since=torch.full_like(batch.past.days_since, 3650.0),
        visits=batch.past.visits,
        gap=batch.past.gap,
        observed=batch.past.observed,
    )
    public = model.class_popularity.expand(len(batch), -1)
    classes = model.class_vectors.expand(len(batch), -1, -1)
    scores = model.basket(fresh, None, classes, public, None)
    assert (scores.diff(dim=-1) < 0).all()


@pytest.mark.parametrize("part", ["all", "heads", "rules"])
def test_each_customer_is_answered_as_if_alone(histories, model, part):
    model.train_only(part)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    batch = training_batch(histories, model)
    asked = batch.outlook >= 0
    together = model(batch)
    for row in range(len(batch)):
        alone = model(batch.rows(row, row + 1))
        torch.testing.assert_close(alone.basket_scores[0], together.basket_scores[row])
        torch.testing.assert_close(
            alone.outlook_logits[0][asked[row]], together.outlook_logits[row][asked[row]]
        )


@pytest.mark.parametrize("part", ["all", "heads", "rules"])
def test_per_customer_gradients_are_exact(histories, model, part):
    model.train_only(part)

    def losses(batch):
        return sum(customer_losses(model(batch), batch, outlook_weight=1.0, rate_weight=1.0))

    assert check_exactness(model, training_batch(histories, model), losses=losses) < 1e-4


def test_rules_are_few_and_leave_the_transformer_out(histories, model, monkeypatch):
    names = model.train_only("rules")
    assert {name.split(".")[1] for name in names} == {
        *("repeat", "habit", "popularity", "rule", "rate", "hold")
    }
    assert set(names) < set(model.train_only("heads")) < set(model.train_only("all"))

    model.train_only("rules")
    monkeypatch.setattr(model.visits, "forward", lambda *_: pytest.fail("computed for nothing"))
    batch = training_batch(histories, model)
    sum(customer_losses(model(batch), batch, outlook_weight=1.0, rate_weight=1.0)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_trained_transformer_is_heard_again(histories, model):
    batch = training_batch(histories, model)
    before = model(batch).basket_scores
    with torch.no_grad():
        model.basket.match.weight.fill_(0.1)
    assert not torch.allclose(model(batch).basket_scores, before)


def test_features_are_finite_and_as_many_as_said(histories, model):
    anchors = evaluation_anchors(histories, start=0.0, stop=UNTIL)  # some have no past at all
    features = interest_features(collate(histories, anchors, model.config).past, model.config)
    assert features.shape[-1] == feature_count(model.config)
    assert torch.isfinite(features).all()


def test_an_interest_weighs_the_same_whoever_has_it(histories, model):
    """A mean over each customer's own interests would make few interests weigh more."""
    batch = training_batch(histories, model)
    logits = torch.zeros((*batch.outlook.shape, 3))
    output = type(model(batch))(
        basket_scores=torch.zeros(batch.outlook.shape),
        outlook_logits=logits,
        expected_visits=torch.ones((*batch.outlook.shape, 3)),
    )
    _, outlook, _ = customer_losses(output, batch, outlook_weight=1.0, rate_weight=1.0)
    interests = (batch.outlook >= 0).sum((1, 2))
    assert len(set(interests.tolist())) > 1
    torch.testing.assert_close(
        outlook, interests * (np.log(3) / (8.0 * batch.outlook.shape[1])), check_dtype=False
    )


def test_the_outlook_is_learnt_at_moments_that_no_visit_chose(histories, model):
    """At a visit's own moment the visit itself is ahead, and rises look commoner."""
    anchors = training_anchors(
        histories,
        histories.active(),
        count=8,
        until=UNTIL,
        config=model.config,
        rng=np.random.default_rng(0),
    )
    at_visit = np.isin(anchors.moments, histories.visit_days)
    assert at_visit.any() and anchors.outlook.any()
    assert not (at_visit & anchors.outlook).any()
