"""What `hanse data check` finds odd, its page, and what `hanse data map` proposes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanse_client.ingest.store_config import load_store
from kits.hostile_tables import write_rows

DAYS = [f"2024-{month:02}-{day:02}" for month in range(1, 7) for day in (1, 8, 12)]


def shop(folder: Path, rows: list[str], items: str = "", keys: str = "") -> Path:
    header = "user_id,item_id,timestamp,basket_id\n"
    (folder / "sales.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    (folder / "items.csv").write_text(items or "item_id,text,category\n1,milk,A/B\n2,ale,C/D\n")
    store = folder / "store.toml"
    store.write_text(
        f'name = "corner"\n[events]\npath = "sales.csv"\n{keys}\n[catalogue]\npath = "items.csv"\n'
    )
    return store


def calm(number: int = 60) -> list[str]:
    """Rows in which nothing is odd."""
    return [
        f"u{row % 30},1,2024-{row % 6 + 1:02}-{row % 28 + 1:02} {8 + row % 12:02}:15:00,r{row}"
        for row in range(number)
    ]


ITEMS = "item_id,text,category\n" + "".join(
    f"{item},thing {item},A/{item % 9}\n" for item in range(60)
)

ODD = {
    "one customer holds 20 to 50 %": (
        [
            *calm(),
            *(
                f"robot,1,2024-01-0{day} 10:00:{second},x"
                for day in (1, 2)
                for second in range(10, 25)
            ),
        ],
        "",
    ),
    "more than nine of ten customers came once": (
        [f"u{row},1,2024-01-{row % 28 + 1:02} 10:00,r{row}" for row in range(60)],
        "",
    ),
    "1 basket numbers come again": ([*calm(), "u1,1,2024-06-30 10:00,r1"], ""),
    "no event is after the 12th": (
        [f"u{row % 30},1,{DAYS[row % 18]} 10:{row % 60:02},r{row}" for row in range(90)],
        "",
    ),
    "days without hours": (
        [f"u{row % 30},1,2024-01-{row % 28 + 1:02},r{row}" for row in range(90)],
        "",
    ),
    "between one and five at night": (
        [f"u{row % 30},1,2024-01-{row % 28 + 1:02} 03:00,r{row}" for row in range(90)],
        "",
    ),
    "one and the same time": ([f"u{row % 30},1,2024-01-20 10:00,r{row}" for row in range(90)], ""),
    "have no category": (calm(), "item_id,text,category\n1,milk,\n2,ale,A\n"),
    "no text of their own": (calm(), "item_id,text,category\n1,,A/milk\n2,ale,A/x\n"),
    "does not know": (calm(), "item_id,text,category\n1,乳製品鮮奶,A\n2,酸奶飲料,B\n"),
    "every item of the catalogue was bought": (
        [f"u{row % 30},{row % 60},2024-01-{row % 28 + 1:02} 10:00,r{row}" for row in range(240)],
        ITEMS,
    ),
    "categories for 60 items": (
        calm(),
        "item_id,text,category\n" + "".join(f"{n},t{n},A/{n}\n" for n in range(60)),
    ),
    "all items are in one category": (
        calm(),
        "item_id,text,category\n" + "".join(f"{n},t{n},A\n" for n in range(60)),
    ),
}


@pytest.mark.parametrize("words", ODD)
def test_what_is_odd_is_said_with_what_to_do(words: str, tmp_path: Path, hanse):
    rows, items = ODD[words]
    store = shop(tmp_path, rows, items)
    done = hanse("data", "check", store, "--format", "json")
    assert done.status == 0, done.err
    findings = json.loads(done.out)["diagnosis"]["findings"]
    (found,) = [one for one in findings if words in one["what"]]
    assert found["do"]
    assert words in hanse("data", "check", store).out.replace("\n", " ")


def test_nothing_is_said_of_calm_data(tmp_path: Path, hanse):
    done = hanse("data", "check", shop(tmp_path, calm(), ITEMS), "--format", "json")
    assert json.loads(done.out)["diagnosis"]["findings"] == []


def test_figures_of_few_customers_are_bands(tmp_path: Path, hanse):
    rows = [*calm(), *(f"robot,1,2024-03-{day:02} 10:00,x{day}" for day in range(1, 21))]
    done = hanse("data", "check", shop(tmp_path, rows), "--format", "json")
    customers = json.loads(done.out)["diagnosis"]["customers"]
    assert customers["largest_share"] == "20 to 50 %"
    assert customers["with_over_5%"] == "1 to 4"
    few = json.loads(hanse("data", "check", shop(tmp_path, calm()[:6]), "--format", "json").out)
    assert few["diagnosis"]["customers"]["visits_of_the_median"] is None


def test_the_page_shows_findings_and_reasons_and_no_cell(tmp_path: Path, hanse):
    rows = [*calm(), *(f",1,2024-01-0{day},x" for day in range(1, 10)), "secret<b>,7,2024-01-01,r"]
    store = shop(tmp_path, rows, keys="where = \"item_id <> '8'\"")
    done = hanse("data", "check", store, "--html", tmp_path / "check.html")
    assert done.status == 10
    assert "missing user_id" in done.out and "missing user_id: 9 (12.9%)" in done.err
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "Training would refuse this store: 10 of 70 rows" in page
    assert "<th>missing user_id</th><td>9</td>" in page
    assert "secret" not in page and "<script" not in page
    assert not (tmp_path / "customer.key").exists(), "a refused store leaves nothing behind"
    fine = hanse("data", "check", shop(tmp_path, calm(), ITEMS), "--html", tmp_path / "fine.html")
    assert fine.status == 0
    assert "nothing in it is odd" in (tmp_path / "fine.html").read_text(encoding="utf-8")
    assert hanse("data", "check", store, "--html", tmp_path / "no" / "x.html").status == 3


EXPORTS = {
    "commas": (
        "sales.csv",
        "Customer ID,Product ID,Order Date,Unit Price\nc7,4,2024-01-31 10:30,1.50\n",
    ),
    "semicolons": ("sales.csv", "Kundennummer;SKU;Datum;Preis\nc7;4;31.01.2024;1,50\n"),
    "epochs": ("events.csv", "visitorid,itemid,timestamp,event\nc7,4,1433221332117,view\n"),
    "no header": ("clicks.csv", "c7,4,1511544070,pv\nc8,5,1511544071,buy\n"),
    "JSON": (
        "sales.jsonl",
        '{"customer": {"id": "c7"}, "sku": 4, "created_at": "2024-01-31T10:30:00Z"}\n',
    ),
    "days of months": ("sales.csv", "customer_id,sku,date\nc7,4,01/31/24\nc7,4,02/15/24\n"),
    "another encoding": (
        "sales.csv",
        "customer_id,sku,date,name\nc7,4,2024-01-31,Käse\n".encode("cp1252"),
    ),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_a_proposal_is_a_store_that_can_be_read(case: str, tmp_path: Path, hanse):
    name, content = EXPORTS[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "goods.csv").write_text("SKU;Title;Product type\n4;milk;A\n5;ale;B\n")
    done = hanse("data", "map", tmp_path / name, tmp_path / "goods.csv", "--name", "corner")
    assert done.status == 0, done.err
    assert "c7" not in done.out and "Käse" not in done.out and "milk" not in done.out
    (tmp_path / "store.toml").write_text(done.out)
    load_store(tmp_path / "store.toml")
    checked = hanse("data", "check", tmp_path / "store.toml", "--format", "json")
    if case in ("epochs", "no header"):  # words for kinds of events are the shop's to map
        return
    assert checked.status == 0, (checked.err, done.out)
    assert json.loads(checked.out)["customers"] == 1


def test_a_proposal_reads_every_kind_of_file(tmp_path: Path, hanse):
    for kind in ("tsv", "parquet", "xlsx", "ods"):
        path = tmp_path / f"sales.{kind}"
        write_rows(path, [{"member": "c7", "ean": "4", "sold at": "2024-01-31 10:30"}])
        out = hanse("data", "map", path).out
        assert 'user_id = "member"' in out and 'timestamp = "sold at"' in out, (kind, out)
    (tmp_path / "sales.docx").write_text("x")
    assert hanse("data", "map", tmp_path / "sales.docx").status == 10
