"""Several files are one table: lists, folders of Hive and Spark, and joins by a key."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from hanse_client.ingest.fingerprint import source_fingerprint
from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import load_store
from kits.errors import raises

GOODS = "path = 'items.csv'"
H = "user_id,item_id,timestamp\n"


def store(folder: Path, events: str, files: dict[str, str], catalogue: str = GOODS) -> Path:
    for name, content in {"items.csv": "item_id,text,category\n1,a,A\n2,b,B\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "store.toml").write_text(
        f'name = "x"\nmax_reject_share = 1.0\n[catalogue]\n{catalogue}\n[events]\n{events}\n'
    )
    return folder / "store.toml"


def read(path: Path) -> Ingested:
    return ingest(load_store(path))


def test_a_list_of_patterns_is_read_once_and_in_order(tmp_path: Path):
    path = store(
        tmp_path,
        'path = ["b/*.csv", "a.csv", "b/2.csv"]',
        {
            "b/1.csv": f"{H}u1,1,2024-01-01\n",
            "b/2.csv": f"{H}u2,2,2024-01-02\n",
            "a.csv": f"{H}u3,1,2024-01-03\n",
        },
    )
    assert read(path).rows_read == 3


def test_locks_marks_and_hidden_files_are_left_alone(tmp_path: Path):
    path = store(
        tmp_path,
        'path = "sales"',
        {
            "sales/part-0.csv": f"{H}u1,1,2024-01-01\n",
            "sales/_SUCCESS": "",
            "sales/.part-0.csv.crc": "x",
            "sales/.~lock.part-0.csv#": "x",
            "sales/~$part.csv": "x",
            "sales/readme.md": "x",
            "sales/_temporary/part-9.csv": "broken",
        },
    )
    assert read(path).rows_read == 1
    with raises("data", match="no file matches"):
        read(store(tmp_path, 'path = "empty"', {"empty/_SUCCESS": ""}))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_of_folders_are_columns(tmp_path: Path, kind: str):
    rows = pl.DataFrame({"user_id": ["u1"], "item_id": ["1"], "timestamp": ["2024-01-01"]})
    for branch in ("bremen", "l%C3%BCbeck", "__HIVE_DEFAULT_PARTITION__"):
        part = tmp_path / "sales" / f"shop_id={branch}" / "year=2024" / f"part.{kind}"
        part.parent.mkdir(parents=True)
        getattr(rows, f"write_{kind}")(part)
    for path in ("sales", f"sales/*/*/*.{kind}", f"sales/**/*.{kind}"):
        found = read(store(tmp_path, f'path = "{path}"\nwhere = "year = \'2024\'"', {}))
        assert sorted(found.events["shop_id"].fill_null("").to_list()) == ["", "bremen", "lübeck"]


ORDERS = {
    "orders.csv": "order;who;at\n1;u1;2024-01-02 10:00\n2;;2024-01-03 10:00\n",
    "lines.csv": "order_id,item_id,quantity\n1,1,2\n1,2,1\n2,1,1\n3,1,1\n",
}
JOIN = """path = "lines.csv"
columns = { user_id = "who", timestamp = "at", basket_id = "order_id" }
[events.join]
path = "orders.csv"
separator = ";"
on = { order_id = "order" }"""


def test_heads_of_orders_stand_beside_their_lines(tmp_path: Path):
    found = read(store(tmp_path, JOIN, ORDERS))
    assert found.rejects == {"missing user_id": 2}
    assert found.events.select("item_id", "quantity").sort("item_id").rows() == [
        ("1", 2.0),
        ("2", 1.0),
    ]
    assert found.events["basket_id"].n_unique() == 1


def test_a_change_of_a_joined_file_is_noticed(tmp_path: Path):
    path = store(tmp_path, JOIN, ORDERS)
    before = source_fingerprint(load_store(path))
    (tmp_path / "orders.csv").write_text(ORDERS["orders.csv"] + "3;u3;2024-01-04\n")
    assert source_fingerprint(load_store(path)) != before


def test_several_joins_and_one_of_the_catalogue(tmp_path: Path):
    files = {
        "lines.csv": "order_id,product\n1,7\n",
        "orders.csv": "order_id,customer,at\n1,c9,2024-01-02\n",
        "customers.csv": "customer,person\nc9,ada\n",
        "products.csv": "product,aisle\n7,3\n8,4\n",
        "aisles.csv": "aisle,name\n3,milk\n4,ale\n",
    }
    events = """path = "lines.csv"
columns = { user_id = "person", timestamp = "at", item_id = "product" }
[[events.join]]
path = "orders.csv"
on = "order_id"
[[events.join]]
path = "customers.csv"
on = "customer\""""
    goods = """path = "products.csv"
columns = { item_id = "product", text = "", category = "name" }
[catalogue.join]
path = "aisles.csv"
on = "aisle\""""
    found = read(store(tmp_path, events, files, goods))
    assert found.events.height == 1
    assert found.catalogue["category"].to_list() == ["milk", "ale"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("order;who;at\n1;u1", "order;who;at\n1;u9;2024-01-02\n1;u1"), "data", "occurs twice"),
        (("order;who", "number;who"), "missing-columns", "by which rows are joined"),
        (("1;u1;", "1;u1;x;"), "data", "more or fewer cells"),
        (("order;who;at", "order;client;at"), "missing-columns", "'who'"),
    ],
)
def test_a_join_that_would_lose_or_double_rows_is_refused(
    tmp_path: Path, change: tuple[str, str], code: str, words: str
):
    files = ORDERS | {"orders.csv": ORDERS["orders.csv"].replace(*change)}
    with raises(code, match=words):
        read(store(tmp_path, JOIN, files))


def test_a_join_needs_a_file_and_a_key(tmp_path: Path):
    for key in ('path = "orders.csv"\non = {}', 'on = "order"'):
        with raises("config"):
            load_store(store(tmp_path, f'path = "lines.csv"\n[events.join]\n{key}', ORDERS))
