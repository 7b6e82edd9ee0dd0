"""Every row read is kept or counted once, whatever the cells hold."""

from __future__ import annotations

import csv
import tempfile
from datetime import datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.store_config import load_store

COLUMNS = ("user_id", "item_id", "timestamp", "event_type", "quantity", "price", "rating")
SOUND = ("ada", "1", "2017-01-01", "purchase", "1", "1", "1")
anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


def cell(*usual: str) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(("", " ", *usual)), st.sampled_from(usual), anything)


rows = st.lists(
    st.tuples(
        cell("ada", "bob", "eve"),
        cell("1", "2", "404"),
        cell("2017-01-01", "2017-01-01 10:00", "2099-01-01", "1.1.2017"),
        cell("purchase", "VIEW", "stole"),
        cell("1", "0", "-2", "two", "inf", "nan"),
        cell("1", "0", "-2", "free"),
        cell("5", "good"),
    ),
    max_size=25,
)


@given(rows=rows, keep_duplicates=st.booleans())
@settings(max_examples=120, deadline=None)
def test_rows_read_are_kept_or_rejected(rows: list[tuple[str, ...]], keep_duplicates: bool):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "sales.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([COLUMNS, SOUND, *rows])
        (folder / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY\n2,ale,BEER\n")
        (folder / "store.toml").write_text(
            'name = "s"\nmax_reject_share = 1.0\n[events]\npath = "sales.csv"\n'
            'time_zone = "UTC"\n'
            f"keep_duplicates = {str(keep_duplicates).lower()}\n"
            '[catalogue]\npath = "items.csv"\n'
        )
        store = ingest(load_store(folder / "store.toml"), now=datetime(2018, 1, 1))

    assert store.rows_read == len(rows) + 1
    assert store.rows_read == store.events.height + sum(store.rejects.values())
    assert all(count > 0 for count in store.rejects.values())
    assert store.events.height >= 1
    assert store.events["user_id"].str.contains("^[0-9a-f]{32}$").all()
    assert store.events.select("user_id", "timestamp").rows() == sorted(
        store.events.select("user_id", "timestamp").rows()
    )
    if not keep_duplicates:
        assert store.events.is_unique().all()
