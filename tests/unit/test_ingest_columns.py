"""Cells of every type are read leniently, and canonical frames are held to the schema."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from hanse_client.ingest.casts import as_id, as_text
from hanse_client.ingest.numbers import as_number
from hanse_client.ingest.schema import conform_catalogue, conform_events
from hanse_client.ingest.times import as_timestamp
from hanse_common.errors import DataError
from kits.errors import raises

NOON = datetime(2017, 1, 2, 12)


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["  x ", "", "  ", None, "007"], ["x", None, None, None, "007"]),
        ([7, None], ["7", None]),
        ([7.0, None, float("nan"), -0.0], ["7", None, None, "0"]),
        ([7.5, 1.0], ["7.5", "1"]),
        ([Decimal("7.00"), None], ["7", None]),
        ([None, None], [None, None]),
    ],
)
def test_ids(cells: list[object], read: list[str | None]):
    assert as_id(pl.Series(cells), "column").to_list() == read


def test_categories_are_text():
    assert as_text(pl.Series(["a", "b"], dtype=pl.Categorical)).to_list() == ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        ([" 1.5", "1e3", "NaN", "-inf", "1,5", "", None], [1.5, 1000.0] + [None] * 5),
        ([1, 2], [1.0, 2.0]),
        ([1.0, float("inf"), float("nan")], [1.0, None, None]),
        ([Decimal("1.25")], [1.25]),
        ([None], [None]),
    ],
)
def test_numbers(cells: list[object], read: list[float | None]):
    assert as_number(pl.Series(cells), "column").to_list() == read


@pytest.mark.parametrize(
    "cell",
    [
        NOON,
        "2017-01-02 12:00:00",
        "2017-01-02T12:00:00.000",
        " 2017-01-02T12:00 ",
        "2017-01-02T11:00:00Z",
        "2017-01-02 14:00:00+03:00",
        "2017-01-02T11:00+0000",
        datetime(2017, 1, 2, 11, tzinfo=UTC),
    ],
)
def test_times_are_put_on_the_shops_clock(cell: object):
    column = pl.Series([cell, None])
    read = as_timestamp(column, "column", time_zone="Europe/Berlin")
    assert read.dtype == pl.Datetime("us")
    assert read.to_list() == [NOON, None]


def test_times_of_other_kinds():
    midnight = [datetime(2017, 1, 2)]
    assert as_timestamp(pl.Series([date(2017, 1, 2)]), "c").to_list() == midnight
    assert as_timestamp(pl.Series(["2017-01-02"]), "c").to_list() == midnight
    coarse = pl.Series([NOON]).cast(pl.Datetime("ms"))
    assert as_timestamp(coarse, "c").dtype == pl.Datetime("us")
    american = as_timestamp(pl.Series(["01/02/2017 12:00 PM"]), "c", formats=["%m/%d/%Y %I:%M %p"])
    assert american.to_list() == [NOON]
    for form, cells in (("epoch", [1483354800.0, 1e300]), ("epoch_ms", ["1483354800000", "x"])):
        read = as_timestamp(pl.Series(cells), "c", formats=[form], time_zone="Europe/Berlin")
        assert read.to_list() == [NOON, None]
    with raises("wrong-types", match="time zone"):
        as_timestamp(pl.Series([1483354800]), "c", formats=["epoch"])


EVENT = {"user_id": "a", "item_id": "1", "timestamp": NOON}


def test_conforming_adds_optional_columns_and_drops_foreign_ones():
    frame = conform_events(pl.DataFrame([EVENT | {"phone": "0170", "quantity": None}]))
    assert frame.row(0) == ("a", "1", NOON, "purchase", None, None, 1.0, None, None, None)


@pytest.mark.parametrize(
    "fault",
    [
        {"user_id": None},
        {"item_id": ""},
        {"timestamp": None},
        {"event_type": "stole"},
        {"quantity": 0.0},
        {"quantity": float("nan")},
        {"price": -0.01},
        {"price": float("inf")},
        {"rating": float("nan")},
    ],
)
def test_schema_of_events_refuses(fault: dict[str, object]):
    rows = [EVENT, EVENT | fault]
    columns = {name: [row.get(name) for row in rows] for name in EVENT | fault}
    with raises("data") as caught:
        conform_events(pl.DataFrame(columns))
    assert caught.type is DataError
    assert next(iter(fault)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_schema_of_the_catalogue_refuses_a_repeated_item():
    rows = {"item_id": ["secret-7", "secret-7"], "text": ["x", "y"], "category": ["A", "A"]}
    with raises("data", match="item_id") as caught:
        conform_catalogue(pl.DataFrame(rows))
    assert "secret" not in str(caught.value)


def test_missing_columns_and_wrong_types_of_a_canonical_frame():
    with raises("missing-columns", match="timestamp"):
        conform_events(pl.DataFrame({"user_id": ["a"], "item_id": ["1"]}))
    with raises("wrong-types", match="timestamp"):
        conform_events(pl.DataFrame([EVENT | {"timestamp": "secret"}]))
    aware = pl.DataFrame([EVENT | {"timestamp": NOON.replace(tzinfo=UTC)}])
    with raises("wrong-types", match="'UTC'"):
        conform_events(aware)
