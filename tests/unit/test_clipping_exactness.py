"""Clipping is proven exact again for whatever could make it inexact."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hanse_client.clipping import exactness
from hanse_client.clipping.exactness import check_key, ensure_exact
from hanse_client.tasks import task_of
from hanse_common.errors import PrivacyError
from hanse_common.manifest_terms import BASE_MODEL_FILES
from hanse_common.paths import CLIPPING_CHECK_FILE
from kits.errors import raises


@pytest.fixture
def store(small_node):
    node, settings = small_node
    return Checked(node, settings)


class Checked:
    """A store whose checks are counted; the check itself is the real one."""

    def __init__(self, node, settings):
        self.node, self.settings = node, settings
        self.customers: list[np.ndarray] = []

    def check(self, *, seed: int = 1, data=None, **changes) -> None:
        settings = self.settings.with_changes(
            {key.replace("__", "."): value for key, value in changes.items()}
        )
        task = task_of(settings.task)
        model = task.load_model(self.node.settings.base_model)
        task.freeze(model, settings)
        data = task.load_data(self.node) if data is None else data
        ensure_exact(self.node, task, model, data, settings, np.random.default_rng(seed))

    @property
    def checks(self) -> int:
        path = self.node.folder / CLIPPING_CHECK_FILE
        return len(json.loads(path.read_text())) if path.exists() else 0


def test_the_same_model_is_checked_once(store):
    store.check()
    store.check(seed=2)
    assert store.checks == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model__trainable": "heads"},
        {"training__outlook_weight": 3.5},
        {"training__anchors": 4},
        {"data__min_items": 2},
    ],
)
def test_other_settings_and_other_trained_parameters_are_checked_again(changes, store):
    """After a first run of `rules`, a model that clipping is wrong for must not train unchecked."""
    store.check(model__trainable="rules")
    store.check(**{"model__trainable": "rules", **changes})
    assert store.checks == 2


def test_another_base_model_and_another_version_are_checked_again(store, monkeypatch, tmp_path):
    model = task_of("interest").load_model(store.node.settings.base_model)
    first = check_key(store.node, model, store.settings)
    monkeypatch.setattr(exactness, "version", lambda name: "0.0.1")
    assert check_key(store.node, model, store.settings) != first
    monkeypatch.undo()
    for name in BASE_MODEL_FILES:
        source = store.node.settings.base_model / name
        (tmp_path / name).write_bytes(source.read_bytes())
    store.node.settings = store.node.settings.model_copy(update={"base_model": tmp_path})
    assert check_key(store.node, model, store.settings) == first
    (tmp_path / "config.json").write_bytes((tmp_path / "config.json").read_bytes() + b" ")
    assert check_key(store.node, model, store.settings) != first


def test_a_check_that_fails_is_made_again(store, monkeypatch):
    def inexact(*_: object, **__: object) -> float:
        raise PrivacyError("layer 'x'", code="inexact-clipping")

    monkeypatch.setattr(exactness, "check_exactness", inexact)
    for _ in range(2):
        with raises("inexact-clipping"):
            store.check()
    assert store.checks == 0


def test_customers_are_drawn_at_random_and_the_longest_histories_are_always_there(store):
    data = task_of("interest").load_data(store.node)
    longest = set(np.argsort(data.sizes, kind="stable")[-2:].tolist())
    chosen = [
        set(exactness._chosen(data, np.random.default_rng(seed)).tolist()) for seed in range(20)
    ]
    assert all(longest <= found for found in chosen)
    assert len({frozenset(found) for found in chosen}) > 10
    assert set().union(*chosen) == set(data.active().tolist())


def test_a_store_without_customers_is_checked_once_it_has_some(store):
    data = task_of("interest").load_data(store.node)
    store.check(data=data.until(0.0))
    assert store.checks == 0
    store.check(data=data)
    assert store.checks == 1
