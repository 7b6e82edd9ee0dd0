"""`import hanse`: one name for all exports, light, and known to transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hanse


@pytest.mark.parametrize("name", ["PrivacyPlan", "secure", "SecureGrid", "list_runs"])
def test_what_the_packages_export_is_there(name):
    assert getattr(hanse, name).__name__ == name
    assert name in dir(hanse)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such"):
        _ = hanse.no_such
    assert not hasattr(hanse, "_private")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_neither_torch_nor_flower():
    heavy = "torch", "transformers", "flwr", "polars"
    assert run(f"import hanse, sys; print([m for m in {heavy} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("order", ["import hanse, transformers", "import transformers, hanse"])
def test_transformers_knows_the_models_whatever_is_imported_first(order):
    text = run(
        f"{order}\n"
        "from transformers import AutoConfig\n"
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING as known\n"
        "kinds = ['interest', 'category', 'sequence', 'text-items', 'conversion', 'review']\n"
        "print([kind for kind in kinds if f'hanse-{kind}' not in known])\n"
    )
    assert text.splitlines()[-1] == "[]"


def test_automodel_reads_the_model_that_inference_reads(tmp_path):
    from transformers import AutoConfig, AutoModel

    from hanse_client import InterestConfig, InterestModel, open_model

    config = InterestConfig(classes=["a", "b", "c"], vector_size=6, n_embd=8, n_head=2)
    InterestModel(config).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).classes == ["a", "b", "c"]
    model, ours = AutoModel.from_pretrained(tmp_path), open_model(tmp_path).model
    assert type(model) is type(ours) is InterestModel
    theirs = model.state_dict()
    assert theirs.keys() == ours.state_dict().keys()
    assert all(theirs[name].equal(tensor) for name, tensor in ours.state_dict().items())
