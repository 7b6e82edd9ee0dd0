"""`make_stores` on bad input, on stores that somebody brought, and on a cache of its own."""

from datetime import datetime

import polars as pl
import pytest

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store
from hanse_common.config import DataSettings, RunSettings, Split
from hanse_common.run_file import read_run_file
from hanse_simulations.datasets import folders, make_stores
from kits.errors import raises

SPLIT = Split(
    train_until=datetime(2024, 10, 14),
    validate_until=datetime(2024, 11, 18),
    test_until=datetime(2024, 12, 23),
)


def bring(root, name, customers, *, folder=None):
    store = root / (folder or name)
    store.mkdir(parents=True)
    rows = [f"u{number},1,2024-01-02" for number in range(customers)]
    (store / "sales.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (store / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK")
    (store / "store.toml").write_text(
        f"name = '{name}'\n[events]\npath = 'sales.csv'\n[catalogue]\npath = 'items.csv'"
    )


@pytest.fixture
def brought(tmp_path):
    for name, customers in (("north", 12), ("east", 30), ("south", 20)):
        bring(tmp_path / "shops", name, customers)
    return tmp_path / "shops"


def own(path, **changes):
    return DataSettings(source="stores", path=path, split=SPLIT, **changes)


def test_brought_stores_stay_where_they_are_in_the_order_of_names(brought, tmp_path):
    stores = make_stores(own(brought), seed=7, cache=tmp_path / "cache")
    assert [folder.name for folder in stores.folders] == ["east", "north", "south"]
    assert stores.split == SPLIT
    assert not (tmp_path / "cache").exists()
    assert ingest(load_store(stores.folders[0] / "store.toml")).events.height == 30


def test_some_of_brought_stores_are_the_first_by_name_however_many_customers_they_have(
    brought, tmp_path
):
    stores = make_stores(own(brought, stores=2), seed=7, cache=tmp_path)
    assert [folder.name for folder in stores.folders] == ["east", "north"]


def test_more_stores_than_were_brought(brought, tmp_path):
    with raises("config", match=r"data\.stores=4.* 3"):
        make_stores(own(brought, stores=4), seed=7, cache=tmp_path)


def test_a_limit_on_customers_does_not_fit_brought_stores(brought, tmp_path):
    with raises("config", match=r"data\.customers=15"):
        make_stores(own(brought, customers=15), seed=7, cache=tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_stores(tmp_path, there):
    if there:
        (tmp_path / "shops" / "north").mkdir(parents=True)
    with raises("data", match=r"store\.toml"):
        make_stores(own(tmp_path / "shops"), seed=7, cache=tmp_path)


def test_two_stores_of_one_name(brought, tmp_path):
    bring(brought, "east", 3, folder="west")
    with raises("data", match="east and west .* 'east'"):
        make_stores(own(brought), seed=7, cache=tmp_path)


def test_brought_stores_need_a_split_and_the_error_says_what_to_write():
    table = {"recipe": "own", "data": {"source": "stores", "path": "shops"}}
    with raises("config", match=r"\[data\.split\]"):
        RunSettings.parse(table)


def test_split_in_a_toml_file(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(
        '[data]\nsource = "stores"\npath = "shops"\n[data.split]\n'
        "train_until = 2024-10-14T00:00:00\nvalidate_until = 2024-11-18T00:00:00\n"
        "test_until = 2024-12-23T00:00:00\n"
    )
    settings = read_run_file(file)
    assert settings.data.split == SPLIT
    assert settings.with_changes({"seed": 8}).data.split == SPLIT


@pytest.mark.parametrize(
    "limits", [{"customers": 5}, {"min_customers": 41}, {"customers": 20, "min_customers": 21}]
)
def test_fewer_customers_than_a_store_must_have(tmp_path, limits):
    with raises("contradicting-options", match=r"data\.min_customers"):
        make_stores(DataSettings(source="synthetic", **limits), seed=7, cache=tmp_path)


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    data = DataSettings(source="synthetic", stores=1)
    with raises("data"):
        make_stores(data, seed=7, cache=tmp_path / "file" / "cache")


def test_built_once_and_then_reused(tmp_path, monkeypatch):
    data = DataSettings(source="synthetic", stores=1)
    stores = make_stores(data, seed=7, cache=tmp_path)
    monkeypatch.setattr(folders, "_load", None)
    assert make_stores(data, seed=7, cache=tmp_path) == stores


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    data = DataSettings(source="synthetic", stores=1)
    monkeypatch.setattr(folders, "_write_key", fail)
    with pytest.raises(KeyboardInterrupt):
        make_stores(data, seed=7, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_who_loses_the_race_uses_the_winners_folder(tmp_path, monkeypatch):
    data = DataSettings(source="synthetic", stores=1)
    write = folders._write

    def write_twice(dataset, folder, digest):
        write(dataset, folder, digest)
        winner = tmp_path / f"synthetic-{digest[:16]}"
        if not winner.exists():
            winner.mkdir()
            for file in folder.rglob("*"):
                target = winner / file.relative_to(folder)
                target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())

    monkeypatch.setattr(folders, "_write", write_twice)
    stores = make_stores(data, seed=7, cache=tmp_path)
    assert pl.read_parquet(stores.folders[0] / "events.parquet").height > 0
    assert [path.name for path in tmp_path.iterdir()] == [stores.folders[0].parent.name]


def test_a_damaged_folder_is_named(tmp_path):
    data = DataSettings(source="synthetic", stores=1)
    stores = make_stores(data, seed=7, cache=tmp_path)
    (stores.folders[0] / "store.toml").unlink()
    with raises("data", match="damaged"):
        make_stores(data, seed=7, cache=tmp_path)
    (stores.folders[0].parent / "stores.json").write_text("{")
    with raises("data", match="damaged"):
        make_stores(data, seed=7, cache=tmp_path)
