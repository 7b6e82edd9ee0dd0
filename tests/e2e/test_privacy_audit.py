"""The attack on real federations: sound code withstands it, missing noise does not."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_common.audit.evidence import find
from hanse_common.audit.store_checks import verify_store
from hanse_common.errors import ClaimRefuted
from hanse_common.run_file import load_recipe
from hanse_simulations.privacy_audit.cli import app
from hanse_simulations.privacy_audit.faults import Fault
from hanse_simulations.privacy_audit.run import attack as run_attack
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
    # are counted on, a little more than is due.
    (phase,) = found["phases"]
    expected = phase["noise_multiplier"] * (1.0 if options else (30 / 26) ** 0.5)
    assert phase["measured_noise"] == pytest.approx(expected, rel=0.05)


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


STATISTICS = [
    {"name": "category-pairs", "release": "statistics", "share": 0.5},
    {"name": "class-residuals", "release": "statistics", "share": 0.5},
]
WITH_GRADIENT = [*({**phase, "share": 0.3} for phase in STATISTICS), {"share": 0.4}]


@pytest.fixture
def attack_phases(store_cache, monkeypatch):
    """Attack small stores of the model of categories, in the phases that are given."""
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))

    def run(phases, *, rounds, fault=Fault.NONE, mode="distributed", stores=10):
        settings = load_recipe("attack").with_changes(
            {
                "model.kind": "categories",
                "phases": phases,
                "data.stores": stores,
                "federation.rounds": rounds,
                # As in `grocery`: the attack takes momentum and averaging out.
                "federation.strategy": "FedAvgM",
                "federation.strategy_options": {"server_momentum": 0.9},
                "federation.average_last": 0.5,
                "training.sample_rate": 1.0,
                "privacy.mode": mode,
                "privacy.statistics_noise_multiplier": 100.0,
                "compute.workers": 1,
                "seed": 7,
            }
        )
        return run_attack(settings, canaries=500, fault=fault, quiet=True)

    return run


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_sound_run_of_phases_stays_below_its_claim(attack_phases, mode):
    found = attack_phases(WITH_GRADIENT, rounds=4, mode=mode)
    assert not found.refuted
    assert 0.0 <= found.lower_bound < found.claimed <= 2.0
    names = [phase["name"] for phase in WITH_GRADIENT[:2]]
    assert [phase.name for phase in found.phases] == [*names, "train"]
    assert [phase.rounds for phase in found.phases] == [1, 1, 2]
    # Canaries have a number each in one phase, and share the numbers of the others.
    assert [phase.numbers > 500 for phase in found.phases] == [True, False, False]
    for phase in found.phases:
        due = phase.noise_multiplier * (1.0 if mode == "local" else (10 / 8) ** 0.5)
        # Five standard deviations of an estimate by so many numbers and rounds; integer noise
        # is a little more than the Gaussian one that it stands for.
        numbers = phase.rounds * phase.numbers * (found.stores if mode == "local" else 1)
        apart = 5 / np.sqrt(2 * numbers)
        assert (1 - apart) * due < phase.measured_noise < 1.05 * (1 + apart) * due


# With ten stores the noise that is left of sigma / n would still hide most canaries.
@pytest.mark.parametrize(("fault", "stores"), [(Fault.NO_NOISE, 10), (Fault.NOISE_OVER_N, 30)])
def test_statistics_without_their_noise_are_found(attack_phases, fault, stores):
    found = attack_phases(STATISTICS, rounds=2, fault=fault, stores=stores)
    assert found.refuted and found.lower_bound > found.claimed
    for phase in found.phases:
        assert phase.measured_noise < 0.5 * phase.noise_multiplier


def test_statistics_without_noise_are_found_in_mode_local(attack_phases):
    assert attack_phases(STATISTICS, rounds=2, fault=Fault.NO_NOISE, mode="local").refuted
