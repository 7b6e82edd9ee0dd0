"""A model of which every part has a say, a store's node, and the commands that use them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hanse_client.model_cli import app
from hanse_client.node import Node
from hanse_client.tasks.interest import InterestModel

cli = CliRunner()


@pytest.fixture(scope="module")
def run(small_stores, tmp_path_factory) -> Path:
    """A run's folder with a model of which every part has a say."""
    settings, prepared = small_stores
    folder = tmp_path_factory.mktemp("runs") / "trained"
    folder.mkdir()
    model = InterestModel.from_pretrained(prepared.base_model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("visits."):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "model")
    (folder / "settings.json").write_text(settings.model_dump_json())
    return folder


@pytest.fixture
def node(small_node) -> Node:
    return small_node[0]


def ask(*words: object):
    """Run a command; an error that was not meant is raised."""
    done = cli.invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600
