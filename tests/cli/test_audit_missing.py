"""`hanse audit` and the evidence that is not there: whose it is, who names it, what it is."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.audit.missing import OWED
from hanse_common.errors import AuditFailed
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import SignedManifest
from hanse_common.paths import AUTHORITY_FILE, LEDGER_FILE, ROUND_LOG_FILE
from hanse_common.roundlog.file import checkpoint_path
from hanse_server.rounds import run_rounds
from kits.audit import STORES, AuditedRun

cli = CliRunner()
STORE = "synthetic-03"


@pytest.fixture
def run(logged_run, tmp_path) -> Path:
    """A copy of the folder of a run of two rounds, with its round log."""
    return Path(shutil.copytree(logged_run.folder.path, tmp_path / "run"))


def verify(path: Path, *more: str, ok: bool = True) -> dict:
    done = cli.invoke(app, ["verify", str(path), "--format", "json", "--no-second-opinion", *more])
    assert (done.exit_code == 0) == ok, done.output
    if not ok:
        assert isinstance(done.exception, AuditFailed)
        assert done.exception.exit_status == 36
    found = json.loads(done.stdout)
    assert found["ok"] == ok
    return found


def missing(path: Path, *more: str, ok: bool = True) -> dict[str, dict]:
    """What is missing, by store."""
    return {row["store"]: row for row in verify(path, *more, ok=ok)["missing"]["stores"]}


def error_of(path: Path) -> str:
    """The error of an audit that requires everything."""
    words = ["verify", str(path), "--no-second-opinion", "--require-all"]
    error = cli.invoke(app, words).exception
    assert isinstance(error, AuditFailed)
    return str(error)


def pieces(run: Path, store: str = STORE) -> dict[str, Path]:
    """Where each piece of a store's evidence lies, by the name that an audit gives it."""
    folder = run / "stores" / store
    (seen,) = (folder / "checkpoints").iterdir()
    places = {name: folder / "enrolment" / name for name in OWED if name[:6] != "ledger"}
    places |= {name: folder / name for name in OWED if name[:6] == "ledger"}
    return {**places, f"checkpoints/{seen.name}": seen}


# Everything is there


def test_a_run_with_all_its_stores_passes_with_everything_required(run):
    found = verify(run, "--require-all")
    assert found["missing"] == {"named": 5, "stores": [], "logs": []}
    for more in ([], ["--require-all"]):
        done = cli.invoke(app, ["verify", str(run), "--no-second-opinion", *more])
        assert done.exit_code == 0
        assert "evidence of" not in done.stdout and "named by" not in done.stdout


# Pieces


@pytest.mark.parametrize("number", range(len(OWED) + 1))
def test_each_piece_that_is_missing_is_named_and_is_an_error_where_all_is_required(number, run):
    name, place = list(pieces(run).items())[number]
    place.unlink()
    if name == LEDGER_FILE:
        place.with_suffix(".head").unlink()
    # A ledger for which there are receipts is missed by the round log as well.
    found = missing(run, ok=name != LEDGER_FILE)
    lost = [LEDGER_FILE, "ledger.head"] if name == LEDGER_FILE else [name]
    assert list(found) == [STORE]
    assert found[STORE]["files"] == lost
    assert found[STORE]["folder"] == STORE
    assert (found[STORE]["rosters"], found[STORE]["receipts"]) == (2, 2)
    assert found[STORE]["named_by"] == ["manifest", "round log"]
    wanted = f"evidence is missing of {STORE} ({', '.join(lost)})"
    if name != LEDGER_FILE:
        assert error_of(run).startswith(wanted)
    assert list(missing(run, "--require-all", ok=False)) == [STORE]


def test_all_owed_pieces_are_named_by_the_table_and_by_this_test(run):
    assert len(pieces(run)) == len(OWED) + 1
    assert all(place.is_file() for place in pieces(run).values())


# Stores


@pytest.mark.parametrize("gone", [1, 4, 5])
def test_stores_whose_whole_folder_is_missing_are_named(gone, run):
    names = [f"synthetic-0{number}" for number in range(1, 1 + gone)]
    for name in names:
        shutil.rmtree(run / "stores" / name)
    found = missing(run)
    assert list(found) == names
    assert {row["folder"] for row in found.values()} == {None}
    assert all(set(OWED) < set(row["files"]) for row in found.values())
    shown = ", ".join(names)
    assert error_of(run).startswith(f"evidence is missing of {shown} (everything)")
    done = cli.invoke(app, ["verify", str(run), "--no-second-opinion"])
    assert (
        f"Not verified: evidence of {shown}: everything missing (named by the manifest and the "
        "round log; in 2 rosters, 2 receipts)"
    ) in " ".join(done.stdout.split())


def test_a_store_that_the_manifest_names_and_the_log_never_saw_is_missing_all_the_same(
    federation,
):
    federation.sign_again(stores=(*federation.names, "visby"))
    run = federation.folder.path
    run_rounds(federation.grid(), run, federation.settings)
    found = missing(run)
    assert list(found) == ["visby"]
    row = found["visby"]
    assert (row["rosters"], row["receipts"], row["named_by"]) == (0, 0, ["manifest"])
    done = cli.invoke(app, ["verify", str(run), "--no-second-opinion"])
    assert "named by the manifest; by the log it never took part, there is no receipt" in " ".join(
        done.stdout.split()
    )
    assert error_of(run).startswith("evidence is missing of visby (everything)")


def test_a_store_that_only_the_round_log_names_is_missing_too(run):
    """Terms were changed since: the store is in old rosters, and in no manifest that is here."""
    shutil.rmtree(run / "stores")
    (run / "manifest.json").unlink()
    found = missing(run)
    assert list(found) == [f"synthetic-0{number}" for number in range(1, 6)]
    assert {tuple(row["named_by"]) for row in found.values()} == {("round log",)}


def test_a_folder_counts_for_the_store_of_its_certificate_and_not_of_its_name(run):
    """One store's evidence, handed over a second time in another's place."""
    shutil.rmtree(run / "stores" / STORE)
    shutil.copytree(run / "stores" / "synthetic-01", run / "stores" / STORE)
    assert list(missing(run)) == [STORE]


def test_a_store_that_keeps_its_certificate_back_is_known_by_its_signature(run):
    """And its ledger is held against the receipts that it gave."""
    for name in ("synthetic-01", STORE):
        (run / "stores" / name / "enrolment" / "certificate").unlink()
        (run / "stores" / name).rename(run / "stores" / f"folder-of-{name}")
    found = verify(run)
    assert found["logs"][0]["matched"] == 10
    assert [(row["store"], row["files"]) for row in found["missing"]["stores"]] == [
        ("synthetic-01", ["certificate"]),
        (STORE, ["certificate"]),
    ]


def test_one_store_alone_says_who_else_the_terms_name(tmp_path):
    run = AuditedRun(tmp_path)
    for path in (run.store("bremen"), run.ledger("bremen")):
        assert list(missing(path)) == [name for name in STORES if name != "bremen"]
        assert {row["rosters"] for row in missing(path).values()} == {None}


def test_where_nothing_says_which_stores_there_are_all_cannot_be_required(tmp_path):
    run = AuditedRun(tmp_path / "run")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run.ledger("bremen"), alone / LEDGER_FILE)
    assert verify(alone)["missing"] == {"named": 0, "stores": [], "logs": []}
    assert error_of(alone).startswith(
        "evidence is missing: no manifest and no round log says which stores there are"
    )


# The round log


def test_a_round_log_that_a_manifest_names_is_missing(run):
    key = SignedManifest.load(run / "manifest.json").unchecked.log_key
    (run / ROUND_LOG_FILE).unlink()
    checkpoint_path(run / ROUND_LOG_FILE).unlink()
    assert verify(run)["missing"] == {"named": 5, "stores": [], "logs": [key]}
    assert error_of(run).startswith(f"the round log of key {key[:16]}… is missing")


def test_a_round_log_beside_the_stores_folders_belongs_to_them(run):
    coordinator = run / "coordinator"
    coordinator.mkdir()
    for name in (ROUND_LOG_FILE, checkpoint_path(run / ROUND_LOG_FILE).name, "manifest.json"):
        (run / name).rename(coordinator / name)
    assert verify(run, "--require-all")["missing"]["stores"] == []


# Several federations, arms and terms under one path


@pytest.mark.parametrize("under_a_log", [False, True])
def test_arms_of_a_run_do_not_stand_in_for_each_other(under_a_log, request, tmp_path):
    """Arms have stores of the same names, under keys and terms of their own."""
    run = request.getfixturevalue("run") if under_a_log else tmp_path
    arms = [AuditedRun(run / "arms" / name) for name in ("a", "b")]
    shutil.rmtree(arms[1].store("bremen"))
    done = cli.invoke(app, ["verify", str(run), "--format", "json", "--no-second-opinion"])
    found = json.loads(done.stdout)["missing"]
    assert found["named"] == 8 + 5 * under_a_log
    names = [row["store"] for row in found["stores"]]
    assert sorted(names) == ["bremen", "riga", "riga", "visby", "visby"]


def test_stores_of_one_federation_need_not_lie_in_one_folder(tmp_path):
    run = AuditedRun(tmp_path / "run")
    for number, name in enumerate(("bremen", "luebeck")):
        target = tmp_path / "handed-over" / f"letter-{number}" / name
        target.parent.mkdir(parents=True)
        run.store(name).rename(target)
    assert list(missing(tmp_path / "handed-over")) == ["riga", "visby"]


def test_stores_that_hold_older_terms_are_not_missing_under_the_new_ones(tmp_path):
    run = AuditedRun(tmp_path)
    later = run.manifest.model_copy(update={"rounds": 3})
    folder = run.store("bremen") / "enrolment"
    SignedManifest.sign(later, run.authority).save(folder / "manifest.json")
    assert list(missing(tmp_path)) == ["riga", "visby"]


def test_manifests_of_another_authority_name_nobody(tmp_path):
    run = AuditedRun(tmp_path)
    found = verify(tmp_path, "--authority", AuthorityKey.generate().public.hex(), ok=False)
    assert found["missing"]["named"] == 0
    found = verify(tmp_path, "--authority", run.authority.public.hex())
    assert found["missing"]["named"] == 4


# The page


def page_of(run: Path, *more: str) -> tuple[str, dict, BaseException | None]:
    target = run.parent / "page.html"
    words = ["report", str(run), "--no-second-opinion", "--format", "json", *more]
    done = cli.invoke(app, [*words, "--output", str(target)])
    text = " ".join(unescape(target.read_text(encoding="utf-8")).split())
    return text, json.loads(done.stdout), done.exception


def test_the_page_lists_what_is_missing_and_is_not_verified(run):
    authority = (run / AUTHORITY_FILE).read_text().strip()
    text, found, error = page_of(run, "--authority", authority)
    assert error is None and "Evidence that is missing" not in text
    shutil.rmtree(run / "stores" / STORE)
    (run / "stores" / "synthetic-01" / "ledger.head").unlink()
    text, found, error = page_of(run, "--authority", authority)
    assert error is None
    assert found["status"] == "incomplete"
    assert (found["named"], [one["store"] for one in found["missing"]]) == (
        5,
        ["synthetic-01", STORE],
    )
    for part in (
        "name 5 stores, and of 2 of them evidence is missing",
        f'<tr><th scope="row">{STORE}</th><td>everything</td><td>manifest, round log</td>'
        "<td>2 rosters, 2 receipts</td></tr>",
        '<tr><th scope="row">synthetic-01</th><td>ledger.head</td>',
    ):
        assert part in text, part


def test_the_page_fails_where_all_is_required(run):
    shutil.rmtree(run / "stores" / STORE)
    text, found, error = page_of(run, "--require-all")
    assert isinstance(error, AuditFailed)
    assert found["status"] == "failed"
    assert f"evidence is missing of {STORE} (everything)" in text
    assert "--require-all" in found["command"]
    assert "A failed audit is not signed." in text
