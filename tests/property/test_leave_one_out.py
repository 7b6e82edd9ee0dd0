"""Leave-one-out leaks nothing: what is held out changes no training batch and no input.

And a store with one customer fewer sends a sum of statistics that differs by that customer's
bounded row, and in nothing else.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hanse_client.model.config import CategoryConfig, InterestConfig, SequenceConfig
from hanse_client.node import Node
from hanse_client.tasks import task_of
from hanse_client.tasks.interest import InterestModel, category_pairs, class_residuals
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.metrics import judge
from hanse_client.tasks.next_item.model import SequenceModel
from hanse_client.tasks.next_item.task import NextItemTask
from hanse_client.training.statistics import exchanged_arrays, statistics_sum
from hanse_common.config import DataSettings, NextItemSettings, RunSettings, Split
from hanse_common.manifest_terms import manifest_for
from hanse_common.privacy.plan import PrivacyPlan, solved
from hanse_common.vector import NOISE_ONLY, UPDATE, Draws, encode_statistics
from kits.histories import CLASSES, made

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


PHASES = (category_pairs.PHASE, class_residuals.PHASE)
SHOPPERS = RunSettings(
    recipe="x",
    data=DataSettings(
        source="synthetic",
        split=Split(train_until="1970-08-29", validate_until="1970-09-12", test_until="1970-10-10"),
    ),
).with_changes(
    {
        "model.trainable": "heads",
        "phases": [{"name": name, "release": "statistics", "share": 0.5} for name in PHASES],
        "federation.rounds": 2,
        "privacy.mode": "distributed",
        "privacy.target_epsilon": 4.0,
    }
)
visit = st.tuples(st.integers(0, 300), st.lists(st.integers(0, len(CLASSES) - 1), max_size=8))
shopper = st.lists(visit, max_size=40).map(lambda visits: sorted(visits, key=lambda v: v[0]))


@pytest.fixture(scope="module", params=[1, 4], ids=["one-store", "four-stores"])
def terms(request):
    """The settings, plan, manifest and model of runs in which a person has so many stores."""
    run = solved(SHOPPERS.with_changes({"privacy.max_stores_per_customer": request.param}))
    model = InterestModel.on_base(
        InterestConfig(classes=CLASSES, vector_size=4),
        CategoryModel(CategoryConfig(n_embd=8, n_layer=1, n_head=2, intermediate_size=8)),
        class_texts=np.eye(4, dtype=np.float32),
        class_sizes=np.full(4, 5.0, dtype=np.float32),
        centre=np.zeros(40),
        whitening=np.eye(40),
    )
    task = task_of("interest")
    task.freeze(model, run)
    arrays = exchanged_arrays(task, model, run)
    manifest = manifest_for(run, arrays, [f"s{number}" for number in range(6)], federation="f")
    return run, PrivacyPlan.from_settings(run), manifest, model


def sent(people, number, terms):
    """A store's sum in a round, and the sections of the vector that leaves, always seeded alike."""
    run, plan, manifest, model = terms
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made(people).save(place / "histories.npz")
        table = {"name": "a", "histories": "histories.npz", "base_model": "base", "seed": 1}
        (place / "node.json").write_text(json.dumps(table))
        total = statistics_sum(Node(place), model, run, {}, number)
    kind = run.schedule.at(number).name
    streams = [np.random.default_rng(seed) for seed in (1, 2)]
    draws = Draws(rounding=streams[0], noise=streams[1])
    vector = encode_statistics(total, manifest, kind, plan=plan, draws=draws)
    return total, manifest.terms(kind).layout.split(vector)


@pytest.mark.parametrize("number", [1, 2], ids=PHASES)
@settings(max_examples=15, deadline=None)
@given(people=st.lists(shopper, max_size=4), one=shopper)
def test_a_customer_moves_a_sum_of_statistics_by_their_share_and_nothing_else(
    terms, number, people, one
):
    _, plan, manifest, _ = terms
    without, vector_without = sent(people, number, terms)
    among, vector_among = sent([*people, one], number, terms)
    assert np.linalg.norm(among - without) <= plan.person_share * (1 + 1e-6)
    # What leaves are integers of the sum, and numbers that carry noise alone.
    assert vector_among.keys() == {UPDATE, NOISE_ONLY}
    np.testing.assert_array_equal(vector_among[NOISE_ONLY], vector_without[NOISE_ONLY])
    kind = PHASES[number - 1]
    (scale,) = {part.scale for part in manifest.sections_of(kind)}
    moved = vector_among[UPDATE] - vector_without[UPDATE]
    # Noise is the same and cancels; each number may be rounded the other way.
    assert np.all(np.abs(moved - scale * (among - without)) <= 1 + 1e-6)
