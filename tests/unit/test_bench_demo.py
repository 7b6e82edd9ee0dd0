"""`hanse bench demo`: the parts of a run add up to it."""

import json

import pytest
from typer.testing import CliRunner

from hanse_common.errors import ConfigError
from hanse_simulations.bench.cli import app
from hanse_simulations.monitoring.stopwatch import Stopwatch


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        changes = ("data.stores=3", "data.customers=15", "federation.rounds=1", "compare=true")
        words = [word for change in changes for word in ("--set", change)]
        done = CliRunner().invoke(app, ["demo", "synthetic", *words, "--format", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["rows"]


def test_every_part_of_a_run_is_timed_and_shares_add_up(rows):
    *parts, whole = rows
    assert whole["part"] == "all"
    assert whole["share"] == 1.0
    names = [row["part"] for row in parts]
    assert names[0] == "reading the shops"
    assert names[-1] == "writing the report"
    assert {"Federated, private", "Each store alone", "judging the simple rules"} <= set(names)
    assert sum(row["share"] for row in parts) == pytest.approx(1.0)
    assert sum(row["cpu_seconds"] for row in parts) == pytest.approx(whole["cpu_seconds"])
    assert all(row["seconds"] > 0 for row in parts)


def test_a_part_that_comes_again_or_fails_adds_to_its_time():
    watch = Stopwatch()
    with watch.part("training"):
        sum(range(200_000))
    first = watch.parts["training"].cpu_seconds
    with pytest.raises(ConfigError), watch.part("training"):
        sum(range(20_000_000))
        raise ConfigError("a part that fails")
    assert watch.parts["training"].cpu_seconds > first
    assert list(watch.parts) == ["training"]
