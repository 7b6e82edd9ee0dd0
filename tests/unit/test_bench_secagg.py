"""The secure aggregation benchmark on a small round, with Flower's primitives beside it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("flwr")

from rich.console import Console

from hanse_simulations.bench.secagg import render, run


def test_rows_hold_the_promised_figures_and_print(capsys):
    lines = []
    rows = run(stores=[6], parameters=[2000], dropouts=[0.0, 0.17], progress=lines.append)
    assert lines == [
        "6 stores, 2000 parameters, 0% drop-outs",
        "6 stores, 2000 parameters, 17% drop-outs",
    ]
    for row in rows:
        assert row.exact
        assert row.client_seconds > 0 and row.server_seconds > 0
        assert row.client_speedup is not None and row.server_speedup is not None
        assert row.bytes_per_parameter < 4.2
        assert 0 < row.masking_over_limit < 20
    table = json.loads(json.dumps([row.as_dict() for row in rows]))
    assert table[1]["dropouts"] == 0.17 and table[1]["stores"] == 6
    Console(width=200).print(render(rows))
    assert "mask / limit" in capsys.readouterr().out


def test_the_reference_can_be_left_out():
    (row,) = run(stores=[3], parameters=[10], reference=False)
    assert row.exact and row.client_speedup is None and row.server_speedup is None
