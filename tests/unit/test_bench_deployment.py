"""What `hanse bench deployment` prints, and what it refuses; the figures need whole deployments."""

import json
from dataclasses import asdict

import pytest
from rich.console import Console

from hanse_simulations.bench.deployment import STAGES, deployment, render, rows_of
from kits.errors import raises


def test_rows_are_medians_after_the_first_round_and_parts_of_a_plain_round(capsys):
    stages = {name: [90.0, 1.0, 3.0] for name in STAGES}
    rows = rows_of(stages, private=[450.0, 9.0, 11.0], plain=[200.0, 40.0, 40.0])
    table = [(row.deployment, row.part, row.seconds, row.of_plain_round) for row in rows]
    assert table == [
        *(("private", name, 2.0, 0.05) for name in STAGES),
        ("private", "round", 10.0, 0.25),
        ("plain", "round", 40.0, 1.0),
    ]
    assert json.loads(json.dumps([asdict(row) for row in rows]))[-1]["deployment"] == "plain"
    Console(width=120).print(render(rows))
    assert "0.25x" in capsys.readouterr().out


def test_too_few_rounds_or_stores_are_refused():
    with raises("config", match="rounds=1"):
        deployment(3, 1)
    with raises("config", match="stores=2"):
        deployment(2, 3)


@pytest.mark.slow
def test_a_private_round_costs_at_most_two_plain_ones():
    """A claim about the ratio of two rounds measured right after each other, not about seconds."""
    rows = deployment(3, 2)
    (private,) = (row for row in rows if (row.deployment, row.part) == ("private", "round"))
    assert private.of_plain_round <= 2.0
    in_stages = sum(row.seconds for row in rows if row.part in STAGES)
    assert in_stages == pytest.approx(private.seconds, rel=0.05, abs=0.5)
