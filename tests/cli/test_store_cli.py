"""`hanse store` from outside: every command, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import stat
import time
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from hanse_client.deployment.cli import app
from hanse_client.deployment.folder import StoreFolder, load_node_key
from hanse_client.deployment.leave import check_staying
from hanse_client.ingest.store_config import load_store
from hanse_common.admission import Invitation, Request
from hanse_common.errors import StoreNotReady
from hanse_common.identity import AuthorityKey, Certificate, StoreKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.manifest_terms import plan_of
from hanse_common.paths import LOG_CHECKPOINTS_FOLDER
from hanse_common.policy import StorePolicy
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.charge import Charge, Release
from kits.apps.deployment import make_tls
from kits.errors import raises

cli = CliRunner()
PRIVATE = ("customer.key", "node.key", "enrolment/store.key")
CHARGE = Charge(
    steps=SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=1),
    target_delta=1e-6,
    release=Release(kind="train"),
)


def hanse(folder: StoreFolder | Path, *arguments: object, typed: str = "") -> dict:
    """Run a command in a store's folder; return what it prints as JSON."""
    path = folder.path if isinstance(folder, StoreFolder) else folder
    line = [*map(str, arguments), "--folder", str(path), "--format", "json"]
    done = cli.invoke(app, line, input=typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(code: str, folder: StoreFolder | Path, *arguments: object, typed="") -> str:
    with raises(code) as refusal:
        hanse(folder, *arguments)
    assert refusal.value.hint, "an error says what to do"
    return str(refusal.value)


class Authority:
    """An enrolment authority on the other side of the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = AuthorityKey.generate()
        make_tls(folder / "tls")

    def invitation(self, **changes) -> Path:
        terms = {
            "federation": "baltic",
            "authority": self.key.public.hex(),
            "fleet": "127.0.0.1:1",
            "ca": (self.folder / "tls" / "ca.crt").read_text(),
        }
        path = self.folder / "invitation.json"
        Invitation(**(terms | changes)).save(path)
        return path

    def certificate(self, request: Path, *, by: AuthorityKey | None = None, **changes) -> Path:
        asked = Request.load(request)
        now = int(time.time())
        terms = {
            "public_key": asked.public_key,
            "node_key": asked.node_digest,
            "valid_from": now - 60,
            "valid_until": now + 90 * 86_400,
        }
        store = changes.pop("store_id", asked.store_id)
        path = self.folder / "certificate"
        (by or self.key).certify(store, **(terms | changes)).save(path)
        return path

    def manifest(self, *, by: AuthorityKey | None = None, **changes) -> Path:
        terms = {
            "federation": "baltic",
            "stores": ("bremen", "hamburg", "luebeck", "rostock", "wismar"),
            "sections": (SectionTerms(name="update", length=1000, clip=1.0),),
            "arrays": {"w": (1000,)},
            "model_digest": "00" * 32,
            "fab_digest": "ab" * 32,
            "log_key": "cd" * 32,
            "rounds": 50,
            "privacy": PrivacyTerms(
                mode="local",
                target_epsilon=4.0,
                target_delta=1e-6,
                noise_multiplier=4.0,
                sample_rate=0.1,
                max_grad_norm=1.0,
                local_steps=1,
                max_stores_per_customer=1,
                one_home=False,
                statistics_noise_multiplier=10.0,
            ),
        }
        path = self.folder / "manifest.json"
        SignedManifest.sign(Manifest(**(terms | changes)), by or self.key).save(path)
        return path


@pytest.fixture
def authority(tmp_path) -> Authority:
    (tmp_path / "authority").mkdir()
    return Authority(tmp_path / "authority")


@pytest.fixture
def store(tmp_path) -> StoreFolder:
    hanse(tmp_path / "luebeck", "init", "luebeck")
    return StoreFolder(tmp_path / "luebeck")


@pytest.fixture
def invited(store, authority) -> StoreFolder:
    hanse(store, "enrol", "--invitation", authority.invitation(), "--yes")
    return store


@pytest.fixture
def member(invited, authority) -> StoreFolder:
    request = Path(hanse(invited, "enrol")["request"])
    files = (authority.certificate(request), authority.manifest())
    hanse(invited, "enrol", "--certificate", files[0], "--manifest", files[1])
    return invited


def test_the_command_is_installed_as_hanse_store():
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = table["project"]["entry-points"]["hanse.commands"]["store"].partition(":")
    assert getattr(import_module(module), name) is app


# init


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_init_leaves_private_keys_for_their_owner_only(tmp_path, umask):
    before = os.umask(umask)
    try:
        hanse(tmp_path / "s", "init", "luebeck")
    finally:
        os.umask(before)
    for name in PRIVATE:
        assert stat.S_IMODE((tmp_path / "s" / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((tmp_path / "s" / "enrolment").stat().st_mode) & 0o077 == 0


def test_init_prints_no_secret(tmp_path):
    done = cli.invoke(app, ["init", "luebeck", "--folder", str(tmp_path / "s")])
    secret = (tmp_path / "s" / "enrolment" / "store.key").read_text().split()[1]
    assert done.exit_code == 0
    assert secret not in done.output and "PRIVATE" not in done.output


def test_the_templates_that_init_leaves_are_read_by_the_product(store, authority):
    assert load_store(store.store_toml).name == "luebeck"
    text = store.policy.read_text().replace('authority = ""', f'authority = "{"ab" * 32}"')
    store.policy.write_text(text)
    defaults = StorePolicy(authority="ab" * 32)
    assert StorePolicy.from_toml(store.policy) == defaults


def test_init_overwrites_nothing(store):
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert "exists already" in refused("key-file", store, "init", "luebeck")
    assert {path: path.read_bytes() for path in before} == before


def test_init_takes_no_name_that_a_certificate_cannot_hold(tmp_path):
    with raises("malformed-message", match="store id"):
        hanse(tmp_path / "s", "init", "Lübeck!")
    assert not (tmp_path / "s").exists()


def test_commands_say_when_there_is_no_store(tmp_path):
    for command in (["enrol"], ["doctor"], ["join"], ["budget"], ["keys", "rotate"]):
        assert "no store's folder" in refused("store-not-ready", tmp_path, *command)


# enrol


def test_the_request_proves_the_key_and_holds_no_secret(store):
    path = Path(hanse(store, "enrol")["request"])
    request = Request.load(path)
    request.check(now=int(time.time()))
    assert request.public_key == StoreKey.load(store.store_key).public
    assert isinstance(load_node_key(store.node_key), ec.EllipticCurvePrivateKey)
    for name in PRIVATE[1:]:
        for line in (store.path / name).read_text().splitlines():
            assert line.startswith("-----") or line.split()[-1] not in path.read_text()


def test_an_invitation_is_kept_once_its_authority_is_confirmed(store, authority):
    path = authority.invitation()
    refused_words = "not confirmed"
    with raises("interrupted", match=refused_words):
        hanse(store, "enrol", "--invitation", path, typed="n\n")
    assert not (store.path / "invitation.json").exists()
    hanse(store, "enrol", "--invitation", path, typed="y\n")
    assert StorePolicy.from_toml(store.policy).authority == authority.key.public.hex()


def test_a_fingerprint_heard_by_phone_stands_for_the_question(store, authority):
    path = authority.invitation()
    heard = Invitation.load(path).fingerprint
    refused("bad-invitation", store, "enrol", "--invitation", path, "--fingerprint", "ab:cd")
    hanse(store, "enrol", "--invitation", path, "--fingerprint", heard.upper().replace(":", " "))


def test_another_authority_is_not_pinned_over_the_first(invited, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").invitation()
    before = invited.policy.read_bytes()
    said = refused("policy-violation", invited, "enrol", "--invitation", other, "--yes")
    assert "invitation has authority=" in said
    assert invited.policy.read_bytes() == before


def test_an_invitation_of_another_federation_pins_nothing(store, authority):
    text = 'federation = "hanse"\n' + store.policy.read_text()
    store.policy.write_text(text)
    refused("policy-violation", store, "enrol", "--invitation", authority.invitation(), "--yes")
    assert store.policy.read_text() == text


def test_nothing_is_taken_in_before_an_authority_is_pinned(store, authority):
    request = Path(hanse(store, "enrol")["request"])
    certificate = authority.certificate(request)
    assert "pins no authority" in refused(
        "store-not-ready", store, "enrol", "--certificate", certificate
    )
    for words in (["notify"], ["metrics", "--check"]):
        done = cli.invoke(app, [*words, "--folder", str(store.path)])
        assert "pins no authority" in f"{done.output}{done.exception}", words


def test_what_comes_back_is_taken_in(member):
    assert Certificate.load(member.certificate).store_id == "luebeck"
    assert member.membership().manifest.federation == "baltic"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (
            {"by": AuthorityKey.generate()},
            "bad-certificate",
            "not signed by the enrolment authority",
        ),
        ({"store_id": "rostock"}, "bad-certificate", "of store 'rostock', this is 'luebeck'"),
        ({"public_key": StoreKey.generate().public}, "bad-certificate", "of another store key"),
        ({"node_key": bytes(32)}, "bad-certificate", "of another Flower node key"),
        ({"valid_from": 1, "valid_until": 2}, "expired-certificate", "valid until"),
        ({"valid_from": 2**40, "valid_until": 2**41}, "expired-certificate", "clock"),
    ],
)
def test_a_certificate_that_does_not_fit_changes_nothing(invited, authority, changes, code, words):
    request = Path(hanse(invited, "enrol")["request"])
    path = authority.certificate(request, **changes)
    assert words in refused(code, invited, "enrol", "--certificate", path)
    assert not invited.certificate.exists()


def test_every_term_beyond_the_policy_is_listed(invited, authority):
    path = authority.manifest(
        minimum_cohort=3,
        fab_digest=None,
        stores=("bremen", "hamburg", "rostock"),
        privacy=PrivacyTerms(mode="local", target_epsilon=9.0, target_delta=1e-3),
    )
    said = refused("policy-violation", invited, "enrol", "--manifest", path)
    for words in (
        "minimum_cohort=3",
        "privacy.target_epsilon=9.0",
        "privacy.target_delta=0.001",
        "does not list 'luebeck'",
        "does not name the app bundle (fab_digest)",
        "no noise multiplier",
    ):
        assert words in said
    assert not invited.manifest.exists()


def test_a_manifest_of_somebody_else_is_refused(invited, authority):
    path = authority.manifest(by=AuthorityKey.generate())
    refused("bad-manifest", invited, "enrol", "--manifest", path)
    assert not invited.manifest.exists()


def test_terms_that_are_replaced_are_kept_beside_the_new_ones(member, authority):
    before = member.membership().manifest
    hanse(member, "enrol", "--manifest", authority.manifest(rounds=60))
    assert member.membership().manifest.rounds == 60
    (kept,) = member.enrolment.glob("manifest.*.json")
    assert SignedManifest.load(kept).unchecked == before


def test_other_settings_than_the_manifest_names_are_refused(member, tmp_path):
    from hanse_common.config import DataSettings, RunSettings

    path = tmp_path / "settings.json"
    settings = RunSettings(recipe="x", data=DataSettings(source="synthetic"))
    path.write_text(settings.model_dump_json())
    assert "the manifest names" in refused("policy-violation", member, "enrol", "--settings", path)


# doctor


def test_doctor_names_every_fault_and_how_to_mend_it(member):
    (member.path / "node.key").chmod(0o644)
    done = cli.invoke(app, ["doctor", "--folder", str(member.path), "--format", "json"])
    assert isinstance(done.exception, StoreNotReady)
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert findings["key files"]["mend"] == f"chmod 600 {member.node_key}"
    assert "cannot read" in findings["data"]["message"] or findings["data"]["state"] == "failed"
    assert "does not answer" in findings["server"]["message"]
    assert findings["telemetry"]["state"] == "ok"
    for row in findings.values():
        assert (row["state"] == "ok") == (not row["mend"]), row


def test_doctor_finds_a_membership_that_no_longer_holds(member, authority):
    policy = member.policy.read_text().replace("max_epsilon = 8.0", "max_epsilon = 1.0")
    member.policy.write_text(policy)
    done = cli.invoke(app, ["doctor", "--folder", str(member.path), "--format", "json"])
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert "requires at most 1.0" in findings["membership"]["message"]


def test_doctor_says_how_far_the_round_log_is_remembered(member):
    def found():
        done = cli.invoke(app, ["doctor", "--folder", str(member.path), "--format", "json"])
        return {row["check"]: row for row in json.loads(done.stdout)}["round log"]

    assert (found()["state"], found()["message"]) == ("ok", "nothing seen of it yet")
    key = member.membership().manifest.log_key
    folder = member.path / LOG_CHECKPOINTS_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / key[:16]).write_text("half a line")
    assert found()["state"] == "failed"


def test_doctor_prints_a_table_for_people(member):
    done = cli.invoke(app, ["doctor", "--folder", str(member.path)])
    assert "code pin" in done.stdout and "->" in done.stdout


# join


def test_join_says_what_is_missing_and_which_command_brings_it(store, invited, member):
    said = refused("store-not-ready", member, "join")
    assert "hanse store enrol --settings" in said


def test_join_without_a_certificate_is_not_ready(invited):
    assert "no certificate yet" in refused("store-not-ready", invited, "join")


# budget, leave


def test_a_new_store_has_spent_nothing(store):
    assert hanse(store, "budget")["spent"] == 0
    assert hanse(store, "budget")["limit"] is None  # no policy is in force yet


def test_budget_counts_charges(member):
    node = member.node()
    for number in (1, 2):
        node.charge(CHARGE.of(round=number), budget=Budget(max_epsilon=8.0))
    found = hanse(member, "budget")
    assert 0 < found["spent"] == found["spent_ever"] < 8
    assert found["left"] == pytest.approx(8 - found["spent"])
    assert found["rounds_left"] > 0


def test_rounds_left_are_those_of_the_new_terms(member, authority):
    """The next round costs what the manifest says, not what the last one cost."""
    member.node().charge(CHARGE.of(round=1), budget=Budget(max_epsilon=8.0))
    before = hanse(member, "budget")["rounds_left"]
    privacy = member.membership().manifest.privacy
    noise = {"noise_multiplier": 1.0, "target_epsilon": 8.0}
    terms = authority.manifest(rounds=5, privacy=privacy.model_copy(update=noise))
    hanse(member, "enrol", "--manifest", terms)
    after = hanse(member, "budget")["rounds_left"]
    plan = plan_of(member.membership().manifest)
    assert after == plan.rounds_left([CHARGE.steps], limit=hanse(member, "budget")["limit"])
    assert 0 < after < before


def test_a_store_leaves_after_a_round_for_good(store):
    assert hanse(store, "leave", "--after-round", 3)["leaves"] == "after round 3"
    check_staying(store.path, 3)
    with raises("store-left", match="round 3"):
        check_staying(store.path, 4)
    with raises("store-left"):
        check_staying(store.path, 1)  # a new run counts from one
    hanse(store, "leave", "--stay")
    check_staying(store.path, 4)


def test_a_store_that_leaves_at_once_takes_part_in_nothing(store):
    hanse(store, "leave", "--after-round", 0)
    with raises("store-left"):
        check_staying(store.path, 0)


def test_leave_wants_one_answer(store):
    refused("config", store, "leave")
    refused("config", store, "leave", "--stay", "--after-round", 1)


def test_a_damaged_decision_stops_the_store(store):
    (store.path / "leaving.json").write_text('{"after_round": "soon"}')
    with raises("config", match="damaged"):
        check_staying(store.path, 1)


# keys rotate


def test_the_old_key_serves_until_the_new_one_is_certified(member, authority):
    old, old_node = StoreKey.load(member.store_key).public, member.node_key.read_bytes()
    before = Certificate.load(member.certificate)
    member.node().charge(CHARGE.of(round=1))
    request = Path(hanse(member, "keys", "rotate", "--node-key")["request"])
    assert StoreKey.load(member.store_key).public == old
    assert Request.load(request).public_key != old

    hanse(member, "enrol", "--certificate", authority.certificate(request))
    new = StoreKey.load(member.store_key)
    assert new.public == Request.load(request).public_key != old
    assert member.node_key.read_bytes() != old_node
    assert stat.S_IMODE(member.store_key.stat().st_mode) == 0o600
    assert not list(member.path.rglob("*.next"))
    (kept,) = member.enrolment.glob("certificate?*")
    assert Certificate.load(kept) == before

    member.node().charge(CHARGE.of(round=2))
    _, entry = member.node().ledger
    assert entry.signer == new.public


def test_a_ledger_across_a_rotation_passes_the_audit(member, authority):
    from hanse_common.audit.cli import app as audit

    member.node().charge(CHARGE.of(round=1))
    request = Path(hanse(member, "keys", "rotate")["request"])
    hanse(member, "enrol", "--certificate", authority.certificate(request))
    member.node().charge(CHARGE.of(round=2))
    key = authority.key.public.hex()
    line = ["verify", str(member.path), "--authority", key, "--no-second-opinion"]
    done = cli.invoke(audit, [*line, "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert (row["ok"], row["entries"]) == (True, 2), row["fault"]


def test_charges_under_earlier_terms_are_checked_against_those_terms(member, authority):
    """A store keeps every manifest that it took in, and an auditor reads all of them."""
    from hanse_common.audit.cli import app as audit

    node = member.node()
    for number, terms in enumerate(({}, {"rounds": 60}, {"rounds": 70}), start=1):
        if terms:
            hanse(member, "enrol", "--manifest", authority.manifest(**terms))
        manifest = member.membership().manifest
        charge = plan_of(manifest).round_charge()
        node.charge(
            charge.of(run=number, round=1, exchange=3, attempt=1, manifest_digest=manifest.digest())
        )
    line = ["verify", str(member.path), "--authority", authority.key.public.hex()]
    done = cli.invoke(audit, [*line, "--no-second-opinion", "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert (row["ok"], row["entries"]) == (True, 3), row["fault"]
    assert not any("charges that name" in text for text in row["unverified"])
    assert len(row["exchanges"]) == 3
    for kept in member.enrolment.glob("manifest.*.json"):
        kept.unlink()
    done = cli.invoke(audit, [*line, "--no-second-opinion", "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert sum("the terms of 1 charges that name" in text for text in row["unverified"]) == 2


def test_a_second_rotation_waits_for_the_first(member):
    hanse(member, "keys", "rotate")
    assert "waits for its certificate already" in refused("key-file", member, "keys", "rotate")


def test_a_certificate_for_the_old_key_does_not_end_a_rotation(member, authority):
    old = Path(hanse(member, "enrol")["request"]).read_bytes()
    hanse(member, "keys", "rotate")
    (authority.folder / "old.request").write_bytes(old)
    certificate = authority.certificate(authority.folder / "old.request")
    refused("bad-certificate", member, "enrol", "--certificate", certificate)
    assert list(member.enrolment.glob("store.key.next"))


def test_new_keys_are_not_in_the_folder_of_the_old_certificate_alone(member, authority):
    """After a crash between the keys and the certificate, taking it in once more mends all."""
    request = Path(hanse(member, "keys", "rotate")["request"])
    certificate = authority.certificate(request)
    (member.enrolment / "store.key.next").replace(member.store_key)
    with raises("bad-certificate", match="store key"):
        hanse(member, "join")
    hanse(member, "enrol", "--certificate", certificate)
    assert replace(Certificate.load(member.certificate)) == Certificate.load(certificate)
