"""Each export of the gallery is read whole, checked, and its columns are proposed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.proposal import proposal
from hanse_client.ingest.reviews import ingest_reviews
from hanse_client.ingest.store_config import load_store
from hanse_common.cli import main
from kits.packages import ROOT

GALLERY = ROOT / "examples" / "stores"
Rejects = dict[str, int]
Printed = Callable[..., str]


@dataclass(frozen=True)
class Export:
    """What a folder's files hold."""

    kept: int
    customers: int
    kinds: dict[str, int]
    mapped: tuple[object, object, object]
    """The columns that are proposed for the customer, the item and the time."""
    items: int
    rejects: Rejects = field(default_factory=dict)
    catalogue_rejects: Rejects = field(default_factory=dict)
    joined: tuple[str, ...] = ()
    """The files that are proposed to be joined."""


PRODUCT = "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1"
LEFT_OUT = "left out by where"
ENCODINGS = {
    "sap/fakturapositionen.csv": "cp1252",
    "sap/materialstamm.csv": "cp1252",
    "sap/warengruppen.csv": "cp1252",
    "online_retail/Online Retail.csv": "cp1252",
    "online_retail/items.csv": "cp1252",
    "taobao/items.csv": "gb18030",
}
TITLES = {"fakturapositionen.csv": 3}
"""Records above the header."""
EXPORTS = {
    "diginetica": Export(
        kept=16,
        customers=5,
        kinds={"view": 12, "purchase": 4},
        mapped=("userId", "itemId", "eventdate"),
        items=6,
    ),
    "ga4": Export(
        kept=17,
        customers=3,
        kinds={"view": 7, "cart": 5, "purchase": 5},
        mapped=("user_pseudo_id", "items.item_id", "event_timestamp"),
        items=5,
        rejects={LEFT_OUT: 9},
    ),
    "instacart": Export(
        kept=22,
        customers=3,
        kinds={"purchase": 22},
        mapped=("user_id", "product_id", "ordered_at"),
        items=10,
        joined=("order_times.csv",),
    ),
    "jd": Export(
        kept=13,
        customers=4,
        kinds={"view": 7, "cart": 3, "purchase": 3},
        mapped=("user_id", "sku_id", "time"),
        items=5,
        rejects={LEFT_OUT: 5},
    ),
    "lightspeed": Export(
        kept=12,
        customers=4,
        kinds={"purchase": 11, "return": 1},
        mapped=("SaleLine.customerID", "SaleLine.itemID", "SaleLine.createTime"),
        items=6,
        rejects={"guest": 2},
    ),
    "magento": Export(
        kept=8,
        customers=3,
        kinds={"purchase": 8},
        mapped=("customer_id", "sku", "created_at"),
        items=6,
        rejects={LEFT_OUT: 6, "missing user_id": 1},
        catalogue_rejects={LEFT_OUT: 2},
        joined=("sales_order.csv",),
    ),
    "olist": Export(
        kept=9,
        customers=3,
        kinds={"purchase": 9},
        mapped=("customer_unique_id", "product_id", "order_purchase_timestamp"),
        items=4,
        rejects={LEFT_OUT: 1, "unknown item_id": 1},
        catalogue_rejects={"missing text": 1},
        joined=("order_customers.csv", "olist_orders_dataset.csv"),
    ),
    "online_retail": Export(
        kept=14,
        customers=4,
        kinds={"purchase": 12, "return": 2},
        mapped=("CustomerID", "StockCode", "InvoiceDate"),
        items=8,
        rejects={"missing user_id": 4, LEFT_OUT: 3, "duplicate": 1},
    ),
    "retailrocket": Export(
        kept=18,
        customers=5,
        kinds={"view": 11, "cart": 4, "purchase": 3},
        mapped=("visitorid", "itemid", "timestamp"),
        items=6,
        rejects={"unknown item_id": 1},
        catalogue_rejects={LEFT_OUT: 6, "repeated item": 1, "contradicting item_id": 1},
    ),
    "sap": Export(
        kept=12,
        customers=4,
        kinds={"purchase": 11, "return": 1},
        mapped=("Auftraggeber", "Material", ["Fakturadatum", "Uhrzeit"]),
        items=7,
        rejects={LEFT_OUT: 1, "guest": 1},
    ),
    "shopify": Export(
        kept=9,
        customers=4,
        kinds={"purchase": 9},
        mapped=("Email", "Lineitem sku", "Created at"),
        items=8,
        rejects={LEFT_OUT: 4, "missing user_id": 2, "missing item_id": 1, "unknown item_id": 1},
        catalogue_rejects={LEFT_OUT: 2, "missing text": 1},
    ),
    "snowplow": Export(
        kept=13,
        customers=3,
        kinds={"view": 6, "purchase": 4, "cart": 3},
        mapped=("domain_userid", f"{PRODUCT}.id", "derived_tstamp"),
        items=5,
        rejects={LEFT_OUT: 5, "missing user_id": 1},
    ),
    "square": Export(
        kept=14,
        customers=6,
        kinds={"purchase": 13, "return": 1},
        mapped=("Customer ID", "Item", ["Date", "Time"]),
        items=6,
        rejects={LEFT_OUT: 1},
        catalogue_rejects={"unreadable price": 1},
    ),
    "ta_feng": Export(
        kept=15,
        customers=4,
        kinds={"purchase": 15},
        mapped=("CUSTOMER_ID", "PRODUCT_ID", "TRANSACTION_DT"),
        items=7,
    ),
    "taobao": Export(
        kept=18,
        customers=4,
        kinds={"view": 11, "purchase": 4, "cart": 3},
        mapped=(1, 2, 5),
        items=5,
        rejects={LEFT_OUT: 2, "too early timestamp": 1},
    ),
    "woocommerce": Export(
        kept=12,
        customers=4,
        kinds={"purchase": 11, "return": 1},
        mapped=("customer_id", "product_id", "date_created"),
        items=7,
        rejects={LEFT_OUT: 2},
        catalogue_rejects={LEFT_OUT: 2},
    ),
}
each = pytest.mark.parametrize("name", sorted(EXPORTS))


@pytest.fixture
def shop(tmp_path: Path, name: str) -> Path:
    """A copy of a folder: a key is written beside the store's file."""
    return Path(shutil.copytree(GALLERY / name, tmp_path / name))


def counted(table: dict[str, Any], folder: Path) -> int:
    """The records of a table's files, by Python's `csv` and `json`."""
    records = 0
    for path in folder.glob(table["path"]):
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            objects = (
                json.loads(text)
                if text.startswith("[")
                else [json.loads(line) for line in text.splitlines()]
            )
            records += sum(len(one.get(table.get("explode")) or [1]) for one in objects)
            continue
        separator = "\t" if path.suffix == ".tsv" else table.get("separator", ",")
        with path.open(newline="", encoding=table.get("encoding", "utf-8-sig")) as lines:
            for _ in range(table.get("skip_rows", 0)):
                next(lines)
            rows = sum(1 for row in csv.reader(lines, delimiter=separator) if row)
        records += rows - table.get("header", True)
    return records


def files_of(name: str) -> list[Path]:
    """The files of a folder that hold data."""
    suffixes = (".csv", ".tsv", ".json", ".jsonl")
    return sorted(path for path in (GALLERY / name).rglob("*") if path.suffix in suffixes)


def test_the_table_names_every_folder() -> None:
    assert sorted(EXPORTS) == sorted(path.parent.name for path in GALLERY.glob("*/store.toml"))


@each
def test_all_rows_are_kept_or_counted_under_their_reason(name: str, shop: Path) -> None:
    wanted = EXPORTS[name]
    store = ingest(load_store(shop / "store.toml"))
    assert store.rejects == wanted.rejects
    assert store.catalogue_rejects == wanted.catalogue_rejects
    assert dict(store.events["event_type"].value_counts().iter_rows()) == wanted.kinds
    assert (store.events.height, store.catalogue.height) == (wanted.kept, wanted.items)
    assert store.events["user_id"].n_unique() == wanted.customers
    tables = tomllib.loads((shop / "store.toml").read_text())
    assert counted(tables["events"], shop) == wanted.kept + sum(wanted.rejects.values())
    assert counted(tables["catalogue"], shop) == wanted.items + sum(
        wanted.catalogue_rejects.values()
    )


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What a command prints that ends well."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["hanse", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    return run


@each
def test_the_check_command_finds_it_in_order(name: str, shop: Path, printed: Printed) -> None:
    counts = json.loads(printed("data", "check", shop / "store.toml", "--format", "json"))
    assert counts["kept"] == EXPORTS[name].kept


@each
def test_the_columns_that_matter_are_proposed(name: str, printed: Printed) -> None:
    """From the files alone, without the folder's `store.toml`."""
    proposed = printed("data", "map", *files_of(name))
    events = tomllib.loads(proposed)["events"]
    columns = events["columns"]
    mapped = tuple(columns.get(one, one) for one in ("user_id", "item_id", "timestamp"))
    assert mapped == EXPORTS[name].mapped
    assert tuple(join["path"] for join in events.get("join", [])) == EXPORTS[name].joined


@each
def test_no_cell_is_printed_with_what_is_proposed(name: str) -> None:
    proposed = proposal(files_of(name))
    names: set[str] = set()
    cells: set[str] = set()
    for path in files_of(name):
        if path.suffix == ".csv":
            encoding = ENCODINGS.get(f"{name}/{path.name}", "utf-8-sig")
            with path.open(newline="", encoding=encoding) as lines:
                separator = ";" if name in ("sap", "diginetica") else ","
                records = list(csv.reader(lines, delimiter=separator))
            first, *rows = records[TITLES.get(path.name, 0) :]
            names |= set(first)
            cells |= {cell for row in rows for cell in row if len(cell) > 5}
    printed = [
        cell for cell in cells - names if re.search(rf"(?<!\w){re.escape(cell)}(?!\w)", proposed)
    ]
    assert printed == []


def test_a_header_that_lacks_a_cell_is_no_title(tmp_path: Path) -> None:
    """As R writes it, with the numbers of rows in front."""
    sales = tmp_path / "sales.csv"
    sales.write_text(
        "user_id,item_id,timestamp\nada,lovelace,tea,2024-01-02\nbo,peep,ale,2024-01-03\n"
    )
    proposed = proposal([sales])
    assert "skip_rows" not in proposed
    assert "lovelace" not in proposed


@pytest.mark.parametrize("name", ["olist"])
def test_reviews_belong_to_persons_and_not_to_orders(shop: Path) -> None:
    reviews = ingest_reviews(load_store(shop / "store.toml"))
    assert (reviews.rows.height, reviews.rows["user_id"].n_unique()) == (4, 2)
    assert reviews.rejects == {"missing text": 2}


@pytest.mark.parametrize(
    ("name", "made"), [("instacart", "order_times.csv"), ("olist", "order_customers.csv")]
)
def test_files_that_were_made_follow_from_the_page_beside_them(
    name: str, made: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = (shop / made).read_text()
    (shop / made).unlink()
    code = re.search(r"```python\n(.*?)```", (shop / "README.md").read_text(), re.S)
    assert code is not None
    monkeypatch.chdir(shop)
    exec(code[1], {})
    assert (shop / made).read_text() == shipped


def test_units_texts_and_clocks_are_those_of_the_shops(tmp_path: Path) -> None:
    def read(name: str) -> Any:
        return ingest(
            load_store(Path(shutil.copytree(GALLERY / name, tmp_path / name), "store.toml"))
        )

    sap, taobao, lightspeed = read("sap"), read("taobao"), read("lightspeed")
    assert sap.events["quantity"].max() == 1200
    assert sap.events["price"].max() == 1249
    assert "纯牛奶 250毫升 12盒装" in taobao.catalogue["text"].to_list()
    assert str(taobao.events["timestamp"].min()) == "2017-11-26 09:00:00"
    # New York put its clocks forward between these two sales.
    hours = lightspeed.events["timestamp"].dt.strftime("%m-%d %H:%M").to_list()
    assert {"03-09 12:20", "03-10 10:00"} <= set(hours)
    assert read("ta_feng").events["price"].min() == 26
