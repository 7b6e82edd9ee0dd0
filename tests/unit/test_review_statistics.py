"""The reader that is computed from released sums: right without noise, careful with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hanse_client.features.ragged import offsets_of
from hanse_client.tasks.review.model import ReviewModel, load_review_model
from hanse_client.tasks.review.opinions import made_up_opinions
from hanse_client.tasks.review.statistics import (
    LABEL_MEANS,
    TEXT_MOMENTS,
    TextSpace,
    discriminant,
    label_means,
    lengths,
    text_moments,
)
from hanse_client.training.train import load_arrays
from hanse_common.recipes import RECIPES, reviews
from kits.encoder import tiny_encoder
from kits.errors import raises

WIDTH = 12


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def space():
    return TextSpace(centre=np.zeros(WIDTH), axis=np.eye(WIDTH)[0], basis=np.eye(WIDTH))


@pytest.fixture
def texts():
    """Six hundred vectors; the first coordinate tells two labels apart, the second is loud."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 600)
    vectors = rng.normal(0, 0.3, (600, WIDTH))
    vectors[:, 1] *= 5
    vectors[:, 0] += 0.4 * (2 * labels - 1)
    # They leak into each other, so that the loud one has to be taken off.
    vectors[:, 0] += 0.5 * vectors[:, 1]
    return unit(vectors), labels


def released(rows, noise=0.0, seed=1):
    """A sum as it is released."""
    noises = np.random.default_rng(seed).normal(0, noise, rows.length)
    return np.append(rows.sum() + noises, noise)


def read(vectors, reader):
    weights, biases = reader
    return (vectors @ weights.T + biases).argmax(1)


def sums(texts, space, noise=0.0):
    vectors, labels = texts
    each = offsets_of(np.ones(len(labels), dtype=np.int64))
    return (
        released(label_means(vectors, labels, each, count=2), noise),
        released(text_moments(vectors, each, space), noise),
    )


def test_moments_are_those_of_the_vectors(texts, space):
    vectors, _ = texts
    _, moments = sums(texts, space)
    matrix = np.zeros((WIDTH, WIDTH))
    matrix[np.triu_indices(WIDTH)] = moments[:-1]
    expected = vectors.T @ vectors
    np.testing.assert_allclose(np.diag(matrix), np.diag(expected))
    np.testing.assert_allclose(np.triu(matrix, 1), np.triu(expected, 1) * 2**0.5)


def test_moments_take_off_what_is_loud_and_says_nothing(texts, space):
    vectors, labels = texts
    means, moments = sums(texts, space)
    with_moments = (read(vectors, discriminant(means, moments, space, labels=2)) == labels).mean()
    silent = np.zeros_like(moments)
    without = (read(vectors, discriminant(means, silent, space, labels=2)) == labels).mean()
    assert with_moments > without > 0.6


def test_chances_of_a_label_follow_how_often_it_is_given(space):
    """Vectors that say nothing: the chances are the labels' shares."""
    vectors = np.tile(np.eye(WIDTH)[2], (100, 1))
    labels = np.repeat([0, 1], [80, 20])
    weights, biases = discriminant(*sums((vectors, labels), space), space, labels=2)
    chances = torch.softmax(torch.from_numpy(vectors[:1] @ weights.T + biases), 1)[0]
    assert chances.tolist() == pytest.approx([0.8, 0.2], abs=0.01)


def test_noise_without_customers_makes_no_certain_reader(space):
    vectors = np.zeros((0, WIDTH))
    labels = np.zeros(0, dtype=np.int64)
    probes = unit(np.random.default_rng(5).normal(size=(50, WIDTH)))
    for noise in (0.0, 1.0, 100.0):
        weights, biases = discriminant(*sums((vectors, labels), space, noise), space, labels=2)
        chances = torch.softmax(torch.from_numpy(probes @ weights.T + biases), 1)
        assert chances.max() < 0.9, noise


def test_a_label_that_nobody_gave_has_finite_scores(texts, space):
    vectors, labels = texts
    each = offsets_of(np.ones(len(labels), dtype=np.int64))
    means = released(label_means(vectors, labels, each, count=4))
    weights, biases = discriminant(means, sums(texts, space)[1], space, labels=4)
    assert np.isfinite(weights).all() and np.isfinite(biases).all()
    assert set(read(vectors, (weights, biases))) <= {0, 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return ReviewModel.fresh(
        ["0", "1"], encoder=encoder, trainable="heads", seed=1, statistics=True
    )


def test_a_model_absorbs_its_sums_saves_them_and_reads_the_same(model, tmp_path):
    tokens, mask = torch.arange(2000, 2012).reshape(2, 6), torch.ones(2, 6, dtype=torch.long)
    assert torch.equal(model(tokens, mask), torch.zeros(2, 2)), "all labels equally likely"
    rng = np.random.default_rng(2)
    arrays = {
        f"released.{name}": rng.normal(size=length + 1).astype(np.float32) ** 2
        for name, length in lengths(2, model.width).items()
    }
    load_arrays(model, arrays)
    scores = model(tokens, mask)
    assert scores.abs().max() > 0
    model.save_pretrained(tmp_path / "m")
    again = load_review_model(tmp_path / "m").eval()
    assert torch.equal(again(tokens, mask), scores)
    again.absorb()
    assert torch.equal(again(tokens, mask), scores)
    load_arrays(model, {name: np.zeros_like(array) for name, array in arrays.items()})
    assert torch.equal(model(tokens, mask), torch.zeros(2, 2))


@pytest.mark.parametrize("part", ["heads", "all"])
def test_released_sums_are_never_trained(model, part):
    assert not any(name.startswith("released.") for name in model.train_only(part))


def test_a_model_without_the_reader_releases_nothing(tmp_path):
    from hanse_client.tasks import task_of

    task = task_of("review")
    plain = ReviewModel.fresh(["0", "1"], encoder=tiny_encoder(tmp_path), trainable="heads", seed=1)
    assert task.releases(plain, reviews()) == {}
    with raises("unproven-statistics", match=LABEL_MEANS):
        task.contributions(LABEL_MEANS, None, plain, reviews())


def test_an_encoder_that_cannot_read_the_opinions_is_refused_with_the_way_out(tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "很", "好"]))
    folder = str(tmp_path / "encoder")
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    shape = BertConfig(
        vocab_size=7,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    BertModel(shape, add_pooling_layer=False).save_pretrained(folder)
    with raises("unreadable-texts", match="reviews-gradient"):
        ReviewModel.fresh(["0", "1"], encoder=folder, trainable="heads", seed=1, statistics=True)
    ReviewModel.fresh(["0", "1"], encoder=folder, trainable="heads", seed=1)


def test_the_recipe_releases_what_the_task_bounds_and_its_other_form_gradients(model):
    from hanse_client.tasks import task_of

    names = {phase.name for phase in reviews().schedule.statistics}
    assert names == {LABEL_MEANS, TEXT_MOMENTS} == set(task_of("review").releases(model, reviews()))
    other = RECIPES["reviews-gradient"]()
    assert not other.schedule.statistics and other.federation.rounds == 30


def test_opinions_are_the_same_for_a_seed_and_of_both_kinds():
    texts, praise = made_up_opinions(200, seed=4)
    again, _ = made_up_opinions(200, seed=4)
    assert texts == again and 60 < praise.sum() < 140
    assert len(set(texts)) > 150 and all(text[-1] in ".!" for text in texts)
