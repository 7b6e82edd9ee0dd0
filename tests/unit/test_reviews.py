"""Reviews: what is read, who is held out, and that learning from them can be clipped exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from hanse_client.clipping.per_customer import check_exactness
from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.review.features import (
    TEST,
    TRAIN,
    VALIDATE,
    Reviews,
    Texts,
    prepare_reviews,
    read_reviews,
)
from hanse_client.tasks.review.metrics import Verdicts
from hanse_client.tasks.review.model import ReviewModel, load_review_model
from hanse_client.training.train import train_alone, train_round, trained_arrays
from hanse_common.config import RunSettings
from kits.encoder import tiny_encoder
from kits.errors import raises

GOOD, BAD = (
    ("I love it", "works great", "很好", "best ever"),
    ("broke at once", "bad", "awful", "no"),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def texts():
    """Forty reviews of twenty customers, half of them praise."""
    rows = [(f"user-{i % 20:02d}", (GOOD if i % 2 else BAD)[i % 4], i % 2) for i in range(40)]
    users, words, labels = zip(*rows, strict=True)
    return Texts(
        users=list(users), texts=list(words), labels=list(labels), names=["0", "1"], rejected={}
    )


@pytest.fixture
def reviews(texts, encoder):
    return prepare_reviews(texts, encoder=encoder, tokens=16, seed=1)


def settings(**changes) -> RunSettings:
    table = {
        "recipe": "reviews",
        "task": "review",
        "data": {"source": "synthetic", "min_customers": 2},
        "model": {"trainable": "heads"},
        "training": {"sample_rate": 0.5, "non_private_learning_rate": 0.5},
        "privacy": {"mode": "none"},
        "federation": {"rounds": 3},
    }
    return RunSettings.parse(table).with_changes(changes)


@pytest.fixture
def node(reviews, encoder, tmp_path):
    reviews.save(tmp_path / "reviews.npz")
    ReviewModel.fresh(["0", "1"], encoder=encoder, trainable="heads", seed=1).save_pretrained(
        tmp_path / "base"
    )
    table = {"name": "a", "histories": "reviews.npz", "base_model": "base", "seed": 5}
    (tmp_path / "node.json").write_text(json.dumps(table))
    return Node(tmp_path)


# Files


def test_a_text_file_has_a_review_a_line(tmp_path):
    path = tmp_path / "reviews.txt"
    path.write_text("Great phone.\t1\nIt broke,\tat once.\t0\n\n \t1\n很好\t1\n")
    found = read_reviews(path)
    assert found.texts == ["Great phone.", "It broke,\tat once.", "很好"]
    assert (found.labels, found.names) == ([1, 0, 1], ["0", "1"])
    assert len(set(found.users)) == 3, "each counts as a customer of its own"
    assert found.rejected == {"no text or no rating": 1}


def test_a_first_line_names_columns_by_its_own_words_whatever_other_lines_say(tmp_path):
    path = tmp_path / "reviews.txt"
    path.write_text("reviews\tSentiment\nfine\t1\nbad\t0\n")
    found = read_reviews(path)
    assert (found.texts, found.names) == (["fine", "bad"], ["0", "1"])
    path.write_text("so so\t2\nfine\t1\nbad\t0\n")  # nobody else says 2
    assert read_reviews(path).names == ["0", "1", "2"]


def test_labels_of_a_list_beside_the_file_are_those_of_no_customer(tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("text,rating\nfine,4\nbad,1\n?,9\n")
    (tmp_path / "stars.labels").write_text("1\n2\n3\n4\n5\n")
    found = read_reviews(path)
    assert (found.names, found.listed) == (["1", "2", "3", "4", "5"], True)
    assert (found.labels, found.rejected) == ([3, 0], {"a label that the list has not": 1})
    (tmp_path / "stars.labels").write_text("1\n2\n1\n")
    with raises("data", match="'1'"):
        read_reviews(path)


def test_a_character_that_breaks_lines_elsewhere_is_part_of_a_text(tmp_path):
    path = tmp_path / "reviews.txt"
    path.write_text("one\x85two\t1\nthree\u2028four\t0\n", encoding="utf-8")
    assert len(read_reviews(path).texts) == 2


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_names_customers_and_its_stars_are_in_order(tmp_path, suffix):
    table = pl.DataFrame(
        {
            "user_id": ["b", "a", "b", "c"],
            "text": ["fine", "bad", None, "10 of 10"],
            "rating": ["4", "1", "2", "10"],
        }
    )
    path = tmp_path / f"reviews.{suffix}"
    if suffix == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    found = read_reviews(path)
    assert found.names == ["1", "4", "10"]
    assert list(zip(found.users, found.labels, strict=True)) == [("b", 1), ("a", 0), ("c", 2)]
    assert found.rejected == {"no text or no rating": 1}


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.txt", "no label here\n", "wrong-types", "line 1"),
        ("a.txt", "good\t1\nfine\t1\n", "data", "1 label"),
        ("a.csv", "text,stars\nfine,3\n", "missing-columns", "'rating'"),
        ("a.csv", "text,rating\n" + "".join(f"x,{n}\n" for n in range(20)), "wrong-types", "20"),
        ("a.parquet", "not a table", "data", "cannot read"),
        ("gone.csv", None, "data", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, code, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with raises(code, match=words):
        read_reviews(tmp_path / name)


# Data


def test_a_customer_is_in_one_part_and_keeps_all_their_reviews(texts, reviews):
    assert {part: int((reviews.part == part).sum()) for part in (TRAIN, VALIDATE, TEST)} == {
        TRAIN: 14,
        VALIDATE: 2,
        TEST: 4,
    }
    kept = [reviews.of(part) for part in (TRAIN, VALIDATE, TEST)]
    assert sum(len(part.labels) for part in kept) == len(texts.labels)
    assert all((np.diff(part.offsets)[part.active()] == 2).all() for part in kept)
    assert (reviews.lengths <= 16).all() and reviews.tokens.shape[1] == 16


def test_what_is_saved_is_read_again(reviews, tmp_path):
    reviews.save(tmp_path / "r.npz")
    again = Reviews.load(tmp_path / "r.npz")
    assert np.array_equal(again.tokens, reviews.tokens)
    with raises("config"):
        again.at_home(0, 2)


def test_reviews_of_those_held_out_change_no_training_batch(node, reviews):
    task, run = task_of("review"), settings()
    model = task.load_model(node.settings.base_model)
    held_out = reviews.part[reviews.owners] != TRAIN
    other = replace(reviews, tokens=np.where(held_out[:, None], 7, reviews.tokens))
    assert not np.array_equal(other.tokens, reviews.tokens)
    batches = []
    for data in (reviews, other):
        kept = task.training_data(data, run)
        draw = task.draw(kept, kept.active(), model, run, np.random.default_rng(4))
        batches.append(task.collate(kept, draw, model))
    assert len(batches[0]) == 14
    assert torch.equal(batches[0].tokens, batches[1].tokens)


# The model


@pytest.mark.parametrize("part", ["heads", "top:1", "lora:2", "adapters:3", "all"])
def test_clipping_is_exact_whatever_is_trained(reviews, encoder, part):
    task, run = task_of("review"), settings()
    model = ReviewModel.fresh(["0", "1"], encoder=encoder, trainable=part, seed=1)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight, std=0.1)  # from zero, nothing behind it would move
    model.double()  # of gradients this small, single precision would be what is measured
    trained = model.train_only(part)
    assert ("encoder.embeddings.word_embeddings.weight" in trained) == (part == "all")
    kept = task.training_data(reviews, run)
    draw = task.draw(kept, kept.active()[:5], model, run, np.random.default_rng(4))
    worst = check_exactness(
        model, task.collate(kept, draw, model), losses=lambda b: task.losses(model, b, run)
    )
    assert worst < 1e-5


def test_an_untrained_model_finds_every_label_equally_likely(encoder, reviews, tmp_path):
    model = ReviewModel.fresh(["1", "2", "3"], encoder=encoder, trainable="lora:2", seed=1)
    model.save_pretrained(tmp_path / "m")
    again = load_review_model(tmp_path / "m")
    for (name, old), (_, new) in zip(
        sorted(model.named_parameters()), sorted(again.named_parameters()), strict=True
    ):
        assert torch.equal(old, new), name
    found = task_of("review").evaluate(reviews, again.eval(), settings(), "test")
    assert found.chances == pytest.approx(1 / 3)


@pytest.mark.parametrize("part", ["rules", "lora:4"])
def test_what_a_model_was_not_made_for_is_refused(encoder, part):
    model = ReviewModel.fresh(["0", "1"], encoder=encoder, trainable="heads", seed=1)
    with raises("config"):
        model.train_only(part)


def test_an_encoder_of_another_family_is_refused(tmp_path):
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=5)).save_pretrained(tmp_path)
    with raises("config"):
        ReviewModel.fresh(["0", "1"], encoder=str(tmp_path), trainable="heads", seed=1)


# Rounds


def test_a_store_learns_to_tell_praise_from_complaint(node, reviews):
    task = task_of("review")
    run = settings(**{"federation.rounds": 40, "model.trainable": "all"})
    model = task.load_model(node.settings.base_model)
    before = task.evaluate(node.prepared(Reviews), model, run, "test").metrics()["accuracy"]
    train_alone(node, model, run)
    after = task.evaluate(node.prepared(Reviews), model, run, "test").metrics()["accuracy"]
    assert after > max(before, 0.8)


def test_a_private_round_returns_a_bounded_sum(node):
    task = task_of("review")
    run = settings(
        **{"privacy.mode": "distributed", "privacy.noise_multiplier": 4.0, "federation.rounds": 1}
    )
    model = task.load_model(node.settings.base_model)
    task.freeze(model, run)
    trained = train_round(node, model, run, trained_arrays(model), 1)
    norm = np.sqrt(
        sum(float((array.astype(float) ** 2).sum()) for array in trained.update.values())
    )
    assert 0 < norm <= trained.drawn * run.privacy.max_grad_norm * (1 + 1e-5)


# Figures


def test_figures_of_a_small_table_are_those_worked_out_by_hand():
    found = Verdicts(
        chances=np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4]], np.float32),
        labels=np.array([0, 0, 1, 1]),
        customers=np.array([0, 0, 1, 2]),
    )
    metrics = found.metrics()
    assert metrics["accuracy"] == 0.5 and metrics["auc"] == 0.75
    assert metrics["f1"] == pytest.approx(0.5)
    assert metrics["mae"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.6) / 4)
    assert found.sums() == {"customers": 3.0, "accuracy": 1.5}
    assert found.sums(np.array([0])) == {"customers": 1.0, "accuracy": 0.5}
    empty = Verdicts(chances=found.chances[:0], labels=found.labels[:0], customers=found.labels[:0])
    assert np.isnan(empty.metrics()["accuracy"])


def test_reviews_are_read_through_a_stores_mapping(tmp_path):
    (tmp_path / "export.csv").write_text(
        "card;comment;stars\nada;very good;5\nbob;bad;1.0\nbob;;5\n"
    )
    (tmp_path / "store.toml").write_text(
        'name = "s"\nmax_reject_share = 0.5\n[reviews]\npath = "export.csv"\nseparator = ";"\n'
        'columns = { user_id = "card", text = "comment", rating = "stars" }\n'
    )
    (tmp_path / "store.labels").write_text("1\n5\n")
    found = read_reviews(tmp_path / "store.toml")
    assert sorted(zip(found.texts, found.labels, strict=True)) == [("bad", 0), ("very good", 1)]
    assert found.listed and found.rejected == {"missing text": 1}
    assert "ada" not in found.users and not (tmp_path / "customer.key").exists()


def test_columns_of_other_names_are_refused_with_the_way_to_name_them(tmp_path):
    (tmp_path / "reviews.csv").write_text("comment,stars\ngood,5\n")
    with raises("missing-columns", match=r"\[reviews\] of a store\.toml"):
        read_reviews(tmp_path / "reviews.csv")
