"""`hanse data check`, as an operator runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SALES = "user_id,item_id,timestamp\n" + "".join(
    f"card-{n},{n % 3},2017-01-{n:02d}\n" for n in range(1, 21)
)
STORE = 'name = "corner"\n[events]\npath = "sales.csv"\n[catalogue]\npath = "items.csv"\n'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "sales.csv").write_text(SALES + "card-7,404,2017-01-21\n")
    (tmp_path / "items.csv").write_text("item_id,text,category\n0,milk,D\n1,ale,B\n2,rye,B\n")
    (tmp_path / "store.toml").write_text(STORE)
    return tmp_path


def test_installed_command_prints_json_and_no_id(shop: Path):
    script = Path(sys.executable).with_name("hanse")
    done = subprocess.run(
        [script, "data", "check", shop / "store.toml", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = json.loads(done.stdout)
    assert counts.pop("reasons") == {"unknown item_id": {"share": 1 / 21, "tolerance": None}}
    assert counts["catalogue"].pop("reasons") == {}
    assert counts.pop("diagnosis")["encodings"] == ["utf-8"]
    assert counts == {
        "store": "corner",
        "rows_read": 21,
        "kept": 20,
        "rejects": {"unknown item_id": 1},
        "customers": 20,
        "items": 3,
        "baskets": 20,
        "first_day": "2017-01-01",
        "last_day": "2017-01-20",
        "event_types": {"purchase": 20},
        "catalogue": {"rows_read": 3, "kept": 3, "rejects": {}, "categories": 2, "vectors": 0},
    }
    assert "card-" not in done.stdout


def test_table_names_counts_and_reasons(shop: Path, hanse):
    result = hanse("data", "check", shop / "store.toml")
    assert result.status == 0
    for line in (r"rows read\D+21", r"customers\D+20", r"unknown item_id\D+1\b", "2017-01-20"):
        assert re.search(line, result.out), line
    assert "card-" not in result.out + result.err


MORE = """
[reviews]
path = "reviews.csv"
[offers]
path = "offers.csv"
[campaigns]
path = "campaigns.csv"
"""


def test_tables_of_other_tasks_are_counted_and_no_word_of_them_is_printed(shop: Path, hanse):
    (shop / "store.toml").write_text("max_reject_share = 0.5\n" + STORE + MORE)
    (shop / "reviews.csv").write_text(
        "user_id,text,rating\ncard-1,a secret,5\ncard-2,another,stale\ncard-3,,1\n"
    )
    (shop / "offers.csv").write_text(
        "user_id,campaign_id,redeemed_at\ncard-1,spring,2017-01-09\ncard-2,spring,\ncard-2,none,\n"
    )
    (shop / "campaigns.csv").write_text(
        "campaign_id,start,end,item_id\nspring,2017-01-08,2017-01-12,0\nspring,2017-01-08,"
        "2017-01-12,1\nback,2017-01-08,2017-01-02,1\n"
    )
    printed = hanse("data", "check", shop / "store.toml", "--format", "json").out
    counts = json.loads(printed)
    common = {"rows_read": 3, "kept": 2, "customers": 2}
    assert counts["rows_read"] == 21
    assert counts["reviews"] == {**common, "rejects": {"missing text": 1}, "ratings": 2}
    rejects = {"unknown campaign_id": 1}
    assert counts["offers"] == {**common, "rejects": rejects, "sent": 2, "redeemed": 1}
    assert counts["campaigns"] == {"rows_read": 3, "kept": 1, "rejects": {"end before start": 1}}
    table = hanse("data", "check", shop / "store.toml").out
    for line in (r"reviews: kept\D+2\b", r"offers: redeemed\D+1\b", r"end before start\D+1\b"):
        assert re.search(line, table), line
    for word in ("card-", "secret", "stale", "spring"):
        assert word not in printed + table


def test_check_leaves_a_private_key_behind(shop: Path, hanse):
    hanse("data", "check", shop / "store.toml")
    key = shop / "customer.key"
    assert key.stat().st_size == 32
    assert key.stat().st_mode & 0o077 == 0


SQL = 'sql = "SELECT * FROM sales"\nurl_env = "HANSE_TEST_SHOP_DB"'


@pytest.mark.parametrize(
    ("store", "sales", "status", "code"),
    [
        (STORE + "colour = 1\n", SALES, 3, "config"),
        (STORE.replace('path = "sales.csv"', SQL), SALES, 3, "config"),
        (STORE.replace('path = "s', f'{SQL}\npath = "s'), SALES, 4, "contradicting-options"),
        (STORE.replace("sales.csv", "none.csv"), SALES, 10, "data"),
        (STORE + MORE.replace("campaigns.csv", "none.csv"), SALES, 10, "data"),
        (STORE.partition("[catalogue]")[0], SALES, 3, "config"),
        (STORE, SALES.replace("user_id", "card"), 11, "missing-columns"),
        (STORE, SALES.replace("2017-", "Jan "), 12, "wrong-types"),
        (STORE, SALES.replace(",2,", ",404,"), 13, "unknown-ids"),
        (STORE, SALES.splitlines()[0] + "\n", 14, "empty-store"),
    ],
)
def test_each_bad_input_has_its_own_status_and_one_line(
    shop: Path, hanse, store: str, sales: str, status: int, code: str
):
    (shop / "store.toml").write_text(store)
    (shop / "sales.csv").write_text(sales)
    result = hanse("data", "check", shop / "store.toml")
    assert result.status == status
    # Rows that are rejected are shown all the same; of a table that cannot be read there are none.
    assert bool(result.out) is (code == "unknown-ids")
    (line,) = result.err.splitlines()
    assert line.startswith("hanse: error: ")
    assert line.endswith(f") [{code}]")  # with a hint
    assert "card-" not in line


def test_password_is_never_printed(shop: Path, hanse, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HANSE_TEST_SHOP_DB", "sqlite:////nowhere/x.db?password=hunter2")
    (shop / "store.toml").write_text(STORE.replace('path = "sales.csv"', SQL))
    result = hanse("data", "check", shop / "store.toml")
    assert result.status == 10
    assert "hunter2" not in result.out + result.err


def test_check_is_a_sub_command_and_help_needs_no_polars():
    program = (
        "import sys; import hanse_client.ingest.cli; "
        "sys.exit(any(name in sys.modules for name in ('polars', 'pandera', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_help_lists_check(hanse):
    result = hanse("data", "--help")
    assert result.status == 0
    assert "check" in result.out
