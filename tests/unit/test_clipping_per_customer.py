"""Per-customer clipping is exact on the interest model, and where it is not nobody trains."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hanse_client.clipping.per_customer import (
    check_exactness,
    customer_clipper,
    per_customer_gradients,
)
from hanse_client.features.histories import days
from hanse_client.tasks.interest import InterestModel, customer_losses
from hanse_client.tasks.interest.features import collate, training_anchors
from kits.errors import raises


def losses_of(model, batch):
    return sum(customer_losses(model(batch), batch, outlook_weight=1.0, rate_weight=1.0))


@pytest.fixture
def batch_of(small_stores):
    settings, prepared = small_stores
    histories = prepared.load()[0].until(days(settings.data.split.train_until))

    def make(count, model):
        anchors = training_anchors(
            histories,
            histories.active()[:count],
            count=4,
            until=days(settings.data.split.train_until),
            config=model.config,
            rng=np.random.default_rng(0),
        )
        return collate(histories, anchors, model.config)

    return make


@pytest.fixture
def model(small_stores):
    return InterestModel.from_pretrained(small_stores[1].base_model)


@pytest.mark.parametrize("part", ["all", "heads", "rules"])
def test_gradients_of_every_layer_equal_one_by_one_gradients(model, batch_of, part):
    assert model.train_only(part)
    assert check_exactness(model, batch_of(4, model), losses=partial(losses_of, model)) < 1e-4


def test_the_check_leaves_the_model_as_it_was(model, batch_of):
    before = {name: p.clone() for name, p in model.named_parameters()}
    check_exactness(model, batch_of(3, model), losses=partial(losses_of, model))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


class _Leaky(nn.Module):
    """Lets each customer's score depend on the batch, as batch normalisation would."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.settled = inner.settled

    def forward(self, scores):
        scores = self.inner(scores)
        return scores * (1 + scores.mean(dim=0, keepdim=True))


def test_a_layer_that_mixes_customers_is_refused_by_name(model, batch_of):
    model.train_only("heads")
    model.basket.popularity = _Leaky(model.basket.popularity)
    with raises("inexact-clipping", match=r"'(basket|outlook)"):
        check_exactness(model, batch_of(4, model), losses=partial(losses_of, model))


class _Unseen(nn.Module):
    """Trains a parameter of another module behind the clipper's back."""

    def __init__(self, inner, other):
        super().__init__()
        self.inner = inner
        self.settled = inner.settled
        self.other = [other]

    def forward(self, scores):
        return self.inner(scores) * (1 + self.other[0].sum())


def test_a_parameter_used_outside_its_own_layer_is_refused(model, batch_of):
    model.train_only("heads")
    model.basket.popularity = _Unseen(model.basket.popularity, model.outlook.rule.bias)
    with raises("inexact-clipping", match=r"outlook\.rule\.bias"):
        check_exactness(model, batch_of(4, model), losses=partial(losses_of, model))


@pytest.mark.parametrize("part", ["all", "heads", "rules"])
def test_norms_are_those_of_opacus(model, batch_of, part):
    model.train_only(part)
    batch = batch_of(5, model)
    with customer_clipper(model, 1.0) as clipper:
        clipper.backward(losses_of(model, batch))
    with per_customer_gradients(model) as wrapped:
        losses_of(wrapped, batch).sum().backward()
        squares = [
            p.grad_sample.flatten(1).square().sum(1) for p in model.parameters() if p.requires_grad
        ]
    torch.testing.assert_close(
        clipper.norms, torch.stack(squares).sum(0).sqrt(), rtol=1e-5, atol=1e-7
    )


def test_adding_a_customer_moves_the_clipped_sum_by_at_most_the_clip(model, batch_of):
    """The sensitivity that the noise is made for, over all parameters together."""
    model.train_only("all")
    clip = 0.3

    def clipped_sum(batch):
        with customer_clipper(model, clip) as clipper:
            clipper.backward(losses_of(model, batch))
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    batch = batch_of(6, model)
    everybody = clipped_sum(batch)
    for leave_out in (0, 5):
        others = batch.rows(1, 6) if leave_out == 0 else batch.rows(0, 5)
        moved = (everybody - clipped_sum(others)).norm().item()
        assert 0 < moved <= clip * (1 + 1e-4)
