"""What comes through the door: the same rows from every kind of source, and no raw id."""

from __future__ import annotations

import hmac
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from hanse_client.ingest.pipeline import Ingested, ingest, summarise
from hanse_client.ingest.pseudonyms import load_or_make_key, pseudonymise
from hanse_client.ingest.schema import CATALOGUE_COLUMNS, EVENT_COLUMNS
from hanse_client.ingest.store_config import load_store
from kits.errors import raises

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
NOW = datetime(2018, 1, 1)
SALES = pl.DataFrame(
    {
        "card": ["card-ada", "card-bob", "card-ada", "card-ada"],
        "sku": ["007", "9", "9", "007"],
        "sold_at": [
            datetime(2017, 3, 1, 9, 30),
            datetime(2017, 1, 1, 0, 0, 1),
            datetime(2017, 1, 2),
            datetime(2017, 3, 1, 9, 30),
        ],
        "receipt": ["card-ada/1", "r2", "r3", "card-ada/1"],
        "units": [1.0, 2.5, 3.0, 4.0],
        "price": [1.0, None, 0.0, 2.5],
        "phone": ["tel-1", "tel-2", "tel-1", "tel-1"],
    }
)
ITEMS = pl.DataFrame(
    {
        "item_id": ["9", "007"],
        "text": ["Milk 1 l", None],
        "category": ["GROCERY / DAIRY//MILK/", "GROCERY/BREAD"],
    }
)
MAPPING = """
[events.columns]
user_id = "card"
item_id = "sku"
timestamp = "sold_at"
basket_id = "receipt"
quantity = "units"
"""


def take_in(folder: Path, events: str, catalogue: str = 'path = "items.csv"') -> Ingested:
    ITEMS.write_csv(folder / "items.csv")
    store = folder / "store.toml"
    store.write_text(
        f'name = "corner"\nmax_reject_share = 1.0\n[events]\n{events}\n[catalogue]\n{catalogue}\n'
    )
    return ingest(load_store(store), now=NOW)


def write_sqlite(path: Path, table: str, frame: pl.DataFrame) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE {table} ({', '.join(frame.columns)})")
        marks = ", ".join("?" * frame.width)
        rows = frame.cast({pl.Datetime: pl.String}).rows()
        database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


@pytest.fixture(params=["csv", "tsv", "parquet", "glob", "sql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kind = request.param
    if kind == "sql":
        write_sqlite(tmp_path / "shop.db", "sales", SALES)
        monkeypatch.setenv("SHOP_DB", f"sqlite:///{tmp_path / 'shop.db'}")
        source = 'sql = "SELECT * FROM sales"\nurl_env = "SHOP_DB"'
    elif kind == "parquet":
        SALES.write_parquet(tmp_path / "sales.parquet")
        source = 'path = "sales.parquet"'
    elif kind == "glob":
        (tmp_path / "sales").mkdir()
        SALES[:2].write_csv(tmp_path / "sales" / "1.csv")
        SALES[2:].select(reversed(SALES.columns)).write_csv(tmp_path / "sales" / "2.csv")
        source = 'path = "sales/*.csv"'
    else:
        SALES.write_csv(tmp_path / f"sales.{kind}", separator="\t" if kind == "tsv" else ",")
        source = f'path = "sales.{kind}"'
    return take_in(tmp_path, source + MAPPING)


def test_every_kind_of_source_gives_the_same_events(store: Ingested, tmp_path: Path):
    key = (tmp_path / "customer.key").read_bytes()

    def pseudonym(text: str) -> str:
        return hmac.digest(key, text.encode(), "sha256").hex()[:32]

    expected = SALES.select(
        pl.col("card").map_elements(lambda v: pseudonym(f"customer\0{v}"), pl.String),
        "sku",
        "sold_at",
        # A basket is a customer's, on a day: no branch is named here.
        pl.concat_str(pl.col("sold_at").dt.date(), "card", "receipt", separator=" ").alias("visit"),
        "units",
        "price",
    ).sort("card", "sold_at", maintain_order=True)
    columns = ["user_id", "item_id", "timestamp", "quantity", "price"]
    assert store.events.select(columns).rows() == expected.drop("visit").rows()
    visits = store.events["basket_id"].to_list()
    assert len(set(zip(visits, expected["visit"], strict=True))) == expected["visit"].n_unique()
    assert len(set(visits)) == expected["visit"].n_unique()
    assert dict(store.events.schema) == dict(EVENT_COLUMNS)
    assert store.events["event_type"].to_list() == ["purchase"] * 4
    assert (store.rows_read, store.rejects) == (4, {})


def test_no_raw_id_is_anywhere_in_the_result(store: Ingested):
    result = repr(store) + store.events.write_csv() + store.catalogue.drop("vector").write_csv()
    assert "card-" not in result
    assert "tel-" not in result  # nor a column that nobody mapped


def test_catalogue_is_unique_sorted_and_has_clean_paths(store: Ingested):
    assert dict(store.catalogue.schema) == dict(CATALOGUE_COLUMNS)
    assert store.catalogue.select("item_id", "text", "category").rows() == [
        ("007", "BREAD", "GROCERY/BREAD"),
        ("9", "Milk 1 l", "GROCERY/DAIRY/MILK"),
    ]


def test_each_fault_is_counted_under_its_first_reason(tmp_path: Path):
    rows = """user_id,item_id,timestamp,event_type,quantity,price,rating
a,9,2017-01-01,,,,
 ,9,yesterday,,,,
a, ,2017-01-01,,,,
a,9,,,,,
a,9,01.02.2017,,,,
a,9,2018-01-01T00:00:01,,,,
a,9,2017-01-01,stole,,,
a,9,2017-01-01,,two,,
a,9,2017-01-01,,0,,
a,9,2017-01-01,,,free,
a,9,2017-01-01,,,-1,
a,9,2017-01-01,,,inf,
a,9,2017-01-01,,,,good
a,404,2017-01-01,,,,
a,9,2017-01-01,PURCHASE,1.0,,
a,9,2018-01-01,view,1e0,2,5
"""
    (tmp_path / "sales.csv").write_text(rows)
    store = take_in(tmp_path, 'path = "sales.csv"')
    assert store.rejects == {
        "unreadable price": 2,
        "missing user_id": 1,
        "missing item_id": 1,
        "missing timestamp": 1,
        "unreadable timestamp": 1,
        "future timestamp": 1,
        "unknown event_type": 1,
        "unreadable quantity": 1,
        "non-positive quantity": 1,
        "negative price": 1,
        "unreadable rating": 1,
        "unknown item_id": 1,
        "duplicate": 1,
    }
    assert (store.rows_read, store.events.height) == (16, 2)
    assert next(iter(store.rejects)) == "unreadable price"
    documented = DOCS.read_text(encoding="utf-8")
    assert [reason for reason in store.rejects if f"`{reason}`" not in documented] == []


def test_rejects_of_the_catalogue_are_counted_too(tmp_path: Path):
    (tmp_path / "sales.csv").write_text("user_id,item_id,timestamp\na,1,2017-01-01\n")
    (tmp_path / "goods.csv").write_text(
        "item_id,text,category,price\n1,milk,A,1\n1,milk,A,1\n1,beer,B,1\n,x,A,1\n2,,,1\n"
        "3,x,A,-1\n4,x,A,dear\n5,x,,\n"
    )
    store = take_in(tmp_path, 'path = "sales.csv"', 'path = "goods.csv"')
    assert store.catalogue_rejects == {
        "missing item_id": 1,
        "missing text": 1,
        "negative price": 1,
        "unreadable price": 1,
        "repeated item": 1,
        "contradicting item_id": 1,
    }
    assert store.catalogue.select("item_id", "text", "category").rows() == [
        ("1", "milk", "A"),
        ("5", "x", "UNCATEGORISED"),
    ]
    assert store.catalogue_rows_read == 8


def test_repeated_items_are_no_fault_so_that_the_sales_can_serve_as_catalogue(tmp_path: Path):
    lines = [f"a,1,2017-01-{day:02d},milk,DAIRY" for day in range(1, 29)]
    header = "user_id,item_id,timestamp,text,category"
    (tmp_path / "sales.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "store.toml").write_text(
        'name = "c"\n[events]\npath = "sales.csv"\ncolumns = { text = "" }\n'
        '[catalogue]\npath = "sales.csv"\n'
    )
    store = ingest(load_store(tmp_path / "store.toml"), now=NOW)
    assert store.catalogue_rejects == {"repeated item": 27}
    assert store.events["text"].is_null().all()


def test_identical_rows_stay_where_the_store_says_so(tmp_path: Path):
    (tmp_path / "sales.csv").write_text("user_id,item_id,timestamp\n" + "a,9,2017-01-01\n" * 3)
    assert take_in(tmp_path, 'path = "sales.csv"').rejects == {"duplicate": 2}
    kept = take_in(tmp_path, 'path = "sales.csv"\nkeep_duplicates = true')
    assert (kept.events.height, kept.rejects) == (3, {})


def test_words_defaults_and_joined_columns(tmp_path: Path):
    (tmp_path / "sales.csv").write_text(
        "who;item_id;timestamp;event_type;till;receipt;quantity\n"
        "a;9;1483228800;transaction;T1;5;\na;9;1483232400;VIEW;T1;;2\n"
    )
    (tmp_path / "goods.csv").write_text("item_id,name,top,sub,text\n9,milk,DAIRY, FISH / MEAT ,\n")
    store = take_in(
        tmp_path,
        """path = "sales.csv"
separator = ";"
timestamp_format = "epoch"
time_zone = "Europe/Berlin"
columns = { user_id = "who", basket_id = ["till", "receipt"] }
event_types = { Transaction = "purchase" }
defaults = { quantity = 4, shop_id = "7" }""",
        'path = "goods.csv"\ncolumns = { category = ["top", "sub"], text = ["name", "top"] }',
    )
    assert store.events.select(
        "timestamp", "event_type", "quantity", "shop_id", pl.col("basket_id").is_null()
    ).rows() == [
        (datetime(2017, 1, 1, 1), "purchase", 4.0, "7", False),
        (datetime(2017, 1, 1, 2), "view", 2.0, "7", False),
    ]
    assert store.catalogue.row(0) == ("9", "milk DAIRY", "DAIRY/FISH-MEAT", None, None, None)


def test_an_aware_now_is_put_on_the_shops_clock(tmp_path: Path):
    (tmp_path / "sales.csv").write_text(
        "user_id,item_id,timestamp\na,9,2017-06-01 01:59\na,9,2017-06-01 02:01\n"
    )
    take_in(tmp_path, 'path = "sales.csv"\ntime_zone = "Europe/Berlin"')
    midnight = datetime(2017, 6, 1, tzinfo=UTC)
    store = ingest(load_store(tmp_path / "store.toml"), now=midnight)
    assert store.rejects == {"future timestamp": 1}


def test_database_cells_of_mixed_types_are_counted_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE s (user_id, item_id, timestamp, quantity)")
        database.executemany(
            "INSERT INTO s VALUES (?, ?, ?, ?)",
            [(1, 9, "2017-01-01", 1), ("b", 9, "2017-01-01", "two"), (3, 9, "2017-01-01", 2.5)],
        )
    monkeypatch.setenv("SHOP_DB", f"sqlite:///{tmp_path / 'shop.db'}")
    query = "SELECT *, ':name %' AS text FROM s WHERE user_id NOT LIKE '%:x'"
    store = take_in(tmp_path, f'sql = "{query}"\nurl_env = "SHOP_DB"')
    assert store.rejects == {"unreadable quantity": 1}
    assert store.events["text"].to_list() == [":name %"] * 2


def test_summary_counts_and_names_nobody(store: Ingested):
    summary = summarise(store)
    assert summary == {
        "rows_read": 4,
        "kept": 4,
        "rejects": {},
        "customers": 2,
        "items": 2,
        "baskets": 3,
        "first_day": "2017-01-01",
        "last_day": "2017-03-01",
        "event_types": {"purchase": 4},
        "catalogue": {"rows_read": 2, "kept": 2, "rejects": {}, "categories": 2, "vectors": 0},
    }


def test_without_basket_ids_a_customers_day_is_a_basket(tmp_path: Path):
    (tmp_path / "sales.csv").write_text(
        "user_id,item_id,timestamp\na,9,2017-01-01 08:00\na,9,2017-01-01 18:00\na,9,2017-01-02\n"
    )
    assert summarise(take_in(tmp_path, 'path = "sales.csv"'))["baskets"] == 2


def test_pseudonyms_depend_on_key_and_domain_and_keep_null():
    ids = pl.Series("user_id", ["a", None, "b", "a"])
    one = pseudonymise(ids, bytes(32))
    assert one.name == "user_id"
    assert one[0] == one[3] != one[2]
    assert one[1] is None
    assert one[0] != pseudonymise(ids, b"\1" * 32)[0]
    assert one[0] != pseudonymise(ids, bytes(32), domain="basket")[0]
    assert pseudonymise(ids[:0], bytes(32)).to_list() == []
    with raises("config", match="31 bytes"):
        pseudonymise(ids, bytes(31))


def test_key_is_made_once_and_is_its_owners_alone(tmp_path: Path):
    path = tmp_path / "customer.key"
    key = load_or_make_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make_key(path) == key
    assert [file.name for file in tmp_path.iterdir()] == ["customer.key"]


def test_key_that_others_may_read_or_of_wrong_length_is_refused(tmp_path: Path):
    path = tmp_path / "customer.key"
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with raises("config", match="chmod 600"):
        load_or_make_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with raises("config", match="5 bytes"):
        load_or_make_key(path)
    with raises("config"):
        load_or_make_key(tmp_path / "no" / "folder" / "customer.key")
