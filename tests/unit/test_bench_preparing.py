"""The benchmark of preparing a store: every stage ran, and a process that fails says why."""

from __future__ import annotations

import json

import polars as pl
import pytest
from rich.console import Console

from hanse_client.features.histories import Histories
from hanse_common.paths import HISTORIES_FILE
from hanse_simulations.bench import _preparing_run, preparing
from kits.errors import raises


@pytest.fixture
def folder(tmp_path):
    rows = preparing.make_store(tmp_path, customers=30, visits=700, items=2.5)
    assert rows == pl.read_parquet(tmp_path / _preparing_run.EVENTS).height
    return tmp_path


def test_every_stage_is_measured_and_does_its_work(folder, capsys):
    figures = {}
    for stage in preparing.STAGES:
        _preparing_run.main(folder, stage)
        figures[stage] = json.loads(capsys.readouterr().out)
        if stage == "arranging":
            arranged = (folder / HISTORIES_FILE).read_bytes()
    assert all(part["seconds"] > 0 and part["peak_mb"] > 50 for part in figures.values())
    # The parts alone write what the whole command does.
    assert (folder / HISTORIES_FILE).read_bytes() == arranged
    store = Histories.load(folder / HISTORIES_FILE)
    assert (len(store), len(store.visit_days)) == (30, 700)
    assert store.visit_vectors.shape == (700, 0)


def test_rows_compare_with_polars(monkeypatch, capsys):
    seconds = {"polars": 2.0, "reading": 6.0, "checking": 3.0, "arranging": 2.0}
    seconds |= {"preparing": 8.0, "batch": 0.1}
    monkeypatch.setattr(
        preparing,
        "_measure",
        lambda folder, stage: {
            "seconds": 2 * seconds[stage],
            "cpu_seconds": seconds[stage],
            "peak_mb": 100 * seconds[stage],
        },
    )
    rows = preparing.preparing(customers=10, visits=20, items=1.0)
    assert [row.stage for row in rows] == list(preparing.STAGES)
    assert [row.cpu_over_polars for row in rows] == [1.0, 3.0, 1.5, 1.0, 4.0, 0.05]
    assert rows[4].memory_over_polars == 4.0 and rows[0].events == 20
    Console(width=140).print(preparing.render(rows))
    assert "hanse store data prepare" in capsys.readouterr().out


def test_a_stage_that_fails_says_so(tmp_path):
    with raises("data", match="failed"):
        preparing._measure(tmp_path, "polars")


@pytest.mark.parametrize(
    "sizes", [(0, 10, 1.0), (20, 10, 1.0), (5, 10, 0.5), (5, 10, float("nan"))]
)
def test_impossible_sizes_are_refused(sizes):
    customers, visits, items = sizes
    with raises("config", match="take at least"):
        preparing.preparing(customers=customers, visits=visits, items=items)
