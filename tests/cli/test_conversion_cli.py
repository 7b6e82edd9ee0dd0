"""`hanse simulate conversion` as a person runs it: real campaigns, masks and noise on."""

import json

import pytest
from typer.testing import CliRunner

from hanse_client.node import Node, list_nodes
from hanse_client.tasks.conversion.model import ConversionModel
from hanse_common.errors import ConfigError
from hanse_simulations.cli import simulate

cli = CliRunner()


@pytest.mark.slow
def test_campaigns_are_learnt_under_masks_and_noise(monkeypatch, tmp_path):
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path / "runs"))
    small = ["--stores", "5", "--customers", "80", "--rounds", "2", "--workers", "1", "--quiet"]
    asked = ["conversion", *small, "--no-compare", "--format", "json", "--name", "c"]
    done = cli.invoke(simulate, asked)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["secure_aggregation"] and 0 < found["epsilon"]["max"] <= 8.0
    assert found["stores"] == 5 and found["arms"] == {}
    assert found["left_out"] == {"campaigns from before the records begin": 3}
    assert all(0 <= one["auc"] <= 1 for one in (found["metrics"], *found["baselines"].values()))
    model = ConversionModel.from_pretrained(tmp_path / "runs" / "c" / "model")
    assert model.head.weight.any()
    for folder in list_nodes(tmp_path / "runs" / "c" / "arms" / "federated_private" / "stores"):
        assert [entry.release.round for entry in Node(folder).ledger] == [1, 2]


def test_data_without_campaigns_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HANSE_RUNS", str(tmp_path / "runs"))
    done = cli.invoke(simulate, ["conversion", "--set", "data.source=synthetic", "--quiet"])
    assert isinstance(done.exception, ConfigError)
    assert "no campaigns" in done.exception.message
