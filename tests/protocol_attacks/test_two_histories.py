"""A coordinator that shows its stores different histories, or proves none, is found out.

By the stores' headers within one attempt, by what each store remembers in a later one, and
by an auditor where the stores never meet.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from typer.testing import CliRunner

from hanse_client.rounds.witness import Witness
from hanse_common.audit.cli import app
from hanse_common.errors import UNABLE
from hanse_common.identity import CoordinatorKey
from hanse_common.instructions import LOG, PROOFS, Instructions, model_digest
from hanse_common.paths import ROUND_LOG_FILE
from hanse_common.privacy.ledger_file import EMPTY
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import RECEIPT, Proofs
from hanse_common.roundlog.file import checkpoint_path
from hanse_common.roundlog.receipt import Receipt
from hanse_common.roundlog.records import Closed
from hanse_common.secagg.messages import Refusal, Roster
from hanse_server.roundlog import RoundLog
from kits.apps.secure_federation import STAGES, ByHand, SecureFederation, forbid_work, said
from kits.errors import raises

STORE, OTHER = "synthetic-03", "synthetic-01"
FORK = "fork.sqlite"
PROGRAM = Path(__file__).parent.parent / "kits" / "apps" / "witnessing.py"


def two_logs(federation):
    """The coordinator's log and a second one by its key, of another first record."""
    logs = federation.log(), federation.log(FORK)
    for run, log in enumerate(logs, start=1):
        log.publish(run=run, number=0, digest=model_digest(federation.arrays))
    return logs


def told(record, kind="train"):
    arrays = {name: array.numpy() for name, array in record["arrays"].items()}
    return Instructions.read(dict(record["config"]), arrays, kind=kind)


def seen(federation, store=STORE):
    node = federation.node(store)
    return Witness(node, node.enrolment).seen


def own_log(federation, store=STORE):
    lines = (federation.node(store).folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# In one attempt


def test_stores_that_are_shown_two_logs_in_one_attempt_are_in_no_sum_together(federation):
    mine, other = two_logs(federation)
    honest = ByHand(federation, log=mine)
    theirs = federation.announced(federation.order(), log=other)
    names = federation.names
    shown = {n: honest.order if n < STORE else theirs for n in names}
    replies = {n: said(federation.give(n, record)) for n, record in shown.items()}
    headers = {n: reply.header.digest() for n, reply in replies.items()}
    assert len({headers[n] for n in names if n < STORE}) == 1
    assert len({headers[n] for n in names if n >= STORE}) == 1
    assert headers[STORE] != headers[OTHER]
    # Everything but the log is the same.
    assert told(honest.order).digest == told(theirs).digest
    with raises("wrong-header"):
        honest.coordinator.receive(replies[STORE])
    # A coordinator that does not care shows each store one roster of them all.
    hellos = tuple(reply for _, reply in sorted(replies.items()))
    for name in names:
        roster = Roster(header_digest=headers[name], hellos=hellos)
        answer = said(federation.relay(name, "share", roster.encode()))
        assert (type(answer), answer.code) == (Refusal, "wrong-header")
    assert not any(sent.kind == STAGES["mask"] for sent in federation.faults.sent_by_stores)
    assert all(federation.charged(name) == 0 for name in names)


def test_the_checkpoints_signature_is_not_what_stores_agree_on(federation):
    """An auditor must be able to compute the header from the log alone."""
    record = federation.announced(federation.order())
    config = dict(record["config"])
    config[LOG] = config[LOG][:-64] + bytes(64)
    unsigned = RecordDict({**record, "config": ConfigRecord(config)})
    digest = federation.manifest().digest()
    assert told(record).header(digest) == told(unsigned).header(digest)


# In a later one


def refused_fork(federation, record, words):
    before = len(own_log(federation)), seen(federation)
    reply = federation.give(STORE, record)
    assert reply.error.reason.startswith("[log-forked] ")
    assert seen(federation) == before[1]
    written = own_log(federation)[before[0] :]
    assert any(line.get("error", "").startswith("[log-forked] ") for line in written)
    assert any(words in line.get("error", "") for line in written)


def test_a_store_that_saw_the_other_branch_takes_part_in_nothing_of_this_one(
    federation, monkeypatch
):
    mine, other = two_logs(federation)
    ByHand(federation, log=mine).upto("unmask")
    charged, trained = federation.charged(STORE), federation.steps_trained(STORE)
    assert charged == 2
    forbid_work(monkeypatch)
    for number in range(1, 4):
        other.publish(run=1, number=number, digest=bytes([number]) * 32)
    forked = federation.announced(federation.order(run=2), log=other)
    refused_fork(federation, forked, "does not continue the one of 2 that was seen before")
    # Nor in another process of the store, nor in what follows on that branch.
    assert in_processes(federation, tmp := federation.folder.path / "told", forked) == [
        "[log-forked]"
    ]
    assert tmp.exists()
    later = federation.announced(federation.order(run=3), log=other)
    refused_fork(federation, later, "does not continue the one of 2 that was seen before")
    assert federation.charged(STORE) == charged
    assert federation.steps_trained(STORE) == trained
    # What goes on from what it saw is taken as before.
    monkeypatch.undo()
    monkeypatch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
    mine.publish(run=1, number=1, digest=b"c" * 32)
    assert not federation.give(
        STORE, federation.announced(federation.order(run=4), log=mine)
    ).has_error()


def in_processes(federation, path, *records):
    """Let a process of the store for each order cosign it, at once; return what they say."""
    processes = []
    for number, record in enumerate(records):
        file = path.with_name(f"{path.name}-{number}")
        file.write_bytes(pickle.dumps(told(record)))
        path.touch()
        command = [sys.executable, str(PROGRAM), str(federation.node(STORE).folder), str(file)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes.append(subprocess.Popen(command, text=True, **pipes))
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].split(" ")[0].strip() for process in processes]


def test_two_histories_in_two_messages_at_once_are_not_both_cosigned(federation):
    folder = federation.node(STORE).folder / "checkpoints"
    for number in range(3):
        logs = [federation.log(f"{name}-{number}.sqlite") for name in "ab"]
        for log, byte in zip(logs, b"ab", strict=True):
            log.publish(run=1, number=0, digest=bytes([byte]) * 32)
        records = [federation.announced(federation.order(), log=log) for log in logs]
        said_by = in_processes(federation, federation.folder.path / f"told-{number}", *records)
        assert sorted(said_by) == ["[log-forked]", "cosigned"]
        (remembered,) = folder.iterdir()
        remembered.unlink()


# Two cohorts that never meet


def audit(federation):
    path = str(federation.folder.path)
    options = ["verify", path, "--format", "json", "--no-second-opinion"]
    done = CliRunner().invoke(app, options)
    return json.loads(done.stdout)


def test_two_cohorts_that_never_meet_are_told_apart_by_an_audit_of_both(federation):
    mine, other = two_logs(federation)
    shown = {OTHER: mine, "synthetic-02": mine}
    for name, log in shown.items():
        federation.give(name, federation.announced(federation.order(), log=log))
    (found,) = audit(federation)["logs"]
    assert found["ok"]
    assert "2 stores have seen this log, and no other" in found["verified"]

    record = federation.announced(federation.order(), log=other)
    federation.give(STORE, record)
    found = audit(federation)
    assert not found["ok"]
    assert found["logs"][0]["fault"] == {
        "record": 2,
        "problem": "another history",
        "detail": f"{STORE} was shown other records up to this one",
    }
    # The other log is no better.
    fork, log = federation.folder.path / FORK, federation.folder.path / ROUND_LOG_FILE
    for one, another in ((fork, log), (checkpoint_path(fork), checkpoint_path(log))):
        another.write_bytes(one.read_bytes())
    fault = audit(federation)["logs"][0]["fault"]
    assert fault["problem"] == "another history"
    assert fault["detail"].startswith(f"{OTHER} was shown other records")


# What proves nothing


@pytest.fixture(scope="module")
def shown_once(secure_stores, tmp_path_factory):
    """A federation whose store has seen three records."""
    settings, prepared = secure_stores
    federation = SecureFederation(tmp_path_factory.mktemp("shown"), settings, prepared)
    federation.skip_clipping_check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_FEDERATION", str(federation.folder.stores_dir))
        log = federation.log()
        for number in (0, 1):
            log.publish(run=1, number=number, digest=bytes([number]) * 32)
        assert not federation.tell(STORE).has_error()
        assert seen(federation).size == 3
    return federation


@pytest.fixture
def idle(shown_once, monkeypatch):
    """It, where a store that begins to work fails the test."""
    monkeypatch.setenv("HANSE_FEDERATION", str(shown_once.folder.stores_dir))
    forbid_work(monkeypatch)
    return shown_once


def changed(record, **entries):
    """An order with other entries; None takes one away."""
    config = {**record["config"], **{key.replace("_", "-"): v for key, v in entries.items()}}
    kept = {key: value for key, value in config.items() if value is not None}
    return RecordDict({**record, "config": ConfigRecord(kept)})


def good(federation, **content):
    return federation.announced(federation.order(**{"run": 2, **content}))


def forked_log(federation, name, records):
    """A log of its key that has so many records, all its own."""
    log = federation.log(f"{name}.sqlite")
    for number in range(records):
        log.publish(run=9, number=number, digest=bytes([99, number]) * 16)
    return log


def with_proofs(federation, change):
    record = good(federation)
    proofs = json.loads(record["config"][PROOFS])
    return changed(record, **{PROOFS: change(proofs)})


def proof_of_another_size(federation):
    record = good(federation)
    log = federation.log()
    log.publish(run=2, number=7, digest=bytes(32))
    return changed(record, **{PROOFS: log.proofs(range(1, 9)).encode()})


def announced_before_the_last(federation):
    record = good(federation)
    log = federation.log()
    log.publish(run=2, number=8, digest=bytes([len(log.records)]) * 32)
    proofs = log.proofs(range(1, len(log.records))).encode()
    return changed(record, **{LOG: log.checkpoint.encode(), PROOFS: proofs})


def smaller(federation):
    return federation.announced(
        federation.order(run=2), log=forked_log(federation, "smaller", records=1)
    )


def of_the_same_size(federation):
    return federation.announced(
        federation.order(run=2), log=forked_log(federation, "same", records=2)
    )


def of_another_key(federation):
    log = RoundLog.open(federation.folder.path / "stranger.sqlite", CoordinatorKey.generate())
    return federation.announced(federation.order(run=2), log=log)


def signed_by_another_key(federation):
    record = good(federation)
    checkpoint = Checkpoint.decode(record["config"][LOG]).sign(CoordinatorKey.generate())
    return changed(record, **{LOG: checkpoint.encode()})


def instead_of(**content):
    """An order with the announcement of another one."""

    def make(federation):
        other = good(federation, **content)
        entries = {key: other["config"][key] for key in (LOG, PROOFS)}
        return changed(federation.order(run=2), **entries)

    return make


def another_model(federation):
    arrays = {name: array + np.float32(1) for name, array in federation.arrays.items()}
    return instead_of(arrays=arrays)(federation)


def without_its_size(proofs):
    del proofs["consistency"]["3"]
    return json.dumps(proofs)


def of_the_wrong_size(proofs):
    proofs["consistency"]["3"] = proofs["consistency"]["2"]
    return json.dumps(proofs)


def consistency_for_inclusion(proofs):
    return json.dumps({**proofs, "inclusion": proofs["consistency"]["3"]})


def with_consistency(text):
    return lambda proofs: json.dumps({**proofs, "consistency": {"3": text}})


def bare(text):
    return lambda _: text


MALFORMED = "[malformed-message]"
FORKED = "[log-forked]"
CASES = {
    "no checkpoint at all": (
        lambda f: changed(good(f), **{LOG: None, PROOFS: None}),
        FORKED,
        "the coordinator sent no checkpoint of its round log",
    ),
    "proofs and no checkpoint": (
        lambda f: changed(good(f), **{LOG: None}),
        FORKED,
        "the coordinator sent no checkpoint of its round log",
    ),
    "a checkpoint without proof": (
        lambda f: changed(good(f), **{PROOFS: None}),
        MALFORMED,
        "proofs are malformed",
    ),
    "a proof of another size": (proof_of_another_size, FORKED, "is not the expected one"),
    "a log that goes on after the announcement": (
        announced_before_the_last,
        FORKED,
        "the last record of the round log is not the expected one",
    ),
    "a smaller log": (smaller, FORKED, "has 2 records, it had 3 before"),
    "another log of the same size": (of_the_same_size, FORKED, "has 3 records, it had 3 before"),
    "another key": (of_another_key, FORKED, "the checkpoint is of log"),
    "a signature of another key": (signed_by_another_key, "[bad-signature]", "does not verify"),
    "an announcement of another run": (instead_of(run=3), FORKED, "is not the expected one"),
    "an announcement of another attempt": (
        instead_of(attempt=2),
        FORKED,
        "is not the expected one",
    ),
    "an announcement of another round": (
        instead_of(**{"server-round": 2}),
        FORKED,
        "is not the expected one",
    ),
    "an announcement of other settings": (
        instead_of(changes={"federation.rounds": 3}),
        FORKED,
        "is not the expected one",
    ),
    "an announcement of another pull": (
        instead_of(**{"proximal-mu": 0.5}),
        FORKED,
        "is not the expected one",
    ),
    "an announcement of another model": (another_model, FORKED, "is not the expected one"),
    "no proof that it goes on": (
        lambda f: with_proofs(f, without_its_size),
        FORKED,
        "does not prove that its log continues the 3 records that were seen before",
    ),
    "a proof from another size": (
        lambda f: with_proofs(f, of_the_wrong_size),
        FORKED,
        "does not continue the one of 3 that was seen before",
    ),
    "a proof of another kind": (
        lambda f: with_proofs(f, consistency_for_inclusion),
        MALFORMED,
        "proof is malformed",
    ),
    "a checkpoint that is none": (
        lambda f: changed(good(f), **{LOG: b"hanse"}),
        MALFORMED,
        "checkpoint has version",
    ),
    "a checkpoint with more bytes": (
        lambda f: changed(r := good(f), **{LOG: r["config"][LOG] + b"\0"}),
        MALFORMED,
        "has 1 bytes after its end",
    ),
    "a checkpoint of no record": (
        lambda f: changed(
            good(f),
            **{
                LOG: Checkpoint(log_key=f.key().public, size=0, root=bytes(32))
                .sign(f.key())
                .encode()
            },
        ),
        FORKED,
        "the last record of the round log is not the expected one",
    ),
    "a checkpoint as text": (
        lambda f: changed(good(f), **{LOG: "x"}),
        "[config]",
        "is not of type bytes",
    ),
    **{
        f"garbage as proofs: {text[:12]!r}": (
            lambda f, text=text: with_proofs(f, bare(text)),
            MALFORMED,
            "malformed",
        )
        for text in (
            *(
                "x",
                "[]",
                "null",
                "7",
                '"x"',
                "{}",
                "[" * 5000,
                '{"inclusion": 1, "consistency": {}}',
            ),
            '{"inclusion": "", "consistency": []}',
            '{"inclusion": "x", "consistency": {"x": "y"}}',
            '{"consistency": {}, "inclusion": "x"}',
        )
    },
    **{
        f"garbage as proof that it goes on: {text[:12]!r}": (
            lambda f, text=text: with_proofs(f, with_consistency(text)),
            MALFORMED,
            "proof",
        )
        for text in ("x", "[]", "{}", "1" * 20_000, '{"type": "consistency"}', "[" * 5000)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_what_proves_no_history_is_refused_by_name_before_training(case, idle):
    make, code, words = CASES[case]
    before, remembered = len(own_log(idle)), seen(idle)
    reply = idle.give(STORE, make(idle))
    assert reply.has_error()
    assert reply.error.reason.startswith(f"{code} "), reply.error.reason
    assert any(words in line.get("error", "") for line in own_log(idle)[before:])
    assert seen(idle) == remembered
    assert idle.charged(STORE) == 0
    assert not (idle.node(STORE).folder / "ledger.sqlite").exists()


def test_what_does_prove_it_is_taken(idle):
    """The control of all cases above: only the work is forbidden here."""
    reply = idle.give(STORE, good(idle, run=20))
    assert reply.error.reason == UNABLE  # it began to work
    assert seen(idle).size == idle.log().checkpoint.size


def test_a_store_that_cannot_read_what_it_saw_accepts_nothing(federation, monkeypatch):
    assert not federation.tell(STORE).has_error()
    forbid_work(monkeypatch)
    (path,) = (federation.node(STORE).folder / "checkpoints").iterdir()
    path.write_text(path.read_text()[:-8])
    assert federation.tell(STORE, run=2).error.reason.startswith("[round-log] ")


def test_a_checkpoint_of_a_far_future_is_nothing_that_a_proof_can_bridge(federation):
    """A signed size of 2^64 - 1 would lock the store out of every later round."""
    record = federation.announced(federation.order())
    key = federation.key()
    far = Checkpoint(log_key=key.public, size=2**64 - 1, root=bytes(32)).sign(key)
    reply = federation.give(STORE, changed(record, **{LOG: far.encode()}))
    assert reply.error.reason.startswith("[log-forked] ")
    assert seen(federation) is None


# What is lost on the way


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_lost_first_message_heals_in_the_next_round(lost, restarted, federation):
    grid = federation.grid()

    def lose(store, message):
        first = message.metadata.message_type == STAGES["hello"]
        return None if (store, first) == (STORE, True) else message

    if lost == "question":
        federation.faults.to_store = lose
    else:
        federation.faults.to_server = lambda store, reply: (
            None if (store, reply.metadata.message_type) == (STORE, "train") else reply
        )
    result = grid.exchange(federation.messages(), timeout=0.02)
    assert STORE not in result.aggregate.survivors
    (closed,) = (r for r in federation.log().records if isinstance(r, Closed))
    assert STORE not in closed.stores
    assert (seen(federation) is None) == (lost == "question")
    federation.faults.heal()
    if restarted:
        grid = federation.grid()
    result = grid.exchange(federation.messages(**{"server-round": 2}), timeout=5)
    assert result.aggregate.survivors == tuple(federation.names)
    assert (
        seen(federation).size
        == [
            position
            for position, record in enumerate(federation.log().records, start=1)
            if not isinstance(record, Closed)
        ][-1]
    )


# Receipts


def receipt(federation, reply, **changes):
    """A receipt of the store that is rightly signed, and says something else."""
    from dataclasses import replace

    given = Receipt.decode(reply.content["config"][RECEIPT])
    key = federation.node(given.store_id).enrolment.key
    return replace(given, **changes).sign(key).encode()


RECEIPTS = {
    "none": (lambda f, r: None, "[malformed-message] 'synthetic-03' sent no receipt"),
    "garbage": (lambda f, r: b"receipt", "[malformed-message] receipt has version"),
    "for another attempt": (
        lambda f, r: receipt(f, r, header_digest=b"h" * 32),
        "[malformed-message] receipt of 'synthetic-03' is for something else",
    ),
    "for another roster": (
        lambda f, r: receipt(f, r, roster_digest=b"r" * 32),
        "[malformed-message] receipt of 'synthetic-03' is for something else",
    ),
    "another store's": (
        lambda f, r: receipt(f, r, store_id=OTHER),
        "[malformed-message] receipt of 'synthetic-03' is for something else",
    ),
    "of no charge": (
        lambda f, r: receipt(f, r, sequence=0, entry_hash=EMPTY.hash),
        "[malformed-message] 'synthetic-03' has charged nothing for its upload",
    ),
    "unsigned": (
        lambda f, r: r.content["config"][RECEIPT][:-64] + bytes(64),
        "[bad-signature] signature does not verify",
    ),
}


@pytest.mark.parametrize("case", RECEIPTS)
def test_a_masked_vector_without_the_receipt_for_it_is_in_no_sum(case, federation):
    make, words = RECEIPTS[case]

    def to_server(store, reply):
        if (store, reply.metadata.message_type) == (STORE, STAGES["mask"]):
            config = {**reply.content["config"], RECEIPT: make(federation, reply)}
            kept = {key: value for key, value in config.items() if value is not None}
            reply.content["config"] = ConfigRecord(kept)
        return reply

    federation.faults.to_server = to_server
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=5)
    others = tuple(name for name in federation.names if name != STORE)
    assert result.aggregate.survivors == others
    assert set(refusals := result.refusals) == {STORE}
    assert refusals[STORE].startswith("at stage 'mask': ")
    assert words in refusals[STORE]
    (closed,) = (r for r in federation.log().records if isinstance(r, Closed))
    assert closed.summed == tuple(receipt.store_id for receipt in closed.receipts) == others
    # It was charged all the same, and nothing was given back.
    assert federation.charged(STORE) == 2


def test_a_hello_without_cosignature_enters_no_roster(federation):
    def to_server(store, reply):
        if (store, reply.metadata.message_type) == (STORE, "train"):
            config = dict(reply.content["config"])
            del config["cosignature"]
            reply.content["config"] = ConfigRecord(config)
        return reply

    federation.faults.to_server = to_server
    grid = federation.grid()
    result = grid.exchange(federation.messages(), timeout=5)
    assert STORE not in result.aggregate.survivors
    assert "[malformed-message] 'synthetic-03' sent no cosignature" in (result.refusals[STORE])


def test_proofs_have_a_canonical_text():
    proofs = Proofs(inclusion="{}", consistency={10: "b", 2: "a"})
    assert Proofs.decode(proofs.encode()) == proofs
