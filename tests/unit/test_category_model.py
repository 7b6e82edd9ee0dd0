"""The transformer over category tokens: the rules at first, and a customer's tokens as a set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel

from hanse_client.model.config import CategoryConfig
from hanse_client.pretraining.shoppers import made_up_shoppers
from hanse_client.tasks.interest.category_model import (
    UNKNOWN,
    CategoryModel,
    collate_tokens,
    token_losses,
)
from hanse_client.tasks.interest.category_tokens import INPUTS, category_tokens, token_targets

ROWS = np.arange(30)


@pytest.fixture(scope="module")
def data():
    histories = made_up_shoppers(5, shoppers=30, categories=12, weeks=40)
    tokens = category_tokens(histories, ROWS, np.full(30, 200.0))
    return tokens, token_targets(histories, tokens)


def untrained() -> CategoryModel:
    torch.manual_seed(0)
    return CategoryModel(CategoryConfig()).eval()


@pytest.fixture
def trained() -> CategoryModel:
    """A model whose silent layers speak."""
    made = untrained()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_the_configuration_reads_what_a_token_has():
    assert CategoryConfig().inputs == len(INPUTS)
    assert 40_000 < sum(p.numel() for p in untrained().parameters()) < 50_000


@torch.inference_mode()
def test_an_untrained_model_is_the_forecast_of_the_rules(data):
    tokens, targets = data
    batch = collate_tokens(tokens, ROWS, targets=targets)
    batch = replace(
        batch,
        priors=torch.randn(*batch.present.shape, 2),
        texts=torch.randn(*batch.present.shape, 16),
    )
    output = untrained()(batch)
    assert torch.equal(output.outlook_logits, batch.rules)
    np.testing.assert_array_equal(output.outlook_logits[batch.present].numpy(), tokens.rules)
    counts = torch.distributions.Poisson(batch.expected.unsqueeze(-1)).log_prob(torch.arange(24.0))
    torch.testing.assert_close(output.visit_logits, torch.log_softmax(counts, -1))


@torch.inference_mode()
def test_permuting_categories_permutes_the_outputs(data, trained):
    batch = collate_tokens(data[0], ROWS)
    order = torch.randperm(batch.present.shape[1], generator=torch.Generator().manual_seed(1))
    moved = replace(
        batch,
        **{
            name: getattr(batch, name)[:, order]
            for name in ("inputs", "rules", "expected", "present")
        },
    )
    before, after = trained(batch), trained(moved)
    for name in ("outlook_logits", "visit_logits", "states"):
        torch.testing.assert_close(
            getattr(before, name)[:, order][moved.present],
            getattr(after, name)[moved.present],
            atol=1e-4,
            rtol=1e-4,
        )


@torch.inference_mode()
def test_a_category_sees_the_others_of_its_customer_and_no_other_customer(data, trained):
    tokens, _ = data
    row = int(np.argmax(tokens.sizes))
    batch = collate_tokens(tokens, ROWS)
    together = trained(batch).outlook_logits
    alone = trained(collate_tokens(tokens, np.array([row]))).outlook_logits[0]
    size = tokens.sizes[row]
    torch.testing.assert_close(together[row, :size], alone[:size], atol=1e-4, rtol=1e-4)
    changed = batch.inputs.clone()
    changed[row, size - 1] += 1
    moved = trained(replace(batch, inputs=changed)).outlook_logits
    assert (moved[row, 0] - together[row, 0]).abs().max() > 1e-3
    others = torch.arange(30) != row
    torch.testing.assert_close(moved[others], together[others])


def test_padding_and_rows_without_tokens_have_no_effect_and_no_nan(data, trained):
    histories = made_up_shoppers(5, shoppers=30, categories=12, weeks=40)
    moments = np.where(ROWS < 15, 0.0, 200.0)
    batch = collate_tokens(category_tokens(histories, ROWS, moments), ROWS)
    assert not batch.present[:15].any() and batch.present[15:].any()
    assert torch.isfinite(trained(batch).outlook_logits).all()
    none = collate_tokens(category_tokens(histories, ROWS, np.zeros(30)), ROWS)
    assert torch.isfinite(trained(none).outlook_logits).all()
    batch = collate_tokens(data[0], ROWS, targets=data[1])
    outlook, visits = token_losses(trained(batch), batch)
    assert not outlook[~batch.present].any() and not visits[~batch.present].any()
    (outlook.sum() + visits.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.parameters() if p.grad is not None)


def test_every_layer_learns_but_the_texts_that_are_not_there(data):
    model = untrained()
    batch = collate_tokens(data[0], ROWS, targets=data[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # after the first step the residual's layers let gradients through
        optimizer.zero_grad()
        outlook, visits = token_losses(model(batch), batch)
        (outlook.sum() + visits.sum()).backward()
        optimizer.step()
    silent = {
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()
    }
    assert {name for name in silent if not name.endswith("key.bias")} == {"text.weight"}
    # A base that never saw texts gives the same forecast with them and without.
    texts = torch.randn(*batch.present.shape, 16)
    with_texts = model(replace(batch, texts=texts)).outlook_logits
    assert torch.equal(with_texts, model(batch).outlook_logits)


def test_losses_are_of_the_outcomes(data):
    tokens, targets = data
    batch = collate_tokens(tokens, ROWS, targets=targets)
    outlook, _ = token_losses(untrained()(batch), batch)
    log_p = tokens.rules - np.log(np.exp(tokens.rules).sum(1, keepdims=True))
    wanted = -log_p[np.arange(len(log_p)), targets.outlook]
    np.testing.assert_allclose(outlook.detach()[batch.present].numpy(), wanted, rtol=1e-5)
    assert (batch.outlook[~batch.present] == UNKNOWN).all()
    few = collate_tokens(tokens, ROWS, targets=targets, most=2)
    assert few.present.shape[1] == 2
    with pytest.raises(ValueError, match="targets"):
        token_losses(untrained()(batch), replace(batch, outlook=None))


@torch.inference_mode()
def test_it_is_saved_and_read_by_its_type(data, trained, tmp_path):
    trained.save_pretrained(tmp_path)
    read = AutoModel.from_pretrained(tmp_path).eval()
    assert type(read) is CategoryModel
    batch = collate_tokens(data[0], ROWS)
    assert torch.equal(read(batch).outlook_logits, trained(batch).outlook_logits)
