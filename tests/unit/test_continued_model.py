"""A store's model under terms that start from an earlier run's parameters."""

from __future__ import annotations

import shutil

import pytest

from hanse_client.deployment.enrol import check_model, start_of
from hanse_client.inference.export import export_model
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import base_model_digest, manifest_for
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_server.checkpoint import read_arrays, write_arrays
from kits.errors import raises

STORES = ("bremen", "hamburg", "luebeck", "rostock", "wismar")


@pytest.fixture
def model(secure_stores, tmp_path):
    _, prepared = secure_stores
    shutil.copytree(prepared.base_model, tmp_path / "model")
    return tmp_path / "model"


def terms(settings, arrays, base) -> Manifest:
    draft = manifest_for(settings, arrays, list(STORES), federation="baltic", log_key=None)
    return Manifest.model_validate(draft.model_dump() | {"base_digest": base})


def test_the_same_model_serves_every_continued_run(secure_stores, model):
    settings, base = secure_stores[0], base_model_digest(model).hex()
    start = start_of(model, settings)
    assert check_model(model, settings, terms(settings, start, base))
    trained = {name: array + 1 for name, array in start.items()}
    assert not check_model(model, settings, terms(settings, trained, base))
    # The coordinator's folder, whose initial parameters the signing replaced.
    write_arrays(model / INITIAL_FILE, trained)
    assert not check_model(model, settings, terms(settings, trained, base))


def test_another_model_is_refused_however_the_run_starts(secure_stores, model):
    settings, base = secure_stores[0], base_model_digest(model).hex()
    start = start_of(model, settings)
    trained = {name: array + 1 for name, array in start.items()}
    with raises("policy-violation", match="digest"):
        check_model(model, settings, terms(settings, trained, None))
    config = model / "config.json"
    config.write_text(config.read_text() + " ")
    with raises("policy-violation", match="base model"):
        check_model(model, settings, terms(settings, trained, base))


def test_a_continued_run_is_exported_on_the_folder_that_signing_changed(
    secure_stores, model, tmp_path
):
    start = start_of(model, secure_stores[0])
    trained = {name: array + 2 for name, array in start.items()}
    write_arrays(model / INITIAL_FILE, {name: array + 1 for name, array in start.items()})
    run = tmp_path / "run"
    run.mkdir()
    write_arrays(run / GLOBAL_FILE, trained)
    made = export_model(run, model, tmp_path / "exported")
    assert made.trained == sum(array.size for array in trained.values())
    assert read_arrays(run / GLOBAL_FILE).keys() == start.keys()
