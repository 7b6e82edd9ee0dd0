"""The attack on real federations: sound code withstands it, missing noise does not."""

import json

import pytest
from typer.testing import CliRunner

from hanse_common.audit.evidence import find
from hanse_common.audit.store_checks import verify_store
from hanse_common.errors import ClaimRefuted
from hanse_simulations.privacy_audit.cli import app
from kits.errors import raises

pytestmark = pytest.mark.slow


@pytest.fixture
def attack(store_cache, monkeypatch):
    """Run the command with one worker and a fixed seed; return what it printed and its error."""
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))

    def run(*options):
        fixed = ["--format", "json", "--quiet", "--workers", "1", "--seed", "7"]
        done = CliRunner().invoke(app, [*fixed, *options])
        if done.exception is not None and not isinstance(done.exception, ClaimRefuted):
            raise done.exception
        return json.loads(done.stdout), done.exception

    return run


FEW = ("--mode", "local", "--stores", "10", "--rounds", "6", "--number", "500")


@pytest.mark.parametrize("options", [(), FEW], ids=["distributed", "local"])
def test_sound_code_stays_below_its_claim_and_the_attack_is_not_blind(attack, options):
    found, error = attack(*options)
    assert error is None and found["ok"]
    assert 0.0 < found["lower_bound"] < found["claimed"] <= 2.0
    assert found["claimed"] < found["most_provable"]
    # What the attacker measures is the noise there is: in one sum of 30 stores, as 26 of them
    # are counted on, a little more than is due. Canaries that were drawn add to it.
    expected = found["noise_multiplier"] * (1.0 if options else (30 / 26) ** 0.5)
    assert found["measured_noise"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("fault", ["no-noise", "noise-over-n"])
@pytest.mark.parametrize("options", [(), FEW], ids=["distributed", "local"])
def test_missing_noise_is_found_while_the_ledgers_are_in_order(attack, options, fault, tmp_path):
    folder = tmp_path / "run"
    found, error = attack(*options, "--fault", fault, "--keep", str(folder))
    assert found["lower_bound"] > found["claimed"]
    assert not found["ok"] and isinstance(error, ClaimRefuted) and error.exit_status == 39
    audits = [verify_store(one, second_opinion=False) for one in find(folder)]
    assert len(audits) == found["stores"]
    assert all(audit.fault is None for audit in audits)
    with raises("run-directory"):
        attack(*options, "--keep", str(folder))
