"""Any bytes in a store's file are rows, or a refusal by name that quotes nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse_client.ingest.source_settings import Source
from hanse_client.ingest.sources import read_rows
from hanse_common.errors import HanseError
from kits.hostile_tables import write_rows

ROWS = [{"user_id": f"secret{row}", "item_id": "1", "timestamp": "2024-01-02"} for row in range(9)]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "parquet", "xlsx", "ods"])
@given(
    edits=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 60),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_rows_or_a_named_error(tmp_path, kind, edits, cut):
    path = tmp_path / f"sales.{kind}"
    write_rows(path, ROWS)
    content = bytearray(path.read_bytes())
    for place, value in edits:
        content[place % len(content)] = value
    path.write_bytes(content[: len(content) - cut])
    try:
        rows = read_rows(Source(path=str(path)))
    except HanseError as error:
        assert "secret" not in f"{error.message} {error.hint}"
        assert "\n" not in error.message
    else:
        assert rows.rows_read == rows.frame.height + rows.malformed


@given(content=st.binary(max_size=300))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_noise_is_rows_or_a_named_error(tmp_path, kind, content):
    path = tmp_path / f"noise.{kind}"
    path.write_bytes(content)
    try:
        read_rows(Source(path=str(path)))
    except HanseError as error:
        assert "\n" not in error.message
