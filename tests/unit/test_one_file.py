"""One own file becomes stores: by a column, or by which branches share customers."""

from datetime import datetime

import polars as pl
import pytest

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store
from hanse_common.config import DataSettings, RunSettings, Split
from hanse_common.errors import DataError
from hanse_simulations.datasets import make_stores, one_file
from hanse_simulations.experiment.continuing import continued_settings
from hanse_simulations.runs.folder import RunFolder
from kits.errors import raises

SPLIT = Split(
    train_until=datetime(2024, 6, 1),
    validate_until=datetime(2024, 7, 1),
    test_until=datetime(2024, 8, 1),
)
STORE = """name = "chain"
observed_from = 2024-01-01
[events]
path = "sales.csv"
[events.columns]
user_id = "card"
shop_id = "branch"
[catalogue]
path = "items.csv"
"""


def rows(customer, region, branch, days=(3, 9)):
    """Purchases of one customer in a branch, twice a month."""
    return [
        f"{customer},1,2024-{month:02}-{day:02},{region},{branch}"
        for month in range(1, 8)
        for day in days
    ]


@pytest.fixture
def chain(tmp_path):
    """North has 12 customers in branches a and b, south 11 in c and d, and Köln / Süd 2 in e."""
    lines = [
        line
        for region, branches, count in (
            ("north", "ab", 12),
            ("south", "cd", 11),
            ("Köln / Süd", "e", 2),
        )
        for number in range(count)
        for branch in branches
        for line in rows(f"{region[:1]}{number}", region, branch)
    ]
    # A northern customer who was in the south once, an event without a region, an unknown item.
    lines += ["N0,1,2024-02-02,south,c".lower(), "n1,1,2024-02-02,,a", "n2,7,2024-02-02,north,a"]
    (tmp_path / "sales.csv").write_text(
        "card,item_id,timestamp,region,branch\n" + "".join(f"{line}\n" for line in lines)
    )
    (tmp_path / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK\n2,rye,B/R\n")
    (tmp_path / "store.toml").write_text(STORE)
    return tmp_path / "store.toml"


def settings(chain, by="region", **more):
    return DataSettings(source="stores", path=chain, partition_by=by, split=SPLIT, **more)


def made(chain, cache, **more):
    stores = make_stores(settings(chain, **more), seed=7, cache=cache)
    return stores, {f.name: ingest(load_store(f / "store.toml")) for f in stores.folders}


def test_a_store_for_each_value_with_its_own_customers_events(chain, tmp_path):
    stores, data = made(chain, tmp_path / "run", min_customers=2)
    counts = {name: store.events["user_id"].n_unique() for name, store in data.items()}
    assert counts == {"köln-süd": 2, "north": 12, "south": 11}
    assert {name: store.events.height for name, store in data.items()} == {
        "köln-süd": 2 * 14, "north": 12 * 28, "south": 11 * 28,
    }  # fmt: skip
    # Every row: kept, rejected, or counted as in no store.
    facts = stores.facts
    kept = sum(store.events.height for store in data.values())
    assert facts["rows_read"] == kept + facts["rows_rejected"] + facts["events_in_no_store"]
    assert (facts["rows_rejected"], facts["events_in_no_store"]) == (1, 2)
    assert "epsilon does not cover it" in stores.note and "n0" not in stores.note


def test_the_catalogue_stays_the_whole_assortment(chain, tmp_path):
    _, data = made(chain, tmp_path / "run", min_customers=2)
    assert all(store.catalogue["item_id"].to_list() == ["1", "2"] for store in data.values())


def test_small_stores_are_refused_or_joined(chain, tmp_path):
    with raises("too-few-customers", match=r"1 of 3 stores .* data\.small_stores") as raised:
        made(chain, tmp_path / "run")
    assert "Süd" not in str(raised.value)
    assert not (tmp_path / "run" / "shops").exists()
    with raises("too-few-customers", match="fewer values"):  # the one joined store is small too
        made(chain, tmp_path / "run", small_stores="join")
    _, data = made(chain, tmp_path / "run", small_stores="join", min_customers=12)
    assert {name: store.events["user_id"].n_unique() for name, store in data.items()} == {
        "north": 12, one_file.JOINED: 13,
    }  # fmt: skip


@pytest.mark.parametrize("by", ["shop_id", "branch"])
def test_a_canonical_name_is_the_column_that_it_is_mapped_to(chain, tmp_path, by):
    # Each customer of two branches belongs to the first of them, where they have as many baskets.
    with raises("too-few-customers", match="2 of 5 stores"):
        made(chain, tmp_path / "run", by=by, min_customers=2)


def test_events_keep_their_branch_and_equal_ones_of_two_branches_are_two(chain, tmp_path):
    _, data = made(chain, tmp_path / "run", min_customers=2)
    assert set(data["north"].events["shop_id"]) == {"a", "b"}
    assert data["north"].events["text"].null_count() == data["north"].events.height


def test_branches_that_share_customers_are_a_region(chain, tmp_path):
    _, data = made(chain, tmp_path / "run", by="co-shopping", stores=2, min_customers=2)
    branches = {name: set(store.events["shop_id"]) for name, store in data.items()}
    assert branches == {"region-01": {"a", "b"}, "region-02": {"c", "d"}}
    assert data["region-01"].events["user_id"].n_unique() == 12


def test_too_few_branches_for_so_many_regions(chain, tmp_path):
    with raises("too-few-customers", match="2 branches .* 3 regions"):
        made(chain, tmp_path / "run", by="co-shopping", stores=3)


def test_regions_need_branches(chain, tmp_path):
    chain.write_text(
        STORE.replace('shop_id = "branch"\n', "").replace('v"\n', 'v"\nkeep_duplicates = true\n', 1)
    )
    with raises("missing-columns", match="shop_id"):
        made(chain, tmp_path / "run", by="co-shopping")


def test_a_column_that_there_is_not(chain, tmp_path):
    with raises("missing-columns", match="country"):
        made(chain, tmp_path / "run", by="country")


def test_a_column_of_ids_is_no_division(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(one_file, "_MOST_STORES", 20)
    with raises("config", match="25 different values"):
        made(chain, tmp_path / "run", by="card")


def test_no_raw_id_is_written_and_only_the_owner_can_read(chain, tmp_path):
    stores, _ = made(chain, tmp_path / "run", min_customers=2)
    written = pl.read_parquet(stores.folders[0] / "events.parquet")
    assert written["user_id"].str.len_chars().unique().to_list() == [32]
    assert (tmp_path / "run" / "shops").stat().st_mode & 0o077 == 0


def test_a_run_that_goes_on_keeps_its_stores(chain, tmp_path):
    first, _ = made(chain, tmp_path / "run", min_customers=2)
    (chain.parent / "sales.csv").unlink()
    assert made(chain, tmp_path / "run", min_customers=2)[0] == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition_by": None}, r"data\.partition_by = 'COLUMN' or 'co-shopping'"),
        ({"path": "shops"}, "the file of one store.toml"),
        ({"source": "synthetic", "path": None}, "the file of one store.toml"),
    ],
)
def test_a_division_goes_with_one_file(chain, change, message):
    table = settings(chain).model_dump() | change
    with raises("config", match=message):
        RunSettings.parse({"recipe": "x", "data": table})


def test_new_weeks_of_one_file_are_refused(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "read_result", lambda self: None)
    old = RunFolder.create("own", root=tmp_path)
    old.write_settings(RunSettings(recipe="own", data=settings(chain)))
    with raises("config", match="divided one file by 'region'"):
        continued_settings(old, weeks=4)


def test_events_that_cannot_be_read_are_refused_as_at_a_store(chain, tmp_path):
    (chain.parent / "sales.csv").write_text("card,item_id,timestamp,region,branch\n")
    with pytest.raises(DataError):
        made(chain, tmp_path / "run")
