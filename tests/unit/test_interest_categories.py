"""The interest model of categories: where it starts, what it absorbs, and how it is trained."""

import numpy as np
import pytest
import torch

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.model.config import CategoryConfig, InterestConfig
from hanse_client.tasks import task_of
from hanse_client.tasks.interest import InterestModel, category_pairs, class_residuals
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_client.tasks.interest.features import Anchors, collate
from hanse_client.tasks.interest.past_moments import head_inputs, past_moments
from hanse_client.tasks.interest.token_batch import token_batch
from hanse_common.config import DataSettings, RunSettings, Split
from kits.errors import raises
from kits.histories import CLASSES, made, weekly

TASK = task_of("interest")
SPLIT = Split(train_until="1970-08-29", validate_until="1970-09-12", test_until="1970-10-10")
UNTIL = 240.0


def settings(**changes):
    run = RunSettings(
        recipe="example", data=DataSettings(source="synthetic", split=SPLIT)
    ).with_changes({"training.anchors": 3, "model.trainable": "heads"})
    return run.with_changes(changes)


def fresh(*, trained_base=False) -> InterestModel:
    """On an untrained base, or on one with random weights in place of pre-trained ones."""
    rng = np.random.default_rng(0)
    base = CategoryModel(CategoryConfig(n_embd=8, n_layer=1, n_head=2, intermediate_size=8))
    if trained_base:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = InterestModel.on_base(
        InterestConfig(classes=CLASSES, vector_size=4),
        base,
        class_texts=rng.normal(size=(4, 4)).astype(np.float32),
        class_sizes=np.full(4, 5.0, dtype=np.float32),
        centre=np.full(40, 0.1),
        whitening=np.eye(40) * 0.8,
    )
    return model.eval()


@pytest.fixture
def store():
    """Customers of several habits, one without a visit."""
    rng = np.random.default_rng(1)
    people = [
        [
            (float(day), list(np.flatnonzero(rng.random(4) < chances)))
            for day in np.sort(rng.uniform(0, 283, 60))
        ]
        for chances in ([0.9, 0.5, 0.1, 0.3], [0.2, 0.9, 0.6, 0.0], [0.5] * 4)
    ]
    return made([*people, [], weekly(0, 2, weeks=40)])


def asked(histories, moment, customers=None):
    customers = np.arange(len(histories)) if customers is None else np.asarray(customers)
    none = np.zeros((len(customers), 1), dtype=bool)
    moments = np.full((len(customers), 1), moment)
    return Anchors(customers=customers, moments=moments, basket=none, outlook=none)


def release(model, histories, *, noise=0.0):
    rng = np.random.default_rng(3)
    for phase, length in model.releases().items():
        total = TASK.contributions(phase, histories, model, settings()).sum()
        total += noise * rng.normal(size=length)
        with torch.no_grad():
            model.released[phase].copy_(torch.from_numpy(np.append(total, noise)))
    model.absorb()


def test_on_an_untrained_base_the_outlook_is_the_rules(store):
    model = fresh()
    batch = collate(store, asked(store, UNTIL), model.config)
    logits = model(batch).outlook_logits
    tokens = batch.tokens
    assert tokens.present.any()
    for row, _, cell in torch.nonzero(tokens.present):
        own_class = tokens.classes[row, 0, cell]
        assert torch.equal(logits[row, 0, own_class], tokens.rules[row, 0, cell])


def test_the_rules_of_the_two_kinds_forecast_the_same(store):
    model, visits = fresh(), InterestModel(InterestConfig(classes=CLASSES, vector_size=4))
    visits.outlook.start_from_own_rate()
    batch = collate(store, asked(store, UNTIL), model.config)
    ours = torch.softmax(model(batch).outlook_logits, -1)
    theirs = torch.softmax(
        visits.outlook(batch.past, None, visits.class_vectors.expand(5, -1, -1)), -1
    )
    interest = batch.past.counts[..., model.config.reference_window] >= 3
    torch.testing.assert_close(ours[interest], theirs[interest], atol=1e-4, rtol=0)


def test_sums_that_are_not_released_change_nothing(store):
    model = fresh(trained_base=True)
    batch = collate(store, asked(store, UNTIL), model.config)
    before = model(batch)
    model.absorb()
    after = model(batch)
    for name in ("basket_scores", "outlook_logits", "expected_visits"):
        assert torch.equal(before[name], after[name])


def test_released_sums_change_outlook_and_new_classes_only_of_the_basket(store):
    model = fresh(trained_base=True)
    new = made([[(200.0, [0]), (210.0, [0]), (220.0, [0]), (230.0, [0])]])
    batch = collate(new, asked(new, UNTIL), model.config)
    before = model(batch)
    release(model, store)
    after = model(batch)
    assert not torch.equal(before.outlook_logits, after.outlook_logits)
    assert not torch.equal(before.basket_scores[..., 1:], after.basket_scores[..., 1:])
    # Before, all classes had the same public popularity.
    assert before.basket_scores[0, 0, 1:].unique().numel() == 1
    assert after.basket_scores[0, 0, 1:].unique().numel() == 3


def test_it_survives_save_and_load_with_what_was_released(store, tmp_path):
    model = fresh(trained_base=True)
    release(model, store, noise=0.5)
    with torch.no_grad():
        model.outlook.head.weight.normal_(0, 0.1)
    model.save_pretrained(tmp_path)
    again = InterestModel.from_pretrained(tmp_path).eval()
    batch = collate(store, asked(store, UNTIL), again.config)
    one, two = model(batch), again(batch)
    for name in ("basket_scores", "outlook_logits", "expected_visits"):
        assert torch.equal(one[name], two[name])
    for phase in model.releases():
        assert torch.equal(model.released[phase], again.released[phase])


def test_a_customers_output_depends_on_no_other_customer(store):
    model = fresh(trained_base=True)
    release(model, store)
    together = model(collate(store, asked(store, UNTIL), model.config))
    for customer in range(len(store)):
        alone = model(collate(store, asked(store, UNTIL, [customer]), model.config))
        for name in ("basket_scores", "outlook_logits", "expected_visits"):
            torch.testing.assert_close(
                alone[name][0], together[name][customer], atol=1e-5, rtol=1e-5
            )


def test_released_sums_are_never_trained():
    model = fresh()
    for part in ("rules", "heads", "all"):
        names = model.train_only(part)
        assert not any(name.startswith("released.") for name in names)
    assert model.train_only("heads") == ["outlook.head.bias", "outlook.head.weight"]
    with raises("config"):
        model.train_only("lora:2")


def test_what_the_head_reads_from_memory_is_what_the_model_computes(store):
    model = fresh(trained_base=True)
    data = TASK.training_data(store, settings())
    release(model, data)
    with torch.no_grad():
        model.outlook.head.weight.normal_(0, 0.1)
    moments = past_moments(data, until=UNTIL)
    kept = head_inputs(data, moments, model.outlook, model.class_vectors)
    assert kept is head_inputs(data, moments, model.outlook, model.class_vectors)
    logits = kept.logits + model.outlook.head(kept.features)
    customers = np.arange(len(data))
    tokens = token_batch(data, customers, np.tile(moments, (len(data), 1)), targets=True)
    whole = model.outlook(tokens, model.class_vectors).outlook_logits
    for customer in range(len(data)):
        present = tokens.present[customer]
        count = int(present.sum())
        torch.testing.assert_close(logits[customer, :count], whole[customer][present])
        assert torch.equal(kept.outlook[customer, :count], tokens.outlook[customer][present])
        assert (kept.outlook[customer, count:] == -1).all()


def test_new_priors_are_never_answered_from_memory(store):
    model = fresh(trained_base=True)
    data = TASK.training_data(store, settings())
    moments = past_moments(data, until=UNTIL)
    before = head_inputs(data, moments, model.outlook, model.class_vectors)
    release(model, data)
    after = head_inputs(data, moments, model.outlook, model.class_vectors)
    assert not torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("part", ["heads", "all"])
def test_its_gradients_are_clipped_exactly(store, part):
    run = settings(**{"model.trainable": part})
    model, data = fresh(trained_base=True), TASK.training_data(store, run)
    TASK.freeze(model, run)
    draw = TASK.draw(data, data.active(), model, run, np.random.default_rng(4))
    batch = TASK.collate(data, draw, model)
    worst = check_exactness(model, batch, losses=lambda part: TASK.losses(model, part, run))
    assert worst < 1e-4


def test_customers_without_a_moment_have_no_loss():
    run, model = settings(), fresh()
    young = made([[(200.5 + 7 * week, [0]) for week in range(5)]], observed_from=200.0)
    data = TASK.training_data(young, run)
    for part in ("heads", "all"):
        run = settings(**{"model.trainable": part})
        TASK.freeze(model, run)
        draw = TASK.draw(data, data.active(), model, run, np.random.default_rng(4))
        losses = TASK.losses(model, TASK.collate(data, draw, model), run)
        assert losses.tolist() == [0.0]
        losses.sum().backward()
        assert all(float(p.grad.abs().sum()) == 0 for p in model.outlook.head.parameters())
        model.zero_grad()
    assert not TASK.contributions(class_residuals.PHASE, data, model, run).sum().any()


def test_contributions_have_the_lengths_that_are_announced(store):
    model = fresh()
    for phase, length in TASK.releases(model, settings()).items():
        assert TASK.contributions(phase, store, model, settings()).length == length
        assert model.released[phase].shape == (length + 1,)
    with pytest.raises(ValueError, match="releases"):
        TASK.contributions("gradient", store, model, settings())


def test_too_many_classes_release_no_pairs(monkeypatch):
    monkeypatch.setattr(category_pairs, "MOST_CLASSES", 3)
    model = fresh()
    assert list(model.releases()) == [class_residuals.PHASE]
    model.absorb()


def test_training_the_head_follows_the_truth(store):
    """Where rises are made certain, steps along the gradient raise their chance."""
    run, model = settings(), fresh()
    data = TASK.training_data(store, run)
    TASK.freeze(model, run)
    optimizer = torch.optim.SGD(model.outlook.head.parameters(), lr=0.5)
    values = []
    for _ in range(30):
        draw = TASK.draw(data, data.active(), model, run, np.random.default_rng(4))
        loss = TASK.losses(model, TASK.collate(data, draw, model), run).mean()
        values.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]


def test_it_is_evaluated(store):
    figures = TASK.evaluate(store, fresh(trained_base=True), settings(), "validate")
    assert len(figures.outcomes)
    assert np.isfinite(figures.rise_scores).all()
    assert set(figures.sums()) >= {"customers", "ndcg@10"}
