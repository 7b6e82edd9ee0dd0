"""docs/auditors.md: its files, commands, error and figures are the product's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.audit.missing import OWED
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.run_file import load_recipe
from hanse_simulations.privacy_audit.bound import Guesses, best_lower_bound
from hanse_simulations.privacy_audit.scoring import guess_counts
from kits.audit import AuditedRun
from kits.packages import ROOT

DOC = (ROOT / "docs" / "auditors.md").read_text(encoding="utf-8")
LINES = sorted({line.split("#")[0] for line in DOC.splitlines() if line.startswith("hanse audit")})


def test_every_file_that_a_store_owes_is_in_the_table_of_what_to_ask_for():
    table = DOC.partition("## What to ask for")[2].partition("## Commands")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for name in (*OWED, "checkpoints/"):
        assert any(name in row.split("|")[1] for row in rows), name


@pytest.mark.parametrize("line", LINES)
def test_every_command_and_option_of_the_page_exists(line):
    name, *words = line.split()[2:]
    command = get_command(app).get_command(None, name)
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.strip("[]") for word in words if word.strip("[").startswith("--")} <= known


def test_the_page_shows_each_command():
    assert {line.split()[2] for line in LINES} == {
        *("verify", "report", "rounds", "budget", "export", "attack")
    }


def test_the_error_that_is_shown_is_the_one_that_comes(tmp_path: Path):
    run = AuditedRun(tmp_path)
    run.charge("luebeck", 2, 2, run=2, noise_multiplier=3.9)
    error = CliRunner().invoke(app, ["verify", str(tmp_path), "--no-second-opinion"]).exception
    assert f"hanse: error: {error} [{error.code}]" in DOC


def test_the_repeats_that_are_shown_are_the_ones_that_are_printed(tmp_path: Path):
    run = AuditedRun(tmp_path, rounds=2, spare=2)
    run.charge("luebeck", 1, 1, attempt=2)
    run.charge("luebeck", 2, 2, run=77)
    shown = CliRunner().invoke(app, ["verify", str(tmp_path), "--no-second-opinion"]).stdout
    (line,) = re.findall(r"`(Repeated: [^…]*)…`", DOC)
    assert line.strip() in " ".join(shown.split())


def test_the_claim_under_attack_is_the_recipes(tmp_path: Path):
    settings = load_recipe("attack")
    plan = PrivacyPlan.from_settings(settings)
    (noise, delta) = re.findall(r"σ = ([\d.]+), δ = ([\de-]+)", DOC)[0]
    assert f"{plan.noise_multiplier:.2f}" == noise
    assert plan.target_delta == float(delta)
    claimed = re.findall(r"claimed ε ([\d.]+)", DOC)
    assert [f"{plan.epsilon_after(rounds=plan.rounds):.2f}"] == claimed
    assert settings.spare_exchanges == 0 and "no spare exchanges" in DOC
    assert f"{settings.federation.rounds} rounds" in DOC
    assert f"{settings.data.stores} synthetic stores" in DOC
    tries = [Guesses(count=count, right=count) for count in guess_counts(1000)]
    most = best_lower_bound(tries, canaries=1000, delta=plan.target_delta)
    assert f"A thousand canaries can show {most:.2f} at most" in DOC
