"""A store that lost its keys comes back by the documented commands, and its ledger goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder, create
from hanse_client.deployment.key_rotation import begin
from hanse_common.admission import Invitation
from hanse_common.audit.verify import verify_all
from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.paths import AUTHORITY_KEY_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_server.deployment.admit import Gate, admit, open_request, revoke
from hanse_server.deployment.folder import FederationFolder
from kits.deployment import found
from kits.errors import raises

CHARGE = Charge(
    steps=SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1),
    target_delta=1e-6,
    release=Release(kind="train"),
)


class Parties:
    """A coordinator, and one of its stores with a charge in its ledger."""

    def __init__(self, path: Path) -> None:
        found(path / "baltic")
        self.federation = FederationFolder(path / "baltic")
        self.authority = AuthorityKey.load(path / "baltic" / AUTHORITY_KEY_FILE)
        self.store = StoreFolder(path / "luebeck")
        create(self.store, "luebeck")
        invitation = Invitation.load(path / "baltic" / "invitation.json")
        enrol.accept_invitation(self.store, invitation)
        self.come_in()
        self.store.node().charge(CHARGE.of(round=1))

    def come_in(self, *, replace: bool = False) -> None:
        """Request, admission, and the certificate's way back."""
        request = open_request(self.federation, enrol.write_request(self.store))
        admit(self.federation, request, self.authority, replace=replace)
        enrol.accept_certificate(self.store, self.federation.certificate("luebeck"))

    def check(self) -> None:
        """The coordinator lets the store in, and its ledger is one chain over both keys."""
        Gate(self.federation.path)(enrol.Certificate.load(self.store.certificate))
        self.store.node().charge(CHARGE.of(round=2))
        verdict = verify_all(self.store.path, authority=self.authority.public, second_opinion=False)
        (audit,) = verdict.stores
        assert audit.fault is None
        assert len(list(self.store.node().ledger)) == 2


@pytest.fixture
def parties(tmp_path) -> Parties:
    return Parties(tmp_path)


@pytest.mark.parametrize(
    ("lost", "revoked"),
    [
        (("store_key",), False),
        (("node_key",), False),
        (("store_key", "node_key"), False),
        (("store_key", "node_key"), True),
        ((), True),
    ],
)
def test_two_new_keys_bring_the_store_back(parties, lost, revoked):
    before = StoreKey.load(parties.store.store_key).public
    for name in lost:
        getattr(parties.store, name).unlink()
    if revoked:
        revoke(parties.federation, "luebeck")
    begin(parties.store, node_key=True)
    parties.come_in(replace=not revoked)
    assert StoreKey.load(parties.store.store_key).public != before
    parties.check()


def test_a_revoked_store_with_one_new_key_is_told_the_command_and_it_works(parties):
    revoke(parties.federation, "luebeck")
    begin(parties.store, node_key=False)
    with raises("admission-refused", match="hanse store keys rotate --node-key"):
        parties.come_in()
    begin(parties.store, node_key=True)
    parties.come_in()
    parties.check()
    with raises("key-file", match="exists already|waits for"):
        begin(parties.store, node_key=True)
        begin(parties.store, node_key=True)


def test_keys_of_every_revocation_stay_refused(parties, tmp_path):
    stolen = tmp_path / "stolen.request"
    stolen.write_bytes(enrol.write_request(parties.store).read_bytes())
    for _ in range(2):
        revoke(parties.federation, "luebeck")
        begin(parties.store, node_key=True)
        parties.come_in()
    revoke(parties.federation, "luebeck")
    with raises("admission-refused", match="revoked"):
        open_request(parties.federation, stolen)
