"""An audit of what real stores wrote in real secure rounds."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.audit.evidence import find
from hanse_common.audit.store_checks import verify_store
from hanse_common.paths import AUTHORITY_FILE
from hanse_common.privacy.plan import PrivacyPlan
from kits.apps.secure_federation import ByHand


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_rounds_and_evaluations_of_real_stores_verify_against_their_signed_manifest(
    found_federation, mode
):
    federation = found_federation(
        {
            "privacy.mode": mode,
            "privacy.evaluation_noise_multiplier": 40.0,
            "training.local_steps": 1,
        }
    )
    ByHand(federation).upto("mask")
    ByHand(federation, attempt=2).upto("mask")
    ByHand(federation, "evaluate", run=2, split="test", **{"server-round": 2}).upto("mask")
    authority = bytes.fromhex((federation.folder.path / AUTHORITY_FILE).read_text().strip())
    for evidence in find(federation.folder.path):
        audit = verify_store(evidence, authority=authority, second_opinion=False)
        assert (audit.fault, audit.charges, audit.rounds) == (None, 3, 1)
        assert (
            "every charge under the manifest is as it says, within its grant and its promise"
            in audit.verified
        )
        assert "every entry is signed by the certificate's key" in audit.verified
        ledger = federation.node(evidence.store).ledger
        assert audit.head == ledger.head
        train, evaluate = audit.uses
        assert (train.kind, train.granted, train.used, train.repeated) == ("train", 3, 2, 1)
        assert (evaluate.kind, evaluate.used, evaluate.repeats) == ("evaluate", 1, [])
        assert audit.epsilon == list(ledger)[-1].epsilon_after


def test_a_store_that_charges_less_than_a_round_costs_is_named(federation):
    ByHand(federation).upto("mask")
    node = federation.node("synthetic-03")
    (entry,) = node.ledger
    half = PrivacyPlan.from_settings(federation.settings).round_charge()
    half = replace(half, steps=replace(half.steps, sample_rate=0.5, count=1, stores=1))
    node.ledger.charge(replace(half, release=entry.release))
    done = CliRunner().invoke(app, ["verify", str(federation.folder.path), "--no-second-opinion"])
    assert str(done.exception).startswith("synthetic-03: entry 2 is against the manifest: ")
