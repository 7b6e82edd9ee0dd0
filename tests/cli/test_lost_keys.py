"""A store that lost its keys comes back by the documented commands, and its ledger goes on.

The commands are those of the table in docs/operators.md, in its order. Here they are run for
every combination of lost keys; `tests/e2e/test_operators_page.py` runs them between processes.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_client.deployment import enrol
from hanse_client.deployment.folder import StoreFolder, create
from hanse_client.deployment.key_rotation import begin
from hanse_common.admission import Invitation
from hanse_common.audit.verify import verify_all
from hanse_common.cli import app
from hanse_common.identity import AuthorityKey, Certificate, StoreKey
from hanse_common.paths import AUTHORITY_KEY_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_server.deployment.admit import Gate, open_request, revoke
from hanse_server.deployment.folder import FederationFolder
from kits.deployment import found
from kits.errors import raises
from kits.page import commands, operators_page, sections

CHARGE = Charge(
    steps=SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1),
    target_delta=1e-6,
    release=Release(kind="train"),
)
SECTION = sections(operators_page())["When something is lost"]


def documented(row: str) -> list[list[str]]:
    """The commands of a row of the table, in order, as words after `hanse`."""
    (line,) = re.findall(rf"^\| {row}.*$", SECTION, re.MULTILINE)
    return [shlex.split(words)[1:] for words in commands(line)]


LOST, LEAKED = documented("`enrolment/store.key`"), documented("… and one of them")
COME_IN = [["store", "enrol", "--folder", "/var/lib/hanse"], *LEAKED[2:]]
"""How a new store, or one with new keys that is not admitted now, comes in."""


def run(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--format", "json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


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
        self.walk(COME_IN)
        self.store.node().charge(CHARGE.of(round=1))

    def walk(self, commands: list[list[str]]) -> None:
        """Run commands as the table has them, each on its own machine."""
        told: dict[str, str] = {}
        for side, *words in commands:
            folder = self.store.path if side == "store" else self.federation.path
            places = {
                "/var/lib/hanse": str(folder),
                "luebeck.request": told.get("request", ""),
                "authority.key": str(self.federation.authority_key),
            }
            if words[0] == "enrol":  # by its option: a revoked store is named alike
                places["luebeck"] = str(self.federation.certificate("luebeck"))
            line = [side, *(places.get(word, word) for word in words)]
            if words[0] == "admit":  # as it was read out by phone
                line += ["--fingerprint", told["fingerprint"]]
            told |= json.loads(run(*line))

    def check(self) -> None:
        """The coordinator lets the store in, and its ledger is one chain over both keys."""
        Gate(self.federation.path)(Certificate.load(self.store.certificate))
        self.store.node().charge(CHARGE.of(round=2))
        verdict = verify_all(self.store.path, authority=self.authority.public, second_opinion=False)
        (audit,) = verdict.stores
        assert audit.fault is None
        assert len(list(self.store.node().ledger)) == 2


@pytest.fixture
def parties(tmp_path) -> Parties:
    return Parties(tmp_path)


def test_the_table_has_one_path_for_each_loss():
    assert [words[:2] for words in LOST] == [
        ["store", "keys"],
        ["server", "admit"],
        ["store", "enrol"],
    ]
    assert [words[:2] for words in LEAKED] == [["server", "revoke"], *(w[:2] for w in LOST)]


@pytest.mark.parametrize(
    ("lost", "path"),
    [
        (("store_key",), LOST),
        (("node_key",), LOST),
        (("store_key", "node_key"), LOST),
        (("store_key", "node_key"), LEAKED),
        (("store_key",), LEAKED),
        ((), LEAKED),
    ],
)
def test_the_documented_commands_bring_the_store_back(parties, lost, path):
    before = StoreKey.load(parties.store.store_key).public
    for name in lost:
        getattr(parties.store, name).unlink()
    parties.walk(path)
    assert StoreKey.load(parties.store.store_key).public != before
    parties.check()


def test_a_store_that_was_revoked_comes_back_twice(parties):
    parties.walk(LEAKED)
    parties.walk(LEAKED)
    parties.check()


def test_a_revoked_store_with_one_new_key_is_told_the_command_and_it_works(parties):
    revoke(parties.federation, "luebeck")
    begin(parties.store, node_key=False)
    with raises("admission-refused", match="hanse store keys rotate --node-key"):
        open_request(parties.federation, enrol.write_request(parties.store))
    parties.walk(LEAKED[1:])
    parties.check()
    with raises("key-file", match="exists already|waits for"):
        begin(parties.store, node_key=True)
        begin(parties.store, node_key=True)


def test_keys_of_every_revocation_stay_refused(parties, tmp_path):
    stolen = tmp_path / "stolen.request"
    stolen.write_bytes(enrol.write_request(parties.store).read_bytes())
    for _ in range(2):
        parties.walk(LEAKED)
    revoke(parties.federation, "luebeck")
    with raises("admission-refused", match="revoked"):
        open_request(parties.federation, stolen)
