"""An authority on a machine of its own: its key never lies where the coordinator's folder lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_client.deployment import cli as store_cli
from hanse_client.deployment.folder import StoreFolder
from hanse_common.admission import Invitation
from hanse_common.errors import HanseError
from hanse_common.identity import AuthorityKey, Certificate
from hanse_common.manifest import SignedManifest
from hanse_common.recipes import synthetic
from hanse_server.checkpoint import write_arrays
from hanse_server.cli import app
from hanse_server.deployment.admit import Gate
from hanse_server.deployment.folder import FederationFolder
from kits.company import Company
from kits.deployment import StoreFiles, as_toml, free_ports

cli = CliRunner()
STORES = ("bremen", "danzig", "luebeck", "riga", "rostock")


def run(*words: object, program=app):
    return cli.invoke(program, [str(word) for word in words])


def hanse(*words: object, program=app) -> dict:
    done = run(*words, "--format", "json", program=program)
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def refused(code: str, *words: object) -> str:
    done = run(*words)
    assert isinstance(done.exception, HanseError), (done.output, done.exception)
    assert done.exception.code == code, done.exception
    return str(done.exception)


class Machines:
    """The coordinator's machine, the authority's, and what travels between them."""

    def __init__(self, root: Path) -> None:
        self.coordinator, self.safe = root / "coordinator" / "baltic", root / "authority"
        self.key = self.safe / "authority.key"
        self.made = hanse("authority", "init", self.key)
        carried = root / "carried"
        shutil.copyfile(self.made["authority"], carried)
        fleet, superlink = free_ports(2)
        where = ("--address", f"127.0.0.1:{fleet}", "--superlink-port", superlink)
        self.init = hanse(
            *("init", "--folder", self.coordinator, "--name", "baltic", "--authority", carried),
            *where,
        )
        settings = synthetic().with_changes({"federation.rounds": 4})
        table = settings.model_dump(mode="json", exclude_none=True)
        (self.coordinator / "settings.toml").write_text(as_toml(table))
        (self.coordinator / "model").mkdir()
        start = {"w": np.ones(12, np.float32)}
        write_arrays(self.coordinator / "model" / "initial.safetensors", start)
        self.stores = {name: StoreFiles(root / "stores" / name, name) for name in STORES}
        self.root, self._journeys = root, 0

    def export(self, *requests: Path, more: tuple = ()) -> Path:
        """Export, and carry the folder to the authority's machine."""
        self._journeys += 1
        out = self.root / "coordinator" / f"journey-{self._journeys}"
        hanse("authority", "export", out, *requests, "--folder", self.coordinator, *more)
        return shutil.move(out, self.safe / out.name)

    def admit(self, copy: Path, *stores: str, more: tuple = ()) -> None:
        for store in stores:
            request = copy / f"{store}.request"
            key = ("--authority-key", self.key)
            hanse("admit", request, "--folder", copy, *key, "--yes", *more)

    def sign(self, copy: Path, *more: object) -> dict:
        return hanse("manifest", "sign", "--folder", copy, "--authority-key", self.key, *more)

    def bring_back(self, copy: Path) -> dict:
        return hanse("authority", "import", copy, "--folder", self.coordinator)

    def requests(self, *stores: str) -> list[Path]:
        return [self.stores[store].request for store in stores]


@pytest.fixture
def machines(tmp_path) -> Machines:
    return Machines(tmp_path)


def test_stores_are_admitted_and_terms_are_signed_without_the_key_at_the_coordinator(machines):
    assert machines.init["authority_key"] is None
    assert machines.init["authority"] == machines.made["fingerprint"]
    invitation = Invitation.load(machines.coordinator / "invitation.json")
    assert invitation.fingerprint == machines.made["fingerprint"]
    copy = machines.export(*machines.requests(*STORES))
    assert secrets_in(copy) == []
    machines.admit(copy, *STORES)
    signed = machines.sign(copy)
    done = machines.bring_back(copy)
    assert done["admitted"] == list(STORES) and done["refused"] == {}
    assert done["manifest"] == signed["digest"]
    folder = FederationFolder(machines.coordinator)
    for store in STORES:
        Gate(folder.path)(Certificate.load(folder.certificate(store)))
    terms = SignedManifest.load(folder.manifest).check(folder.authority)
    assert terms.stores == STORES and terms.log_key == folder.log_key.hex()
    assert hanse("status", "--folder", folder.path)["manifest"] == signed["digest"]
    again = machines.bring_back(copy)
    assert (again["admitted"], again["manifest"]) == ([], None)
    key = AuthorityKey.load(machines.key)
    private = machines.key.read_text().split()[1]
    assert key.public == folder.authority
    for path in (machines.root / "coordinator").rglob("*"):
        assert not path.is_file() or private.encode() not in path.read_bytes()


def secrets_in(folder: Path) -> list[str]:
    """Files of a folder that hold a private key, or that only their owner may read."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file()
        and (b"PRIVATE KEY" in path.read_bytes() or b"-key-1 " in path.read_bytes())
    ]


@pytest.fixture
def settled(machines) -> Machines:
    """A federation under its first terms."""
    copy = machines.export(*machines.requests(*STORES))
    machines.admit(copy, *STORES)
    machines.sign(copy)
    machines.bring_back(copy)
    return machines


def test_terms_that_continue_a_run_are_signed_in_a_copy(settled):
    run_dir = settled.coordinator / "runs" / "one"
    run_dir.mkdir(parents=True)
    (run_dir / "flower.json").write_text('{"runs": []}')
    write_arrays(run_dir / "global.safetensors", {"w": np.full(12, 2, np.float32)})
    copy = settled.export(more=("--continue-from", "one"))
    signed = settled.sign(copy, "--continue-from", "one", "--without", "riga")
    assert settled.bring_back(copy)["manifest"] == signed["digest"]
    assert signed["terms"]["stores"] == [store for store in STORES if store != "riga"]
    initial = settled.coordinator / "model" / "initial.safetensors"
    assert initial.read_bytes() == (run_dir / "global.safetensors").read_bytes()


def test_a_copy_that_is_older_than_what_happened_since_undoes_nothing(settled):
    old = settled.export()
    newer = settled.export()
    settled.sign(newer, "--without", "bremen")
    hanse("revoke", "danzig", "--folder", settled.coordinator)
    assert settled.bring_back(newer)["refused"].keys() == {"danzig"}
    done = settled.bring_back(settled.export())
    assert (done["admitted"], done["refused"], done["manifest"]) == ([], {}, None)
    words = ("authority", "import", old, "--folder", settled.coordinator)
    assert "replaced by later ones" in refused("bad-manifest", *words)
    assert not (settled.coordinator / "certificates" / "danzig").exists()


def test_a_store_with_a_new_key_is_replaced_and_its_older_certificate_stays_out(settled):
    path = settled.coordinator / "certificates" / "riga"
    first, day = Certificate.load(path), 86_400
    yesterday = AuthorityKey.load(settled.key).certify(
        "riga",
        first.public_key,
        node_key=first.node_key,
        valid_from=first.valid_from - day,
        valid_until=first.valid_until - day,
    )
    yesterday.save(path)
    old = settled.export()
    (old / "manifest.json").unlink()
    changed = StoreFiles(settled.root / "again", "riga")
    copy = settled.export(changed.request)
    settled.admit(copy, "riga", more=("--replace",))
    assert settled.bring_back(copy)["admitted"] == ["riga"]
    assert Certificate.load(path).public_key == changed.key.public
    assert "newer" in settled.bring_back(old)["refused"]["riga"]
    assert Certificate.load(path).public_key == changed.key.public


def test_what_another_authority_or_nobody_signed_is_not_taken_in(settled, tmp_path):
    words = ("authority", "import", "", "--folder", settled.coordinator)
    stranger = AuthorityKey.generate()
    copy = settled.export(StoreFiles(tmp_path / "wismar", "wismar").request)
    # A copy may say what it likes of its authority: the coordinator's own counts.
    (copy / "authority").write_text(stranger.public.hex())
    stranger.save(tmp_path / "stranger.key")
    key = ("--authority-key", tmp_path / "stranger.key")
    for path in (copy / "certificates").iterdir():
        path.unlink()
    hanse("admit", copy / "wismar.request", "--folder", copy, *key, "--yes")
    refused("bad-certificate", *words[:2], copy, *words[3:])
    copy = settled.export()
    signed = SignedManifest.load(copy / "manifest.json")
    SignedManifest.sign(signed.unchecked, stranger).save(copy / "manifest.json")
    refused("bad-manifest", *words[:2], copy, *words[3:])
    own = AuthorityKey.load(settled.key)
    for field, value in (("federation", "other"), ("log_key", "00" * 32)):
        terms = signed.unchecked.model_copy(update={field: value})
        SignedManifest.sign(terms, own).save(copy / "manifest.json")
        refused("bad-manifest", *words[:2], copy, *words[3:])
    refused("config", *words[:2], tmp_path, *words[3:])
    assert sorted(p.name for p in (settled.coordinator / "certificates").iterdir()) == [*STORES]


def test_a_request_that_cannot_be_granted_does_not_travel(settled, tmp_path):
    hanse("revoke", "riga", "--folder", settled.coordinator)
    target = tmp_path / "copy"
    words = ("authority", "export", target, "--folder", settled.coordinator)
    assert "revoked" in refused("admission-refused", *words, settled.stores["riga"].request)
    assert not target.exists()
    target.mkdir()
    (target / "something").touch()
    refused("already-there", *words)
    refused("already-there", *words[:2], target / "something", *words[3:])


def test_an_authority_is_made_once_and_init_takes_one_of_the_two(machines, tmp_path):
    refused("key-file", "authority", "init", machines.key)
    both = ("--authority", machines.made["authority"], "--authority-key", machines.key)
    words = ("init", "--folder", tmp_path / "f", "--name", "f", "--address", "a:9443")
    refused("config", *words, *both)
    (tmp_path / "wrong").write_text("abc")
    refused("config", *words, "--authority", tmp_path / "wrong")
    assert not (tmp_path / "f" / "federation.toml").exists()


# A company's certificate


def test_a_companys_certificate_saves_the_phone_call_also_in_a_copy(machines, tmp_path):
    company, store = Company(), StoreFolder(tmp_path / "luebeck")
    chain, key = company.certify(tmp_path / "company", days=(-1, 20))
    assert run("init", "luebeck", "--folder", store.path, program=store_cli.app).exit_code == 0
    words = ("enrol", "--folder", store.path, "--certificate", chain, "--certificate-key", key)
    request = Path(hanse(*words, program=store_cli.app)["request"])
    roots = company.save_root(tmp_path / "roots.pem")
    unasked = ("admit", request, "--authority-key", machines.key)
    copy = machines.export(request)
    refused("admission-refused", *unasked[:1], copy / request.name, *unasked[2:], "--folder", copy)
    with (machines.coordinator / "federation.toml").open("a") as file:
        file.write(f'\n[enrolment]\nca = "{roots}"\n')
    copy = machines.export(request)
    row = hanse(*unasked[:1], copy / request.name, *unasked[2:], "--folder", copy)
    assert row["company"] == "CN=Shop 7"
    assert machines.bring_back(copy)["admitted"] == ["luebeck"]
    admitted = Certificate.load(machines.coordinator / "certificates" / "luebeck")
    days = (admitted.valid_until - admitted.valid_from) / 86_400
    assert 19 < days < 21, "no longer than the company's own"


def test_a_certificate_of_another_company_admits_nobody_even_with_yes(machines, tmp_path):
    roots = Company().save_root(tmp_path / "roots.pem")
    with (machines.coordinator / "federation.toml").open("a") as file:
        file.write(f'\n[enrolment]\nca = "{roots}"\n')
    store = StoreFolder(tmp_path / "luebeck")
    chain, key = Company().certify(tmp_path / "company")
    assert run("init", "luebeck", "--folder", store.path, program=store_cli.app).exit_code == 0
    words = ("enrol", "--folder", store.path, "--certificate", chain, "--certificate-key", key)
    request = hanse(*words, program=store_cli.app)["request"]
    copy = machines.export(Path(request))
    admit = ("admit", copy / "luebeck.request", "--folder", copy, "--authority-key", machines.key)
    assert "company's authority" in refused("bad-enrolment-request", *admit, "--yes")
    alone = run("enrol", "--folder", store.path, "--certificate-key", key, program=store_cli.app)
    assert alone.exception.code == "config"
