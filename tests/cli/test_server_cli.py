"""`hanse server` before anything runs: founding, admitting, revoking, signing the terms."""

from __future__ import annotations

import json
import stat
import time
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_common import bundle
from hanse_common.admission import REQUEST_SECONDS, Invitation
from hanse_common.errors import ConfigError, HanseError, SuperLinkDown
from hanse_common.identity import AuthorityKey, Certificate, fingerprint
from hanse_common.instructions import model_digest
from hanse_common.manifest import SignedManifest
from hanse_common.recipes import synthetic
from hanse_server.checkpoint import write_arrays
from hanse_server.cli import app
from hanse_server.deployment import run, tls
from hanse_server.deployment.admit import Gate
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.sign import read_run_settings
from kits.deployment import StoreFiles, as_toml, free_ports
from kits.errors import raises

cli = CliRunner()
DAY = 86_400


def hanse(*arguments: object) -> str:
    """What a command prints on stdout."""
    done = cli.invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(code: str, *arguments: object) -> str:
    """The error that a command ends with."""
    done = cli.invoke(app, [str(word) for word in arguments])
    assert isinstance(done.exception, HanseError), (done.output, done.exception)
    assert done.exception.code == code, done.exception
    assert done.exception.hint, "every error of a command says what to do"
    return str(done.exception)


def init(folder: Path, *more: object) -> dict:
    fleet, superlink = free_ports(2)
    printed = hanse(
        *("init", "--folder", folder, "--name", "baltic", "--address", f"127.0.0.1:{fleet}"),
        *("--superlink-port", superlink, "--format", "json"),
        *more,
    )
    return json.loads(printed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path / "federation")
    return tmp_path / "federation"


@pytest.fixture
def store(tmp_path: Path) -> StoreFiles:
    return StoreFiles(tmp_path / "luebeck", "luebeck")


def admit(folder: Path, store: StoreFiles, *more: object) -> str:
    return hanse("admit", store.request, "--folder", folder, "--yes", *more)


# Founding


def test_init_makes_keys_that_only_their_owner_can_read_and_an_invitation(tmp_path):
    row = init(tmp_path / "f")
    folder = tmp_path / "f"
    private = list(folder.rglob("*.key"))
    assert {path.name for path in private} == {
        *("authority.key", "coordinator.key", "ca.key", "server.key", "loopback.key")
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    invitation = Invitation.load(folder / "invitation.json")
    authority = AuthorityKey.load(folder / "authority.key").public
    assert invitation.authority == authority.hex() == (folder / "authority").read_text().strip()
    assert row["authority"] == invitation.fingerprint == fingerprint(authority)
    assert invitation.fleet == row["address"] and invitation.federation == "baltic"
    assert "PRIVATE" not in (folder / "invitation.json").read_text()


def test_init_replaces_nothing(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = ("init", "--folder", folder, "--name", "other", "--address", "127.0.0.1:9443")
    assert "founded once" in refused("already-there", *again)
    (folder / "federation.toml").unlink()
    assert "authority exists already" in refused("already-there", *again)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {p: d for p, d in before.items() if p.name != "federation.toml"} == after


@pytest.mark.parametrize("address", ["hanse.example.org", "host:0", "host:99999", ":9443"])
def test_init_wants_a_host_and_a_port(tmp_path, address):
    done = cli.invoke(app, ["init", "--folder", str(tmp_path), "--name", "b", "--address", address])
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "federation.toml").exists()


def test_the_superlink_never_gets_the_port_that_stores_connect_to(tmp_path):
    arguments = ("init", "--folder", tmp_path, "--name", "b", "--address", "127.0.0.1:9443")
    done = cli.invoke(app, [*map(str, arguments), "--superlink-port", "9443"])
    assert isinstance(done.exception, ConfigError) and "this machine only" in str(done.exception)


def test_the_authoritys_key_may_lie_elsewhere(tmp_path, store):
    key = tmp_path / "stick" / "authority.key"
    init(tmp_path / "f", "--authority-key", key)
    assert key.exists() and not (tmp_path / "f" / "authority.key").exists()
    request = ("admit", store.request, "--folder", tmp_path / "f", "--yes")
    assert "authority.key" in str(cli.invoke(app, [*map(str, request)]).exception)
    hanse(*request, "--authority-key", key)


def test_federation_toml_as_init_writes_it_is_read_and_unknown_keys_are_errors(folder):
    file = FederationFolder(folder).file
    assert file.name == "baltic" and file.fleet.certificate == Path("tls/server.crt")
    path = folder / "federation.toml"
    path.write_text(path.read_text().replace("[wait]", "[wait]\nnap = 3"))
    assert "unknown setting 'wait.nap'" in refused("config", "status", "--folder", folder)


def test_the_settings_that_init_leaves_are_sound(folder):
    settings = read_run_settings(folder / "settings.toml")
    assert settings.data.source == "own" and settings.secure
    split = settings.data.split
    assert split is not None and split.train_until < split.validate_until < split.test_until
    assert settings.privacy.mode == "distributed" and settings.federation.rounds == 42


def test_a_folder_that_is_none_is_named(tmp_path):
    assert "is no federation's folder" in refused("config", "status", "--folder", tmp_path)


# TLS


def own_tls(folder: Path, host: str) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    root_key, root = tls.make_root("the operator's own")
    key, certificate = tls.make_server(root_key, root, (host,))
    tls.save_certificate(folder / "root.pem", root)
    tls.save_certificate(folder / "server.pem", certificate)
    tls.save_key(folder / "server-key.pem", key)
    return {
        "--tls-ca": folder / "root.pem",
        "--tls-certificate": folder / "server.pem",
        "--tls-key": folder / "server-key.pem",
    }


def with_tls(folder: Path, files: dict[str, Path]) -> list[object]:
    given = [word for pair in files.items() for word in pair]
    where = ("--folder", folder, "--name", "baltic", "--address", "hanse.example.org:9443")
    return ["init", *where, *given]


def test_an_operators_own_certificate_is_used_and_its_root_is_handed_out(tmp_path):
    files = own_tls(tmp_path / "own", "hanse.example.org")
    hanse(*with_tls(tmp_path / "f", files))
    invitation = Invitation.load(tmp_path / "f" / "invitation.json")
    assert invitation.ca.strip() == files["--tls-ca"].read_text().strip()
    assert not (tmp_path / "f" / "tls" / "server.key").exists()


def test_a_certificate_that_stores_would_refuse_is_refused_at_once(tmp_path):
    files = own_tls(tmp_path / "own", "another.example.org")
    reason = refused("tls", *with_tls(tmp_path / "f", files))
    assert "hanse.example.org" in reason and "not valid for" in reason
    assert not (tmp_path / "f").exists()


def test_a_certificate_of_another_root_or_key_is_refused(tmp_path):
    files = own_tls(tmp_path / "own", "hanse.example.org")
    other = own_tls(tmp_path / "other", "hanse.example.org")
    stranger = {**files, "--tls-ca": other["--tls-ca"]}
    assert "stores will refuse" in refused("tls", *with_tls(tmp_path / "f", stranger))
    torn = {**files, "--tls-key": other["--tls-key"]}
    assert "is not the private key of" in refused("tls", *with_tls(tmp_path / "f", torn))
    missing = {**files, "--tls-ca": tmp_path / "nowhere.pem"}
    done = cli.invoke(app, [str(word) for word in with_tls(tmp_path / "f", missing)])
    assert done.exception.code == "tls" and "cannot read" in str(done.exception)


# Admitting


def test_admit_certifies_both_keys_of_a_request(folder, store):
    printed = admit(folder, store, "--days", 90)
    certificate = Certificate.load(Path(printed.strip()))
    authority = bytes.fromhex((folder / "authority").read_text())
    now = int(time.time())
    certificate.check(authority, now=now)
    certificate.check(authority, now=now + 89 * DAY)
    assert certificate.store_id == "luebeck" and certificate.public_key == store.key.public
    assert certificate.node_key == store.wish.node_digest
    row = json.loads(hanse("status", "--folder", folder, "--format", "json"))["stores"][0]
    assert row["standing"] == "admitted" and row["connection"] == "unknown"


def test_the_fingerprint_that_a_store_read_out_must_be_the_requests(folder, store):
    request = ("admit", store.request, "--folder", folder)
    wrong = fingerprint(b"another key")
    assert "someone else" in refused("admission-refused", *request, "--fingerprint", wrong)
    assert not (folder / "certificates").exists()
    hanse(*request, "--fingerprint", store.wish.fingerprint.upper())


def test_nobody_is_admitted_unasked(folder, store):
    reason = refused("admission-refused", "admit", store.request, "--folder", folder)
    assert "--fingerprint" in reason and not (folder / "certificates").exists()


@pytest.mark.parametrize("field", ["store", "public_key", "node_key", "created", "signature"])
def test_a_request_that_was_tampered_with_is_refused(folder, store, tmp_path, field):
    other = StoreFiles(tmp_path / "other", "rostock", created=store.wish.created - 1)
    mine, theirs = (json.loads(files.request.read_bytes()) for files in (store, other))
    store.request.write_text(json.dumps(mine | {field: theirs[field]}))
    refused("bad-enrolment-request", "admit", store.request, "--folder", folder, "--yes")
    assert not (folder / "certificates").exists()


def test_a_request_with_an_unknown_field_or_none_at_all_is_refused(folder, store, tmp_path):
    table = json.loads(store.request.read_bytes())
    store.request.write_text(json.dumps(table | {"admin": True}))
    assert "admin" in refused(
        "bad-enrolment-request", "admit", store.request, "--folder", folder, "--yes"
    )
    done = cli.invoke(app, ["admit", str(tmp_path / "no.request"), "--folder", str(folder)])
    assert done.exception.code == "bad-enrolment-request"


def test_a_request_that_waited_too_long_is_refused(folder, tmp_path):
    old = StoreFiles(tmp_path / "old", "wismar", created=int(time.time()) - REQUEST_SECONDS - 60)
    assert "days old" in refused(
        "bad-enrolment-request", "admit", old.request, "--folder", folder, "--yes"
    )


def test_an_admitted_id_keeps_its_key_unless_replaced_on_purpose(folder, store, tmp_path):
    admit(folder, store)
    impostor = StoreFiles(tmp_path / "impostor", "luebeck")
    request = ("admit", impostor.request, "--folder", folder, "--yes")
    reason = refused("admission-refused", *request)
    assert "another key" in reason and store.wish.fingerprint in reason
    assert "with this key" in refused(
        "admission-refused", "admit", store.request, "--folder", folder, "--yes"
    )
    before = Certificate.load(folder / "certificates" / "luebeck")
    hanse(*request, "--replace")
    assert Certificate.load(folder / "certificates" / "luebeck").public_key == impostor.key.public
    kept = list((folder / "certificates" / "earlier").iterdir())
    assert [Certificate.load(path) for path in kept] == [before]
    with raises("bad-certificate", match="replaced"):
        Gate(folder)(before)


def test_two_stores_cannot_share_a_key(folder, store, tmp_path):
    admit(folder, store)
    other = StoreFiles(tmp_path / "other", "rostock")
    for key, node in ((store.key, other.node_pem), (other.key, store.node_pem)):
        wish = type(store.wish).make("rostock", key, node_key=node, created=int(time.time()))
        wish.save(other.request)
        reason = refused("admission-refused", "admit", other.request, "--folder", folder, "--yes")
        assert "'luebeck'" in reason


def test_another_authoritys_key_admits_nobody(folder, store, tmp_path):
    AuthorityKey.generate().save(tmp_path / "stranger.key")
    wrong = ("admit", store.request, "--folder", folder, "--yes")
    reason = refused("config", *wrong, "--authority-key", tmp_path / "stranger.key")
    assert "this federation's is" in reason
    (folder / "authority.key").chmod(0o644)
    assert "can be read by others" in refused("key-file", *wrong)


def test_a_certificate_file_that_was_swapped_is_noticed(folder, store, tmp_path):
    admit(folder, store)
    other = StoreFiles(tmp_path / "other", "rostock")
    admit(folder, other)
    path = folder / "certificates" / "rostock"
    path.write_bytes((folder / "certificates" / "luebeck").read_bytes())
    assert "is not the certificate of the request" in refused(
        "bad-certificate", "status", "--folder", folder
    )


# Revoking


def test_a_revoked_store_is_refused_whatever_its_certificate_says(folder, store):
    admit(folder, store)
    certificate = Certificate.load(folder / "certificates" / "luebeck")
    Gate(folder)(certificate)
    hanse("revoke", "luebeck", "--folder", folder)
    with raises("bad-certificate", match="revoked"):
        Gate(folder)(certificate)
    again = ("admit", store.request, "--folder", folder, "--yes")
    assert "revoked" in refused("admission-refused", *again)
    row = json.loads(hanse("status", "--folder", folder, "--format", "json"))["stores"][0]
    assert row["standing"] == "revoked" and row["connection"] == "shut out"
    second = cli.invoke(app, ["revoke", "luebeck", "--folder", str(folder)])
    assert second.exit_code == 0
    assert f"revoked already, since {datetime.now(UTC):%Y-%m-%d}" in second.stderr
    assert "admitted: none" in refused("admission-refused", "revoke", "danzig", "--folder", folder)


def test_a_revoked_store_comes_back_with_new_keys_only(folder, store, tmp_path):
    admit(folder, store)
    hanse("revoke", "luebeck", "--folder", folder)
    renewed = StoreFiles(tmp_path / "renewed", "luebeck")
    old_node = type(store.wish).make(
        "luebeck", renewed.key, node_key=store.node_pem, created=int(time.time())
    )
    old_node.save(renewed.request)
    assert "revoked" in refused(
        "admission-refused", "admit", renewed.request, "--folder", folder, "--yes"
    )
    renewed.wish.save(renewed.request)
    admit(folder, renewed)
    Gate(folder)(Certificate.load(folder / "certificates" / "luebeck"))


def test_nobody_whom_this_folder_did_not_admit_passes_the_gate(folder, store):
    stray = AuthorityKey.load(folder / "authority.key").certify(
        "luebeck", store.key.public, valid_from=0, valid_until=2**40
    )
    with raises("bad-certificate", match="issued"):
        Gate(folder)(stray)


# Terms


@pytest.fixture
def members(folder, tmp_path) -> Path:
    """A federation with five members, settings and a model to begin from."""
    for number in range(1, 6):
        admit(folder, StoreFiles(tmp_path / f"s{number}", f"store-{number}"))
    write_settings(folder)
    (folder / "model").mkdir()
    write_arrays(folder / "model" / "initial.safetensors", {"w": np.ones(12, np.float32)})
    return folder


def write_settings(folder: Path, **changes: object) -> None:
    settings = synthetic().with_changes(
        {"federation.rounds": 4, **{key.replace("__", "."): v for key, v in changes.items()}}
    )
    table = settings.model_dump(mode="json", exclude_none=True)
    del table["recipe"]  # that of its task completes the file
    (folder / "settings.toml").write_text(as_toml(table))


def sign(folder: Path) -> dict:
    return json.loads(hanse("manifest", "sign", "--folder", folder, "--format", "json"))


def test_the_signed_terms_name_the_members_the_model_and_the_only_bundle(members):
    row = sign(members)
    authority = bytes.fromhex((members / "authority").read_text())
    terms = SignedManifest.load(members / "manifest.json").check(authority)
    assert terms.stores == tuple(f"store-{number}" for number in range(1, 6))
    assert terms.fab_digest == bundle.digest() and terms.federation == "baltic"
    assert terms.digest().hex() == row["digest"] and row["expired"] == []
    settings = json.loads((members / "settings.json").read_text())
    assert settings["privacy"]["noise_multiplier"] == terms.privacy.noise_multiplier


def test_revoked_stores_and_ended_certificates_are_not_in_the_terms(members, tmp_path):
    first = sign(members)
    short = StoreFiles(tmp_path / "short", "store-6")
    admit(members, short, "--days", 1)
    path = members / "certificates" / "store-6"
    ended = AuthorityKey.load(members / "authority.key").certify(
        "store-6",
        short.key.public,
        valid_from=1,
        valid_until=2,
        node_key=short.wish.node_digest,
    )
    ended.save(path)
    hanse("revoke", "store-1", "--folder", members)
    row = sign(members)
    assert row["terms"]["stores"] == [f"store-{number}" for number in range(2, 6)]
    assert row["expired"] == ["store-6"]
    kept = list((members / "manifests").iterdir())
    assert [SignedManifest.load(p).unchecked.digest().hex() for p in kept] == [first["digest"]]


def test_a_store_that_leaves_is_left_out_without_being_revoked(members):
    line = ("manifest", "sign", "--folder", members, "--format", "json")
    row = json.loads(hanse(*line, "--without", "store-2"))
    assert row["terms"]["stores"] == ["store-1", "store-3", "store-4", "store-5"]
    assert (members / "certificates" / "store-2").exists()
    assert sign(members)["terms"]["stores"][1] == "store-2", "and comes back with the next terms"
    assert "no store 'store-9'" in refused("config", *line, "--without", "store-9")


def test_signing_says_who_must_be_there_and_what_that_costs(members):
    write_settings(members, privacy__mode="distributed")
    done = cli.invoke(app, ["manifest", "sign", "--folder", str(members)])
    assert "5 of 5 stores must be there when a round begins (0 may be away)" in done.output
    assert "and 4 must stay until its sum" in done.output
    assert "1.29 times the noise" in done.output  # sqrt(5 / (4 - 1))
    assert "5 stay: 1.12" in done.output and "federation.minimum_survivors" in done.output


def test_too_few_stores_or_no_model_or_open_updates_are_refused_by_name(members):
    hanse("revoke", "store-1", "--folder", members)
    hanse("revoke", "store-2", "--folder", members)
    hanse("revoke", "store-3", "--folder", members)
    assert "2 stores" in refused("config", "manifest", "sign", "--folder", members)
    (members / "model" / "initial.safetensors").write_bytes(b"not arrays")
    assert "hanse model init" in refused("config", "manifest", "sign", "--folder", members)
    write_settings(members, privacy__mode="none")
    assert "secure_aggregation is off" in refused("config", "manifest", "sign", "--folder", members)
    write_settings(members)
    path = members / "settings.toml"
    path.write_text('colour = "blue"\n' + path.read_text())
    assert "colour" in refused("config", "manifest", "sign", "--folder", members)


@pytest.mark.parametrize("task", ["conversion", "next-item", "review"])
def test_every_task_that_is_installed_is_signed(members, task):
    write_settings(members, task=task)
    sign(members)
    assert json.loads((members / "settings.json").read_text())["task"] == task


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('task = "horoscope"', "no task of a package that is installed here"),
        ('continues = "r"', "continue-from"),
    ],
)
def test_what_only_a_simulation_can_do_is_not_signed(members, line, words):
    write_settings(members)
    path = members / "settings.toml"
    path.write_text(f"{line}\n" + path.read_text().replace('task = "interest"\n', ""))
    assert words in refused("config", "manifest", "sign", "--folder", members)


def test_noise_that_does_not_keep_the_promise_is_not_signed(members):
    write_settings(members, privacy__noise_multiplier=0.3)
    assert "more than target_epsilon" in refused("privacy", "manifest", "sign", "--folder", members)
    assert not (members / "manifest.json").exists()


def test_terms_show_as_they_were_signed_and_altered_ones_do_not(members):
    row = sign(members)
    shown = json.loads(hanse("manifest", "show", "--folder", members, "--format", "json"))
    assert shown["digest"] == row["digest"]
    assert "privacy.mode = distributed" in hanse("manifest", "show", "--folder", members)
    path = members / "manifest.json"
    path.write_text(path.read_text().replace('"rounds": 4', '"rounds": 400'))
    assert "was altered" in refused("bad-manifest", "manifest", "show", "--folder", members)


def test_terms_that_every_store_would_refuse_start_no_run(members):
    sign(members)
    path = members / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"training": {"sample_rate": 0.5}}))
    terms = SignedManifest.load(members / "manifest.json").unchecked
    with raises("bad-manifest", match="settings"):
        run._make(FederationFolder(members), "first", terms)
    with raises("bad-manifest", match="upgrade"):
        run._check_installed(terms.model_copy(update={"fab_digest": "00" * 32}))
    assert not (members / "runs").exists()


def test_a_next_run_starts_from_what_an_earlier_one_trained(members):
    earlier = members / "runs" / "one"
    earlier.mkdir(parents=True)
    (earlier / "flower.json").write_text('{"runs": []}')
    before, initial = sign(members), members / "model" / "initial.safetensors"
    go_on = ("manifest", "sign", "--folder", members, "--continue-from")
    assert "has not finished" in refused("run-not-found", *go_on, "one")
    assert "there is no run 'two'" in refused("run-not-found", *go_on, "two")

    learnt = earlier / "global.safetensors"
    write_arrays(learnt, {"w": np.zeros(13, np.float32)})
    assert "for 'w' it has (13,), the initial model (12,)" in refused("config", *go_on, "one")
    learnt.write_bytes(b"not arrays")
    assert "cannot be read" in refused("run-directory", *go_on, "one")
    assert sign(members)["digest"] == before["digest"]  # nothing of these has changed a thing

    write_arrays(learnt, {"w": np.full(12, 2, np.float32)})
    hanse(*go_on, "one")
    terms = SignedManifest.load(members / "manifest.json").unchecked
    assert terms.model_digest == model_digest({"w": np.full(12, 2, np.float32)}).hex()
    assert initial.read_bytes() == learnt.read_bytes()


# What needs a SuperLink


@pytest.mark.parametrize("command", ["run", "stop", "down"])
def test_what_needs_the_superlink_says_so(members, command):
    sign(members)
    done = cli.invoke(app, [command, "--folder", str(members)])
    assert isinstance(done.exception, SuperLinkDown)
    assert not any((members / "runs").glob("*"))


def test_status_of_a_federation_at_rest_is_readable(members):
    sign(members)
    shown = hanse("status", "--folder", members)
    assert "not up" in shown and "no run yet" in shown and "store-3" in shown
    table = json.loads(hanse("status", "--folder", members, "--format", "json"))
    assert all(row["in_manifest"] for row in table["stores"]) and not table["up"]
    assert date.fromisoformat(table["tls_until"][:10]) > date.today()
