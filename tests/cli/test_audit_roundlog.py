"""`hanse audit verify` on a run's folder with a round log: what a third party finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.audit.cli import app
from hanse_common.errors import AuditFailed
from hanse_common.identity import AuthorityKey, CoordinatorKey, StoreKey
from hanse_common.manifest import SignedManifest
from hanse_common.paths import AUTHORITY_FILE, COORDINATOR_KEY_FILE, ROUND_LOG_FILE, SETTINGS_FILE
from hanse_common.privacy.charge import Charge
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import Head, head_path, write_head
from hanse_common.roundlog.file import checkpoint_path
from hanse_common.roundlog.records import Announced, Closed, Published, decode
from hanse_server.roundlog import RoundLog
from hanse_server.rounds import run_rounds
from kits.apps.secure_federation import STAGES
from kits.ledger import as_row, chained
from kits.ledger import put as put_entries
from kits.roundlog import bodies, checkpoint_of, put, rewrite

cli = CliRunner()
STORE = "synthetic-03"
PROGRAM = Path(__file__).parent.parent / "kits" / "apps" / "secure_run.py"


@pytest.fixture
def run(logged_run, tmp_path):
    """A copy of the folder of a run of two rounds."""
    return Path(shutil.copytree(logged_run.folder.path, tmp_path / "run"))


def verify(path: Path, *more: str, ok: bool = True) -> dict:
    done = cli.invoke(app, ["verify", str(path), "--format", "json", "--no-second-opinion", *more])
    assert (done.exit_code == 0) == ok, done.output
    if not ok:
        assert isinstance(done.exception, AuditFailed)
    found = json.loads(done.stdout)
    assert found["ok"] == ok
    return found


def log_of(path: Path, *more: str, ok: bool = True) -> dict:
    (found,) = verify(path, *more, ok=ok)["logs"]
    return found


def store_of(found: dict, name: str = STORE) -> dict:
    return next(row for row in found["stores"] if row["store"] == name)


def ledger(run: Path, name: str = STORE) -> Path:
    return run / "stores" / name / "ledger.sqlite"


def key(run: Path) -> CoordinatorKey:
    return CoordinatorKey.load(run / COORDINATOR_KEY_FILE)


def remember(run: Path) -> str:
    """Keep what an audit prints now."""
    file = run.parent / "earlier.json"
    file.write_text(json.dumps(verify(run)))
    return str(file)


# A good run


def test_a_good_run_verifies_log_and_ledgers_together(run):
    authority = (run / AUTHORITY_FILE).read_text().strip()
    found = verify(run, "--authority", authority)
    (log,) = found["logs"]
    last = RoundLog.open(run / ROUND_LOG_FILE, key(run)).checkpoint
    assert log.pop("verified") == [
        "the log is that of the signed checkpoint of 7 records",
        "every announcement precedes its exchange, and every header binds the log as it was",
        "every cosignature, receipt and confirmation is signed by its store",
        "every change of the model follows a sum, and every round starts from the model before it",
        "5 ledgers hold the entry of every receipt that their store gave",
        "5 ledgers charge nothing that the log does not announce",
        "5 stores have seen this log, and no other",
    ]
    (use,) = log.pop("exchanges")
    assert (use["kind"], use["granted"], use["used"], use["repeats"]) == ("train", 3, 2, [])
    assert log == {
        "log": str(run / ROUND_LOG_FILE),
        "ok": True,
        "records": 7,
        "announced": 2,
        "summed": 2,
        "published": 3,
        "checkpoint": {"size": 7, "root": last.root.hex(), "log_key": last.log_key.hex()},
        "cosigned_by": [f"synthetic-0{number}" for number in range(1, 6)],
        "receipts": 10,
        "matched": 10,
        "fault": None,
        "unverified": [],
    }
    for row in found["stores"]:
        assert "it holds what the store gave the coordinator receipts for" in row["verified"]
        assert not any("taken from the end" in note for note in row["unverified"])


def test_the_table_has_a_line_for_the_log(run):
    done = cli.invoke(app, ["verify", str(run), "--no-second-opinion"])
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    (line,) = (line for line in lines if line[:1] == ["run"])
    assert line == ["run", "7", "2", "2", "3", "10/10", "5", "ok"]
    assert "Verified: 5 ledgers hold the entry of every receipt" in done.stdout
    assert "Not verified: the authority is the one that a store names" in done.stdout


def test_the_table_names_what_is_wrong_and_the_error_too(run):
    put(run / ROUND_LOG_FILE, bodies(run / ROUND_LOG_FILE)[:5])
    done = cli.invoke(app, ["verify", str(run), "--no-second-opinion"])
    words = "record 6 is cut off: the log ends before it, and had 7 records"
    assert f"FAILED: {words}" in done.stdout
    assert str(done.exception).startswith(f"roundlog.sqlite: {words}")
    assert done.exception.exit_status == AuditFailed.exit_status


# Ledgers that are not what receipts say


def restored(run: Path, name: str = STORE, count: int = 1) -> None:
    """Bring back a store's ledger and head as they lay there after its first charges."""
    path = ledger(run, name)
    kept = list(Ledger.open(path))[:count]
    put_entries(path, [as_row(entry) for entry in kept])
    write_head(path, Head(kept[-1].sequence, kept[-1].hash))


def test_a_restored_backup_of_an_older_ledger_is_detected_against_the_round_log(run):
    restored(run)
    assert store_of(verify(ledger(run).parent))["ok"]  # nothing at the store can tell
    found = verify(run, ok=False)
    assert store_of(found)["fault"] == {
        "entry": 2,
        "problem": "cut off",
        "detail": "the ledger ends before it, and had 2 entries",
    }
    assert found["logs"][0]["fault"] == {
        "record": 6,
        "problem": "against a ledger",
        "detail": f"{STORE} gave a receipt for entry 2, its ledger has 1",
    }
    assert [row["store"] for row in found["stores"] if not row["ok"]] == [STORE]
    error = cli.invoke(app, ["verify", str(run), "--no-second-opinion"]).exception
    assert str(error).startswith(f"{STORE}: entry 2 is cut off: the ledger ends before it")


def test_a_ledger_that_is_gone_with_its_head_is_missed_by_the_round_log(run):
    ledger(run).unlink()
    head_path(ledger(run)).unlink()
    found = verify(run, ok=False)
    assert store_of(found)["fault"]["problem"] == "the ledger is gone"


def test_a_ledger_that_its_keys_holder_made_anew_is_detected_against_the_round_log(run):
    """Cheaper, rightly chained and signed, with a head to match."""
    path = ledger(run)
    store_key = StoreKey.load(path.parent / "enrolment" / "store.key")
    entries = list(Ledger.open(path))
    made = chained([replace(entries[0], note="another"), entries[1]], store_key)
    put_entries(path, [as_row(entry) for entry in made])
    write_head(path, Head(2, made[-1].hash))
    assert store_of(verify(path.parent))["ok"]
    found = verify(run, ok=False)
    assert store_of(found)["fault"]["problem"] == "another history"
    assert found["logs"][0]["fault"] == {
        "record": 3,
        "problem": "against a ledger",
        "detail": f"{STORE} gave a receipt for another entry 1 than its ledger has",
    }


def test_a_charge_that_the_log_does_not_announce_is_detected(run):
    path = ledger(run)
    store_key = StoreKey.load(path.parent / "enrolment" / "store.key")
    last = list(Ledger.open(path))[-1]
    again = Charge(steps=last.steps, target_delta=last.target_delta, release=last.release)
    Ledger.open(path, store_key).charge(again.of(run=99))
    fault = log_of(run, ok=False)["fault"]
    assert (fault["record"], fault["problem"]) == (8, "missing")
    assert f"{STORE} has charged entry 3 for attempt 1 of round 2" in fault["detail"]


# Logs that are not what stores have signed


def closed(run: Path) -> tuple[int, Closed]:
    """The first closed attempt, and its number."""
    records = [decode(body) for body in bodies(run / ROUND_LOG_FILE)]
    return next((n, r) for n, r in enumerate(records, start=1) if isinstance(r, Closed))


def rewritten(run: Path, number: int, record: Closed) -> None:
    """Let the coordinator change a record, and sign everything anew."""
    records = bodies(run / ROUND_LOG_FILE)
    records[number - 1] = record.encode()
    rewrite(run / ROUND_LOG_FILE, records, key(run))


def test_a_receipt_that_was_deleted_from_the_log_is_missed(run):
    number, record = closed(run)
    kept = tuple(receipt for receipt in record.receipts if receipt.store_id != STORE)
    rewritten(run, number, replace(record, receipts=kept))
    assert log_of(run, ok=False)["fault"] == {
        "record": number,
        "problem": "not to be trusted",
        "detail": "a store in the sum has no receipt, or receipts are repeated or unsorted",
    }


def test_a_receipt_that_was_altered_is_not_signed(run):
    number, record = closed(run)
    forged = tuple(replace(receipt, entry_hash=b"x" * 32) for receipt in record.receipts)
    rewritten(run, number, replace(record, receipts=forged))
    fault = log_of(run, ok=False)["fault"]
    assert fault["detail"] == "the receipt of 'synthetic-01' is not signed by its key"


def test_an_authority_that_did_not_certify_the_stores_is_named(run):
    other = AuthorityKey.generate().public.hex()
    fault = log_of(run, "--authority", other, ok=False)["fault"]
    assert (fault["record"], fault["problem"]) == (0, "the manifest is not to be trusted")


def test_a_log_outlives_the_manifest_that_its_records_are_under(run):
    """A federation that goes on under other terms, from another model, keeps its log."""
    shutil.rmtree(run / "stores")
    manifest = SignedManifest.load(run / "manifest.json").unchecked
    changed = manifest.model_copy(update={"model_digest": "ab" * 32})
    SignedManifest.sign(changed, AuthorityKey.generate()).save(run / "manifest.json")
    assert log_of(run)["records"] == 7


# Parts of the evidence


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_log_without_ledgers_verifies_as_far_as_it_can(by, run, tmp_path):
    alone = tmp_path / "handed-over"
    alone.mkdir()
    for name in (ROUND_LOG_FILE, checkpoint_path(run / ROUND_LOG_FILE).name):
        shutil.copy(run / name, alone / name)
    found = verify(alone / ROUND_LOG_FILE if by == "file" else alone)
    assert found["stores"] == []
    (log,) = found["logs"]
    assert (log["records"], log["receipts"], log["matched"]) == (7, 10, 0)
    assert log["unverified"] == [
        "who certified the stores' keys: no authority is known",
        "the terms: no manifest",
        "whose log it is: no manifest names its key",
        "what stores have charged: no ledger of a store that it names",
        "that stores were shown this log: no checkpoint of theirs",
    ]
    assert not any("ledgers" in note or "seen this log" in note for note in log["verified"])


def test_ledgers_without_a_log_verify_as_before(run):
    (run / ROUND_LOG_FILE).unlink()
    checkpoint_path(run / ROUND_LOG_FILE).unlink()
    found = verify(run)
    assert found["logs"] == []
    assert all(
        "entries taken from the end: no head that others remember" in row["unverified"]
        for row in found["stores"]
    )


def test_a_log_whose_checkpoint_is_left_is_missed(run):
    (run / ROUND_LOG_FILE).unlink()
    assert log_of(run, ok=False)["fault"]["problem"] == "the round log cannot be read"


# Who remembers


def rolled_back(run: Path) -> None:
    """Take coordinator and stores back to after the first round, each right in itself."""
    records = bodies(run / ROUND_LOG_FILE)[:4]
    rewrite(run / ROUND_LOG_FILE, records, key(run))
    for place in (run / "stores").iterdir():
        (seen,) = (place / "checkpoints").iterdir()
        seen.write_text(checkpoint_of(records[:2], key(run)).line())
        restored(run, place.name)


def test_a_log_rolled_back_together_with_all_stores_is_found_by_who_remembers(run):
    earlier = remember(run)
    rolled_back(run)
    assert log_of(run)["records"] == 4
    found = verify(run, "--remembered", earlier, ok=False)
    assert found["logs"][0]["fault"] == {
        "record": 5,
        "problem": "cut off",
        "detail": "an earlier audit has seen 7 records of it",
    }
    assert {row["fault"]["problem"] for row in found["stores"]} == {"cut off"}


def test_a_log_that_went_on_since_is_no_fault(run):
    later = run.with_name("later")
    shutil.copytree(run, later)
    rolled_back(run)
    earlier = remember(run)
    log = log_of(later, "--remembered", earlier)
    assert "it goes on from the checkpoint that was remembered" in log["verified"]


def test_a_log_that_is_gone_is_missed_by_who_remembers(run):
    earlier = remember(run)
    (run / ROUND_LOG_FILE).unlink()
    checkpoint_path(run / ROUND_LOG_FILE).unlink()
    found = verify(run, "--remembered", earlier, ok=False)
    assert found["logs_gone"] == [key(run).public.hex()]
    done = cli.invoke(app, ["verify", str(run), "--no-second-opinion", "--remembered", earlier])
    assert str(done.exception).startswith("the round log of key ")
    page = run.parent / "page.html"
    options = ["--output", str(page), "--no-second-opinion", "--remembered", earlier]
    assert cli.invoke(app, ["report", str(run), *options]).exit_code
    assert "the round log is gone: it is remembered" in page.read_text()


# Runs that were stopped


def kinds(run: Path) -> list[type]:
    return [type(decode(body)) for body in bodies(run / ROUND_LOG_FILE)]


def test_an_interrupted_attempt_is_closed_with_its_receipts_and_a_resumed_run_verifies(federation):
    run, count = federation.folder.path, []

    def stop(store, reply):
        count.append(reply.metadata.message_type)
        if count.count(STAGES["confirm"]) == 6:  # the first store's in round 2
            raise KeyboardInterrupt
        return reply

    federation.faults.to_server = stop
    with pytest.raises(KeyboardInterrupt):
        run_rounds(federation.grid(), run, federation.settings)
    record = federation.log().records[-1]
    assert isinstance(record, Closed)
    assert (record.outcome, len(record.receipts)) == ("interrupted", 5)
    assert record.confirmations == ()
    verify(run)

    federation.faults.heal()
    run_rounds(federation.grid(), run, federation.settings, resume=True)
    log = log_of(run)
    assert (log["announced"], log["summed"], log["published"]) == (3, 2, 3)
    assert (log["receipts"], log["matched"]) == (15, 15)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["hello", "mask"])
def test_a_coordinator_killed_between_announcing_and_closing_leaves_a_log_that_verifies(
    stage, federation
):
    run = federation.folder.path
    (run / SETTINGS_FILE).write_text(federation.settings.model_dump_json())
    command = [sys.executable, str(PROGRAM), str(run)]
    killed = subprocess.run([*command, "start", STAGES[stage], "2"], check=False)
    assert killed.returncode == -9
    whole = [Published, Announced, Closed, Published]
    assert kinds(run) == [*whole, Announced]
    log = log_of(run)
    assert "what came of 1 announced attempts: never closed" in log["unverified"]

    subprocess.run([*command, "resume"], check=True)
    assert kinds(run) == [*whole, Announced, Announced, Closed, Published]
    log = log_of(run)
    assert (log["announced"], log["summed"], log["published"]) == (3, 2, 3)
    # What the killed attempt has cost is announced, and no receipt says so.
    charged = sum(federation.charged(name) for name in federation.names) // 2
    assert (log["matched"], charged) == (10, 10 if stage == "hello" else 15)
