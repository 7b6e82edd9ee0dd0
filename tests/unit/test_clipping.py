"""Per-customer clipping is exact on the interest model, and where it is not nobody trains."""

import numpy as np
import pytest
import torch
from torch import nn

from hanse_client.batches import collate, training_anchors
from hanse_client.clipping import check_exactness, per_customer_gradients
from hanse_client.histories import days
from hanse_common.errors import InexactClipping
from hanse_common.model import InterestModel, customer_losses


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
    assert check_exactness(model, batch_of(4, model), outlook_weight=1.0) < 1e-4


def test_the_check_leaves_the_model_as_it_was(model, batch_of):
    before = {name: p.clone() for name, p in model.named_parameters()}
    check_exactness(model, batch_of(3, model), outlook_weight=1.0)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


class _Leaky(nn.Module):
    """Lets each customer's score depend on the batch, as batch normalisation would."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, scores):
        scores = self.inner(scores)
        return scores * (1 + scores.mean(dim=0, keepdim=True))


def test_a_layer_that_mixes_customers_is_refused_by_name(model, batch_of):
    model.train_only("heads")
    model.basket.popularity = _Leaky(model.basket.popularity)
    with pytest.raises(InexactClipping, match=r"layer '(basket|outlook)"):
        check_exactness(model, batch_of(4, model), outlook_weight=1.0)


class _Unseen(nn.Module):
    """Trains a parameter of another module behind Opacus' back."""

    def __init__(self, inner, other):
        super().__init__()
        self.inner = inner
        self.other = [other]

    def forward(self, scores):
        return self.inner(scores) * (1 + self.other[0].sum())


def test_a_parameter_used_outside_its_own_layer_is_refused(model, batch_of):
    model.train_only("heads")
    model.basket.popularity = _Unseen(model.basket.popularity, model.outlook.rule.bias)
    with pytest.raises(InexactClipping, match=r"outlook\.rule\.bias"):
        check_exactness(model, batch_of(4, model), outlook_weight=1.0)


def test_adding_a_customer_moves_the_clipped_sum_by_at_most_the_clip(model, batch_of):
    """The sensitivity that the noise is made for, over all parameters together."""
    from opacus.optimizers import DPOptimizer

    model.train_only("all")
    clip = 0.3

    def clipped_sum(batch):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = DPOptimizer(
            torch.optim.SGD(trained, lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=clip,
            expected_batch_size=1,
            loss_reduction="mean",
        )
        with per_customer_gradients(model) as wrapped:
            basket, outlook = customer_losses(wrapped(batch), batch, outlook_weight=1.0)
            (basket + outlook).sum().backward()
            optimizer.clip_and_accumulate()
            total = torch.cat([p.summed_grad.flatten() for p in trained])
            optimizer.zero_grad()
        return total

    batch = batch_of(6, model)
    everybody = clipped_sum(batch)
    for leave_out in (0, 5):
        others = batch.rows(1, 6) if leave_out == 0 else batch.rows(0, 5)
        moved = (everybody - clipped_sum(others)).norm().item()
        assert 0 < moved <= clip * (1 + 1e-4)
