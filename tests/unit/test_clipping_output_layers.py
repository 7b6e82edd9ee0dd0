"""Tied tables, padding, output layers for large catalogues, and what one customer can move."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hanse_client.clipping import (
    IGNORED,
    BookKeeping,
    CatalogueSoftmax,
    output_layers,
    sampled_softmax,
)
from kits.clipping import assert_same, clipped, functorch_norms
from kits.errors import raises

CUSTOMERS, STEPS, WIDTH, ITEMS = 6, 8, 6, 13
PADDING = 0


class Sequence(nn.Module):
    """Items in, the next item out; `items` may be tied to the output or padded."""

    def __init__(self, head, *, tied=True, padding=None, width=WIDTH, items=ITEMS):
        super().__init__()
        self.items = nn.Embedding(items, width, padding_idx=padding)
        self.places = nn.Embedding(STEPS, width)
        self.inner, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.head_kind = head
        if head == "linear":
            self.head = nn.Linear(width, items, bias=False)
            if tied:
                self.head.weight = self.items.weight
        elif head == "chunked":
            self.head = CatalogueSoftmax(
                self.items if tied else nn.Parameter(torch.randn(items, width))
            )

    def states(self, items):
        places = torch.arange(items.shape[1]).expand(len(items), -1).contiguous()
        hidden = self.items(items) + self.places(places)
        return self.norm(hidden + torch.tanh(self.inner(hidden)))

    def losses(self, items, targets, negatives=None):
        hidden = self.states(items)
        if self.head_kind == "chunked":
            each = self.head(hidden, targets)
        elif self.head_kind == "sampled":
            each = sampled_softmax(hidden, self.items, targets, negatives)
        else:
            scores = self.head(hidden).mT
            each = nn.functional.cross_entropy(
                scores, targets, ignore_index=IGNORED, reduction="none"
            )
        return each.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)


def visits(*, padded=False, items=ITEMS):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(1, items, (CUSTOMERS, STEPS + 1), generator=generator)
    rows[1] = 4  # The same item over and over.
    inputs, targets = rows[:, :-1].clone(), rows[:, 1:].clone()
    if padded:
        inputs[0, :3], targets[0, :2] = PADDING, IGNORED
        inputs[2], targets[2] = PADDING, IGNORED
        inputs[3, :-1], targets[3, :-1] = PADDING, IGNORED
    return inputs, targets


NEGATIVES = torch.tensor([1, 4, 7, 9])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", ["linear", "chunked", "sampled"])
def test_sequence_models_are_clipped_as_one_by_one(head, tied, padded, monkeypatch):
    monkeypatch.setattr(output_layers, "_CELLS", 2 * STEPS * ITEMS)  # Two customers at a time.
    torch.manual_seed(0)
    model = Sequence(head, tied=tied, padding=PADDING if padded else None)
    inputs, targets = visits(padded=padded)
    assert_same(model, lambda rows: model.losses(inputs[rows], targets[rows], NEGATIVES), CUSTOMERS)


@pytest.mark.parametrize("head", ["linear", "chunked"])
def test_a_tied_table_too_large_to_multiply_out_is_exact(head):
    torch.manual_seed(0)
    model = Sequence(head, width=80, items=1000, padding=PADDING)
    inputs, targets = visits(padded=True, items=1000)
    assert_same(model, lambda rows: model.losses(inputs[rows], targets[rows]), CUSTOMERS)


def test_a_tied_table_has_the_norms_of_opacus_by_functorch():
    torch.manual_seed(0)
    model = Sequence("linear", padding=PADDING)
    model.forward = None
    inputs, targets = visits(padded=True)

    class Runs(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, both):
            return self.model.losses(*both.unbind(1))

    both = torch.stack([inputs, targets], dim=1)
    del model.forward
    runs = Runs()
    norms, _ = clipped(runs, lambda: runs(both), 1.0)
    expected = functorch_norms(runs, both, lambda losses: losses)
    torch.testing.assert_close(norms, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "chunked", "sampled"])
def test_nobody_adds_exactly_zero_and_one_customer_alone_is_exact(head):
    torch.manual_seed(0)
    model = Sequence(head, padding=PADDING)
    inputs, targets = visits(padded=True)
    _, sums = clipped(model, lambda: model.losses(inputs[:0], targets[:0], NEGATIVES), 1.0)
    assert all(torch.equal(total, torch.zeros_like(total)) for total in sums.values())
    assert_same(
        model, lambda rows: model.losses(inputs[3:4][rows], targets[3:4][rows], NEGATIVES), 1
    )


@pytest.mark.parametrize("tied", [False, True])
def test_gpt2_with_contiguous_positions(tied):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=ITEMS,
        n_positions=STEPS,
        n_embd=8,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=tied,
    )
    model = GPT2LMHeadModel(config)
    inputs, targets = visits()

    def losses(rows):
        ids = inputs[rows]
        places = torch.arange(STEPS).expand(len(ids), -1).contiguous()
        scores = model(input_ids=ids, position_ids=places, use_cache=False).logits
        return nn.functional.cross_entropy(scores.mT, targets[rows], reduction="none").mean(1)

    assert_same(model, losses, CUSTOMERS)


def test_the_chunked_softmax_is_the_dense_one_without_a_clipper(monkeypatch):
    monkeypatch.setattr(output_layers, "_CELLS", 1)
    torch.manual_seed(0)
    dense, chunked = Sequence("linear"), Sequence("chunked")
    chunked.load_state_dict(dense.state_dict())
    inputs, targets = visits(padded=True)
    losses = [model.losses(inputs, targets) for model in (dense, chunked)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        (loss * torch.linspace(-1, 2, CUSTOMERS)).sum().backward()
    for one, other in zip(dense.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_sampling_everything_is_the_whole_softmax():
    torch.manual_seed(0)
    model = Sequence("sampled")
    inputs, targets = visits(padded=True)
    hidden = model.states(inputs)
    sampled = sampled_softmax(hidden, model.items, targets, torch.arange(ITEMS))
    scores = (hidden @ model.items.weight.T).mT
    whole = nn.functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(sampled, whole)


def test_no_table_of_all_scores_is_ever_made(monkeypatch):
    monkeypatch.setattr(output_layers, "_CELLS", 1)
    made = []
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda self, *size: made.append(size) or empty(self, *size)
    )
    model = Sequence("chunked")
    inputs, targets = visits()
    clipped(model, lambda: model.losses(inputs, targets), 1.0)
    assert (1, STEPS, ITEMS) in made
    assert not any(size[0] > 1 and size[-1] == ITEMS for size in made if len(size) == 3)


def test_a_table_read_after_its_softmax_is_refused_by_name():
    model = Sequence("chunked")
    inputs, targets = visits()

    def losses():
        first = model.losses(inputs, targets)
        return first + model.items(inputs).sum((1, 2))

    with (
        BookKeeping(model, max_grad_norm=1.0) as clipper,
        raises("inexact-clipping", match=r"'items\.weight'"),
    ):
        clipper.backward(losses())


@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6, 1e18, 1e30, float("inf"), float("nan")]),
    kind=st.sampled_from(["repeated", "padding", "anything"]),
    place=st.integers(0, CUSTOMERS - 1),
    head=st.sampled_from(["linear", "chunked", "sampled"]),
)
def test_one_customer_moves_the_clipped_sum_by_at_most_the_clip(scale, kind, place, head):
    """Whatever that customer bought and however large the loss."""
    torch.manual_seed(0)
    clip = 0.3
    model = Sequence(head, padding=PADDING)
    inputs, targets = visits()
    if kind == "repeated":
        inputs[place] = targets[place] = 5
    elif kind == "padding":
        inputs[place], targets[place] = PADDING, IGNORED
    factors = torch.ones(CUSTOMERS)
    factors[place] = scale
    others = torch.arange(CUSTOMERS) != place

    def flat_sum(rows):
        _, sums = clipped(
            model,
            lambda: model.losses(inputs[rows], targets[rows], NEGATIVES) * factors[rows],
            clip,
        )
        return torch.cat([total.flatten() for total in sums.values()])

    moved = (flat_sum(torch.ones_like(others)) - flat_sum(others)).norm().item()
    assert moved <= clip * (1 + 1e-5)
    if scale == 1.0 and kind == "anything":
        assert moved > 0
