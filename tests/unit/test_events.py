"""What a coordinator and a store tell of, decided from the files that they have."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from hanse_client.deployment import enrol
from hanse_client.deployment.alerts import notify_settings, store_events
from hanse_client.deployment.folder import StoreFolder, create
from hanse_client.deployment.tls_check import note_tls_end
from hanse_common.admission import Invitation
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import SignedManifest
from hanse_common.manifest_terms import manifest_for
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge, Release
from hanse_server.deployment.alerts import coordinator_events
from hanse_server.deployment.crashes import remember
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.sign import read_run_settings
from kits.commands import hanse
from kits.deployment import StoreFiles, found, server, succeed

DAY = 86_400.0
STORES = ["bremen", "danzig", "luebeck", "riga", "rostock"]


@pytest.fixture
def federation(tmp_path) -> FederationFolder:
    found(tmp_path / "baltic")
    return FederationFolder(tmp_path / "baltic")


def run(federation, lines, *, failure=None, name="spring", signed=False):
    """A run's folder whose process has ended, with these lines of `rounds.jsonl`."""
    folder = federation.run(name)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"federation.rounds": 6, "privacy.mode": "none", "phases": []}
    settings = read_run_settings(federation.path / "settings.toml").with_changes(plain)
    (folder / "settings.json").write_text(settings.model_dump_json())
    (folder / "flower.json").write_text('{"runs": [1]}')
    whole = {"split": None, "sums": {}, "cut": None, "note": "", "time": 1.0, "seconds": 1.0}
    rows = [{**whole, "attempts": 1, "noise_share": 1.0, "outcome": "summed", **x} for x in lines]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if failure:
        (folder / "failure.json").write_text(json.dumps(failure))
    if signed:
        key = AuthorityKey.load(federation.authority_key)
        arrays = {"head": np.zeros(3, dtype=np.float32)}
        terms = manifest_for(settings, arrays, STORES, federation="baltic", log_key=bytes(32))
        for target in (federation.manifest, folder / "manifest.json"):
            SignedManifest.sign(terms, key).save(target)


def trained(number, **more):
    return {"round": number, "stage": "train", "replies": 4, "refusals": {}, **more}


def told(federation, **options):
    return {event.kind: event for event in coordinator_events(federation, **options)}


def test_a_new_federation_has_nothing_to_tell(federation):
    assert told(federation) == {}
    done = succeed(server(federation.path, "notify"))
    assert done.out == "nothing to tell\n"


def test_a_run_that_failed_is_told_by_its_code_and_not_in_a_stores_words(federation):
    run(federation, [trained(1)], failure={"code": "round-failed", "message": "Ada bought 7"})
    event = told(federation)["run-failed"]
    assert "[round-failed]" in event.message and "Ada" not in event.sentence
    (row,) = succeed(server(federation.path, "notify", "--format", "json")).json
    assert (row["event"], row["subject"], row["source"]) == ("run-failed", "spring", "baltic")


def test_processes_that_crashed_are_told_for_a_day_and_again_with_each_crash(federation):
    federation.state.mkdir(exist_ok=True)
    remember(federation.state, "the SuperExec ended with status -9", now=1_800_000_000.0)
    event = told(federation, now=1_800_000_060.0)["process-crashed"]
    assert event.message == "the SuperExec ended with status -9 on 2027-01-15 at 08:00 UTC"
    remember(federation.state, "the SuperLink ended with status 1", now=1_800_000_030.0)
    later = told(federation, now=1_800_000_060.0)["process-crashed"]
    assert later.message.endswith("2 crashes in a day") and later.key != event.key
    assert "process-crashed" not in told(federation, now=1_800_000_031.0 + DAY)
    for number in range(30):
        remember(federation.state, "again", now=1_800_000_100.0 + number)
    assert "20 crashes" in told(federation, now=1_800_000_200.0)["process-crashed"].message


def test_a_store_that_is_in_no_round_is_told_and_one_that_is_back_is_not(federation):
    why = {"riga": "at stage 'hello': [budget-spent] Ada", "danzig": "no reply in time"}
    lost = [trained(number, refusals=why) for number in (1, 2, 3)]
    run(federation, lost[:2])
    assert "store-lost" not in told(federation)
    run(federation, lost)
    events = [event for event in coordinator_events(federation) if event.kind == "store-lost"]
    assert [event.subject for event in events] == ["danzig", "riga"]
    assert "[no-reply]" in events[0].message and "[budget-spent]" in events[1].message
    assert "Ada" not in events[1].sentence
    run(federation, [*lost, trained(4, refusals={"danzig": why["danzig"]})])
    assert told(federation)["store-lost"].subject == "danzig"


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ({"noise_share": 0.94}, True),
        ({"noise_share": 0.96}, False),
        ({"noise_share": None}, False),
        ({"noise_share": None, "outcome": "round-noise-missing"}, True),
    ],
)
def test_missing_noise_is_told(federation, line, missing):
    run(federation, [trained(1), trained(2, **line)])
    assert ("noise-missing" in told(federation)) is missing


def test_terms_that_do_not_last_for_the_rest_of_a_run_are_told(federation):
    failure = {"code": "round-failed", "message": "x"}
    run(federation, [trained(1), trained(2)], failure=failure, signed=True)
    assert "grant-near-end" in told(federation), "two were used, and six rounds are left"


def test_certificates_of_stores_and_of_the_address_are_told(federation, tmp_path):
    store = StoreFiles(tmp_path / "riga", "riga")
    succeed(server(federation.path, "admit", store.request, "--yes"))
    now = time.time()
    assert told(federation, now=now + 300 * DAY) == {}
    events = told(federation, now=now + 360 * DAY)
    assert events["certificate-near-end"].subject == "the certificate of riga"
    assert events["certificate-near-end"].step == 7
    assert told(federation, now=now + 900 * DAY)["tls-near-end"].step == 0


@pytest.fixture
def store(federation, tmp_path) -> StoreFolder:
    made = StoreFolder(tmp_path / "luebeck")
    create(made, "luebeck")
    enrol.accept_invitation(made, Invitation.load(federation.invitation))
    succeed(server(federation.path, "admit", enrol.write_request(made), "--yes"))
    enrol.accept_certificate(made, federation.certificate("luebeck"))
    return made


def of_store(store, **options):
    return {event.kind: event for event in store_events(store, notify_settings(store), **options)}


def test_a_store_tells_of_both_certificates(store):
    now = time.time()
    assert of_store(store) == {}
    note_tls_end(store.path, now + 5 * DAY)
    assert of_store(store)["tls-near-end"].step == 7
    assert of_store(store, now=now + 364.5 * DAY)["certificate-near-end"].step == 1
    done = succeed(hanse("store", "notify", "--folder", store.path, "--format", "json"))
    (row,) = done.json
    assert (row["source"], row["event"]) == ("luebeck", "tls-near-end")
    assert row["next"] == "hanse server tls renew"


def test_a_store_tells_of_refusals_in_a_row_and_of_its_budget(store):
    node = store.node()
    for number in range(4):
        node.log(error="[budget-spent] epsilon 3.2 of Ada" if number else "[run-over] it ended")
    event = of_store(store)["rounds-refused"]
    assert "[budget-spent]" in event.message and "3.2" not in event.sentence
    node.log(round=3, loss=0.25)
    assert "rounds-refused" not in of_store(store)
    limit = 4.0
    text = store.policy.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("max_epsilon"))
    steps = SampledGaussianSteps(noise_multiplier=0.6, sample_rate=1.0, count=1)
    charge = Charge(steps=steps, target_delta=1e-6, release=Release(kind="train"))
    spent = store.node().charge(charge.of(round=1)).epsilon_after
    for share, told_of in ((0.85, False), (0.95, True)):
        limit = spent / share
        store.policy.write_text(text.replace(line, f"max_epsilon = {limit}"))
        events = of_store(store)
        assert ("budget-near-end" in events) is told_of
    assert str(spent)[:4] not in events["budget-near-end"].sentence


def test_a_test_event_is_sent_and_a_way_that_fails_is_told_to_the_operator(store, federation):
    none = server(federation.path, "notify", "--test")
    assert none.status == 3 and "[notify]" in none.err
    for folder, file in ((federation.path, "federation.toml"), (store.path, "store.toml")):
        with (folder / file).open("a") as settings:
            settings.write('\n[notify.command]\nargv = ["cat"]\n')
    assert succeed(server(federation.path, "notify", "--test")).out == "command: told\n"
    done = succeed(hanse("store", "notify", "--test", "--folder", store.path, "--format", "json"))
    assert done.json == {"command": "told"}
    with (store.path / "store.toml").open("a") as settings:
        settings.write('\n[notify.email]\nhost = "127.0.0.1"\nport = 1\n')
        settings.write('tls = "none"\nsender = "a@b"\nto = ["c@d"]\n')
    done = hanse("store", "notify", "--test", "--folder", store.path)
    assert done.status == 6 and "[not-told]" in done.err and "command: told" in done.out
