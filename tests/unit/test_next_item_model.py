"""The sequence model trains by the same rounds: clipped exactly, repeatable, refused where too
small."""

import json

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule

from hanse_client.clipping.per_customer import check_exactness, customer_clipper
from hanse_client.model.config import SequenceConfig
from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.training.early_stopping import EarlyStopping, validation_score
from hanse_client.training.train import (
    check_size,
    load_arrays,
    train_alone,
    train_round,
    trained_arrays,
)
from hanse_common.config import DataSettings, NextItemSettings, RunSettings, TrainingSettings
from hanse_common.manifest_terms import settings_digest
from hanse_common.recipes import sequences
from hanse_common.vector import evaluation_names, flatten
from kits.errors import raises

ITEMS, CLIP = 30, 0.05
TASK = task_of("next-item")
PARTS = ["all", "heads", "rules"]


def walks(count=24, seed=5):
    """Customers who go round a ring of items: the next one is known, mostly."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(0, ITEMS, count), rng.integers(4, 12, count)
    return [
        [int((start + i) % ITEMS) for i in range(length)]
        for start, length in zip(starts, lengths, strict=True)
    ]


@pytest.fixture
def settings():
    return RunSettings(
        recipe="x",
        task="next-item",
        data=DataSettings(source="sequences", min_customers=2),
        next_item=NextItemSettings(negatives=8, dropout=0.2),
        training=TrainingSettings(
            sample_rate=0.5, non_private_optimizer="adam", non_private_learning_rate=0.02
        ),
        privacy={"mode": "none"},
    )


@pytest.fixture(params=[None, 0.1])
def model(request):
    """Scores by inner product, and by cosine over a temperature."""
    shape = SequenceConfig(
        items=ITEMS, n_embd=8, max_steps=6, dropout=0.2, score_temperature=request.param
    )
    return SequenceModel.fresh(shape, seed=1)


@pytest.fixture
def node(tmp_path):
    Sequences.of(walks(), items=ITEMS).save(tmp_path / "h.npz")
    table = {"name": "ring", "histories": "h.npz", "base_model": "none", "seed": 3}
    (tmp_path / "node.json").write_text(json.dumps(table))
    return Node(tmp_path)


def private(settings, **changes):
    terms = {
        "privacy.mode": "distributed",
        "privacy.noise_multiplier": 50.0,
        "privacy.max_grad_norm": CLIP,
        "training.sample_rate": 1.0,
    }
    return settings.with_changes({**terms, **changes})


def batch_of(node, model, settings):
    known = TASK.training_data(TASK.load_data(node), settings)
    draw = TASK.draw(known, known.active()[:6], model, settings, np.random.default_rng(0))
    return TASK.collate(known, draw, model)


@pytest.mark.parametrize("part", PARTS)
def test_clipped_sums_equal_one_by_one_gradients(node, model, settings, part):
    settings = private(settings)
    model.train_only(part)
    batch = batch_of(node, model, settings)
    worst = check_exactness(model, batch, losses=lambda some: TASK.losses(model, some, settings))
    assert worst < 1e-4


class _Losses(torch.nn.Module):
    """The losses as a model's output, for Opacus."""

    def __init__(self, model, settings, batch):
        super().__init__()
        self.model, self.settings, self.batch = model, settings, [batch]

    def forward(self, inputs):
        batch = self.batch[0]
        return self.model.sampled_losses(inputs, batch.targets, batch.candidates, apart=True)


@pytest.mark.parametrize("part", PARTS)
def test_norms_are_those_of_opacus(node, model, settings, part):
    settings = private(settings)
    model.train_only(part)
    batch = batch_of(node, model, settings)
    with customer_clipper(model, CLIP) as clipper:
        clipper.backward(TASK.losses(model, batch, settings))
    norms = clipper.norms
    model.zero_grad(set_to_none=True)
    wrapped = GradSampleModule(
        _Losses(model, settings, batch), batch_first=True, loss_reduction="sum", strict=False
    )
    wrapped.train()
    wrapped(batch.inputs).sum().backward()
    squares = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            found = parameter.grad_sample
            # A table that is read twice has a list of two.
            whole = sum(found) if isinstance(found, list) else found
            squares = squares + whole.flatten(1).square().sum(1)
    torch.testing.assert_close(norms, squares.sqrt().detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("part", PARTS)
def test_a_customer_moves_the_sum_of_a_round_by_at_most_the_clip(node, model, settings, part):
    settings = private(settings, **{"model.trainable": part})
    TASK.freeze(model, settings)
    arrays = trained_arrays(model)
    sums = []
    for lists in (walks(), walks()[1:]):
        # The same pseudonyms, so that the same lots are drawn.
        Sequences.of(lists, items=ITEMS).save(node.folder / "h.npz")
        trained = train_round(Node(node.folder), model, settings, arrays, 1)
        sums.append(flatten(trained.update))
        assert trained.drawn == len(lists)
    assert 0 < np.linalg.norm(sums[0] - sums[1]) <= CLIP * (1 + 1e-4)


def test_a_store_learns_the_ring_alone_and_the_same_seed_gives_the_same_bits(node, model, settings):
    settings = settings.with_changes({"federation.rounds": 60, "training.local_steps": 4})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data, found = TASK.load_data(node), []
    untrained = TASK.evaluate(data, model, settings, "test").metrics()["hr@5"]
    for _ in range(2):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
        train_alone(node, model, settings)
        found.append(flatten(trained_arrays(model)))
    np.testing.assert_array_equal(*found)
    assert TASK.evaluate(data, model, settings, "test").metrics()["hr@5"] > untrained + 0.3


def test_a_store_alone_keeps_the_round_that_ranks_the_validation_items_best(node, model, settings):
    # A constant rate: n rounds of a longer run are those of a run of n rounds.
    settings = settings.with_changes(
        {"federation.evaluate_every": 1, "training.final_learning_rate": 1.0}
    )
    data, untrained = TASK.load_data(node), trained_arrays(model)

    def trained(rounds, patience):
        load_arrays(model, untrained)
        chosen = {"federation.rounds": rounds, "federation.patience": patience}
        train_alone(node, model, settings.with_changes(chosen))
        return validation_score(TASK.evaluate(data, model, settings, "validate"))

    stopping = EarlyStopping(patience=2)
    scores = [trained(rounds, None) for rounds in range(1, 9)]
    for score in scores:
        if stopping.is_enough(score, {"score": score}):
            break
    assert trained(len(scores), 2) == stopping.best["score"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "review"}, "interest and next-item"),
        ({"next_item": {"train_through_validation": True}}, "validation items are trained on"),
    ],
)
def test_patience_without_validation_items_to_rank_is_refused(settings, change, reason):
    with raises("config", match=reason):
        settings.with_changes({"federation.patience": 2, **change})


def test_candidates_that_are_the_target_do_not_count_against_it(model):
    inputs, targets = torch.tensor([[3, 4]]), torch.tensor([[4, 5]])
    met = model.sampled_losses(inputs, targets, torch.tensor([[4, 5, 9]]))
    states = model.states(inputs)
    scores = model.scores(states)[0]
    expected = []
    for place, target in enumerate((4, 5)):
        rest = [item for item in (4, 5, 9) if item != target]
        among = torch.stack([scores[place, target], *(scores[place, item] for item in rest)])
        expected.append(-torch.log_softmax(among, 0)[0])
    torch.testing.assert_close(met[0], torch.stack(expected).mean())


def test_all_items_as_candidates_are_a_full_softmax(model):
    inputs, targets = torch.tensor([[3, 4, 7]]), torch.tensor([[4, 7, -1]])
    found = model.sampled_losses(inputs, targets, torch.arange(ITEMS).unsqueeze(0))
    scores = model(inputs)[0, :2]
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([4, 7]))
    torch.testing.assert_close(found[0], expected)


def test_with_a_temperature_scores_are_cosines_over_it():
    shape = SequenceConfig(items=ITEMS, n_embd=8, max_steps=6, score_temperature=0.05)
    model = SequenceModel.fresh(shape, seed=1)
    with torch.no_grad():
        model.items.weight *= torch.linspace(0.1, 9, ITEMS).unsqueeze(1)
        model.popularity.weight[7] = 1.5
    inputs = torch.tensor([[3, 4, 7]])
    cosines = torch.nn.functional.cosine_similarity(
        model.states(inputs).unsqueeze(2), model.items.weight, dim=-1
    )
    expected = cosines / 0.05
    expected[..., 7] += 1.5
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_dropout_is_that_of_its_generator_and_of_training_only(rates):
    dropout, item_dropout = rates
    shape = SequenceConfig(
        items=ITEMS, n_embd=8, max_steps=6, dropout=dropout, item_dropout=item_dropout
    )
    model = SequenceModel.fresh(shape, seed=1)
    inputs = torch.arange(24).reshape(4, 6)
    before = torch.get_rng_state()

    def dropped(seed):
        return model.states(inputs, noise=torch.Generator().manual_seed(seed))

    whole = model.states(inputs)
    torch.testing.assert_close(dropped(3), dropped(3), rtol=0, atol=0)
    assert not torch.equal(dropped(3), dropped(4))
    assert not torch.equal(dropped(3), whole)
    torch.testing.assert_close(model.states(inputs), whole, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_customers_count_by_their_targets_without_privacy_and_alike_with_it(node, model, settings):
    known = TASK.training_data(TASK.load_data(node), settings)
    sizes = np.minimum(known.sizes - 1, model.config.max_steps)
    chosen = known.active()
    draw = TASK.draw(known, chosen, model, settings, np.random.default_rng(0))
    batch = TASK.collate(known, draw, model)
    noise = torch.Generator().manual_seed(batch.seed)
    means = model.sampled_losses(batch.inputs, batch.targets, batch.candidates, noise=noise)
    weights = torch.from_numpy(sizes[draw.customers] / sizes[chosen].mean())
    expected = (means * weights).float()
    torch.testing.assert_close(TASK.losses(model, batch, settings), expected)
    alike = model.sampled_losses(batch.inputs, batch.targets, batch.candidates, apart=True)
    torch.testing.assert_close(TASK.losses(model, batch, private(settings)), alike)


def test_a_model_read_back_is_the_one_that_was_saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = TASK.load_model(tmp_path / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))


def test_sums_are_those_that_a_manifest_has_room_for(node, model, settings):
    found = TASK.evaluate(TASK.load_data(node), model, settings, "test").sums()
    assert tuple(found) == evaluation_names("next-item")


def test_stores_too_small_and_data_of_another_task_are_refused(node, settings):
    with raises("empty-store"):
        check_size("x", Sequences.of([[1, 2, 3]], items=4), settings)
    np.savez(node.folder / "h.npz", visit_days=np.zeros(1))
    with raises("data"):
        TASK.load_data(node)
    with raises("config", match="homes"):
        Sequences.of([[1, 2, 3]], items=4).at_home(0, 2)


def test_the_digest_of_settings_holds_the_tasks_own(settings):
    """A coordinator could else have training go through what the store holds out."""
    through = settings.with_changes({"next_item.train_through_validation": True})
    assert settings_digest(through) != settings_digest(settings)


def test_the_recipe_pins_training_before_the_validation_item():
    assert sequences().next_item.train_through_validation is False
