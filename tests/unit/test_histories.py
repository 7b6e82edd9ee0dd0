"""Histories and batches: what the model sees, and above all what it does not."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch

from hanse_client.features.histories import Histories, days, item_class, prepare
from hanse_client.ingest.pipeline import Ingested
from hanse_client.ingest.schema import conform_catalogue, conform_events
from hanse_client.tasks.interest import InterestConfig
from hanse_client.tasks.interest.features import (
    Anchors,
    collate,
    evaluation_anchors,
    training_anchors,
)
from kits.errors import raises

CLASSES = ["DAIRY/MILK", "BAKERY/BREAD", "CELLAR/WINE"]
ITEMS = {"m": CLASSES[0], "b": CLASSES[1], "w": CLASSES[2], "x": "OTHER/THING"}
VECTORS = {text: np.eye(4, dtype=np.float32)[i] for i, text in enumerate(ITEMS)}
START = days(datetime(2024, 1, 1))


def make(rows, *, level="category"):
    """Histories of (customer, item, day after START, basket or None) rows."""
    events = conform_events(
        pl.DataFrame(
            {
                "user_id": [row[0] for row in rows],
                "item_id": [row[1] for row in rows],
                "timestamp": pl.Series([(START + row[2]) * 86_400e6 for row in rows])
                .cast(pl.Int64)
                .cast(pl.Datetime("us")),
                "basket_id": pl.Series([row[3] for row in rows], dtype=pl.String),
                "price": pl.Series([2.0] * len(rows), dtype=pl.Float64),
            }
        )
    )
    catalogue = conform_catalogue(
        pl.DataFrame(
            {"item_id": list(ITEMS), "text": list(ITEMS), "category": list(ITEMS.values())}
        )
    )
    data = Ingested(
        rows=events,
        catalogue=catalogue,
        rejects={},
        rows_read=len(rows),
        catalogue_rejects={},
        catalogue_rows_read=len(ITEMS),
    )
    return prepare(data, classes=CLASSES, level=level, text_vectors=VECTORS)


@pytest.fixture
def two_customers():
    return make(
        [
            ("ada", "m", 0.5, "1"),
            ("ada", "b", 0.5, "1"),
            ("ada", "m", 0.75, "2"),
            ("ada", "m", 100.0, None),
            ("ada", "w", 100.3, None),
            ("bob", "x", 3.0, None),
        ]
    )


CONFIG = InterestConfig(classes=CLASSES, vector_size=4, max_steps=8)


def test_baskets_are_visits_and_days_are_where_there_is_no_basket(two_customers):
    assert two_customers.visit_offsets.tolist() == [0, 3, 4]
    assert np.diff(two_customers.pair_offsets).tolist() == [2, 1, 2, 0]
    assert two_customers.pair_classes.tolist() == [0, 1, 0, 0, 2]
    np.testing.assert_allclose(two_customers.visit_days - START, [0.5, 0.75, 100.0, 3.0])
    np.testing.assert_allclose(two_customers.visit_vectors[0], [0.5, 0.5, 0, 0])


def test_item_class_follows_the_level():
    assert item_class("A/B/C", "7", "category") == "A/B"
    assert item_class("A/B/C", "7", "type") == "A/B/C"
    assert item_class("A", "7", "category") == "A"
    assert item_class("A/B/C", "7", "product") == "7"


def test_until_forgets_later_visits_and_keeps_the_customers(two_customers):
    cut = two_customers.until(START + 1)
    assert cut.visit_offsets.tolist() == [0, 2, 2]
    assert cut.pair_classes.tolist() == [0, 1, 0]
    assert cut.active().tolist() == [0]
    assert len(cut.until(START)) == 2 and cut.until(START).active().tolist() == []


def test_histories_survive_a_round_trip_to_disk(two_customers, tmp_path):
    two_customers.save(tmp_path / "h.npz")
    loaded = Histories.load(tmp_path / "h.npz")
    assert loaded.customers.tolist() == ["ada", "bob"]
    np.testing.assert_array_equal(loaded.visit_facts, two_customers.visit_facts)
    assert loaded.observed_from == two_customers.observed_from


def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "h.npz").write_bytes(b"PK nonsense")
    with raises("data"):
        Histories.load(tmp_path / "h.npz")


def test_no_events_are_an_empty_store():
    with raises("empty-store"):
        make([])


def batch_at(histories, customer, *moments, outlook=True):
    shape = (1, len(moments))
    anchors = Anchors(
        customers=np.array([customer]),
        moments=START + np.array([moments], dtype=float),
        basket=np.ones(shape, dtype=bool),
        outlook=np.full(shape, outlook),
    )
    return collate(histories, anchors, CONFIG)


def test_counts_windows_and_decay_are_what_they_say(two_customers):
    past = batch_at(two_customers, 0, 100.0).past
    milk = past.counts[0, 0, 0]
    assert dict(zip(CONFIG.windows, milk.tolist(), strict=True)) == {
        7.0: 0, 14.0: 0, 28.0: 0, 56.0: 0, 84.0: 0, 3650.0: 2,
    }  # fmt: skip
    expected = sum(2 ** (-(100 - day) / 60) for day in (0.5, 0.75))
    assert past.decayed[0, 0, 0, 1].item() == pytest.approx(expected, rel=1e-5)
    assert past.days_since[0, 0, 0].item() == pytest.approx(99.25, rel=1e-4)
    assert past.days_since[0, 0, 2].item() == 3650
    assert past.gap[0, 0].item() == pytest.approx(99.25, rel=1e-4)


def test_the_next_basket_is_the_visit_at_or_after_the_anchor(two_customers):
    batch = batch_at(two_customers, 0, 0.6, 0.75, 50.0, 101.0)
    assert batch.next_basket[0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_outlook_compares_the_next_four_weeks_with_the_own_rate():
    steady = [("eve", "m", float(day), str(day)) for day in range(0, 84, 7)]  # 12 visits: mu = 4
    for ahead, outcome in ((0, 0), (1, 0), (2, 1), (6, 1), (7, 2)):
        more = [("eve", "m", 84.5 + i, f"f{i}") for i in range(ahead)]
        batch = batch_at(make([*steady, *more]), 0, 84.0)
        assert batch.outlook[0, 0].tolist() == [outcome, -1, -1], ahead


def test_without_an_interest_there_is_no_outlook(two_customers):
    assert (batch_at(two_customers, 0, 100.0).outlook == -1).all()


def random_rows(rng, customers=6, visits=40):
    names = [f"c{i}" for i in range(customers)]
    return [
        (names[rng.integers(customers)], list(ITEMS)[rng.integers(4)], float(day), None)
        for day in np.sort(rng.uniform(0, 200, customers * visits))
    ]


def inputs(batch):
    past = batch.past
    return [batch.visit_vectors, batch.visit_facts, past.counts, past.decayed, past.days_since,
            past.visits, past.gap, past.observed, batch.anchor_visit]  # fmt: skip


def test_an_input_depends_on_nothing_at_or_after_its_anchor():
    """The promise in `collate`: change the future at will, the input stays the same."""
    rng = np.random.default_rng(3)
    rows = random_rows(rng)
    changed = [row for row in rows if row[2] < 120] + [
        (row[0], "w", row[2], "later") for row in rows if row[2] >= 120
    ]
    for moments in ((119.9,), (60.0, 119.9)):
        for customer in range(6):
            one = batch_at(make(rows), customer, *moments)
            two = batch_at(make(changed), customer, *moments)
            for a, b in zip(inputs(one), inputs(two), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_input_depends_on_no_other_customer():
    rows = random_rows(np.random.default_rng(4))
    rows[0] = (*rows[0][:2], 0.0, None)  # the first day belongs to the store, not to a customer
    first = min(row[0] for row in rows)
    only = [row for row in rows if row[0] == first or row[2] == 0.0]
    one, two = make(rows), make(only)
    batch, alone = (batch_at(histories, 0, 90.0, 150.0) for histories in (one, two))
    for a, b in zip(inputs(batch), inputs(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_training_anchors_never_look_past_the_end_of_training():
    histories = make(random_rows(np.random.default_rng(5))).until(START + 150)
    anchors = training_anchors(
        histories,
        histories.active(),
        count=50,
        until=START + 150,
        config=CONFIG,
        rng=np.random.default_rng(0),
    )
    assert (anchors.moments < START + 150).all()
    asked = anchors.moments[anchors.outlook]
    assert len(asked)
    assert (asked + CONFIG.horizon_days <= START + 150).all()
    assert (asked >= histories.observed_from + CONFIG.reference_days).all()


def test_every_visit_of_a_split_is_judged_once():
    histories = make(random_rows(np.random.default_rng(6), visits=60))
    anchors = evaluation_anchors(histories, start=START + 100, stop=START + 160, per_row=16)
    inside = (histories.visit_days >= START + 100) & (histories.visit_days < START + 160)
    assert anchors.basket.sum() == inside.sum()
    assert sorted(anchors.moments[anchors.basket]) == sorted(histories.visit_days[inside])
    assert anchors.outlook.sum() == len(histories.active())


def test_long_histories_keep_their_most_recent_visits():
    histories = make([("eve", "m", float(day), str(day)) for day in range(20)])
    batch = batch_at(histories, 0, 19.5)
    assert batch.visit_vectors.shape[1] == CONFIG.max_steps
    assert batch.anchor_visit.item() == CONFIG.max_steps - 1
    np.testing.assert_array_equal(batch.visit_facts[0, -1], histories.visit_facts[19])
