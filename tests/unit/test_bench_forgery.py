"""`hanse bench forgery`: one vector's effect on a finished run's model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hanse_common.manifest_noise import planned_customers, statistics_norm, sum_norm
from hanse_server.rounds import run_rounds
from hanse_simulations.bench.cli import app
from hanse_simulations.bench.forgery import forgery
from hanse_simulations.runs.folder import RunFolder
from kits.apps.secure_federation import SecureFederation
from kits.encoder import tiny_encoder
from kits.errors import raises
from kits.public import category_stores


@pytest.fixture
def run(found_federation):
    """A run's folder, as `hanse simulate` leaves it, as far as the command reads it."""
    federation = found_federation(
        {
            "privacy.mode": "distributed",
            "training.local_steps": 1,
            "training.learning_rate": 0.2,
            "federation.rounds": 1,
        }
    )
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    folder = RunFolder(federation.folder.path)
    folder.write_settings(federation.settings)
    return folder, federation.manifest()


def test_a_cut_vector_does_what_one_store_can_and_an_uncut_one_more(run):
    folder, manifest = run
    none, uncut, cut, honest = forgery(folder, norm=1e6)
    assert uncut.first == 1.0, "it is on rank 1 of every basket"
    assert none.first <= honest.first <= cut.first < uncut.first
    assert (cut.norm, honest.norm) == (sum_norm(manifest), manifest.sections[0].clip)
    assert {row.baskets for row in (uncut, cut, honest)} == {none.baskets}
    assert none.norm == 0.0 and none.baskets > 0


def test_the_class_to_raise_may_be_named(run):
    folder, _ = run
    rows = forgery(folder)
    assert {row.category for row in rows} == {rows[0].category}
    again = forgery(folder, category=rows[0].category)
    assert again == rows
    with raises("unknown-category", match="'nothing'"):
        forgery(folder, category="nothing")


def test_a_run_without_secure_aggregation_has_no_sum_to_forge(run):
    folder, _ = run
    open_run = folder.read_settings().with_changes(
        {"privacy.mode": "local", "federation.secure_aggregation": False}
    )
    folder.write_settings(open_run)
    with raises("config", match="secure aggregation"):
        forgery(folder)


def test_the_command_prints_rows(run):
    folder, _ = run
    done = CliRunner().invoke(app, ["forgery", str(folder.path), "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["vector"] for row in rows] == [
        "none",
        "forged, not cut",
        "forged, cut to the public norm",
        "honest, at the largest clip",
    ]


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A run of the recipe `grocery`, which releases pairs of classes."""
    tiny_encoder(tmp_path / "encoder")
    changes = {"federation.rounds": 3, "federation.evaluate_every": 3}
    settings, prepared = category_stores(tmp_path, tmp_path / "made", changes)
    (tmp_path / "run").mkdir()
    federation = SecureFederation(tmp_path / "run", settings, prepared)
    federation.skip_clipping_check()
    monkeypatch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    folder = RunFolder(federation.folder.path)
    folder.write_settings(federation.settings)
    return folder, federation


def test_a_forged_release_does_no_more_than_an_honest_one_at_the_largest_clip(released):
    folder, federation = released
    manifest, settings = federation.manifest(), federation.settings
    none, unbounded, forged, honest, usual = forgery(folder, norm=1e6)
    assert forged.norm == statistics_norm(manifest, settings, "category-pairs")
    assert honest.norm == manifest.sections_of("category-pairs")[0].clip
    assert usual.norm == planned_customers(settings) == 175
    assert none.first <= usual.first <= forged.first <= honest.first < 1.0
    # What the model makes of the sums is bounded, so that even a million customers say no more.
    assert unbounded.first <= 1.1 * honest.first
