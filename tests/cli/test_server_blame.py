"""`hanse server blame` and `status`: whom rounds go on without, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.errors import BadSum, BudgetSpent, ConfigError
from hanse_common.recipes import synthetic
from hanse_common.secagg import Layout, Section, Terms
from hanse_server.blame import Blame
from hanse_server.checkpoint import write_arrays
from hanse_server.cli import app
from hanse_server.deployment import run, run_state
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.tables import stage_line
from hanse_server.stage_log import ExchangeResult, StageLog, read_stages
from kits.deployment import free_ports
from kits.errors import raises

cli = CliRunner()


def hanse(*arguments: object) -> str:
    done = cli.invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fleet, superlink = free_ports(2)
    hanse(
        *("init", "--folder", tmp_path / "f", "--name", "baltic"),
        *("--address", f"127.0.0.1:{fleet}", "--superlink-port", superlink),
    )
    return tmp_path / "f"


def test_nothing_is_held_against_anybody_at_first(folder):
    assert "nothing is held against any store" in hanse("blame", "--folder", folder)
    assert json.loads(hanse("blame", "--folder", folder, "--format", "json"))["stores"] == []


def test_blame_lists_who_is_left_out_and_takes_one_in_again(folder):
    kept = Blame(folder, run="trial")
    kept.exclude({"wismar": "wrong-share"}, number=3)
    for _ in range(2):
        kept.heard(silent=("riga",), complete=(), late=())
    printed = hanse("blame", "--folder", folder)
    assert "wismar" in printed and "[wrong-share] in round 3 of trial" in printed
    assert "riga" in printed and "silent" in printed
    rows = json.loads(hanse("blame", "--folder", folder, "--format", "json"))["stores"]
    assert [(row["store"], row["standing"]) for row in rows] == [
        ("riga", "silent"),
        ("wismar", "excluded"),
    ]
    hanse("blame", "--folder", folder, "--readmit", "wismar")
    assert "wismar" not in hanse("blame", "--folder", folder)


def test_taking_in_a_store_against_which_nothing_is_held_is_an_error(folder):
    done = cli.invoke(app, ["blame", "--folder", str(folder), "--readmit", "wismar"])
    assert isinstance(done.exception, ConfigError) and done.exception.hint


def test_blame_is_of_a_federations_folder_only(tmp_path):
    done = cli.invoke(app, ["blame", "--folder", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)


def test_status_shows_what_the_search_has_come_to(folder):
    terms = Terms(
        layout=Layout((Section("update", 1, clip=1.0),)),
        minimum_cohort=3,
        maximum_cohort=3,
    )
    stores = ("bremen", "riga", "wismar")
    Blame(folder).summed(
        "train", stores, wrong="forged-vector", number=1, picked=stores, terms=terms
    )
    note = "no store can be left out: the terms allow no absence; 1 round lost"
    printed = " ".join(hanse("status", "--folder", folder).split())
    assert f"train forged-vector: {note}" in printed
    found = json.loads(hanse("status", "--folder", folder, "--format", "json"))
    assert found["searches"] == {"train forged-vector": note}


def test_a_run_that_ended_early_says_so_and_how_to_go_on(folder):
    run_dir = folder / "runs" / "spring"
    run_dir.mkdir(parents=True)
    (run_dir / "settings.json").write_text(synthetic().model_dump_json())
    (run_dir / "flower.json").write_text('{"runs": [1]}')
    ended = ExchangeResult(error=BudgetSpent("spent"), note="ended early after round 4")
    StageLog(run_dir, -1).append(4, "done", ended)
    write_arrays(run_dir / "global.safetensors", {})
    state = run_state.state_of(FederationFolder(folder), run_dir)
    assert state.state == "ended early"
    assert "--continue-from spring" in state.failure["hint"]
    assert "ended early" in stage_line(read_stages(run_dir)[-1], 10)
    with raises("run-not-resumable"):
        run.resume(FederationFolder(folder), name="spring")
    assert "spring: ended early" in hanse("status", "--folder", folder)


def test_a_lost_round_is_shown_with_its_code_and_who_was_missing(tmp_path):
    log = StageLog(tmp_path, -1)
    forged = BadSum("a sum", code="forged-vector")
    lost = ExchangeResult(error=forged, refusals={"riga": "why"}, note="one of many")
    log.append(3, "train", lost)
    log.append(4, "train", ExchangeResult(survivors=tuple("abcde"), cut=0.42))
    lost, cut = (stage_line(stage, 10) for stage in read_stages(tmp_path))
    assert lost == "round 3/10  lost [forged-vector]: one of many\n    riga: why"
    assert cut == "round 4/10  trained by 5 stores in 0.0 s, the sum cut to 42%"
