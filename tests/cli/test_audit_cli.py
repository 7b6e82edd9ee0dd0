"""`hanse audit` from outside: what a third party finds, and what it is told."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanse_common.audit import second_opinion
from hanse_common.audit.cli import app
from hanse_common.errors import AuditFailed, ConfigError, LedgerError
from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.paths import (
    CERTIFICATE_FILE,
    ENROLMENT_FOLDER,
)
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import head_path
from kits.audit import AuditedRun
from kits.errors import raises
from kits.ledger import put, rows

cli = CliRunner()
STORE = "luebeck"


@pytest.fixture
def run(tmp_path: Path) -> AuditedRun:
    return AuditedRun(tmp_path / "run")


def verify(path: Path, *more: str, code: int = 0) -> dict:
    """What `verify --format json` says, without torch."""
    done = cli.invoke(app, ["verify", str(path), "--format", "json", "--no-second-opinion", *more])
    assert (done.exit_code == 0) == (code == 0), done.output
    if code:
        assert isinstance(done.exception, AuditFailed)
        assert done.exception.exit_status == code
    found = json.loads(done.stdout)
    assert found["ok"] == (code == 0)
    return found


def fault(run: AuditedRun, *more: str) -> dict:
    """The only fault of a run whose other store is good."""
    stores = verify(run.folder, *more, code=36)["stores"]
    assert [row["store"] for row in stores if not row["ok"]] == [STORE]
    return next(row["fault"] for row in stores if not row["ok"])


# A good run


def test_a_good_run_verifies_and_says_what_could_not_be(run):
    stores = verify(run.folder)["stores"]
    assert [(row["store"], row["entries"], row["rounds"]) for row in stores] == [
        ("bremen", 2, 2),
        (STORE, 2, 2),
    ]
    for row in stores:
        assert "every entry is signed by the certificate's key" in row["verified"]
        assert (
            "every charge under the manifest is as it says, within its grant and its promise"
            in row["verified"]
        )
        assert "entries taken from the end: no head that others remember" in row["unverified"]


@pytest.mark.parametrize("part", ["", "ledger.sqlite"])
def test_one_store_or_its_ledger_alone_can_be_verified(run, part):
    (row,) = verify(run.store(STORE) / part)["stores"]
    assert (row["store"], row["ok"], row["fault"]) == (STORE, True, None)


def test_every_figure_is_the_stores_own_and_two_accountants_agree(run):
    done = cli.invoke(app, ["verify", str(run.folder), "--format", "json"])
    spent = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.5, count=4)
    expected = epsilon([spent], target_delta=1e-6)
    for row in json.loads(done.stdout)["stores"]:
        assert row["epsilon"] == run.entries(row["store"])[-1].epsilon_after
        assert row["epsilon"] == pytest.approx(expected)
        assert row["second_epsilon"] == pytest.approx(expected, rel=0.02)
        assert row["second_epsilon"] != row["epsilon"]
        assert "a second accountant agrees within 2% (Opacus PRV)" in row["verified"]


def test_a_table_names_every_store_and_what_was_not_verified(run):
    done = cli.invoke(app, ["verify", str(run.folder), "--no-second-opinion"])
    assert done.exit_code == 0
    assert "bremen" in done.stdout
    assert "Not verified: no second accountant: not asked for" in done.stdout


def test_a_ledger_without_certificate_and_terms_verifies_as_far_as_it_can(run, tmp_path):
    alone = tmp_path / "handed-over" / "ledger.sqlite"
    alone.parent.mkdir()
    alone.write_bytes(run.ledger(STORE).read_bytes())
    (row,) = verify(alone)["stores"]
    assert row["unverified"][:3] == [
        "whose key signed: no certificate",
        "how far the store says it goes: no ledger.head",
        "entries taken from the end: no head that others remember",
    ]
    assert "the terms: no manifest" in row["unverified"]


# What is not as it was written


def test_a_changed_byte_is_named_with_store_and_entry(run):
    kept = rows(run.ledger(STORE))
    body = bytearray(kept[1].body)
    body[60] ^= 1
    put(run.ledger(STORE), [kept[0], replace(kept[1], body=bytes(body))])
    assert fault(run)["entry"] == 2
    row = verify(run.folder, code=36)["stores"][1]
    assert row["verified"] == ["the key is certified by the authority"]
    done = cli.invoke(app, ["verify", str(run.folder), "--no-second-opinion"])
    assert str(done.exception).startswith(f"{STORE}: entry 2 is altered: ")
    assert "FAILED: entry 2 is altered" in done.stdout


def test_a_deleted_entry_is_named(run):
    kept = rows(run.ledger(STORE))
    put(run.ledger(STORE), kept[1:])
    found = fault(run)
    assert (found["entry"], found["problem"]) == (1, "missing")
    put(run.ledger(STORE), kept[:1])
    found = fault(run)
    assert (found["entry"], found["problem"]) == (2, "cut off")


def test_a_ledger_that_is_gone_is_named_as_long_as_its_head_or_an_audit_remembers(run, tmp_path):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(verify(run.folder)))
    run.ledger(STORE).unlink()
    assert fault(run)["problem"] == "the ledger is gone"
    head_path(run.ledger(STORE)).unlink()
    found = verify(run.folder, "--remembered", str(earlier), code=36)
    assert found["gone"] == [STORE]


def test_a_ledger_and_head_made_anew_are_noticed_by_who_remembers_a_later_head(run, tmp_path):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(verify(run.folder)))
    run.forge(STORE, lambda entries: entries[:1])
    verify(run.folder)
    found = fault(run, "--remembered", str(earlier))
    assert (found["entry"], found["problem"]) == (2, "cut off")


def test_entries_of_another_key_are_named(run):
    run.forge(STORE, lambda entries: entries, key=StoreKey.generate())
    found = fault(run)
    assert (found["entry"], found["problem"]) == (1, "another key")


def test_a_key_that_the_store_had_before_counts_while_its_certificate_is_kept(run):
    folder = run.store(STORE) / ENROLMENT_FOLDER
    (folder / "certificate").rename(folder / "certificate.2025")
    run.certify(STORE, StoreKey.generate())
    verify(run.folder)
    (folder / "certificate.2025").unlink()
    assert fault(run)["problem"] == "another key"


def test_a_certificate_of_another_authority_than_the_one_given_is_not_trusted(run):
    verify(run.folder, "--authority", run.authority.public.hex())
    other = AuthorityKey.generate().public.hex()
    stores = verify(run.folder, "--authority", other, code=36)["stores"]
    assert {row["fault"]["problem"] for row in stores} == {"the certificate is not to be trusted"}


def test_an_epsilon_that_its_charges_do_not_come_to_is_named(run):
    def smaller(entries):
        return [entries[0], replace(entries[1], epsilon_after=entries[0].epsilon_after)]

    run.forge(STORE, smaller)
    found = fault(run)
    assert (found["entry"], found["problem"]) == (2, "wrong epsilon")


def test_a_second_accountant_who_disagrees_by_more_than_two_percent_fails_the_audit(
    run, monkeypatch
):
    monkeypatch.setattr(second_opinion, "_prv_epsilon", lambda *_: 0.5)
    done = cli.invoke(app, ["verify", str(run.folder), "--format", "json"])
    assert isinstance(done.exception, AuditFailed)
    (first, _) = json.loads(done.stdout)["stores"]
    assert (first["fault"]["entry"], first["fault"]["problem"]) == (1, "in doubt")


def test_a_second_accountant_agrees_about_little_noise_and_much(tmp_path):
    for noise in (1.0, 1000.0):
        folder = tmp_path / str(noise)
        AuditedRun(folder, noise_multiplier=noise, local_steps=1, sample_rate=0.02)
        done = cli.invoke(app, ["verify", str(folder)])
        assert done.exit_code == 0, done.output


def test_without_a_second_accountant_the_audit_says_so_and_goes_on(run, monkeypatch):
    monkeypatch.setattr(second_opinion, "find_spec", lambda _: None)
    done = cli.invoke(app, ["verify", str(run.folder)])
    assert done.exit_code == 0
    assert "no second accountant: opacus is not installed" in done.stdout


# What is not as the manifest says


def test_less_noise_than_the_manifest_is_named(run):
    run.charge(STORE, 2, 2, run=2, noise_multiplier=3.9)
    found = fault(run)
    assert (found["entry"], found["problem"]) == (3, "against the manifest")
    assert found["detail"] == ("it charges noise_multiplier=3.9, the manifest's terms come to 4")


def test_more_noise_than_the_manifest_is_named_as_it_would_count_too_little(run):
    run.charge(STORE, 2, 2, run=2, noise_multiplier=40.0)
    assert fault(run)["entry"] == 3


@pytest.mark.parametrize(("name", "value"), [("sample_rate", 0.4), ("count", 1), ("stores", 2)])
def test_other_steps_than_the_manifest_are_named(run, name, value):
    run.charge(STORE, 2, 2, run=2, **{name: value})
    assert fault(run)["entry"] == 3


@pytest.mark.parametrize("change", [{"mode": "distributed"}, {"max_grad_norm": 0.1}])
def test_another_mode_or_clip_is_named(run, change):
    def changed(entries):
        return [entries[0], replace(entries[1], release=replace(entries[1].release, **change))]

    run.forge(STORE, changed)
    assert fault(run)["entry"] == 2


def test_more_rounds_than_the_manifest_are_named(run):
    run.charge(STORE, 3, 3)
    found = fault(run)
    assert (found["entry"], found["problem"]) == (3, "beyond the manifest's rounds")
    assert found["detail"] == "it is round 3, the manifest has 2"


def test_charges_that_name_no_terms_are_counted_as_not_verified(run):
    def unnamed(entries):
        release = replace(entries[1].release, manifest_digest=bytes(32))
        return [entries[0], replace(entries[1], release=release)]

    run.forge(STORE, unnamed)
    row = verify(run.folder)["stores"][1]
    assert "the terms of 1 charges that name no manifest" in row["unverified"]


def test_a_certificate_of_a_store_that_the_manifest_does_not_list_is_named(run):
    certificate = run.authority.certify(
        "danzig", run.keys[STORE].public, valid_from=0, valid_until=10
    )
    certificate.save(run.store(STORE) / ENROLMENT_FOLDER / CERTIFICATE_FILE)
    assert fault(run)["problem"] == "no member"


def test_renewals_are_verified_and_named_where_terms_are_missing(run):
    ledger = Ledger.open(run.ledger(STORE), run.keys[STORE], sync=False)
    before = run.plan().round_charge()
    renewed = Budget(max_epsilon=4.0, renews=1_600_000_000)
    ledger.charge(before, budget=renewed)
    done = cli.invoke(app, ["verify", str(run.store(STORE)), "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert (row["fault"], row["entries"]) == (None, 4)
    assert row["second_epsilon"] == pytest.approx(row["epsilon"], rel=0.02)
    assert "the terms of 1 charges that name no manifest" in row["unverified"]
    done = cli.invoke(app, ["budget", str(run.store(STORE)), "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert row["spent"] == pytest.approx(epsilon([before.steps], target_delta=1e-6))
    assert row["spent_ever"] == list(ledger)[-1].epsilon_after > row["spent"]


# What is beyond the store's own limit


def test_a_charge_that_a_store_signed_beyond_its_own_limit_is_named(run):
    one = run.entries(STORE)[0].epsilon_after

    def careless(entries):
        return [replace(entry, max_epsilon=1.01 * one) for entry in entries]

    run.forge(STORE, careless)
    found = fault(run)
    assert (found["entry"], found["problem"]) == (2, "beyond the store's own limit")
    assert f"it names max_epsilon={1.01 * one:g}" in found["detail"]
    (row,) = (row for row in verify(run.folder, code=36)["stores"] if row["store"] == STORE)
    assert "every charge is within the store's limit that it names" not in row["verified"]


def test_only_what_was_spent_since_the_renewal_counts_towards_the_limit(run):
    two = run.entries(STORE)[-1].epsilon_after
    ledger = Ledger.open(run.ledger(STORE), run.keys[STORE], sync=False)
    renewed = Budget(max_epsilon=two, renews=1_600_000_000)
    for _ in range(2):
        ledger.charge(run.plan().round_charge(), budget=renewed)
    row = verify(run.folder)["stores"][1]
    assert "every charge is within the store's limit that it names" in row["verified"]
    assert (
        "why 2 charges name another limit than the policy's 4: it may have changed"
        in (row["unverified"])
    )
    assert "why the budget was renewed on a day that the policy does not name" in row["unverified"]

    def without_renewal(entries):
        return [entry for entry in entries if entry.kind != "renewal"]

    run.forge(STORE, without_renewal)
    assert (fault(run)["entry"], fault(run)["problem"]) == (3, "beyond the store's own limit")


@pytest.mark.parametrize(
    ("renews", "problem"),
    [(4_000_000_000, "a renewal before its day"), (1_600_000_000, "a second renewal")],
)
def test_a_renewal_that_the_policy_cannot_have_asked_for_is_named(run, renews, problem):
    ledger = Ledger.open(run.ledger(STORE), run.keys[STORE], sync=False)
    renewed = Budget(max_epsilon=4.0, renews=1_600_000_000)
    ledger.charge(run.plan().round_charge(), budget=renewed)

    def again(entries):
        return [
            *entries,
            replace(
                entries[2],
                renews=renews,
                epsilon_before=(entries[-1].epsilon_after),
                epsilon_after=entries[-1].epsilon_after,
            ),
        ]

    run.forge(STORE, again)
    assert (fault(run)["entry"], fault(run)["problem"]) == (5, problem)


def test_charges_without_a_limit_are_counted_as_not_verified(run):
    run.forge(STORE, lambda entries: [replace(entry, max_epsilon=0.0) for entry in entries])
    row = verify(run.folder)["stores"][1]
    assert "the store's limit: 2 charges name none" in row["unverified"]
    assert not any("the store's limit" in note for note in row["verified"])


# What was spent


def test_rounds_list_each_charge_with_its_epsilon_and_what_was_left(run):
    done = cli.invoke(app, ["rounds", str(run.folder), "--format", "json"])
    found = json.loads(done.stdout)["rounds"]
    assert [(row["store"], row["round"], row["kind"]) for row in found] == [
        (store, number, "train") for store in ("bremen", STORE) for number in (1, 2)
    ]
    first, second = found[:2]
    assert first["epsilon"] == first["cumulative"] == second["epsilon"]
    assert second["cumulative"] == run.entries("bremen")[-1].epsilon_after
    assert second["left"] == pytest.approx(4.0 - second["cumulative"])
    assert (first["noise_multiplier"], first["sample_rate"], first["steps"]) == (4.0, 0.5, 2)
    assert "ε so far" in cli.invoke(app, ["rounds", str(run.folder)]).stdout


def test_budget_says_how_many_more_rounds_the_ledger_would_let_through(run):
    done = cli.invoke(app, ["budget", str(run.store(STORE)), "--format", "json"])
    (row,) = json.loads(done.stdout)["stores"]
    assert row["spent"] == row["spent_ever"] == run.entries(STORE)[-1].epsilon_after
    assert row["left"] == pytest.approx(4.0 - row["spent"])
    for number in range(row["rounds_left"]):
        run.charge(STORE, 1, 1, run=number + 2)
    with raises("budget-spent"):
        run.charge(STORE, 1, 1, run=99)


def at_stores(path: Path) -> dict[str, float]:
    done = cli.invoke(app, ["budget", str(path), "--format", "json"])
    return json.loads(done.stdout)["stores"][0]["at_stores"]


def test_at_several_stores_in_mode_local_what_they_spent_composes(run):
    found = at_stores(run.folder)
    terms = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.5, count=4)
    for count in (1, 2, 4):
        expected = epsilon([terms] * count, target_delta=1e-6)
        assert found[str(count)] == pytest.approx(expected)


def test_a_manifest_that_covers_two_stores_has_paid_for_both(tmp_path):
    run = AuditedRun(tmp_path, max_stores_per_customer=2)
    verify(run.folder)
    found = at_stores(run.folder)
    assert found["2"] == pytest.approx(run.entries("bremen")[-1].epsilon_after)
    assert found["1"] < found["2"] < found["4"]


def test_at_several_stores_of_one_sum_the_noise_counts_for_less(tmp_path):
    run = AuditedRun(tmp_path, mode="distributed", sample_rate=0.1)
    found = at_stores(run.folder)
    assert found["1"] == pytest.approx(run.entries("bremen")[-1].epsilon_after)
    together = SampledGaussianSteps(noise_multiplier=1.0, sample_rate=0.1, count=4, stores=4)
    assert found["4"] == pytest.approx(epsilon([together], target_delta=1e-6))
    # Never better than the same stores, each with all of the noise.
    apart = SampledGaussianSteps(noise_multiplier=4.0, sample_rate=0.1, count=16)
    assert found["4"] > epsilon([apart], target_delta=1e-6)


def test_terms_whose_shares_of_noise_do_not_add_up_fail_the_audit(tmp_path):
    run = AuditedRun(tmp_path, mode="distributed")
    stores = verify(run.folder, code=36)["stores"]
    problems = {(row["fault"]["entry"], row["fault"]["problem"]) for row in stores}
    assert problems == {(0, "the manifest does not keep its promise")}


# All entries


def test_export_writes_every_field_of_every_entry_as_csv_or_json(run):
    as_json = json.loads(cli.invoke(app, ["export", str(run.folder), "--format", "json"]).stdout)
    as_csv = list(csv.DictReader(io.StringIO(cli.invoke(app, ["export", str(run.folder)]).stdout)))
    assert len(as_json) == len(as_csv) == 4
    entry = run.entries("bremen")[0]
    assert as_json[0]["hash"] == as_csv[0]["hash"] == entry.hash.hex()
    assert as_json[0]["signature"] == as_csv[0]["signature"] == entry.signature.hex()
    assert float(as_csv[0]["epsilon_after"]) == as_json[0]["epsilon_after"] == entry.epsilon_after
    assert (as_json[0]["kind"], as_json[0]["release_kind"]) == ("charge", "train")
    assert as_json[0].keys() == as_csv[0].keys()


# Mistakes


@pytest.mark.parametrize("command", ["verify", "rounds", "budget", "export"])
def test_a_folder_without_a_ledger_says_what_to_do(command, tmp_path):
    error = cli.invoke(app, [command, str(tmp_path)]).exception
    assert isinstance(error, LedgerError)
    assert "give a ledger.sqlite, a store's folder or a run's folder" in error.hint


def test_mistakes_are_errors_of_the_tree(run, tmp_path):
    for more in (["--authority", "abc"], ["--remembered", str(tmp_path / "none.json")]):
        error = cli.invoke(app, ["verify", str(run.folder), *more]).exception
        assert isinstance(error, ConfigError)
    run.ledger(STORE).write_bytes(b"no database")
    assert isinstance(cli.invoke(app, ["rounds", str(run.folder)]).exception, LedgerError)
    assert fault(run)["problem"] == "the ledger cannot be read"


def test_an_audit_without_second_opinion_loads_no_torch(run):
    code = (
        "import sys; from hanse_common.audit.cli import app\n"
        f"for a in (['verify', {str(run.folder)!r}, '--no-second-opinion'],"
        f" ['rounds', {str(run.folder)!r}], ['budget', {str(run.folder)!r}]):\n"
        "    app(a, standalone_mode=False)\n"
        "print([m for m in ('torch', 'opacus', 'flwr', 'polars') if m in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("noise_multiplier", [1e-12, 0.001, 0.049])
def test_a_charge_with_next_to_no_noise_is_beyond_every_promise_and_fills_no_memory(
    run, noise_multiplier
):
    """The accountant would need more memory than there is; the answer is known without it."""
    run.forge(
        STORE,
        lambda entries: [
            *entries[:1],
            replace(
                entries[1],
                steps=replace(entries[1].steps, noise_multiplier=noise_multiplier),
                epsilon_after=math.inf,
            ),
        ],
    )
    done = cli.invoke(app, ["verify", str(run.folder), "--no-second-opinion", "--format", "json"])
    assert isinstance(done.exception, AuditFailed)
    (row,) = [row for row in json.loads(done.stdout)["stores"] if row["store"] == STORE]
    assert row["fault"]["entry"] == 2
    assert row["epsilon"] is None
