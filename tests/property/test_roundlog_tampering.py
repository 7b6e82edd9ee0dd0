"""Whatever is done to a round log behind the stores' backs, `verify_log` names where it begins.

The log is of a real run: published, announced, closed, published, announced, closed, published.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse_common.audit.crosscheck import verify_log
from hanse_common.audit.evidence import LogEvidence, find
from hanse_common.identity import CoordinatorKey
from hanse_common.instructions import logged_digest
from hanse_common.paths import AUTHORITY_FILE, ROUND_LOG_FILE
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import checkpoint_path
from hanse_common.roundlog.merkle import Tree, check_consistency
from hanse_common.roundlog.records import Announced, Closed, Published, decode
from kits.errors import raises
from kits.roundlog import bodies, checkpoint_of, put, rewrite

KINDS = [Published, Announced, Closed, Published, Announced, Closed, Published]
LAST_SEEN = 5
"""The newest record that stores have cosigned: the second announcement."""
STRIDE = 7
"""Of the bytes of a closed attempt, which has thousands."""
ON_FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folder(logged_run, tmp_path_factory):
    """A copy of the run's folder, whose log every test changes and `whole` brings back."""
    place = tmp_path_factory.mktemp("tampered") / "run"
    shutil.copytree(logged_run.folder.path, place)
    return place


@pytest.fixture
def log(folder, logged_run):
    """The log, as it was written."""
    for name in (ROUND_LOG_FILE, checkpoint_path(folder / ROUND_LOG_FILE).name):
        shutil.copy(logged_run.folder.path / name, folder / name)
    return folder / ROUND_LOG_FILE


@pytest.fixture
def own_copy(logged_run, tmp_path):
    """The log in a copy of the run for a test that changes more than the log."""
    return Path(shutil.copytree(logged_run.folder.path, tmp_path / "run")) / ROUND_LOG_FILE


@pytest.fixture(scope="module")
def key(logged_run):
    return logged_run.key()


@pytest.fixture(scope="module")
def whole(logged_run):
    return bodies(logged_run.folder.path / ROUND_LOG_FILE)


def audit(path, *, stores=False, **more):
    authority = bytes.fromhex((path.parent / AUTHORITY_FILE).read_text().strip())
    found = find(path.parent) if stores else []
    return verify_log(LogEvidence(path=path), found, authority=authority, **more)


def fault(path, **more):
    return audit(path, **more).fault


def at_or_shortly_before(found, number):
    """A fault of a record that was changed: the one before may be the last that is vouched for."""
    assert found is not None
    assert max(number - 3, 1) <= found.sequence <= number


def changed(data, place):
    return data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


def instead(records, number, body):
    return [*records[: number - 1], body, *records[number:]]


# By somebody who has not the coordinator's key


def test_a_log_as_it_was_written_verifies_by_itself_and_with_its_stores(log, whole):
    assert [type(decode(body)) for body in whole] == KINDS
    alone = audit(log)
    assert (alone.fault, alone.records, alone.announced, alone.summed) == (None, 7, 2, 2)
    found = audit(log, stores=True)
    assert (found.fault, found.receipts, found.matched) == (None, 10, 10)
    assert "5 stores have seen this log, and no other" in found.verified


def every_changed_byte_is_found(log, whole, stride):
    for number, body in enumerate(whole, start=1):
        step = stride if isinstance(decode(body), Closed) else 1
        for place in range(number % step, len(body), step):
            put(log, instead(whole, number, changed(body, place)))
            at_or_shortly_before(fault(log), number)


def test_every_changed_byte_of_a_record_is_found_and_named(log, whole):
    """Every one of small records; of closed attempts those of a stride, all in the slow test."""
    every_changed_byte_is_found(log, whole, STRIDE)


@pytest.mark.slow
def test_every_changed_byte_of_every_record_is_found_and_named(log, whole):
    every_changed_byte_is_found(log, whole, 1)


def test_every_changed_byte_of_the_checkpoint_is_found(log):
    path = checkpoint_path(log)
    text = path.read_bytes()
    for place in range(len(text)):
        path.write_bytes(changed(text, place))
        assert fault(log) is not None, place
        # The other case of a hexadecimal digit says the same, and was not written.
        path.write_bytes(text[:place] + text[place : place + 1].swapcase() + text[place + 1 :])
        assert (fault(log) is None) == (
            text[place : place + 1].swapcase() == text[place : place + 1]
        )


@pytest.mark.parametrize("number", range(1, 8))
def test_a_deleted_record_is_found_and_named(number, log, whole):
    left = whole[: number - 1] + whole[number:]
    put(log, left)
    found = fault(log)
    if number <= LAST_SEEN:
        at_or_shortly_before(found, number)
        assert found.problem == "altered"
    else:  # the end is gone, or what came before it
        assert (found.sequence, found.problem) == (7, "cut off")
    # And where its number was left free.
    put(log, left, positions=[n for n in range(1, 8) if n != number])
    if number < 7:
        assert f"lacks record {number}" in fault(log).detail
    else:
        assert fault(log).problem == "cut off"


@ON_FILES
@given(order=st.permutations(range(7)))
def test_records_in_another_order_are_found_and_the_first_is_named(order, log, whole):
    put(log, [whole[old] for old in order])
    if order == list(range(7)):
        assert fault(log) is None
    else:
        first = next(new for new, old in enumerate(order, start=1) if new - 1 != old)
        assert fault(log).sequence <= first


@pytest.mark.parametrize("number", range(1, 7))
def test_neighbours_that_changed_places_are_found(number, log, whole):
    put(log, [*whole[: number - 1], whole[number], whole[number - 1], *whole[number + 1 :]])
    at_or_shortly_before(fault(log), number)


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("copied", [1, 2, 3])
def test_an_inserted_record_is_found(number, copied, log, whole):
    put(log, [*whole[: number - 1], whole[copied - 1], *whole[number - 1 :]])
    found = fault(log)
    if whole[copied - 1] != whole[number - 1]:
        at_or_shortly_before(found, number)
    else:  # which of two equal neighbours was there first cannot be said
        assert found is not None


def test_one_record_after_the_last_is_not_taken_for_the_coordinators_word(log, whole):
    """A crash leaves just that; what the record says is still checked."""
    put(log, [*whole, whole[1]])
    found = audit(log)
    assert "the last record: a crash left it without a checkpoint" in found.unverified
    put(log, [*whole, replace(decode(whole[6]), model_digest=b"x" * 32).encode()])
    assert (fault(log).sequence, fault(log).problem) == (8, "a model from nowhere")
    put(log, [*whole, whole[5]])
    assert (fault(log).sequence, fault(log).problem) == (8, "never announced")
    put(log, [*whole, whole[1], whole[1]])
    assert (fault(log).sequence, fault(log).problem) == (8, "unsigned")


@pytest.mark.parametrize("length", range(7))
def test_a_log_cut_short_is_found_by_its_checkpoint(length, log, whole):
    put(log, whole[:length])
    assert (fault(log).sequence, fault(log).problem) == (length + 1, "cut off")


def test_a_log_without_checkpoint_is_found(log):
    checkpoint_path(log).unlink()
    assert fault(log).problem == "unsigned"


@pytest.mark.parametrize("signer", ["another", "another in its name"])
def test_a_log_signed_by_another_key_is_found(signer, own_copy, whole, key):
    log, other = own_copy, CoordinatorKey.generate()
    if signer == "another":
        rewrite(log, whole, other)
        assert fault(log).problem == "another key"
        # Even by who does not know whose log it should be: the headers bind its key.
        log.with_name("manifest.json").unlink()
        assert (fault(log).sequence, fault(log).problem) == (3, "never announced")
    else:
        forged = checkpoint_of(whole, key).sign(other)
        checkpoint_path(log).write_text(forged.line())
        assert (fault(log).sequence, fault(log).problem) == (0, "bad signature")


# By the coordinator, who signs it all anew


@pytest.mark.parametrize("length", range(7))
def test_a_log_cut_short_and_signed_is_found_by_what_stores_or_an_audit_saw(
    length, log, whole, key
):
    remembered = audit(log).checkpoint
    rewrite(log, whole[:length], key)
    assert fault(log) is None
    found = fault(log, remembered=[remembered])
    assert (found.sequence, found.problem) == (length + 1, "cut off")
    found = fault(log, stores=True)
    if length < LAST_SEEN:
        assert (found.sequence, found.problem) == (length + 1, "cut off")
    else:  # Stores have not seen how their last exchange was closed.
        assert found is None


def rewritten(whole, number, **changes):
    return instead(whole, number, replace(decode(whole[number - 1]), **changes).encode())


REWRITTEN = {
    "the start": (1, {"model_digest": b"x" * 32}, (2, "another model")),
    "the start's run": (1, {"run": 1}, (3, "never announced")),
    "what was asked": (2, {"instructions_digest": b"x" * 32}, (3, "never announced")),
    "which model was sent": (2, {"model_digest": b"x" * 32}, (2, "another model")),
    "a model": (4, {"model_digest": b"x" * 32}, (5, "another model")),
    "a model's number": (4, {"round": 2}, (4, "a model from nowhere")),
    "a sum that is hidden": (3, {"outcome": "round-failed"}, (4, "a model from nowhere")),
    "who was in the sum": (3, {"survivors": (0, 1, 2, 3)}, (3, "not to be trusted")),
    "who dealt shares": (3, {"sharers": (0, 1, 2, 3)}, (3, "not to be trusted")),
    "nobody confirmed": (3, {"confirmations": ()}, (3, "not to be trusted")),
    "no receipts": (3, {"receipts": ()}, (3, "not to be trusted")),
    "the roster's digest": (3, {"roster_digest": b"x" * 32}, (3, "not to be trusted")),
    "no roster": (
        3,
        {"members": (), "sharers": (), "survivors": (), "receipts": (), "confirmations": ()},
        (3, "not to be trusted"),
    ),
}


@pytest.mark.parametrize("what", REWRITTEN)
def test_a_rewritten_record_is_found_though_the_coordinator_signs_it_all_anew(
    what, log, whole, key
):
    number, changes, expected = REWRITTEN[what]
    rewrite(log, rewritten(whole, number, **changes), key)
    found = fault(log)
    assert (found.sequence, found.problem) == expected
    assert fault(log, stores=True) is not None


def with_new_headers(records, key, sign=lambda record, _: record):
    """Bind every closed attempt to the log as it is now; nobody has cosigned that."""
    made = []
    for body in records:
        record = decode(body)
        if isinstance(record, Closed):
            announced = decode(made[-1])
            checkpoint = checkpoint_of(made, key)
            bound = logged_digest(announced.instructions_digest, checkpoint.payload())
            header = replace(record.header, model_digest=bound)
            record = sign(replace(record, header=header), checkpoint)
        made.append(record.encode())
    return made


def test_a_rewritten_past_with_headers_to_match_is_not_cosigned(log, whole, key):
    records = with_new_headers(rewritten(whole, 1, run=1), key)
    rewrite(log, records, key)
    found = fault(log)
    assert (found.sequence, found.problem) == (3, "not to be trusted")
    assert "the cosignature of 'synthetic-01' is not signed by its key" in found.detail


def test_a_past_in_which_nothing_is_signed_by_stores_is_found_by_what_stores_saw(log, whole, key):
    """Nobody's signature is left to disagree, but the stores remember."""
    emptied = [
        replace(
            record,
            outcome="round-failed",
            roster_digest=bytes(32),
            **dict.fromkeys(("members", "sharers", "survivors", "receipts", "confirmations"), ()),
        ).encode()
        if isinstance(record := decode(body), Closed)
        else body
        for body in rewritten(whole[:3], 1, run=1)
    ]
    later = [decode(whole[1])]
    records = with_new_headers(emptied, key) + [body.encode() for body in later] * 3
    rewrite(log, records, key)
    assert fault(log) is None
    found = fault(log, stores=True)
    assert (found.sequence, found.problem) == (LAST_SEEN, "another history")


def signed_by_all(logged_run):
    """Let every store sign the past that the coordinator makes up with it."""
    keys = {node.name: node.enrolment.key for node in logged_run.nodes()}

    def sign(record, checkpoint):
        header = record.header.digest()
        sharers, survivors = record.signed_digests()
        confirmed = {
            "header_digest": header,
            "sharers_digest": sharers,
            "survivors_digest": survivors,
        }
        return replace(
            record,
            members=tuple(
                replace(member, cosignature=checkpoint.cosign(keys[name]))
                for name, member in zip(record.stores, record.members, strict=True)
            ),
            receipts=tuple(
                replace(receipt, header_digest=header).sign(keys[receipt.store_id])
                for receipt in record.receipts
            ),
            confirmations=tuple(
                replace(confirmation, **confirmed).sign(keys[confirmation.store_id])
                for confirmation in record.confirmations
            ),
        )

    return sign


def test_a_past_that_all_stores_make_up_with_the_coordinator_is_found_by_who_was_not_one(
    log, whole, key, logged_run
):
    remembered = audit(log).checkpoint
    sign = signed_by_all(logged_run)
    rewrite(log, with_new_headers(rewritten(whole, 1, run=1), key, sign), key)
    assert fault(log) is None
    assert fault(log, remembered=[remembered]).problem == "another history"
    # The manifest's start of the model is the authority's word, and stays.
    other = {"model_digest": b"x" * 32}
    records = rewritten(rewritten(whole, 1, **other), 2, **other)
    rewrite(log, with_new_headers(records, key, sign), key)
    found = fault(log)
    assert (found.sequence, found.problem) == (3, "not to be trusted")
    assert "starts from another model than the manifest names" in found.detail


def test_an_emptied_past_is_found_by_the_ledgers_where_stores_remember_nothing(
    own_copy, whole, key
):
    """A log begun anew announces none of what the stores have charged."""
    rewrite(own_copy, whole[:1], key)
    for seen in own_copy.parent.glob("stores/*/checkpoints/*"):
        seen.unlink()
    found = fault(own_copy, stores=True)
    assert (found.sequence, found.problem) == (2, "missing")
    assert "synthetic-01 has charged entry 1 for attempt 1 of round 1" in found.detail


@pytest.mark.parametrize("how", ["made up", "damaged"])
def test_a_checkpoint_that_a_store_made_up_accuses_nobody_and_hides_no_ledger(how, own_copy):
    (path,) = (own_copy.parent / "stores" / "synthetic-02" / "checkpoints").iterdir()
    made_up = replace(Checkpoint.load(path), root=bytes(32)).line()
    path.write_text(made_up if how == "made up" else "damaged")
    found = audit(own_copy, stores=True)
    assert found.fault.problem == "what synthetic-02 has seen of it is not to be trusted"
    assert found.matched == 10


@ON_FILES
@given(cut=st.integers(1, 7), seen=st.integers(1, 7), grown=st.integers(1, 9))
def test_no_proof_leads_from_what_was_seen_to_a_branch_that_began_before(cut, seen, grown, whole):
    branch = Tree([*whole[: cut - 1], *[b"other"] * (8 - cut + grown)])
    mine, size = Tree(whole), len(branch)
    proof = branch.consistency(seen)
    if seen < cut:
        check_consistency(seen, mine.root(seen), size, branch.root(), proof)
    else:
        with raises("log-forked"):
            check_consistency(seen, mine.root(seen), size, branch.root(), proof)
