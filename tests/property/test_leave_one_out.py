"""Leave-one-out leaks nothing: what is held out changes no training batch and no input."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hanse_client.model.config import SequenceConfig
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.metrics import judge
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.task import NextItemTask
from hanse_common.config import DataSettings, NextItemSettings, RunSettings

ITEMS = 12
RUN = RunSettings(
    recipe="x",
    task="next-item",
    data=DataSettings(source="sequences"),
    next_item=NextItemSettings(negatives=5),
)
MODEL = SequenceModel.fresh(SequenceConfig(items=ITEMS, n_embd=4, max_steps=4), seed=1)
TASK = NextItemTask()
sequences = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=3, max_size=8), min_size=1)
others = st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=2)


def batch_of(lists, run=RUN):
    known = TASK.training_data(Sequences.of(lists, items=ITEMS), run)
    draw = TASK.draw(known, known.active(), MODEL, run, np.random.default_rng(3))
    return draw, TASK.collate(known, draw, MODEL)


def parts(draw, batch):
    rows = (draw.customers, draw.candidates, batch.inputs, batch.targets, batch.candidates)
    return [*map(np.asarray, rows), np.array([draw.seed, batch.seed])]


@settings(max_examples=60, deadline=None)
@given(sequences, others)
def test_validation_and_test_items_change_no_training_batch(lists, other):
    changed = [[*one[:-2], *other] for one in lists]
    for one, two in zip(parts(*batch_of(lists)), parts(*batch_of(changed)), strict=True):
        np.testing.assert_array_equal(one, two)


@settings(max_examples=60, deadline=None)
@given(sequences, others)
def test_training_through_validation_still_never_sees_the_test_item(lists, other):
    run = RUN.with_changes({"next_item.train_through_validation": True})
    changed = [[*one[:-1], other[0]] for one in lists]
    for one, two in zip(parts(*batch_of(lists, run)), parts(*batch_of(changed, run)), strict=True):
        np.testing.assert_array_equal(one, two)


@settings(max_examples=40, deadline=None)
@given(sequences, others)
def test_what_an_evaluation_asks_for_does_not_enter_its_question(lists, other):
    for split, kept in (("validate", 2), ("test", 1)):
        asked = []
        for tail in ([], other[:kept]):
            one = [[*a[:-kept], *tail] if tail else a for a in lists]
            seen: list[list[int]] = []

            def scores(past, seen=seen):
                seen.extend(x.tolist() for x in past)
                return np.zeros((len(past), ITEMS))

            judge(Sequences.of(one, items=ITEMS), split, scores)
            asked.append(seen)
        assert asked[0] == asked[1]


@settings(max_examples=25, deadline=None)
@given(sequences)
def test_a_customers_loss_is_the_same_alone_and_among_others(lists):
    _, batch = batch_of(lists)
    assume(len(batch))
    for apart in (False, True):
        together = MODEL.sampled_losses(batch.inputs, batch.targets, batch.candidates, apart=apart)
        for row in range(len(batch)):
            one = batch.rows(row, row + 1)
            alone = MODEL.sampled_losses(one.inputs, one.targets, one.candidates, apart=apart)
            torch.testing.assert_close(alone[0], together[row])
