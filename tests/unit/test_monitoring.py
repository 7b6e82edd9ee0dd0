"""Figures from damaged, hostile or half-written files."""

from __future__ import annotations

import json
from pathlib import Path

from hanse_common.monitoring.endpoint import Endpoint, exposition
from hanse_common.monitoring.health import Health
from hanse_server.metrics import read_metrics
from kits.errors import raises


def run_with(tmp_path: Path, refusals: dict[str, str]) -> Path:
    run = tmp_path / "runs" / "trial"
    run.mkdir(parents=True)
    (run / "settings.json").write_text('{"federation": {"rounds": 3}}')
    line = {
        "round": 1,
        "stage": "train",
        "split": None,
        "replies": 4,
        "refusals": refusals,
        "sums": {},
        "attempts": 1,
        "noise_share": None,
        "outcome": "summed",
        "seconds": 2.0,
        "time": 1.0,
    }
    (run / "rounds.jsonl").write_text(json.dumps(line) + "\n" + '{"round": 2, "sta')
    return run


def text_of(folder: Path) -> str:
    return exposition(lambda: read_metrics(folder))[1].decode()


def test_what_a_store_writes_as_its_reason_never_becomes_a_label(tmp_path: Path):
    run_with(
        tmp_path,
        {
            "a": "at stage 'hello': [budget-spent] the store would have spent epsilon=9",
            "b": "at stage 'x\"} 1\nhanse_runs 99': [no-such-code] \n# HELP evil",
            "c": "[federation] num-examples must be 1",
            "d": "something else\nentirely",
        },
    )
    lines = [line for line in text_of(tmp_path).splitlines() if "lost_total{" in line]
    labels = {
        line.partition('store="')[2][0]: (
            line.partition('at="')[2].partition('"')[0],
            line.partition('code="')[2].partition('"')[0],
        )
        for line in lines
    }
    assert labels == {
        "a": ("hello", "budget-spent"),
        "b": ("", "other"),
        "c": ("", "federation"),
        "d": ("", "other"),
    }
    assert "evil" not in text_of(tmp_path)
    assert "hanse_runs 99" not in text_of(tmp_path)


def test_a_half_written_line_is_left_out(tmp_path: Path):
    run_with(tmp_path, {})
    text = text_of(tmp_path)
    assert 'hanse_attempts_total{run="trial",stage="train"} 1.0' in text
    assert 'hanse_run_rounds_done{run="trial"} 1.0' in text
    assert "hanse_noise_share" not in text


def test_why_a_run_failed_is_a_known_code(tmp_path: Path):
    run = run_with(tmp_path, {})
    (run / "failure.json").write_text('{"code": "round-failed", "message": "secret"}')
    assert 'hanse_run_failed{code="round-failed",run="trial"} 1.0' in text_of(tmp_path)
    (run / "failure.json").write_text('{"code": "')
    assert 'hanse_run_failed{code="other",run="trial"} 1.0' in text_of(tmp_path)


def test_only_the_last_run_is_shown(tmp_path: Path):
    import os

    for number, name in enumerate(("old", "new")):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "settings.json").write_text("{}")
        os.utime(run / "settings.json", (number, number))
    text = text_of(tmp_path)
    assert "hanse_runs 2.0" in text
    assert 'run="new"' in text
    assert 'run="old"' not in text


def test_a_taken_port_is_told(tmp_path: Path):
    with Endpoint(read=list, check=lambda: Health(checks={}), port=0) as first:
        port = int(first.url.rpartition(":")[2])
        with raises("config"):
            Endpoint(read=list, check=lambda: Health(checks={}), port=port)
