"""What a customer adds to the sums of the task `review`: never a vector of norm above 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hanse_client.features.ragged import offsets_of
from hanse_client.tasks import task_of
from hanse_client.tasks.review.features import Reviews
from hanse_client.tasks.review.model import ReviewModel
from hanse_client.tasks.review.statistics import LABEL_MEANS, TEXT_MOMENTS
from hanse_common.recipes import reviews
from kits.encoder import tiny_encoder

TOKENS, LABELS = 8, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    names = [str(label) for label in range(LABELS)]
    return ReviewModel.fresh(names, encoder=encoder, trainable="heads", seed=1, statistics=True)


def stores(vocabulary: int):
    """Reviews of any tokens by up to five customers, some of whom wrote none, or one again."""
    sizes = st.lists(st.integers(0, 6), min_size=1, max_size=5)

    def of(counts):
        total = sum(counts)
        rows = st.tuples(
            arrays(np.int32, (total, TOKENS), elements=st.integers(0, vocabulary - 1)),
            arrays(np.int64, total, elements=st.integers(1, TOKENS)),
            arrays(np.int64, total, elements=st.integers(0, LABELS - 1)),
            st.booleans(),
        )
        return rows.map(lambda drawn: store(counts, *drawn))

    return sizes.flatmap(of)


def store(counts, tokens, lengths, labels, repeated) -> Reviews:
    if repeated and len(tokens):
        tokens, lengths, labels = tokens[:1], lengths[:1], labels[:1]
        tokens, lengths, labels = (
            np.repeat(part, sum(counts), axis=0) for part in (tokens, lengths, labels)
        )
    return Reviews(
        customers=np.array([f"customer-{i}" for i in range(len(counts))]),
        homes=np.full(len(counts), -1),
        part=np.zeros(len(counts), dtype=np.int8),
        offsets=offsets_of(np.array(counts)),
        tokens=tokens,
        lengths=lengths,
        labels=labels,
    )


@pytest.mark.parametrize("phase", [LABEL_MEANS, TEXT_MOMENTS])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_customer_adds_more_than_norm_1_whatever_they_wrote(model, phase, data):
    task, run = task_of("review"), reviews()
    written = data.draw(stores(len(model.encoder.embeddings.word_embeddings.weight)))
    rows = task.contributions(phase, written, model, run)
    rows.check()
    assert rows.length == task.releases(model, run)[phase]
    norms = rows.norms()
    assert (norms[written.sizes == 0] == 0).all()
    # A customer who wrote one review has all of it, unless the encoder sees nothing in it.
    if phase == LABEL_MEANS:
        assert (norms[written.sizes == 1] > 0.29).all()


@pytest.mark.parametrize("phase", [LABEL_MEANS, TEXT_MOMENTS])
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_row_depends_on_its_customer_alone(model, phase, data):
    task, run = task_of("review"), reviews()
    written = data.draw(stores(len(model.encoder.embeddings.word_embeddings.weight)))
    chosen = data.draw(st.integers(0, len(written) - 1))
    alone = task.contributions(phase, written.select(np.array([chosen])), model, run).sum()
    among = task.contributions(phase, written, model, run).sum(np.array([chosen]))
    # Batches of another size add in another order.
    np.testing.assert_allclose(alone, among, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]))
def test_states_of_any_length_and_of_none_become_vectors_of_norm_1_at_most(model, data, scale):
    drawn = data.draw(arrays(np.float64, (5, model.width), elements=st.floats(-1, 1)))
    vectors = model.reader.vectors(torch.from_numpy(drawn * scale))
    assert (torch.linalg.vector_norm(vectors, dim=1) <= 1 + 1e-9).all()
    at_centre = model.reader.vectors(model.reader.centre.double()[None])
    assert torch.isfinite(at_centre).all()


def test_writing_a_review_twice_adds_what_writing_it_once_does(model):
    task, run = task_of("review"), reviews()
    once = store([1], np.full((1, TOKENS), 2003), np.array([TOKENS]), np.array([2]), False)
    twice = store([2], np.full((2, TOKENS), 2003), np.array([TOKENS] * 2), np.array([2] * 2), False)
    for phase in (LABEL_MEANS, TEXT_MOMENTS):
        sums = [task.contributions(phase, it, model, run).sum() for it in (once, twice)]
        np.testing.assert_allclose(*sums, atol=1e-6)
