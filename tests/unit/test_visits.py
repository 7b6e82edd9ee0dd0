"""Visits in parts: the same bits as all events at once, and memory for one part."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest

from hanse_client.features import array_files, visits
from hanse_client.features.histories import EPOCH, EVENT_KINDS, Histories, prepare
from hanse_client.features.ragged import offsets_of
from hanse_client.ingest.pipeline import Ingested
from hanse_client.ingest.schema import conform_catalogue, conform_events

CLASSES = [f"D/{c}" for c in "ABCDE"]
ITEMS = [f"{index:03d}" for index in range(40)]
VECTORS = {
    f"text {index % 11}": np.random.default_rng(index % 11).normal(size=9).astype(np.float32)
    for index in range(40)
}
OWN = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)


def ingested(seed: int, *, customers: int = 30, events: int = 900) -> Ingested:
    """Events of all kinds: with and without baskets and prices, and many at one time."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, customers, events)
    visit = rng.integers(0, 6, events)
    # The visits of a customer begin at few different hours, so that some begin together.
    hour = (owner * 7 + visit * visit) % 5 * 500 + rng.integers(0, 3, events) * (visit % 2)
    missing = rng.random(events) < 0.2
    frame = pl.DataFrame(
        {
            "user_id": [f"c{index:02d}" * (1 + index % 2) for index in owner],
            "item_id": rng.choice(ITEMS, events),
            "timestamp": np.datetime64("2024-01-01", "us") + hour.astype("timedelta64[h]"),
            "event_type": np.where(rng.random(events) < 0.6, "purchase", "view"),
            "basket_id": pl.Series(
                [None if v == 0 else f"{o % 3}-{v}" for o, v in zip(owner, visit, strict=True)],
                dtype=pl.String,
            ),
            "quantity": rng.integers(1, 4, events).astype(float),
            "price": pl.Series(np.where(missing, np.nan, rng.random(events))).fill_nan(None),
        }
    )
    kinds = frame["event_type"].to_numpy().copy()
    kinds[::17] = "cart"
    kinds[::41] = "rate"
    frame = frame.with_columns(event_type=pl.Series(kinds.tolist()))
    goods = pl.DataFrame(
        {
            "item_id": ITEMS,
            "text": [f"text {index % 11}" for index in range(40)],
            "category": [f"D/{'ABCDEFG'[index % 7]}" for index in range(40)],
        }
    )
    return Ingested(
        rows=conform_events(frame.sort("user_id", "timestamp", maintain_order=True)),
        catalogue=conform_catalogue(goods),
        rejects={},
        rows_read=events,
        catalogue_rejects={},
        catalogue_rows_read=40,
    )


def all_at_once(data: Ingested) -> Histories:
    """The same histories by the plainest code: all events in memory, one loop a visit."""
    place = {item: index for index, item in enumerate(data.catalogue["item_id"])}
    text = data.catalogue["text"].to_list()
    category = data.catalogue["category"].to_list()
    whole: dict[tuple[str, str], list[dict]] = {}
    for row in data.events.iter_rows(named=True):
        key = row["basket_id"] or str(row["timestamp"].date())
        whole.setdefault((row["user_id"], key), []).append(row)
    ordered = sorted(
        (user, min(row["timestamp"] for row in rows), key, rows)
        for (user, key), rows in whole.items()
    )
    days, vectors, facts, pairs, owners = [], [], [], [], []
    for number, (user, begun, _, rows) in enumerate(ordered):
        spent = [(row["price"] or 0.0) * row["quantity"] for row in rows]
        order = sorted(
            range(len(rows)), key=lambda i: (rows[i]["timestamp"], rows[i]["item_id"], spent[i])
        )
        rows = [rows[i] for i in order]
        micros = (begun - EPOCH) // (EPOCH.resolution)
        day = (pl.Series([micros]) / 86_400e6)[0]  # polars and numpy differ in the last bit
        gap = day - days[-1] if number and ordered[number - 1][0] == user else 0.0
        sums = np.zeros(12, dtype=np.float32)
        for row in rows:
            item = place[row["item_id"]]
            sums += np.concatenate([VECTORS[text[item]], OWN[item]])
        spend = 0.0
        for i in order:
            spend += spent[i]
        kinds = [row["event_type"] for row in rows]
        facts.append(
            [np.log1p(len(rows)), np.log1p(spend), np.log1p(gap)]
            + [np.sin(2 * np.pi * day / 7), np.cos(2 * np.pi * day / 7)]
            + [kinds.count(kind) / len(kinds) for kind in EVENT_KINDS]
        )
        bought = {
            CLASSES.index(name)
            for row in rows
            if row["event_type"] == "purchase"
            and (name := category[place[row["item_id"]]]) in CLASSES
        }
        days.append(day)
        owners.append(user)
        pairs.append(sorted(bought))
        vectors.append((sums.astype(np.float64) / len(rows)).astype(np.float16))
    customers = sorted(set(owners))
    return Histories(
        customers=np.array(customers),
        homes=np.full(len(customers), -1),
        visit_offsets=offsets_of(np.array([owners.count(name) for name in customers])),
        visit_days=np.array(days),
        visit_vectors=np.array(vectors),
        visit_facts=np.array(facts).astype(np.float32),
        pair_offsets=offsets_of(np.array([len(pair) for pair in pairs])),
        pair_classes=np.array([one for pair in pairs for one in pair], dtype=np.int32),
        observed_from=float(np.floor(min(days))),
    )


def prepared(data: Ingested, folder, **options) -> Histories:
    options = {"text_vectors": VECTORS, "own": OWN, **options}
    return prepare(data, classes=CLASSES, level="category", folder=folder, **options)


def same(one: Histories, other: Histories, *, without: tuple[str, ...] = ()) -> None:
    for field in fields(Histories):
        if field.name not in without:
            first, second = (np.asarray(getattr(part, field.name)) for part in (one, other))
            assert (first.dtype, first.shape) == (second.dtype, second.shape), field.name
            assert first.tobytes() == second.tobytes(), field.name


@pytest.mark.parametrize("rows", [1, 50, 1_000_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_have_the_same_bits_as_all_at_once(rows, seed, monkeypatch, tmp_path):
    monkeypatch.setattr(visits, "_ROWS", rows)
    monkeypatch.setattr(visits, "_VECTOR_ROWS", max(rows // 9, 1))
    monkeypatch.setattr(array_files, "_BLOCK", 300)
    data = ingested(seed)
    same(prepared(data, tmp_path), all_at_once(data))


def test_events_in_any_order_are_prepared_alike(tmp_path):
    data = ingested(2)
    mixed = replace(data, rows=data.events.sample(fraction=1, shuffle=True, seed=1))
    same(prepared(mixed, tmp_path), prepared(data, tmp_path))


def test_without_texts_nothing_but_the_vectors_is_left_out(tmp_path):
    data = ingested(3)
    short, whole = prepared(data, tmp_path, text_vectors=None, own=None), all_at_once(data)
    same(short, whole, without=("visit_vectors",))
    assert short.visit_vectors.shape == (len(whole.visit_days), 0)
    short.save(tmp_path / "short.npz")
    assert (tmp_path / "short.npz").stat().st_size < 80 * len(whole.visit_days) + 10_000


def test_memory_is_that_of_a_part(monkeypatch, tmp_path):
    """Four times the events: the arrays of numpy at the peak are hardly more."""
    monkeypatch.setattr(visits, "_ROWS", 500)
    monkeypatch.setattr(array_files, "_BLOCK", 1000)
    peaks = []
    wide = {text: np.resize(vector, 384) for text, vector in VECTORS.items()}
    for size in (1, 4):
        data = ingested(4, customers=600 * size, events=4000 * size)
        tracemalloc.start()
        histories = prepared(data, tmp_path, text_vectors=wide, own=None)
        histories.save(tmp_path / "h.npz")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert histories.visit_vectors.nbytes > 2 * peaks[1]


def test_what_comes_back_or_is_cancelled_is_no_visit(tmp_path):
    data = ingested(3)
    back = data.events.with_columns(event_type=pl.lit("return"), basket_id=pl.lit("back"))
    cancelled = back.with_columns(event_type=pl.lit("cancel"), user_id=pl.lit("never"))
    more = replace(data, rows=conform_events(pl.concat([data.events, back, cancelled])))
    same(prepared(data, tmp_path / "a"), prepared(more, tmp_path / "b"))
