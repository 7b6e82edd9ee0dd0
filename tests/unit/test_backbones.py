"""Every backbone with every choice of what is trained: exact, blind to the future, and nothing
at first."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from hanse_client.clipping.per_customer import check_exactness, customer_clipper
from hanse_client.features.histories import days
from hanse_client.inference.quantization import to_int8
from hanse_client.model.adapters import is_adaptation
from hanse_client.tasks.interest import InterestConfig, InterestModel, customer_losses
from hanse_client.tasks.interest.features import Anchors, collate, training_anchors
from hanse_common.trainable import Trainable
from kits.errors import raises

BACKBONES = ("gpt2", "bert")
VARIANTS = ("rules", "heads", "top:1", "top:2", "lora:2", "adapters:3", "all")


@pytest.fixture(scope="module")
def store(small_stores):
    settings, prepared = small_stores
    until = days(settings.data.split.train_until)
    histories = prepared.load()[0].until(until)
    base = InterestModel.from_pretrained(prepared.base_model)

    def batch(count: int, points: int = 4):
        anchors = training_anchors(
            histories,
            histories.active()[:count],
            count=points,
            until=until,
            config=base.config,
            rng=np.random.default_rng(0),
        )
        return collate(histories, anchors, base.config)

    return base, histories, batch


def made(base: InterestModel, backbone: str, variant: str, **shape: object) -> InterestModel:
    """A tiny model over the store's classes, with its heads and its transformer listening."""
    config = copy.deepcopy(base.config)
    for name, value in {"n_embd": 12, "n_head": 2, "n_layer": 2, **shape}.items():
        setattr(config, name, value)
    config.backbone, config.adaptation = backbone, Trainable.parse(variant).adaptation
    torch.manual_seed(5)
    model = InterestModel(config)
    model.class_vectors.copy_(base.class_vectors)
    model.train_only(variant)
    return model.train()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_clipped_sums_are_those_of_one_by_one_backward_passes(store, backbone, variant):
    base, _, batch = store
    model = made(base, backbone, variant)

    def losses(part):
        return sum(customer_losses(model(part), part, outlook_weight=1.0, rate_weight=1.0))

    assert check_exactness(model, batch(4), losses=losses) < 1e-4


@pytest.mark.parametrize("variant", ["top:1", "lora:2", "adapters:3"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_customer_more_moves_the_sum_by_at_most_the_clip(store, backbone, variant):
    base, _, batch = store
    model, everybody, clip = made(base, backbone, variant), batch(4), 0.3

    def clipped_sum(part):
        with customer_clipper(model, clip) as clipper:
            losses = customer_losses(model(part), part, outlook_weight=1.0, rate_weight=1.0)
            clipper.backward(sum(losses))
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    moved = (clipped_sum(everybody) - clipped_sum(everybody.rows(1, 4))).norm().item()
    assert 0 < moved <= clip * (1 + 1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_anchor_sees_a_visit_at_or_after_it(store, backbone):
    """Each anchor in turn: whatever comes after it may change, its state stays."""
    base, _, _ = store
    visits = made(base, backbone, "all").visits.eval()
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(2, 9, base.config.vector_size, generator=generator)
    facts = torch.randn(2, 9, base.config.visit_facts, generator=generator)
    anchors = torch.tensor([[0, 3, 8, 5], [2, 2, -1, 7]])
    with torch.inference_mode():
        before = visits(vectors, facts, anchors)
        for row, point in np.ndindex(2, 4):
            last = int(anchors[row, point])
            later = vectors.clone(), facts.clone()
            for part in later:
                part[row, last + 1 :] += 5.0
                part[1 - row] -= 3.0  # nor does another customer matter
            found = visits(*later, anchors)[row, point]
            torch.testing.assert_close(found, before[row, point], rtol=0, atol=1e-6)
            if last >= 0:  # and it does see what came before
                earlier = vectors.clone()
                earlier[row, last] += 5.0
                assert not torch.allclose(visits(earlier, facts, anchors)[row, point], found)


def test_a_bidirectional_state_is_that_of_the_plain_encoder_on_the_visits_before(store):
    base, _, batch = store
    model = made(base, "bert", "all", max_steps=96).eval()
    asked = batch(3)
    config = model.visits.blocks.config
    plain = BertModel(
        BertConfig.from_dict(config.to_dict() | {"vocab_size": 1}, attn_implementation="eager"),
        add_pooling_layer=False,
    ).eval()
    plain.load_state_dict(model.visits.blocks.state_dict(), strict=False)
    with torch.inference_mode():
        found = model.visits(asked.visit_vectors, asked.visit_facts, asked.anchor_visit)
        tokens = model.visits.tokens(asked.visit_vectors, asked.visit_facts)
        for row, point in np.ndindex(*asked.anchor_visit.shape):
            last = int(asked.anchor_visit[row, point])
            if last >= 0:
                seen = plain(inputs_embeds=tokens[row : row + 1, : last + 1]).last_hidden_state
                torch.testing.assert_close(found[row, point], seen[0, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_anchor_before_all_visits_of_its_row_sees_none(store, backbone):
    """Also where a long history is cut: what is left of it lies after an early anchor."""
    base, histories, _ = store
    config = copy.deepcopy(base.config)
    config.max_steps = 3
    customer = int(np.argmax(np.diff(histories.visit_offsets)))
    a, b = histories.visit_offsets[customer : customer + 2]
    visit_days = histories.visit_days[a:b]
    assert len(visit_days) > 5
    moments = np.array([[visit_days[0] - 0.5, visit_days[2] + 0.1, visit_days[-1] + 1]])
    asked = np.ones(moments.shape, dtype=bool)
    anchors = Anchors(customers=np.array([customer]), moments=moments, basket=asked, outlook=asked)
    batch = collate(histories, anchors, config)
    assert batch.anchor_visit.tolist() == [[-1, -1, 2]]
    states = made(base, backbone, "all").visits(
        batch.visit_vectors, batch.visit_facts, batch.anchor_visit
    )
    assert not states[0, :2].any()
    assert states[0, 2].any()


@pytest.mark.parametrize("variant", ["lora:2", "adapters:3"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_adapted_model_starts_as_the_one_it_was_made_of(backbone, variant, store):
    base, _, batch = store
    asked = batch(3)
    texts = np.random.default_rng(0).normal(size=(80, base.config.vector_size))
    states = []
    for adaptation in (None, variant, variant):
        config = copy.deepcopy(base.config)
        config.n_embd, config.n_head = 12, 2
        config.backbone, config.adaptation = backbone, adaptation
        model = InterestModel.fresh(
            config,
            class_texts=texts[: len(config.classes)].astype(np.float32),
            item_texts=texts.astype(np.float32),
            class_sizes=np.ones(len(config.classes), np.float32),
            seed=1,
        ).eval()
        with torch.inference_mode():
            states.append(model.visits(asked.visit_vectors, asked.visit_facts, asked.anchor_visit))
        added = {n: p for n, p in model.named_parameters() if is_adaptation(n)}
        assert bool(added) == (adaptation is not None)
        assert model.config.adaptation == adaptation
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-6)
    assert torch.equal(states[1], states[2])
    first = {n: p for n, p in model.named_parameters() if is_adaptation(n) and p.any()}
    assert first  # the other half is random: from two zeros nothing is ever learnt


@pytest.mark.parametrize("variant", ["heads", "lora:2", "adapters:3"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_survives_save_and_load_and_eight_bits(store, backbone, variant, tmp_path):
    base, _, batch = store
    model = made(base, backbone, variant).eval()
    model.save_pretrained(tmp_path)
    again = InterestModel.from_pretrained(tmp_path).eval()
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    asked = batch(3)
    with torch.inference_mode():
        assert torch.equal(model(asked).basket_scores, again(asked).basket_scores)
        rounded = to_int8(again)(asked).basket_scores
    assert torch.isfinite(rounded).all()


def test_what_is_trained_is_what_is_said(store):
    base, _, _ = store
    names = {v: set(made(base, "gpt2", v).train_only(v)) for v in VARIANTS}
    assert names["rules"] < names["heads"] < names["top:1"] < names["top:2"] < names["all"]
    new = names["top:1"] - names["heads"]
    assert {n.split(".")[2] + n.split(".")[3] for n in new} == {"h1", "ln_fweight", "ln_fbias"}
    for variant in ("lora:2", "adapters:3"):
        assert all(is_adaptation(name) for name in names[variant] - names["heads"])
        assert names[variant] > names["heads"]
    bert = made(base, "bert", "top:1")
    layers = {n.split(".")[4] for n in bert.train_only("top:1") if n.startswith("visits.")}
    assert layers == {"1"}


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ("top:3", "top:1 to top:2"),
        ("lora:13", "lora:1 to lora:12"),
        ("lora:0", "lora:1"),
        ("adapters:99", "adapters:1 to adapters:12"),
        ("lora:2", "hanse model init"),
        ("tops", "take rules, heads, all"),
        ("top:²", "take rules, heads, all"),
        ("heads:1", "take rules, heads, all"),
    ],
)
def test_what_cannot_be_trained_says_what_can(store, part, hint):
    with raises("config") as caught:
        made(store[0], "gpt2", "heads").train_only(part)
    assert hint in caught.value.hint


def test_a_backbone_that_is_not_there_is_refused():
    config = InterestConfig(classes=["a", "b"], backbone="llama")  # type: ignore[arg-type]
    with raises("config", match="llama"):
        InterestModel(config)
