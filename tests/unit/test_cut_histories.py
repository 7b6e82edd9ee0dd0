"""A store on the disk is trained on by the batch, with the same numbers as one in memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hanse_client.features import array_files, cut_histories
from hanse_client.features.cut_histories import CutHistories
from hanse_client.features.histories import FACTS, Histories
from hanse_client.features.ragged import offsets_of
from hanse_client.model.config import CategoryConfig, InterestConfig
from hanse_client.tasks import task_of
from hanse_client.tasks.interest import InterestModel, class_residuals, task
from hanse_client.tasks.interest.category_model import CategoryModel
from hanse_client.tasks.interest.category_pairs import PHASE as PAIRS
from hanse_client.training import statistics
from hanse_common.config import DataSettings, RunSettings, Split
from kits.errors import raises

TASK = task_of("interest")
CLASSES = ["D/A", "D/B", "D/C", "D/D"]
UNTIL = 240.0
SPLIT = Split(train_until="1970-08-29", validate_until="1970-09-12", test_until="1970-10-10")
SETTINGS = RunSettings(
    recipe="example", data=DataSettings(source="synthetic", split=SPLIT)
).with_changes({"training.anchors": 3, "model.trainable": "heads"})


def shop(customers: int = 40, *, width: int = 4, seed: int = 0) -> Histories:
    """Customers with many visits, few, none, and only late ones."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 60, customers)
    sizes[::7] = 0
    days = [np.sort(rng.uniform(0, 283, size)) for size in sizes]
    days[3] = days[3] / 10 + 250
    pairs = [np.flatnonzero(rng.random(4) < 0.5) for _ in range(sizes.sum())]
    return Histories(
        customers=np.array([f"c{i:06d}" for i in range(customers)]),
        homes=rng.integers(0, 1000, customers),
        visit_offsets=offsets_of(sizes),
        visit_days=np.concatenate(days),
        visit_vectors=rng.normal(size=(sizes.sum(), width)).astype(np.float16),
        visit_facts=rng.random((sizes.sum(), len(FACTS))).astype(np.float32),
        pair_offsets=offsets_of(np.array([len(pair) for pair in pairs])),
        pair_classes=np.concatenate(pairs).astype(np.int32),
        observed_from=0.0,
    )


def visits_model() -> InterestModel:
    rng = np.random.default_rng(0)
    return InterestModel.fresh(
        InterestConfig(classes=CLASSES, vector_size=4, max_steps=20, n_embd=8, n_head=2),
        class_texts=rng.normal(size=(4, 4)).astype(np.float32),
        item_texts=rng.normal(size=(30, 4)).astype(np.float32),
        class_sizes=np.full(4, 5.0, dtype=np.float32),
        seed=1,
    ).eval()


def categories_model() -> InterestModel:
    rng = np.random.default_rng(0)
    base = CategoryModel(CategoryConfig(n_embd=8, n_layer=1, n_head=2, intermediate_size=8))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in base.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return InterestModel.on_base(
        InterestConfig(classes=CLASSES, vector_size=4),
        base,
        class_texts=rng.normal(size=(4, 4)).astype(np.float32),
        class_sizes=np.full(4, 5.0, dtype=np.float32),
        centre=np.full(40, 0.1),
        whitening=np.eye(40) * 0.8,
    ).eval()


@pytest.fixture
def on_disk(monkeypatch, tmp_path: Path):
    """Write histories, and read them as those of a store that is larger than memory."""
    for module in (array_files, task):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(array_files, "_BLOCK", 64)

    def mapped(histories: Histories) -> Histories:
        histories.save(tmp_path / "histories.npz")
        return Histories.load(tmp_path / "histories.npz")

    return mapped


def same(one: object, other: object) -> None:
    """Compare arrays and tensors of two values bit by bit."""
    assert type(one) is type(other)
    if is_dataclass(one):
        for field in fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()
    else:
        assert one == other


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_cut_store_has_the_visits_that_copying_leaves(at_once, monkeypatch, on_disk):
    monkeypatch.setattr(cut_histories, "_CUSTOMERS", at_once)
    store = shop()
    for until in (-1.0, 0.0, 100.0, UNTIL, 300.0):
        cut, copied = CutHistories.of(on_disk(store), until=until), store.until(until)
        assert cut.sizes.tolist() == copied.sizes.tolist()
        assert cut.active().tolist() == copied.active().tolist()
        same(cut.select(np.arange(len(store))), copied)
        some = np.array([5, 0, 39, 5])
        same(cut.select(some), copied.select(some))


def test_a_cut_store_is_written_and_stays_with_people_at_home(on_disk, tmp_path):
    store = shop()
    cut = CutHistories.of(on_disk(store), until=UNTIL).at_home(1, 3)
    copied = store.until(UNTIL).at_home(1, 3)
    cut.save(tmp_path / "cut.npz")
    same(cut.select(np.arange(len(cut))), copied)
    copied.save(tmp_path / "copied.npz")
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "copied.npz").read_bytes()
    unknown = replace(store, homes=np.full(len(store), -1))
    with raises("config", match="prepare again"):
        CutHistories.of(on_disk(unknown), until=UNTIL).at_home(1, 3)


@pytest.mark.parametrize(("model", "trained"), [(visits_model, "heads"), (categories_model, "all")])
def test_batches_from_the_disk_are_those_from_memory(model, trained, on_disk):
    store, run, model = shop(), SETTINGS.with_changes({"model.trainable": trained}), model()
    in_memory = store.until(UNTIL)
    mapped = TASK.training_data(on_disk(store), run)
    assert isinstance(mapped, CutHistories)
    TASK.freeze(model, run)
    customers = mapped.active()
    draws = [
        TASK.draw(data, customers, model, run, np.random.default_rng(4))
        for data in (in_memory, mapped)
    ]
    same(*draws)
    for start in (0, 5):
        part = draws[0].rows(start, start + 9)
        batches = [TASK.collate(data, part, model) for data in (in_memory, mapped)]
        same(*batches)
        same(*(TASK.losses(model, batch, run).detach() for batch in batches))


def test_the_head_reads_of_a_batch_what_it_reads_of_the_store(on_disk):
    """Padding differs, and with it the last bits of what the base makes of a row."""
    store, model = shop(), categories_model()
    TASK.freeze(model, SETTINGS)
    losses = []
    for data in (store.until(UNTIL), TASK.training_data(on_disk(store), SETTINGS)):
        draw = TASK.draw(data, data.active(), model, SETTINGS, np.random.default_rng(4))
        parts = [TASK.collate(data, draw.rows(i, i + 5), model) for i in range(0, len(draw), 5)]
        losses.append(torch.cat([TASK.losses(model, part, SETTINGS) for part in parts]))
    assert losses[0].detach().any()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("phase", [PAIRS, class_residuals.PHASE])
def test_statistics_of_parts_add_up_to_the_same_bits(phase, monkeypatch, on_disk):
    store, model = shop(), categories_model()
    whole = TASK.contributions(phase, store.until(UNTIL), model, SETTINGS)
    cut = TASK.training_data(on_disk(store), SETTINGS)
    total = np.zeros(whole.length)
    monkeypatch.setattr(statistics, "_CUSTOMERS", 7)
    parts = list(statistics._parts(cut))
    assert len(parts) == 6
    for part in parts:
        TASK.contributions(phase, part, model, SETTINGS).add_to(total, part.active())
    assert whole.sum().any()
    assert total.tobytes() == whole.sum(store.until(UNTIL).active()).tobytes()


def test_memory_grows_with_the_batch_and_not_with_the_store(on_disk):
    model, peaks = visits_model(), []
    TASK.freeze(model, SETTINGS)
    for customers in (400, 1600):
        mapped = on_disk(shop(customers, width=384))
        tracemalloc.start()
        data = TASK.training_data(mapped, SETTINGS)
        data.select(data.active()[:20])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert mapped.visit_vectors.nbytes > 20 * peaks[1]
    assert peaks[1] < 1.5 * peaks[0]
