"""A store computes on the data of today: changed sources are noticed, and erased rows are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Event

import numpy as np
import polars as pl
import pytest

from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.preparing import Freshness, outdated, prepare
from hanse_client.features.histories import Histories
from hanse_client.features.prepare import Preparation, check_prepared, prepare_store
from hanse_client.ingest.fingerprint import LARGEST_READ, source_fingerprint
from hanse_client.ingest.store_config import load_store
from hanse_client.node import Node
from hanse_common.audit.evidence import find
from hanse_common.errors import UNABLE
from hanse_common.instructions import RUN
from hanse_common.paths import HISTORIES_FILE, MODEL_FOLDER, NODE_FILE, SETTINGS_FILE
from kits.errors import raises


@pytest.fixture(scope="module")
def prepared_folder(small_stores, store_cache, tmp_path_factory):
    """A store's folder with its own data, prepared; and the run's settings."""
    from hanse_simulations.datasets import make_stores

    settings, prepared = small_stores
    stores = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    path = tmp_path_factory.mktemp("store") / "bremen"
    copy_data(stores.folders[0], path)
    shutil.copytree(prepared.base_model, path / MODEL_FOLDER)
    (path / SETTINGS_FILE).write_text(settings.model_dump_json())
    table = {"name": "bremen", "histories": HISTORIES_FILE, "base_model": MODEL_FOLDER}
    (path / NODE_FILE).write_text(json.dumps(table))
    prepare(StoreFolder(path))
    return path, settings


@pytest.fixture
def store(prepared_folder, tmp_path) -> StoreFolder:
    path = tmp_path / "bremen"
    shutil.copytree(prepared_folder[0], path)
    folder = StoreFolder(path)
    # A copy has other paths, which are a part of the fingerprint.
    done = json.loads((path / "prepared.json").read_text())
    done["sources"] = source_fingerprint(load_store(folder.store_toml))
    (path / "prepared.json").write_text(json.dumps(done))
    assert outdated(folder) == ""
    return folder


def copy_data(source: Path, target: Path) -> None:
    """Copy a made store's data and its catalogue into one folder."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.copy(source.parent / "catalogue.parquet", target)
    toml = (source / "store.toml").read_text().replace("../catalogue", "catalogue")
    (target / "store.toml").write_text(toml)


def erase_one(folder: StoreFolder) -> None:
    """Delete the rows of a store's first customer, as an operator does."""
    path = load_store(folder.store_toml).events.path
    events = pl.read_parquet(path)
    column = load_store(folder.store_toml).events.source_of("user_id")[0]
    events.filter(pl.col(column) != events[column].min()).write_parquet(path)


def test_a_deleted_row_is_noticed_and_the_node_computes_on_nothing_old(store, small_stores):
    settings, _ = small_stores
    node = Node(store.path)
    check_prepared(node, settings)
    before = Histories.load(store.histories)
    erase_one(store)
    assert "changed" in outdated(store)
    with raises("data", match="changed since they were prepared.*hanse store data prepare"):
        check_prepared(node, settings)
    prepare(store)
    check_prepared(node, settings)
    after = Histories.load(store.histories)
    assert len(before.active()) - len(after.active()) == 1


def test_new_terms_with_another_split_prepare_the_data_again(store, small_stores):
    settings, _ = small_stores
    split = settings.data.split
    later = split.model_copy(update={"train_until": split.train_until.replace(year=2018)})
    moved = settings.with_changes({"data.split": later.model_dump()})
    store.path.joinpath(SETTINGS_FILE).write_text(moved.model_dump_json())
    assert outdated(store) == "prepared for other settings"


def test_other_columns_another_key_and_a_touched_file(store):
    catalogue = load_store(store.store_toml).catalogue.path
    Path(catalogue).write_bytes(Path(catalogue).read_bytes())
    assert outdated(store) == "", "the same content under a new time is no change"
    store.store_toml.write_text("max_reject_share = 0.25\n" + store.store_toml.read_text())
    assert "changed" in outdated(store)


def test_a_replaced_customer_key_is_noticed(store):
    key = load_store(store.store_toml).pseudonym_key
    key.write_bytes(bytes(32))
    assert "key" in outdated(store)


def test_a_large_file_is_compared_by_size_time_and_inode(store):
    path = store.path / "large.csv"
    with path.open("wb") as file:
        file.truncate(LARGEST_READ + 1)
    config = load_store(store.store_toml)
    config = config.model_copy(
        update={"events": config.events.model_copy(update={"path": str(path)})}
    )
    before = source_fingerprint(config)
    assert source_fingerprint(config) == before
    path.touch()
    assert source_fingerprint(config) != before


def test_a_file_more_under_a_pattern_is_a_change(store):
    config = load_store(store.store_toml)
    pattern = {"path": str(store.path / "*.parquet")}
    config = config.model_copy(update={"events": config.events.model_copy(update=pattern)})
    before = source_fingerprint(config)
    shutil.copy(load_store(store.store_toml).events.path, store.path / "more.parquet")
    assert source_fingerprint(config) != before


def test_a_query_is_repeated_after_a_day_and_at_every_join(store, small_stores):
    settings, _ = small_stores
    config = load_store(store.store_toml)
    query = {"path": None, "sql": "SELECT 1", "url_env": "SHOP_DB"}
    config = config.model_copy(update={"events": config.events.model_copy(update=query)})
    done = Preparation.load(store.histories)
    fields = {name: getattr(done, name) for name in Preparation.__dataclass_fields__}
    done = Preparation(**{**fields, "sources": source_fingerprint(config), "read": 1_000_000.0})

    def reason(**more):
        return done.outdated(store.model, config, settings, **more)

    assert reason(now=1_000_000.0 + 86_399) == ""
    assert "query" in reason(now=1_000_000.0 + 86_400)
    assert "query" in reason(now=999_999.0), "a clock that was set back proves nothing"
    assert "query" in reason(now=1_000_001.0, query_seconds=0)


def test_a_running_node_prepares_again_in_a_process_of_its_own(store):
    said: list[str] = []
    fresh = Freshness(store, stop=Event(), report=said.append)
    fresh(idle=False)
    assert said == []
    erase_one(store)
    fresh(idle=False)
    assert "have changed" in said[0] and said[-1].startswith("prepared 23 customers")
    # On a busy machine a step is said again after a minute, with how long it has taken.
    steps = [line.split(" texts")[0] for line in said[1:-1] if ", for " not in line]
    assert steps[0] == "preparing: reading the store's data"
    assert steps[-1] == "preparing: arranging the events by customer" and len(steps) == 3
    assert outdated(store) == ""


def test_a_source_that_is_away_is_reported_once_and_the_old_data_are_not_used(store, small_stores):
    settings, _ = small_stores
    events = load_store(store.store_toml).events.path
    shutil.move(events, events + ".away")
    said: list[str] = []
    fresh = Freshness(store, stop=Event(), report=said.append)
    fresh(idle=False)
    fresh(idle=False)
    assert len(said) == 1 and "no file matches" in said[0]
    with raises("data", match="no file matches"):
        check_prepared(Node(store.path), settings)
    # Once it is back, and changed meanwhile, the next message finds it prepared.
    shutil.move(events + ".away", events)
    erase_one(store)
    fresh(idle=False)
    assert said[-1].startswith("prepared 23 customers") and outdated(store) == ""


def test_a_stop_ends_a_preparation_and_leaves_the_histories(store):
    erase_one(store)
    before, stop, said = store.histories.read_bytes(), Event(), []
    stop.set()
    Freshness(store, stop=stop, report=said.append)(idle=False)
    assert store.histories.read_bytes() == before
    assert len(said) == 1


def test_an_erased_customer_is_in_no_batch_and_the_ledger_keeps_its_charges(
    federation, secure_stores, store_cache, monkeypatch
):
    """A whole federation: a round, an erasure, a refused round, a preparation, a round."""
    from hanse_simulations.datasets import make_stores

    settings, prepared = secure_stores
    stores = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    name, source = federation.names[0], stores.folders[0]
    node = federation.node(name)
    copy_data(source, node.folder)
    table = json.loads((node.folder / NODE_FILE).read_text())
    (node.folder / NODE_FILE).write_text(json.dumps({**table, "histories": HISTORIES_FILE}))
    folder, run = StoreFolder(node.folder), federation.settings

    def prepare_now() -> Preparation:
        return prepare_store(
            load_store(folder.store_toml),
            run,
            model=prepared.base_model,
            target=folder.histories,
            cache=store_cache,
        )

    def ledger():
        (evidence,) = find(folder.path / "ledger.sqlite")
        return evidence.entries()

    prepare_now()
    federation.grid().exchange(federation.messages(), timeout=0.02)
    entries, before = ledger(), set(Histories.load(folder.histories).customers)
    assert [entry.kind for entry in entries] == ["charge"]
    erase_one(folder)
    refused = federation.tell(name, **{RUN: 2})
    assert UNABLE in refused.error.reason
    assert "hanse store data prepare" in (folder.path / "log.jsonl").read_text()
    assert len(ledger()) == 1, "a store that computed nothing charges nothing"
    prepare_now()
    (erased,) = before - set(Histories.load(folder.histories).customers)
    trained_on: set[str] = set()
    load = Histories.load

    def remember(path: Path) -> Histories:
        histories = load(path)
        trained_on.update(histories.customers)
        return histories

    monkeypatch.setattr(Histories, "load", remember)
    assert not federation.tell(name, **{RUN: 3}).has_error()
    assert trained_on and erased not in trained_on
    assert ledger()[:1] == entries, "what was charged stays charged"


@pytest.mark.parametrize("version", [None, 1, 99])
def test_what_another_version_prepared_is_prepared_again(store, version):
    record = store.path / "prepared.json"
    done = json.loads(record.read_text())
    done["format"] = version
    if version is None:  # as the first version wrote it
        del done["format"]
    record.write_text(json.dumps(done))
    assert Preparation.load(store.histories) is None
    assert outdated(store) == "not prepared yet"
    with raises("data", match="not prepared"):
        check_prepared(Node(store.path), store.settings())
    prepare(store)
    assert outdated(store) == ""


def test_a_file_of_an_earlier_version_with_vectors_is_read_all_the_same(store):
    """Runs of an analyst keep such files; a model of categories ignores the vectors."""
    now = Histories.load(store.histories)
    arrays = {name: getattr(now, name) for name in Histories.__dataclass_fields__}
    arrays["visit_vectors"] = np.ones((len(now.visit_days), 384), np.float16)
    np.savez(store.path / "earlier.npz", **arrays)
    earlier = Histories.load(store.path / "earlier.npz")
    assert earlier.visit_vectors.shape == (len(now.visit_days), 384)
    assert earlier.pair_classes.tobytes() == now.pair_classes.tobytes()
