"""Each bad input ends with its own error, in one line, with what to do, and no secret."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from hanse_client.ingest.pipeline import Ingested, ingest
from hanse_client.ingest.store_config import load_store
from hanse_common.errors import (
    HanseError,
)
from kits.errors import raises

GOOD = "user_id,item_id,timestamp\n" + "".join(f"ada,1,2017-01-{d:02d}\n" for d in range(1, 21))


def take_in(folder: Path, sales: str, events: str = 'path = "sales.csv"') -> Ingested:
    (folder / "sales.csv").write_text(sales)
    (folder / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY\n")
    (folder / "store.toml").write_text(
        f'name = "corner"\n[events]\n{events}\n[catalogue]\npath = "items.csv"\n'
    )
    return ingest(load_store(folder / "store.toml"), now=datetime(2018, 1, 1))


def refused(code: str, folder: Path, sales: str, *more: str) -> str:
    with raises(code) as caught:
        take_in(folder, sales, *more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_columns_lists_both_sides_and_the_line_to_write(tmp_path: Path):
    said = refused("missing-columns", tmp_path, "card,item_id,when\na,1,2017-01-01\n")
    assert "no column 'user_id', 'timestamp'; it has: card, item_id, when" in said
    assert 'under [events.columns] write user_id = "...", timestamp = "..."' in said


def test_a_mapped_optional_column_must_be_there(tmp_path: Path):
    said = refused(
        "missing-columns", tmp_path, GOOD, 'path = "sales.csv"\ncolumns = { price = "cost" }'
    )
    assert "'cost'" in said


@pytest.mark.parametrize(
    ("timestamps", "held"),
    [
        (["17.03.2017 Ada", "18.03.2017 Bob"], "text like '99.99.9999 aaa'"),
        ([1483228800, 1483228801], "Int64 values"),
        ([True, False], "Boolean values"),
    ],
)
def test_a_column_that_no_row_can_be_read_of_is_wrongly_typed(
    tmp_path: Path, timestamps: list[object], held: str
):
    pl.DataFrame({"user_id": ["a", "b"], "item_id": [1, 1], "timestamp": timestamps}).write_parquet(
        tmp_path / "sales.parquet"
    )
    said = refused("wrong-types", tmp_path, "", 'path = "sales.parquet"')
    assert f"column 'timestamp' of sales.parquet holds {held}, not times" in said
    assert "17.03" not in said
    assert "Ada" not in said


def test_wrong_format_and_wrong_numbers_name_the_column_of_the_source(tmp_path: Path):
    said = refused(
        "wrong-types", tmp_path, GOOD, 'path = "sales.csv"\ntimestamp_format = "%d.%m.%Y"'
    )
    assert "timestamp_format is '%d.%m.%Y'" in said
    said = refused("wrong-types", tmp_path, GOOD, 'path = "sales.csv"\ntimestamp_format = "%Y %H"')
    assert "cannot be read with the format '%Y %H'" in said
    said = refused(
        "wrong-types", tmp_path, GOOD, 'path = "sales.csv"\ncolumns = { quantity = "user_id" }'
    )
    assert "column 'user_id' (quantity) of sales.csv holds text like 'aaa', not numbers" in said
    pl.DataFrame({"user_id": [["a"]], "item_id": [1], "timestamp": [NOON]}).write_parquet(
        tmp_path / "sales.parquet"
    )
    said = refused("wrong-types", tmp_path, "", 'path = "sales.parquet"')
    assert "holds List values, not ids" in said


NOON = datetime(2017, 1, 1, 12)


def test_times_with_an_offset_need_the_shops_zone(tmp_path: Path):
    sales = GOOD + "ada,1,2017-02-01T12:00:00Z\n"
    assert 'time_zone = "Europe/Berlin"' in refused("wrong-types", tmp_path, sales)
    store = take_in(tmp_path, sales, 'path = "sales.csv"\ntime_zone = "Europe/Berlin"')
    assert store.events["timestamp"].max() == datetime(2017, 2, 1, 13)


def test_too_many_unknown_items(tmp_path: Path):
    said = refused("unknown-ids", tmp_path, GOOD + "ada,7,2017-01-01\nada,8,2017-01-01\n")
    assert "2 of 22 rows" in said
    assert take_in(tmp_path, GOOD + "ada,7,2017-01-01\n").rejects == {"unknown item_id": 1}


def test_too_many_rejects_name_every_reason_with_its_share(tmp_path: Path):
    said = refused("data", tmp_path, GOOD + ",1,2017-01-01\n,1,2017-01-01\nada,7,2017-01-01\n")
    assert "3 of 23 rows" in said
    assert "missing user_id: 2 (8.7%); unknown item_id: 1 (4.3%)" in said
    assert "13.0%, at most 5.0%" in said and 'guests = "leave-out"' in said


def test_empty_stores(tmp_path: Path):
    header = "user_id,item_id,timestamp\n"
    assert "has no row" in refused("empty-store", tmp_path, header)
    (tmp_path / "sales.csv").write_text(header + ",1,2017-01-01\n")
    (tmp_path / "store.toml").write_text(
        'name = "c"\nmax_reject_share = 1\n[events]\npath = "sales.csv"\n'
        '[catalogue]\npath = "items.csv"\n'
    )
    with raises("empty-store", match="missing user_id: 1"):
        ingest(load_store(tmp_path / "store.toml"))


def test_empty_or_worthless_catalogue(tmp_path: Path):
    take_in(tmp_path, GOOD)
    (tmp_path / "items.csv").write_text("item_id,text,category\n")
    with raises("data"):
        ingest(load_store(tmp_path / "store.toml"))


def test_unreadable_files_never_quote_their_lines(tmp_path: Path):
    said = refused("data", tmp_path, "user_id,item_id,timestamp\nada,1,2,secret\n")
    assert "malformed record: 1 (100.0%)" in said
    assert "secret" not in said
    assert "is empty" in refused("data", tmp_path, "")
    assert "no file matches" in refused("data", tmp_path, "", 'path = "2017/*.csv"')
    (tmp_path / "sales.parquet").write_bytes(b"PAR1")
    said = refused("data", tmp_path, "", 'path = "sales.parquet"')
    assert "cannot be read as Parquet" in said


SQL = 'sql = "SELECT * FROM sales WHERE day = 1"\nurl_env = "SHOP_DB"'


def test_unset_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SHOP_DB", raising=False)
    assert "export SHOP_DB=" in refused("config", tmp_path, "", SQL)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite:///{folder}/shop.db?key=hunter2", "data"),
        ("sqlite:////nowhere/hunter2/shop.db", "data"),
        ("nosuch://ada:hunter2@localhost/shop", "data"),
        ("mssql+pymssql://ada:hunter2@localhost/shop", "missing-dependency"),
        ("ada:hunter2@localhost", "config"),
    ],
)
def test_no_failure_of_a_database_prints_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, error: type[HanseError]
):
    monkeypatch.setenv("SHOP_DB", url.format(folder=tmp_path))
    said = refused(error, tmp_path, "", SQL)
    assert "hunter2" not in said


def test_a_failed_query_says_why_but_quotes_no_cell():
    from sqlalchemy.engine import make_url

    from hanse_client.ingest.database import _without_secrets

    url = make_url("postgresql://ada:p%40ss@db/shop?password=opensesame")
    line = (
        'FATAL: "sales" and "Ada Smith", p@ss p%40ss opensesame '
        "at postgresql://ada:p%40ss@db\nDETAIL: Ada"
    )
    assert _without_secrets(line, url, "SELECT * FROM sales") == (
        "FATAL: \"sales\" and '...', *** *** *** at <url>"
    )


def test_query_that_fails_or_returns_a_name_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHOP_DB", "sqlite://")
    assert "the events query failed: no such table: sales" in refused("data", tmp_path, "", SQL)
    twice = 'sql = "SELECT 1 AS a, 2 AS a"\nurl_env = "SHOP_DB"'
    assert "two columns of the same name" in refused("data", tmp_path, "", twice)
