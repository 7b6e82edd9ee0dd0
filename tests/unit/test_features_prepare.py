"""A store that prepares for itself gets what a simulation prepares for it."""

from __future__ import annotations

import stat
from dataclasses import fields

import numpy as np
import pytest

from hanse_client.features.histories import Histories
from hanse_client.features.prepare import Preparation, prepare_store
from hanse_client.ingest.store_config import load_store
from kits.errors import raises


@pytest.fixture
def shop(small_stores, store_cache):
    """Folder of the first small store's data, its prepared histories, model and settings."""
    from hanse_simulations.datasets import make_stores

    settings, prepared = small_stores
    stores = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    return stores.folders[0], prepared, settings


def test_the_same_histories_come_out_as_in_a_simulation(shop, tmp_path):
    folder, prepared, settings = shop
    done = prepare_store(
        load_store(folder / "store.toml"),
        settings,
        model=prepared.base_model,
        target=tmp_path / "histories.npz",
        cache=tmp_path,
    )
    ours, theirs = Histories.load(tmp_path / "histories.npz"), prepared.load()[0]
    for field in fields(Histories):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name == "visit_vectors":
            # Texts are encoded in other batches, which moves the last bits of float16.
            np.testing.assert_allclose(mine, other, atol=2e-3)
        else:
            np.testing.assert_array_equal(mine, other)
    assert done.customers == len(theirs.active())
    assert stat.S_IMODE((tmp_path / "histories.npz").stat().st_mode) == 0o600


def test_what_was_prepared_is_known_to_fit_or_not(shop, tmp_path):
    folder, prepared, settings = shop
    store, target = load_store(folder / "store.toml"), tmp_path / "histories.npz"
    assert Preparation.load(target) is None
    prepare_store(store, settings, model=prepared.base_model, target=target, cache=tmp_path)
    done = Preparation.load(target)
    assert done is not None and not done.outdated(prepared.base_model, store, settings)
    other = settings.with_changes({"model.encoder": "another"})
    assert "settings" in done.outdated(prepared.base_model, store, other)
    (tmp_path / "model").mkdir()
    config = (prepared.base_model / "config.json").read_text().replace('"level": "', '"level": "x')
    (tmp_path / "model" / "config.json").write_text(config)
    assert "model" in done.outdated(tmp_path / "model", store, settings)


def test_data_that_are_gone_leave_what_was_prepared(shop, tmp_path):
    folder, prepared, settings = shop
    target = tmp_path / "histories.npz"
    store = load_store(folder / "store.toml")
    prepare_store(store, settings, model=prepared.base_model, target=target, cache=tmp_path)
    before = target.read_bytes()
    gone = store.events.model_copy(update={"path": str(tmp_path / "gone.parquet")})
    with raises("data"):
        prepare_store(
            store.model_copy(update={"events": gone}),
            settings,
            model=prepared.base_model,
            target=target,
            cache=tmp_path,
        )
    assert target.read_bytes() == before
    assert Preparation.load(target) is not None


def test_a_store_without_a_model_is_told_the_command(shop, tmp_path):
    folder, _, settings = shop
    with raises("config", match=r"config\.json"):
        prepare_store(
            load_store(folder / "store.toml"),
            settings,
            model=tmp_path / "none",
            target=tmp_path / "histories.npz",
            cache=tmp_path,
        )
