"""What one customer adds to the sums of popularity and pairs has norm at most 1, always."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_client.tasks.next_item import pairs, popularity
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.next_item.item_vectors import ItemVectors
from hanse_client.tasks.next_item.task import NextItemTask
from hanse_client.tasks.next_item.text_model import TextItemModel
from hanse_common.config import DataSettings, RunSettings

ITEMS = 8
TASK = NextItemTask()
RUN = RunSettings(recipe="x", task="next-item", data=DataSettings(source="sequences"))
ROWS = np.eye(ITEMS, dtype=np.float32)
MODEL = TextItemModel.fresh(ItemVectors(vectors=ROWS, components=ROWS, coarse=ROWS), partners=3)
# Adversarial customers: the same item many times, all items, two in turns, nothing at all.
histories = st.one_of(
    st.lists(st.integers(0, ITEMS - 1), max_size=30),
    st.builds(lambda item, n: [item] * n, st.integers(0, ITEMS - 1), st.integers(0, 40)),
    st.builds(lambda n: [0, 1] * n, st.integers(0, 20)),
    st.permutations(range(ITEMS)),
)
stores = st.lists(histories, max_size=6)
graphs = st.sets(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, ITEMS - 1))).map(
    lambda found: np.array(sorted(a * ITEMS + b for a, b in found if a < b), dtype=np.int64)
)


def bounded(rows, customers):
    rows.check()
    assert len(rows) == customers
    norms = rows.norms()
    assert np.all((norms == 0) | (np.abs(norms - 1) < 1e-9))
    return norms


def alone(rows, customer):
    """The dense row of one customer."""
    own = slice(rows.offsets[customer], rows.offsets[customer + 1])
    return np.bincount(rows.cells[own], rows.values[own], minlength=rows.length)


@settings(max_examples=150, deadline=None)
@given(stores)
def test_a_customer_adds_norm_one_to_popularity_or_nothing(lists):
    rows = popularity.contributions(Sequences.of(lists, items=ITEMS))
    norms = bounded(rows, len(lists))
    assert rows.length == ITEMS
    for customer, taken in enumerate(lists):
        assert (norms[customer] > 0) == bool(taken)
        assert set(np.flatnonzero(alone(rows, customer))) == set(taken)


@settings(max_examples=150, deadline=None)
@given(stores, graphs)
def test_a_customer_adds_norm_one_to_pairs_or_nothing(lists, cells):
    rows = pairs.contributions(Sequences.of(lists, items=ITEMS), cells, len(cells) + 2)
    bounded(rows, len(lists))
    for customer, taken in enumerate(lists):
        near = {
            (min(a, b), max(a, b))
            for place, a in enumerate(taken)
            for b in taken[place + 1 : place + 1 + pairs.WINDOW]
        }
        listed = {
            int(place) for place, cell in enumerate(cells) if divmod(int(cell), ITEMS) in near
        }
        assert set(np.flatnonzero(alone(rows, customer))) == listed


@settings(max_examples=80, deadline=None)
@given(stores, histories)
def test_a_customer_changes_no_other_customers_row(lists, other):
    for phase, length in TASK.releases(MODEL, RUN).items():
        one, two = (
            TASK.contributions(phase, Sequences.of(group, items=ITEMS), MODEL, RUN)
            for group in (lists, [*lists, other])
        )
        assert one.length == two.length == length
        for customer in range(len(lists)):
            np.testing.assert_array_equal(alone(one, customer), alone(two, customer))
        assert np.linalg.norm(two.sum() - one.sum()) <= 1 + 1e-9
