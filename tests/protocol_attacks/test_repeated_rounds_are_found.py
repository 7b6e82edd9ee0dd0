"""A coordinator repeats rounds under new run numbers, and stores are lax enough to pay for it.

A store of today refuses what goes beyond its manifest's grant. An auditor must see it in the
ledgers of stores that did not: an older release, an altered one, or one that works together
with the coordinator.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_client import guard
from hanse_client.rounds import secure_exchange
from hanse_common.audit.cli import app
from hanse_common.errors import AuditFailed
from hanse_common.paths import MANIFEST_FILE
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.budget import Budget
from hanse_server.rounds import run_rounds
from kits.audit import AuditedRun

cli = CliRunner()
STORE = "luebeck"
PLENTY = Budget(max_epsilon=100.0)


def verify(path: Path, *more: str) -> tuple[dict, BaseException | None]:
    """What `verify --format json` prints, and its error."""
    done = cli.invoke(app, ["verify", str(path), "--format", "json", "--no-second-opinion", *more])
    assert done.exception is None or isinstance(done.exception, AuditFailed), done.output
    found = json.loads(done.stdout)
    assert found["ok"] == (done.exception is None)
    return found, done.exception


def row_of(found: dict, store: str = STORE) -> dict:
    return next(row for row in found["stores"] if row["store"] == store)


# Within the grant


def test_repeats_within_the_grant_are_a_fact_and_no_fault(tmp_path):
    run = AuditedRun(tmp_path, rounds=2, spare=2)
    run.charge(STORE, 1, 1, attempt=2)
    run.charge(STORE, 2, 2, run=77)
    found, error = verify(tmp_path)
    assert error is None
    (use,) = row_of(found)["exchanges"]
    assert (use["granted"], use["spare"], use["used"], use["repeated"]) == (4, 2, 4, 2)
    assert use["repeats"] == [
        {
            "round": 1,
            "exchange": 3,
            "times": [{"run": 1, "attempt": 1, "at": 1}, {"run": 1, "attempt": 2, "at": 3}],
        },
        {
            "round": 2,
            "exchange": 6,
            "times": [{"run": 1, "attempt": 1, "at": 2}, {"run": 77, "attempt": 1, "at": 4}],
        },
    ]
    assert row_of(found)["rounds"] == 2
    shown = " ".join(
        cli.invoke(app, ["verify", str(tmp_path), "--no-second-opinion"]).stdout.split()
    )
    assert (
        "Repeated: 2 of 2 spare exchanges of kind 'train' used: round 1 twice: entry 1 (run 1, "
        "attempt 1), entry 3 (run 1, attempt 2); round 2 twice: entry 2 (run 1, attempt 1), "
        "entry 4 (run 77, attempt 1) (1 of 2 stores)" in shown
    )


def test_a_run_without_repeats_says_nothing_of_them(tmp_path):
    AuditedRun(tmp_path)
    assert "Repeated" not in cli.invoke(app, ["verify", str(tmp_path)]).stdout


# Beyond it


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_one_more_charge_than_is_granted_is_named_with_store_entry_runs_and_figures(
    spare, tmp_path
):
    run = AuditedRun(tmp_path, rounds=2, spare=spare)
    for number in range(spare):
        run.charge(STORE, 1, 1, run=100 + number)
    assert verify(tmp_path)[1] is None
    run.charge(STORE, 1, 1, run=999)
    found, error = verify(tmp_path)
    fault = row_of(found)["fault"]
    assert (fault["entry"], fault["problem"]) == (3 + spare, "beyond the manifest's grant")
    assert str(error).startswith(f"{STORE}: entry {3 + spare} is beyond the manifest's grant: ")
    for part in (
        f"with it, {3 + spare} exchanges of kind 'train' are charged",
        f"which grants {2 + spare} (2 and {spare} spare)",
        "entry 1 (run 1, attempt 1)",
        f"entry {3 + spare} (run 999, attempt 1)",
    ):
        assert part in fault["detail"], part
    assert not any("within its grant" in note for note in row_of(found)["verified"])


def test_eight_unmasked_repeats_of_one_round_are_counted_and_priced(tmp_path):
    """What a store's own, higher limit let through: the promise of the manifest was broken."""
    run = AuditedRun(tmp_path, rounds=2, spare=0, noise_multiplier=2.5, target_epsilon=3.0)
    for number in range(8):
        run.charge(STORE, 1, 1, run=100 + number, budget=PLENTY)
    entries = run.entries(STORE)
    assert entries[-1].epsilon_after > 3.0
    fault = row_of(verify(tmp_path)[0])["fault"]
    assert (fault["entry"], fault["problem"]) == (3, "beyond the manifest's grant")
    first = next(entry for entry in entries if entry.epsilon_after > 3.0)
    assert (
        f"; entry {first.sequence} is beyond the manifest's promise: with it, charges under this "
        f"manifest come to epsilon={first.epsilon_after:.4g}, it promises 3" in fault["detail"]
    )


def test_no_renewal_of_the_stores_own_budget_gives_the_grant_back(tmp_path):
    run = AuditedRun(tmp_path, rounds=2, spare=0)
    run.charge(STORE, 1, 2, run=2, budget=Budget(max_epsilon=4.0, renews=1_600_000_000))
    assert [entry.kind for entry in run.entries(STORE)] == ["charge"] * 2 + ["renewal"] + [
        "charge"
    ] * 2
    fault = row_of(verify(tmp_path)[0])["fault"]
    assert (fault["entry"], fault["problem"]) == (4, "beyond the manifest's grant")


def test_evaluations_are_counted_by_themselves(tmp_path):
    run = AuditedRun(
        tmp_path, rounds=4, spare=1, evaluate_every=2, noise_multiplier=8.0,
        evaluation_noise_multiplier=60.0,
    )  # fmt: skip
    granted = run.manifest.granted("evaluate")
    # Once before the first round, after two, and after the last, whose test is one more.
    places = [(0, 1), (2, 1), (4, 1), (4, 2)]
    for number, place in places:
        run.charge(STORE, number, number, kind="evaluate", place=place)
    for more in range(granted - len(places)):
        run.charge(STORE, 2, 2, kind="evaluate", place=1, run=50 + more)
    assert verify(tmp_path)[1] is None
    run.charge(STORE, 4, 4, kind="evaluate", place=2, run=99)
    fault = row_of(verify(tmp_path)[0])["fault"]
    assert (fault["entry"], fault["problem"]) == (5 + granted, "beyond the manifest's grant")
    assert "the evaluation of round 2 twice" in fault["detail"]
    assert "the test of round 4 twice" in fault["detail"]


@pytest.mark.parametrize(
    ("number", "kind", "place", "words"),
    [
        (1, "evaluate", 1, "it evaluates round 1, the manifest says every 2 and the last"),
        (2, "evaluate", 2, "it is the test after round 2, which follows round 4 alone"),
        (2, "evaluate", 0, "it is exchange 6, which is no 'evaluate' of round 2"),
        (2, "train", 3, "it is exchange 9, which is no 'train' of round 2"),
        (5, "train", 0, "it is round 5, the manifest has 4"),
    ],
)
def test_an_exchange_that_a_run_does_not_have_is_named(number, kind, place, words, tmp_path):
    run = AuditedRun(
        tmp_path, rounds=4, spare=1, evaluate_every=2, noise_multiplier=8.0,
        evaluation_noise_multiplier=60.0,
    )  # fmt: skip
    run.charge(STORE, number, number, kind=kind, place=place)
    fault = row_of(verify(tmp_path)[0])["fault"]
    assert (fault["entry"], fault["problem"]) == (5, "beyond the manifest's rounds")
    assert fault["detail"] == words


def test_a_store_that_keeps_its_copy_of_the_terms_back_is_held_to_a_neighbours(tmp_path):
    run = AuditedRun(tmp_path, rounds=2, spare=0)
    run.charge(STORE, 1, 1, run=2)
    (run.store(STORE) / "enrolment" / MANIFEST_FILE).unlink()
    for more in ((), ("--authority", run.authority.public.hex())):
        found, error = verify(tmp_path, *more)
        assert error is not None
        assert row_of(found)["fault"]["problem"] == "beyond the manifest's grant"
        note = "the store's own copy of the terms: no manifest of its own"
        assert note in row_of(found)["unverified"]


def test_charges_under_earlier_terms_are_held_to_those(tmp_path):
    """`manifest.json` is of today's terms; what was charged under the last ones lies beside it."""
    run = AuditedRun(tmp_path / "run", rounds=2, spare=0)
    run.charge(STORE, 1, 1, run=2)
    later = AuditedRun(tmp_path / "later", rounds=3, spare=0)
    folder = run.store(STORE) / "enrolment"
    (folder / MANIFEST_FILE).rename(folder / "manifest.2025.json")
    (folder / "policy.toml").write_text(f'authority = "{later.authority.public.hex()}"\n')
    shutil.copy(later.store(STORE) / "enrolment" / MANIFEST_FILE, folder / MANIFEST_FILE)
    # Of another authority they count only where none is known.
    (folder / "policy.toml").unlink()
    shutil.rmtree(run.store("bremen"))
    fault = row_of(verify(run.folder)[0])["fault"]
    assert (fault["entry"], fault["problem"]) == (3, "beyond the manifest's grant")


# By the round log


@pytest.fixture
def twice(found_federation, monkeypatch):
    """Run a federation's two rounds twice over, at stores that are lax or not."""

    def made(*, lax: bool, spare: int) -> Path:
        federation = found_federation({"federation.spare_exchanges": spare})
        if lax:
            monkeypatch.setattr(guard, "grant_of", lambda _: None)
            monkeypatch.setattr(secure_exchange, "grant_of", lambda _: None)
        run = federation.folder.path
        run_rounds(federation.grid(), run, federation.settings)
        for path in run.glob("checkpoint*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_rounds(federation.grid(), run, federation.settings)
        return run

    return made


def test_the_round_log_tells_of_repeats_too_and_they_agree_with_the_ledgers(twice):
    run = twice(lax=False, spare=2)
    found, error = verify(run)
    assert error is None
    shown = cli.invoke(app, ["verify", str(run), "--no-second-opinion"]).stdout
    assert (
        "Repeated: announced 2 repeats of kind 'train', a store pays for 2 at most: round 1 "
        "twice: record 2 (run "
    ) in " ".join(shown.split())
    (use,) = found["logs"][0]["exchanges"]
    assert (use["granted"], use["used"], use["repeated"]) == (4, 4, 2)
    runs = [[time["run"] for time in repeat["times"]] for repeat in use["repeats"]]
    assert len({tuple(pair) for pair in runs}) == 1 and len(set(runs[0])) == 2
    for row in found["stores"]:
        (own,) = row["exchanges"]
        assert [[time["run"] for time in one["times"]] for one in own["repeats"]] == runs


def test_receipts_beyond_the_grant_are_named_at_the_logs_record(twice):
    run = twice(lax=True, spare=1)
    found, _ = verify(run)
    (log,) = found["logs"]
    assert log["fault"]["problem"] == "beyond the manifest's grant"
    assert (
        "gave receipts for 4 exchanges of kind 'train' under a manifest that grants 3"
        in (log["fault"]["detail"])
    )
    note = "why 4 exchanges of kind 'train' were announced: the manifest lets a store pay for 3"
    assert note in log["unverified"]
    assert {row["fault"]["problem"] for row in found["stores"]} == {"beyond the manifest's grant"}
    # Without the ledgers the log alone says so.
    shutil.rmtree(run / "stores")
    assert verify(run)[0]["logs"][0]["fault"] == log["fault"]


def test_a_second_sum_of_statistics_is_named_by_ledger_and_round_log(counting, monkeypatch):
    """A sum of statistics is granted once, whatever spare exchanges there are."""
    federation = counting()
    for module in (guard, secure_exchange):
        monkeypatch.setattr(module, "grant_of", lambda _: None)
    for node in federation.nodes():
        path = node.enrolment.folder / "policy.toml"
        lines = [line for line in path.read_text().splitlines() if "max_epsilon" not in line]
        path.write_text("\n".join([*lines, "max_epsilon = 100.0"]) + "\n")
    path = federation.folder.path
    run_rounds(federation.grid(), path, federation.settings)
    for made in path.glob("checkpoint*"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    run_rounds(federation.grid(), path, federation.settings)
    found, error = verify(path)
    assert error is not None
    problem = "beyond the manifest's grant"
    for row in found["stores"]:
        assert row["fault"]["problem"] == problem
        assert "2 exchanges of kind 'class-buyers'" in row["fault"]["detail"]
    assert found["logs"][0]["fault"]["problem"] == problem


def test_the_price_of_what_is_granted_is_within_the_promise(tmp_path):
    """So that a count within the grant needs no other check, and one beyond it is a fault."""
    run = AuditedRun(tmp_path, rounds=2, spare=2)
    cost = run.plan().round_charge().steps
    assert epsilon([cost] * run.manifest.granted("train"), target_delta=1e-6) <= 3.0
