"""The text model: its graph is the same everywhere, its sums are decoded, its head is clipped."""

import numpy as np
import pytest
import torch

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.tasks.next_item import pairs, popularity
from hanse_client.tasks.next_item.exact import exp, log
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.task import NextItemTask
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_client.training.train import load_arrays
from hanse_common.config import DataSettings, NextItemSettings, RunSettings
from hanse_common.recipes import sequences_by_texts
from kits.errors import raises

ITEMS, WIDTH = 60, 8
TASK = NextItemTask()
RUN = RunSettings(
    recipe="x",
    task="next-item",
    data=DataSettings(source="sequences"),
    next_item=NextItemSettings(negatives=16),
)


def unit_rows(rng, items=ITEMS, width=WIDTH):
    rows = rng.normal(size=(items, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def model():
    vectors = unit_rows(np.random.default_rng(1))
    vectors[7] = vectors[3]
    vectors[[20, 21]] = 0
    return TextItemModel.fresh(
        ItemVectors(vectors=vectors, components=vectors, coarse=vectors), max_steps=6, partners=5
    )


@pytest.fixture
def data():
    rng = np.random.default_rng(2)
    return Sequences.of([rng.integers(0, ITEMS, rng.integers(3, 12)) for _ in range(50)], items=60)


def with_head(model, seed=4):
    weights = np.random.default_rng(seed).normal(size=(WIDTH, 2 * WIDTH)).astype(np.float32)
    load_arrays(model, {"head.weight": weights})
    return model


def release(model, phase, sums, noise=0.0):
    array = np.append(sums, noise).astype(np.float32)
    load_arrays(model, {f"released.{phase}": array})
    model.absorb()


def test_exponentials_and_logarithms_are_those_of_numpy():
    values = np.concatenate([np.linspace(-700, 700, 9999), [0.0, -1e-300, 1e-9]])
    np.testing.assert_allclose(exp(values), np.exp(values), rtol=2e-14)
    positive = np.concatenate([np.geomspace(1e-300, 1e300, 9999), [1.0, 1 + 1e-15]])
    np.testing.assert_allclose(log(positive), np.log(positive), rtol=2e-14, atol=1e-15)


def test_the_graph_does_not_depend_on_blocks_threads_or_the_order_of_sums(model, monkeypatch):
    rng = np.random.default_rng(5)
    release(with_head(model), "popularity", rng.gamma(0.5, 4, ITEMS), 1.0)
    cells = model.likely_pairs()
    vectors, components = (
        part.numpy().astype(np.float64) for part in (model.vectors, model.components)
    )
    head = model.head.weight.detach().numpy()[:, :WIDTH]
    for rows in (1, 7, 64):
        monkeypatch.setattr(pairs, "_ROWS", rows)
        order = rng.permutation(WIDTH)  # of the coordinates: every sum is in another order
        answers = pairs.rounded_queries(head[:, order], components[:, order])
        again = pairs.likely_pairs(
            (8.0 * vectors[:, order], answers[:, order]),
            (vectors[:, order], components[:, order]),
            model.log_popularity(),
            partners=5,
        )
        np.testing.assert_array_equal(again, cells)


def test_the_graph_is_each_items_best_partners(model):
    release(with_head(model), "popularity", np.random.default_rng(7).gamma(0.5, 4, ITEMS), 1.0)
    cells = model.likely_pairs()
    graph = set(zip(cells // ITEMS, cells % ITEMS, strict=True))
    assert all(first < second for first, second in graph)
    assert np.all(np.diff(cells) > 0)
    assert len(cells) <= model.config.cells == ITEMS * 5
    scores = model.next_scores([np.array([item]) for item in range(ITEMS)])
    np.fill_diagonal(scores, -np.inf)
    for item in range(ITEMS):
        for partner in np.argsort(-scores[item])[:4]:  # the fifth may be one of a near tie
            assert (min(item, partner), max(item, partner)) in graph


def test_equal_scores_do_not_favour_low_numbers():
    items = 200
    nothing = (np.zeros((items, 1)), np.zeros((items, 1)))
    cells = pairs.likely_pairs(nothing, nothing, np.zeros(items), partners=20)
    partners = np.bincount(np.concatenate([cells // items, cells % items]), minlength=items)
    chosen = np.flatnonzero(partners > 100)
    assert len(chosen) >= 20
    assert 60 < chosen.mean() < 140


@pytest.mark.parametrize("items", [1, 2, 3])
def test_a_list_of_few_items_has_few_pairs(items):
    vectors = unit_rows(np.random.default_rng(1), items)
    model = TextItemModel.fresh(ItemVectors(vectors=vectors, components=vectors, coarse=vectors))
    assert len(model.likely_pairs()) == model.config.cells == items * (items - 1) // 2
    assert len(model.next_scores([np.array([0])])[0]) == items


def test_a_head_that_is_not_finite_still_gives_a_graph(model):
    load_arrays(model, {"head.weight": np.full((WIDTH, 2 * WIDTH), np.nan)})
    assert len(model.likely_pairs())


def test_popularity_is_the_mean_between_prior_and_noisy_sum():
    sums = 4 * np.random.default_rng(3).lognormal(-0.5, 1, 4000)
    exact = popularity.log_popularity(sums, 0.0)
    assert np.exp(exact).sum() == pytest.approx(1)
    noisy = sums + np.random.default_rng(4).normal(0, 2, len(sums))
    found = np.exp(popularity.log_popularity(noisy, 2.0)) * sums.sum()
    naive = np.maximum(noisy, 0.1)
    assert np.square(found - sums).mean() < np.square(naive - sums).mean()
    order = np.argsort(noisy)
    assert np.all(np.diff(found[order]) >= -1e-9)  # more in the sum is never less popular
    far = popularity.log_popularity(np.array([1e6, -1e6, 3.0]), 0.5)
    assert np.isfinite(far).all()


def test_popularity_before_its_release_is_the_same_for_all(model):
    assert len(set(model.log_popularity().tolist())) == 1


def test_counts_are_decoded_towards_their_prior():
    means = np.full(5, 0.05)
    sums = np.array([-3.0, 0.0, 0.45, 2.25, 13.5])
    counts = pairs.posterior_counts(sums, 0.84, means)
    assert np.all(np.diff(counts) > 0)
    assert counts[2] < 0.5  # one count is less than the noise
    assert counts[4] == pytest.approx(30, abs=4)
    np.testing.assert_allclose(pairs.posterior_counts(sums[2:], 1e-3, means[2:]), [1, 5, 30], 1e-3)
    np.testing.assert_allclose(pairs.posterior_counts(sums, 0.0, means), [0, 0, 1, 5, 30])
    assert np.isfinite(pairs.posterior_counts(np.array([1e9, -1e9]), 0.1, means[:2])).all()


def test_pairs_raise_the_scores_of_partners_and_half_as_much_those_of_the_item_before(model):
    cells = model.likely_pairs()
    pair = int(np.flatnonzero(cells // ITEMS == 1)[0])
    partner = int(cells[pair] % ITEMS)
    past = [np.array([1]), np.array([1, 40]), np.array([40])]
    before = model.next_scores(past)
    sums = np.zeros(model.config.cells)
    sums[pair] = 9.0
    release(model, "pairs", sums)
    gain = model.next_scores(past) - before
    assert gain[0, partner] > 3
    assert gain[0].argmax() == partner
    assert gain[1, partner] - gain[2, partner] == pytest.approx(gain[0, partner] / 2, rel=1e-3)


def test_a_sum_that_was_never_released_leaves_the_public_prior(model):
    scores = model.next_scores([np.array([4, 2])])
    release(model, "pairs", np.zeros(model.config.cells))
    np.testing.assert_array_equal(model.next_scores([np.array([4, 2])]), scores)


def test_a_saved_model_scores_as_before(model, data, tmp_path):
    rng = np.random.default_rng(6)
    release(with_head(model), "popularity", rng.gamma(0.5, 4, ITEMS), 1.0)
    release(model, "pairs", rng.normal(0, 1, model.config.cells), 0.8)
    past = [data.of_customer(i) for i in range(len(data))]
    scores = model.next_scores(past)
    model.save_pretrained(tmp_path)
    loaded = TASK.load_model(tmp_path)
    assert isinstance(loaded, TextItemModel)
    np.testing.assert_array_equal(loaded.next_scores(past), scores)


def test_clipping_of_the_head_is_exact_and_a_loss_is_the_customers_own(model, data):
    TASK.freeze(model, RUN)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight"]
    draw = TASK.draw(data, data.active(), model, RUN, np.random.default_rng(1))
    batch = TASK.collate(data, draw, model)
    worst = check_exactness(model, batch, losses=lambda part: TASK.losses(model, part, RUN))
    assert worst < 1e-4
    together = TASK.losses(model, batch, RUN)
    for row in range(len(batch)):
        alone = TASK.losses(model, batch.rows(row, row + 1), RUN)
        torch.testing.assert_close(alone[0], together[row])


def test_candidates_that_are_all_the_target_give_no_gradient_that_is_not_a_number(model):
    TASK.freeze(model, RUN)
    loss = model.sampled_losses(
        torch.tensor([[3]]), torch.tensor([[7]]), torch.tensor([[3, 7]])
    ).sum()
    loss.backward()
    assert torch.isfinite(model.head.weight.grad).all()


def test_candidates_are_drawn_by_released_popularity(model):
    sums = np.full(ITEMS, 0.01)
    sums[5] = 100.0
    release(model, "popularity", sums)
    drawn = model.draw_candidates(1000, np.random.default_rng(1))
    assert np.all(np.diff(drawn) >= 0)
    assert (drawn == 5).mean() > 0.9


def test_items_of_the_same_text_are_one_target_and_items_without_text_are_none(model):
    alike = model.alike.numpy()
    assert alike[7] == alike[3] == 3
    assert (alike[20], alike[21]) == (20, 21)


def test_pairs_are_released_last_or_not_at_all(model):
    settings = sequences_by_texts()
    assert list(TASK.releases(model, settings)) == ["popularity", "pairs"]
    popularity_first, train, pairs_last = settings.model_dump()["phases"]
    early = settings.with_changes({"phases": [popularity_first, pairs_last, train]})
    with raises("config", match="graph"):
        TASK.releases(model, early)
