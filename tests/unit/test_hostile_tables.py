"""Every row of a hostile table is kept or counted under its reason, or the table is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from kits.errors import raises
from kits.hostile_tables import Case, Rows, catalogue, column, customers, store_of, write_rows

H = "user_id,item_id,timestamp"
KINDS = ("csv", "tsv", "csv.gz", "jsonl", "parquet", "xlsx", "ods")

# A cell in one column of the middle one of three rows: what the column reads, or the reason to
# reject the row, or the code of a refusal.
GOOD = {
    "user_id": "ada",
    "item_id": "1",
    "timestamp": "2024-01-02",
    "price": "1.5",
    "quantity": "2",
}
KEPT = "kept"
CELLS: list[tuple[str, str | None, object]] = [
    *(
        ("user_id", cell, "missing user_id")
        for cell in (None, "", "  ", "NULL", "NA", "N/A", "nan")
    ),
    *(("user_id", cell, "missing user_id") for cell in ("None", "\\N", "(not set)", " NULL ")),
    *(
        ("user_id", cell, "guest")
        for cell in ("0", "-1", "anonymous", "Guest", "000000", "unknown")
    ),
    *(("user_id", cell, "guest") for cell in ("0.0", "UNDEFINED")),
    ("user_id", "1.785E+04", "unreadable user_id"),
    ("user_id", "17850.0", KEPT),
    ("user_id", "7\u0000", KEPT),
    ("user_id", "李雷 🛒", KEPT),
    ("user_id", "مستخدم", KEPT),
    ("user_id", '"', KEPT),
    ("user_id", "a,b;c\td", KEPT),
    ("user_id", "=1+1", KEPT),
    ("item_id", None, "missing item_id"),
    ("item_id", "NA", "missing item_id"),
    ("item_id", "4.006E+12", "unreadable item_id"),
    ("item_id", "99", "unknown item_id"),
    ("item_id", "01", "unknown item_id"),
    ("item_id", "1.0", KEPT),
    ("item_id", " 1 ", KEPT),
    ("timestamp", None, "missing timestamp"),
    ("timestamp", "NaN", "missing timestamp"),
    ("timestamp", "yesterday", "unreadable timestamp"),
    ("timestamp", "2024-02-30", "unreadable timestamp"),
    ("timestamp", "2023-02-29", "unreadable timestamp"),
    ("timestamp", "2024-13-01", "unreadable timestamp"),
    ("timestamp", "02.01.2024", "unreadable timestamp"),
    ("timestamp", "2024-01-02 25:00", "unreadable timestamp"),
    ("timestamp", "1900-01-01", "too early timestamp"),
    ("timestamp", "0001-01-01 00:00:00", "too early timestamp"),
    ("timestamp", "0024-01-02", "too early timestamp"),
    ("timestamp", "9999-12-31", "future timestamp"),
    ("timestamp", "2024-02-29", KEPT),
    ("timestamp", "2016-12-31 23:59:60", KEPT),
    ("timestamp", "2024-01-02T10:11:12.123456", KEPT),
    ("price", None, KEPT),
    ("price", "N/A", KEPT),
    ("price", "1,234.50", KEPT),
    ("price", "$12.50", KEPT),
    ("price", "12.50 €", KEPT),
    ("price", "EUR 12.50", KEPT),
    ("price", "1 234.50", KEPT),
    ("price", "1'234.50", KEPT),
    ("price", "1e3", KEPT),
    ("price", "-1", "negative price"),
    ("price", "-$4.00", "negative price"),
    ("price", "($4.00)", "negative price"),
    ("price", "()", "unreadable price"),
    ("price", "12.50-", "negative price"),
    ("price", "free", "unreadable price"),
    ("price", "12,50", "unreadable price"),
    ("price", "inf", "unreadable price"),
    ("price", "1e999", "unreadable price"),
    ("price", "0x10", "unreadable price"),
    ("price", "1,234", "!wrong-types"),
    ("quantity", "0", "non-positive quantity"),
    ("quantity", "-3", "non-positive quantity"),
    ("quantity", "many", "unreadable quantity"),
    ("quantity", None, KEPT),
    ("quantity", "0.250", KEPT),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "cell", "outcome"), CELLS)
def test_one_hostile_cell(kind: str, name: str, cell: str | None, outcome: str, tmp_path: Path):
    if cell is not None and "\0" in cell and kind in ("xlsx", "ods"):
        pytest.skip("XML has no such sign")
    rows: Rows = [GOOD | {"user_id": "x"}, GOOD | {name: cell}, GOOD | {"user_id": "y"}]
    case = Case(name=f"sales.{kind}", events=lambda path: write_rows(path, rows))
    if outcome.startswith("!"):
        with raises(outcome[1:]):
            store_of(case, tmp_path)
        return
    store = store_of(case, tmp_path)
    assert store.rows_read == 3
    assert store.rejects == ({} if outcome == KEPT else {outcome: 1})
    assert store.events.height == 3 - sum(store.rejects.values())


ODD_NAME = "user_id,item_id,timestamp,städte\nä1,1,2024-01-02,Köln\nö2,2,2024-01-03,Zürich\n"
CYRILLIC = f"{H},note\n" + "".join(
    f"клиент{row},1,2024-01-02,покупка молока и хлеба в магазине\n" for row in range(30)
)
CHINESE = f"{H},note\n" + "".join(
    f"顾客{row},1,2024-01-02,在商店购买牛奶和面包以及其他商品\n" for row in range(30)
)
PLAIN = f"{H}\na,1,2024-01-02\nb,2,2024-01-03\n"


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._sales.csv", "x")
        archive.writestr("export/sales.csv", PLAIN)


def two_zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)


def zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(PLAIN.encode())


def quoted(rows: int) -> str:
    lines = [
        f'u{row},1,2024-01-02,tv 55"' if row in (0, rows - 1) else f"u{row},1,2024-01-02,x"
        for row in range(rows)
    ]
    return "\n".join([f"{H},note", *lines, ""])


CASES: dict[str, Case] = {
    # Quotation marks.
    "inches in a column that is not mapped": Case(events=quoted(1000), kept=1000),
    "inches in the catalogue": Case(
        events=PLAIN,
        items='item_id,text,category\n1,"tv, large",A\n2,tv 55",B\n3,mount 40",B\n4,cable,C\n',
        kept=2,
        check=catalogue("text", "tv, large", 'tv 55"', 'mount 40"', "cable"),
    ),
    "a mark that opens and closes rows later": Case(
        events=f'{H},note\na,1,2024-01-02,"tv\nb,1,2024-01-02,x\nc,1,2024-01-02,55"\n',
        refused="data",
        says="quotation mark",
    ),
    "a mark that never closes": Case(
        events=f'{H},note\na,1,2024-01-02,"tv\nb,1,2024-01-02,x\nc,1,2024-01-02,y\n',
        refused="data",
        says="quotation mark",
    ),
    "a mark at the end that never closes": Case(
        events=f'{H},note\na,1,2024-01-02,x\nb,1,2024-01-02,"tv\n', kept=2
    ),
    "marks that mean nothing": Case(
        events=f'{H},note\na,1,2024-01-02,"tv\nb,1,2024-01-02,x\nc,1,2024-01-02,55"\n',
        keys="quote = ''",
        kept=3,
    ),
    "single quotation marks": Case(
        events=f"{H},note\na,1,2024-01-02,'x,y'\nb,2,2024-01-03,'it''s'\n",
        keys='quote = "\'"',
        kept=2,
    ),
    "doubled marks": Case(events=f'{H},note\na,1,2024-01-02,"say ""x"", y"\n', kept=1),
    "escaped marks": Case(
        events=f'{H},note\na,1,2024-01-02,"say \\"x\\", y"\nb,2,2024-01-03,z\n',
        keys="escape = '\\'",
        kept=2,
    ),
    "a word after a closing mark": Case(
        events=f'{H},note\na,1,2024-01-02,"large" tv\nb,1,2024-01-02,x\n', kept=2
    ),
    "line breaks in cells": Case(
        events=f'{H},note\na,1,2024-01-02,"two\nlines"\nb,1,2024-01-02,"three\r\nmore\n"\n', kept=2
    ),
    "line breaks that look like rows, and are none": Case(
        events=f'{H},text\na,1,2024-01-02,"x\ny,2,3,z"\n',
        keys="line_breaks = true",
        kept=1,
        check=column("text", "x\ny,2,3,z"),
    ),
    "line breaks that look like rows": Case(
        events=f'{H},text\na,1,2024-01-02,"x\ny,2,3,z"\n', refused="data", says="line_breaks"
    ),
    # Records.
    "a record too long and one too short": Case(
        events=f"{H}\na,1,2024-01-02\nb,1,2024-01-02,x\nc,1\n",
        kept=1,
        rejects={"malformed record": 2},
    ),
    "more malformed records than are tolerated": Case(
        events=f"{H}\na,1,2024-01-02\nb,1,2024-01-02,x\n",
        share=0.05,
        refused="data",
        says="malformed record: 1",
    ),
    "empty lines": Case(events=f"\n{H}\n\na,1,2024-01-02\n\n\nb,1,2024-01-02\n\n", kept=2),
    "lines of separators": Case(
        events=f"{H}\na,1,2024-01-02\n,,\n,,\n", kept=1, rejects={"missing user_id": 2}
    ),
    "no end of the last line": Case(events=PLAIN.rstrip("\n"), kept=2),
    "ends of Windows": Case(events=PLAIN.replace("\n", "\r\n"), kept=2),
    "ends of an old Mac": Case(events=PLAIN.replace("\n", "\r"), kept=2),
    "mixed ends": Case(events=PLAIN.replace("\n", "\r\n", 2), kept=2),
    "blanks around names": Case(events=PLAIN.replace(",", " , "), kept=2),
    "a header in quotation marks": Case(
        events='"user_id","item_id","timestamp"\n"a","1","2024-01-02"\n', kept=1
    ),
    "nothing": Case(events="", refused="data", says="empty"),
    "blanks alone": Case(events="\n\n", refused="data", says="empty"),
    "a header alone": Case(events=f"{H}\n", refused="empty-store"),
    "a name twice": Case(
        events=f"user_id,{H}\na,b,1,2024-01-02\n", refused="data", says="two columns"
    ),
    "a name twice that is not mapped": Case(events=f"{H},x,x\na,1,2024-01-02,7,8\n", kept=1),
    # Headers.
    "no header": Case(
        events="ada@example.org,1,2024-01-02\nbob@example.org,2,2024-01-03\n",
        keys="header = false\ncolumns = { user_id = 1, item_id = 2, timestamp = 3 }",
        kept=2,
        check=customers(2),
    ),
    "no header, and not said": Case(
        events="ada@example.org,1,2024-01-02\n", refused="missing-columns", says="not shown"
    ),
    "a number that is no column": Case(
        events="ada,1,2024-01-02\n",
        keys="header = false\ncolumns = { user_id = 1, item_id = 2, timestamp = 4 }",
        refused="missing-columns",
        says="3 columns",
    ),
    "lines before the header": Case(
        events=f"Export of shop 7\nfrom,to\n{PLAIN}", keys="skip_rows = 2", kept=2
    ),
    # Separators.
    "semicolons": Case(events=PLAIN.replace(",", ";"), keys='separator = ";"', kept=2),
    "pipes": Case(
        events=PLAIN.replace(",", "|"),
        name="sales.txt",
        keys='format = "csv"\nseparator = "|"',
        kept=2,
    ),
    "tabs": Case(events=PLAIN.replace(",", "\t"), name="sales.tsv", kept=2),
    "tabs in another file": Case(
        events=PLAIN.replace(",", "\t"), name="sales.dat", keys='format = "tsv"', kept=2
    ),
    "the wrong separator": Case(
        events=PLAIN.replace(",", ";"), refused="missing-columns", says="user_id"
    ),
    # Encodings.
    **{
        f"{encoding}, detected": Case(
            events=text.encode(encoding), kept=text.count("\n") - 1, check=customers(number)
        )
        for encoding, text, number in (
            ("utf-8", ODD_NAME, 2),
            ("utf-8-sig", ODD_NAME, 2),
            ("utf-16", ODD_NAME, 2),
            ("utf-32", ODD_NAME, 2),
            ("cp1252", ODD_NAME, 2),
            ("cp1251", CYRILLIC, 30),
            ("gb18030", CHINESE, 30),
        )
    },
    **{
        f"{encoding}, said": Case(
            events=text.encode(encoding), keys=f'encoding = "{encoding}"', kept=text.count("\n") - 1
        )
        for encoding, text in (
            ("latin-1", ODD_NAME),
            ("cp437", ODD_NAME),
            ("utf-16-le", ODD_NAME),
            ("koi8-r", CYRILLIC),
            ("big5hkscs", PLAIN),
            ("shift_jis", PLAIN),
        )
    },
    "not the encoding that was said": Case(
        events=ODD_NAME.encode("cp1252"), keys='encoding = "utf-8"', refused="data", says="encoding"
    ),
    # Compression.
    "gz": Case(events=gzip.compress(PLAIN.encode()), name="sales.csv.gz", kept=2),
    "bz2": Case(events=bz2.compress(PLAIN.encode()), name="sales.csv.bz2", kept=2),
    "xz": Case(events=lzma.compress(PLAIN.encode()), name="sales.csv.xz", kept=2),
    "zst": Case(events=zstd, name="sales.csv.zst", kept=2),
    "zip": Case(events=zipped, name="sales.csv.zip", kept=2),
    "two files in a zip": Case(
        events=two_zipped, name="sales.csv.zip", refused="data", says="2 files"
    ),
    **{
        f"cut {name}": Case(events=whole[: len(whole) - 9], name=name, refused="data")
        for name, whole in (
            ("sales.csv.gz", gzip.compress(PLAIN.encode() * 50)),
            ("sales.csv.bz2", bz2.compress(PLAIN.encode() * 50)),
            ("sales.csv.xz", lzma.compress(PLAIN.encode() * 50)),
        )
    },
    **{
        f"not {name}": Case(events=PLAIN, name=name, refused="data")
        for name in (
            "s.csv.gz",
            "s.csv.bz2",
            "s.csv.xz",
            "s.csv.zst",
            "s.csv.zip",
            "s.parquet",
            "s.xlsx",
            "s.ods",
        )
    },
    # Times.
    "epochs in seconds taken for milliseconds": Case(
        events=f"{H}\na,1,1704189600\n",
        keys='timestamp_format = "epoch_ms"\ntime_zone = "UTC"',
        share=0.05,
        refused="data",
        says='"epoch"',
    ),
    "milliseconds taken for seconds": Case(
        events=f"{H}\na,1,1704189600000\nb,1,1704189600000\n",
        keys='timestamp_format = "epoch"\ntime_zone = "UTC"',
        share=0.05,
        refused="data",
        says="future timestamp",
    ),
    "microseconds": Case(
        events=f"{H}\na,1,1704189600000000\n",
        keys='timestamp_format = "epoch_us"\ntime_zone = "UTC"',
        kept=1,
    ),
    "years of two digits taken for four": Case(
        events=f"{H}\na,1,02.01.24\n",
        keys='timestamp_format = "%d.%m.%Y"',
        share=0.05,
        refused="data",
        says="%y",
    ),
    "years of two digits": Case(
        events=f"{H}\na,1,02.01.24\n", keys='timestamp_format = "%d.%m.%y"', kept=1
    ),
    "a spreadsheet's days": Case(
        events=f"{H}\na,1,45293\nb,1,45293.5\n", keys='timestamp_format = "excel"', kept=2
    ),
    "a spreadsheet's days, not said": Case(
        events=f"{H}\na,1,45293\n", refused="wrong-types", says="excel"
    ),
    "whole numbers": Case(
        events=f"{H}\na,1,20240102\n", keys='timestamp_format = "%Y%m%d"', kept=1
    ),
    "whole numbers, not said": Case(
        events=f"{H}\na,1,20240102\n", refused="wrong-types", says="%Y%m%d"
    ),
    "two formats": Case(
        events=f"{H}\na,1,02.01.2024\nb,1,01/03/2024\nc,1,1704189600\n",
        keys='timestamp_format = ["%d.%m.%Y", "%m/%d/%Y", "epoch"]\ntime_zone = "UTC"',
        kept=3,
    ),
    "no format of strftime": Case(
        events=f"{H}\na,1,02.01.2024\n", keys='timestamp_format = "%Q"', refused="wrong-types"
    ),
    "date and time apart": Case(
        events="user_id,item_id,day,clock\na,1,2024-01-02,10:30:00\nb,1,2024-01-03,\n",
        keys='columns = { timestamp = ["day", "clock"] }',
        kept=2,
    ),
    **{
        f"UTC as {form}": Case(
            events=f"{H}\na,1,{cell}\n",
            keys=f'time_zone = "Asia/Shanghai"\n{keys}',
            kept=1,
            check=column("timestamp", datetime(2024, 1, 3, 7, 30)),
        )
        for form, cell, keys in (
            ("Z", "2024-01-02T23:30:00Z", ""),
            ("a word", "2024-01-02 23:30:00 UTC", ""),
            ("an offset", "2024-01-02T23:30:00+00:00", ""),
            ("a setting", "2024-01-02 23:30:00", 'source_time_zone = "UTC"'),
            ("a format", "2024-01-02 23:30:00 UTC", 'timestamp_format = "%Y-%m-%d %H:%M:%S UTC"'),
            ("GMT in a format", "02.01.2024 23:30 GMT", 'timestamp_format = "%d.%m.%Y %H:%M GMT"'),
            ("an epoch", "1704238200", 'timestamp_format = "epoch"'),
        )
    },
    "UTC without the shop's zone": Case(
        events=f"{H}\na,1,2024-01-02T23:30:00Z\n", refused="wrong-types", says="time zone"
    ),
    "a source's zone alone": Case(
        events=PLAIN, keys='source_time_zone = "UTC"', refused="config", says="time_zone"
    ),
    "hours that a clock skips and has twice": Case(
        events=f"{H}\na,1,2024-03-31 02:30:00\nb,1,2024-10-27 02:30:00\n",
        keys='time_zone = "UTC"\nsource_time_zone = "Europe/Berlin"',
        kept=1,
        rejects={"unreadable timestamp": 1},
    ),
    "hours alone": Case(
        events=f"{H}\na,1,2014-12-06 02\n",
        keys='timestamp_format = "%Y-%m-%d %H"',
        kept=1,
        check=column("timestamp", datetime(2014, 12, 6, 2)),
    ),
    "a day of its own to begin": Case(
        events=f"{H}\na,1,2009-12-31\nb,1,2010-01-01\n",
        keys="not_before = 2010-01-01",
        kept=1,
        rejects={"too early timestamp": 1},
    ),
    # Numbers.
    "German thousands": Case(
        events=f"{H},price\na,1,2024-01-02,1.234\nb,1,2024-01-02,2.500\n",
        refused="wrong-types",
        says="decimal",
    ),
    "German numbers": Case(
        events=f"{H};price\n".replace(",", ";") + "a;1;2024-01-02;1.234\nb;1;2024-01-03;2,5\n",
        keys='separator = ";"\ndecimal = ","',
        kept=2,
        check=column("price", 1234.0, 2.5),
    ),
    "thousandths, said": Case(
        events=f"{H},price\na,1,2024-01-02,1.234\n",
        keys='decimal = "."',
        kept=1,
        check=column("price", 1.234),
    ),
    "Swiss numbers": Case(
        events=f"{H},price\na,1,2024-01-02,1'234.50\nb,1,2024-01-03,1’234\n",
        keys='thousands = "\'"',
        kept=2,
        check=column("price", 1234.5, 1234.0),
    ),
    "Indian groups": Case(
        events=f'{H},price\na,1,2024-01-02,"1,00,000.00"\nb,1,2024-01-02,5.5\n',
        kept=1,
        rejects={"unreadable price": 1},
    ),
    "decimal commas, not said": Case(
        events=f'{H},price\na,1,2024-01-02,"12,50"\n', refused="wrong-types", says='decimal = ","'
    ),
    "one sign for both": Case(
        events=PLAIN, keys='decimal = ","\nthousands = ","', refused="config", says="same sign"
    ),
    "totals of lines": Case(
        events=f"{H},quantity,amount\na,1,2024-01-02,4,10.0\nb,1,2024-01-03,1,\n",
        kept=2,
        check=column("price", 2.5, None),
    ),
    "a negative total": Case(
        events=f"{H},amount\na,1,2024-01-02,-1\nb,1,2024-01-02,1\n",
        kept=1,
        rejects={"negative amount": 1},
    ),
    "goods that come back": Case(
        events=f"{H},quantity,amount\na,1,2024-01-02,2,10\na,1,2024-01-03,-2,-10\n",
        keys='negative_quantity = "return"',
        kept=2,
        check=column("event_type", "purchase", "return"),
    ),
    "cancelled orders": Case(
        events=f"{H},event_type\na,1,2024-01-02,paid\nb,1,2024-01-03,Cancelled\n",
        keys='event_types = { paid = "purchase", cancelled = "cancel" }',
        kept=2,
        check=column("event_type", "purchase", "cancel"),
    ),
    # Customers.
    "one person, two ways to write a number": Case(
        events=f"{H}\n17850,1,2024-01-02\n17850.0,2,2024-01-03\n", kept=2, check=customers(1)
    ),
    "an id that lacks its parts": Case(
        events="a,b,item_id,timestamp\n,,1,2024-01-01\nx,,1,2024-01-02\nx,y,1,2024-01-03\n",
        keys='columns = { user_id = ["a", "b"] }',
        kept=1,
        rejects={"missing user_id": 2},
    ),
    "guests refused": Case(
        events=f"{H}\n" + "NA,1,2024-01-02\n" * 9 + "a,1,2024-01-02\n",
        share=0.05,
        refused="data",
        says="guests",
    ),
    "guests left out": Case(
        events=f"{H}\n0,1,2024-01-02\n,1,2024-01-02\n-1,2,2024-01-02\na,1,2024-01-02\n",
        keys='guests = "leave-out"',
        share=0.0,
        kept=1,
        rejects={"missing user_id": 1, "guest": 2},
    ),
    "guests of one visit each": Case(
        events=f"{H},basket_id\n0,1,2024-01-02,7\n0,2,2024-01-02,7\n,1,2024-01-02,8\n"
        "NA,1,2024-01-03,\na,1,2024-01-02,9\n",
        keys='guests = "single-visit"',
        share=0.0,
        kept=4,
        rejects={"missing user_id": 1},
        check=customers(3),
    ),
    "a guest by another name": Case(
        events=f"{H}\nwalk-in,1,2024-01-02\n0,1,2024-01-02\n",
        keys='guest_ids = ["Walk-In"]',
        kept=1,
        rejects={"guest": 1},
    ),
    # Visits.
    "a receipt number used twice": Case(
        events=f"{H},basket_id\na,1,2024-01-01,17\na,2,2024-06-01,17\n",
        kept=2,
        check=lambda store: store.events["basket_id"].n_unique() == 2,
    ),
    "one number at two shops, and for two customers": Case(
        events=f"{H},basket_id,shop_id\na,1,2024-01-01,1,x\na,2,2024-01-01,1,y\nb,1,2024-01-01,1,x\n",
        kept=3,
        check=lambda store: store.events["basket_id"].n_unique() == 3,
    ),
    **{
        f"{number!r} for every receipt": Case(
            events=f"{H},basket_id\na,1,2024-01-01,{number}\na,2,2024-06-01,{number}\n",
            kept=2,
            check=lambda store: store.events["basket_id"].drop_nulls().n_unique() in (0, 2),
        )
        for number in ("0", "NA", "(not set)", "-1")
    },
    # The catalogue.
    "categories in lists": Case(
        events=PLAIN,
        items=lambda path: pl.DataFrame(
            {
                "item_id": ["1", "2"],
                "text": [["red", "wine"], ["milk"]],
                "category": [["A/B", "x"], ["B"]],
            }
        ).write_parquet(path),
        items_name="items.parquet",
        kept=2,
        check=lambda store: (
            catalogue("category", "A-B/x", "B")(store)
            and catalogue("text", "red wine", "milk")(store)
        ),
    ),
    "categories with arrows": Case(
        events=PLAIN,
        items="item_id,text,category\n1,milk,Food > Dairy/Eggs > Milk\n2,wine,Drinks\n",
        catalogue_keys='category_separator = " > "',
        kept=2,
        check=catalogue("category", "Food/Dairy-Eggs/Milk", "Drinks"),
    ),
    "no categories": Case(
        events=PLAIN,
        items="item_id,text\n1,milk\n2,wine\n",
        catalogue_keys='columns = { category = "" }',
        kept=2,
        check=catalogue("category", "UNCATEGORISED", "UNCATEGORISED"),
    ),
    "texts of three scripts": Case(
        events=PLAIN,
        items="item_id,text,category\n1,牛奶,食品/乳制品\n2,حليب 🥛,طعام\n",
        kept=2,
        check=catalogue("text", "牛奶", "حليب 🥛"),
    ),
    # Conditions.
    "a condition over the source's columns": Case(
        events=f"{H},status,price\na,1,2024-01-02,paid,1\nb,1,2024-01-02,test,2\n"
        "c,1,2024-01-02,paid,0\n",
        keys="where = \"status = 'paid' AND price > 0\"",
        share=0.0,
        kept=1,
        rejects={"left out by where": 2},
    ),
    "a condition over times": Case(
        events=f"{H}\na,1,2023-12-31\nb,1,2024-01-02\n",
        keys="where = \"timestamp >= '2024-01-01'::date\"",
        kept=1,
        rejects={"left out by where": 1},
    ),
    "a condition that names nothing": Case(
        events=PLAIN, keys='where = "colour = 1"', refused="missing-columns", says="colour"
    ),
    "no condition": Case(events=PLAIN, keys='where = "SELECT"', refused="config", says="where"),
    "no truth": Case(events=PLAIN, keys='where = "item_id LIKE 5"', refused="config"),
    # Tolerances.
    "a tolerance of its own": Case(
        events=f"{H}\n" + "a,9,2024-01-02\n" * 3 + "a,1,2024-01-02\n",
        keys='tolerances = { "unknown item_id" = 0.8 }\nkeep_duplicates = true',
        share=0.0,
        kept=1,
        rejects={"unknown item_id": 3},
    ),
    "more than a tolerance of its own": Case(
        events=f"{H}\n" + "a,9,2024-01-02\n" * 3 + "a,1,2024-01-02\n",
        keys='tolerances = { "unknown item_id" = 0.5 }\nkeep_duplicates = true',
        share=0.0,
        refused="unknown-ids",
    ),
    # JSON.
    "an order with its lines": Case(
        name="orders.jsonl",
        events='{"id": 1, "customer": {"id": 7}, "at": "2024-01-02", "lines": [{"sku": 1, "n": 2}, '
        '{"sku": 2, "n": 1}]}\n{"id": 2, "customer": {"id": 8}, "at": "2024-01-02", "lines": []}\n',
        keys='explode = "lines"\n[events.columns]\nuser_id = "customer.id"\nitem_id = "lines.sku"\n'
        'timestamp = "at"\nbasket_id = "id"\nquantity = "lines.n"',
        kept=2,
        rejects={"missing item_id": 1},
        check=column("quantity", 2.0, 1.0),
    ),
    "one object over several lines": Case(
        name="sales.json",
        events='{\n "user_id": "a",\n "item_id": 1,\n "tags": [\n 7\n ],\n'
        ' "timestamp": "2024-01-02"\n}\n',
        kept=1,
    ),
    "one list of objects": Case(
        name="sales.json",
        events='[{"user_id": "a", "item_id": 1, "timestamp": "2024-01-02"},\n'
        '{"user_id": "b", "item_id": 2, "timestamp": "2024-01-02"}, 7]',
        kept=2,
        rejects={"malformed record": 1},
    ),
    "lines that are no objects": Case(
        name="sales.jsonl",
        events='{"user_id": "a", "item_id": 1, "timestamp": "2024-01-02"}\n'
        '[1]x\n{"user_id": \n\n7\n',
        kept=1,
        rejects={"malformed record": 3},
    ),
    "UTF-16 without a mark": Case(
        events=PLAIN.encode("utf-16-be"), kept=2, check=lambda store: "utf-16-be" in store.encodings
    ),
    "unseen signs next to ids": Case(
        events=f"{H}\nada,1,2024-01-02\n\ufeffada,2\u200b,2024-01-03\n\u2060,1,2024-01-04\n",
        kept=2,
        rejects={"unreadable user_id": 1},
        check=customers(1),
    ),
    "two exports in one file": Case(
        events=f"{PLAIN}\ufeff{PLAIN.replace('01-0', '02-0')}",
        kept=4,
        rejects={"unreadable timestamp": 1},
        check=customers(2),
    ),
    "a mark that opens in the last line": Case(
        events=PLAIN + '"c,1,2024-01-04\n', kept=2, rejects={"malformed record": 1}
    ),
    # What a file says once for many rows.
    "a block's values in its first row": Case(
        events=f"{H}\nada,1,2024-01-02\n,2,\nbob,1,2024-01-03\n  ,2,NULL\n",
        keys='fill_down = ["user_id", "timestamp"]',
        kept=3,
        rejects={"missing timestamp": 1},
        check=customers(2),
    ),
    "filled down in a column that is not there": Case(
        events=PLAIN, keys='fill_down = ["card"]', refused="missing-columns", says="'card'"
    ),
    "shop and day in the path": Case(
        name="north/sales-2024-01-02.csv",
        events="user_id,item_id\nada,1\nbob,2\n",
        keys="from_path = '(?P<shop_id>[^/]+)/sales-(?P<timestamp>[0-9-]+)'",
        kept=2,
        check=lambda store: (
            column("shop_id", "north", "north")(store)
            and column("timestamp", datetime(2024, 1, 2), datetime(2024, 1, 2))(store)
        ),
    ),
    "a path of another form": Case(
        events=PLAIN, keys="from_path = 'till-(?P<shop_id>[0-9]+)'", refused="data", says="form"
    ),
    "several categories in a cell": Case(
        events=PLAIN,
        items="item_id,text,category\n1,milk,Food > Dairy | Offers\n2,wine,Drinks\n",
        catalogue_keys='category_separator = " > "\ncategories_separator = "|"',
        kept=2,
        check=catalogue("category", "Food/Dairy", "Drinks"),
    ),
    "a condition over all rows": Case(
        events=f"{H},price\nada,1,2024-01-02,9\nbob,2,2024-01-03,1\n",
        keys='where = "price > AVG(price)"',
        kept=1,
        rejects={"left out by where": 1},
    ),
    "a total of next to nothing": Case(
        events=f"{H},amount,quantity\nada,1,2024-01-02,1e300,1e-300\nbob,2,2024-01-03,1,1\n",
        kept=1,
        rejects={"unreadable price": 1},
    ),
    "numbers beyond every type": Case(
        name="sales.jsonl",
        events="".join(
            f'{{"user_id": {user}, "item_id": 1, "timestamp": "2024-01-02"}}\n'
            for user in (10**30, 10**30 + 1)
        ),
        kept=2,
        check=customers(2),
    ),
    "nested beyond reason": Case(
        name="sales.jsonl",
        events='{"user_id": "a", "item_id": 1, "timestamp": "2024-01-02"}\n' + "[" * 100_000 + "\n",
        kept=1,
        rejects={"malformed record": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_table(name: str, tmp_path: Path):
    case = CASES[name]
    if case.refused:
        with raises(case.refused) as caught:
            store_of(case, tmp_path)
        said = f"{caught.value.message} {caught.value.hint}"
        assert case.says in said
        assert "ada" not in said and "example.org" not in said
        return
    store = store_of(case, tmp_path)
    assert (store.events.height, store.rejects) == (case.kept, dict(case.rejects))
    assert store.rows_read == store.events.height + sum(store.rejects.values())
    assert case.check is None or case.check(store)


def test_the_table_is_long_enough():
    assert len(CELLS) * len(KINDS) + len(CASES) >= 300
