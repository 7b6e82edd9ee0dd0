"""Whatever is done to a ledger behind the store's back, `verify` names the first bad entry."""

import random
import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse_common.errors import BadSignature, LedgerError
from hanse_common.identity import StoreKey
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.chain import Fault, follow
from hanse_common.privacy.ledger_file import head_path, write_head
from hanse_common.privacy.verify import verify
from kits.ledger import (
    NOW,
    UNNAMED,
    as_row,
    chained,
    charge,
    new,
    put,
    rows,
)

COLUMNS = ("body", "hash", "signature")
KEY, OTHER_KEY = StoreKey.generate(), StoreKey.generate()
ON_FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A ledger with every kind of entry: two charges, renewal, charge, refusal, charge."""
    folder = tmp_path_factory.mktemp("ledger")
    ledger = new(folder, KEY)
    charge(ledger)
    charge(ledger, vector=b"vector")
    charge(ledger, budget=Budget(max_epsilon=8.0, renews=NOW))
    ledger.refuse(UNNAMED, note="too much")
    charge(ledger)
    kinds = [entry.kind for entry in ledger]
    assert kinds == ["charge", "charge", "renewal", "charge", "refusal", "charge"]
    assert verify(ledger.path, KEY.public).fault is None
    return ledger.path


@pytest.fixture
def ledger(whole, tmp_path):
    """A copy to tamper with."""
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / whole.name


def fault(path, **more):
    return verify(path, KEY.public, **more).fault


def changed(data, place):
    return data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


def test_every_single_changed_byte_of_every_entry_is_found_and_named(ledger):
    intact, before = rows(ledger), []
    for row in intact:
        for column in COLUMNS:
            value = getattr(row, column)
            for place in range(len(value)):
                altered = replace(row, **{column: changed(value, place)})
                assert not passes(before, altered), (row.sequence, column, place)
        before.append(follow(before, row))


def test_a_changed_byte_in_the_file_is_named_by_its_entry(ledger):
    pick = random.Random(1)
    intact = rows(ledger)
    for number, row in enumerate(intact):
        for column in COLUMNS:
            value = getattr(row, column)
            altered = replace(row, **{column: changed(value, pick.randrange(len(value)))})
            put(ledger, [*intact[:number], altered, *intact[number + 1 :]])
            assert fault(ledger).sequence == row.sequence


def passes(before, row):
    """What `verify` asks of a row, but for its epsilon."""
    found = follow(before, row)
    if isinstance(found, Fault):
        return False
    try:
        found.check_signature()
    except (BadSignature, LedgerError):
        return False
    return found.signer == KEY.public


@ON_FILES
@given(gone=st.sets(st.integers(1, 6), min_size=1))
def test_deleted_entries_are_found_and_the_first_is_named(gone, ledger, whole):
    intact = rows(whole)
    put(ledger, [row for row in intact if row.sequence not in gone])
    found = fault(ledger)
    assert found.sequence == min(gone)
    kept_later = any(row.sequence not in gone for row in intact[min(gone) :])
    assert found.problem == ("missing" if kept_later else "cut off")


@ON_FILES
@given(order=st.permutations(range(6)))
def test_reordered_entries_are_found_and_the_first_is_named(order, ledger, whole):
    intact = rows(whole)
    put(ledger, [replace(intact[old], sequence=new + 1) for new, old in enumerate(order)])
    found = fault(ledger)
    if list(order) == list(range(6)):
        assert found is None
    else:
        first = next(new for new, old in enumerate(order) if new != old)
        assert (found.sequence, found.problem) == (first + 1, "out of place")


@pytest.mark.parametrize("length", range(6))
def test_a_cut_ledger_is_found_by_the_head_that_lies_beside_it_or_elsewhere(length, ledger, whole):
    remembered = verify(whole, KEY.public).head
    put(ledger, rows(whole)[:length])
    found = fault(ledger)
    assert (found.sequence, found.problem) == (length + 1, "cut off")
    # Without that file, or with one that was cut as well, only somebody else's memory tells.
    head_path(ledger).unlink()
    assert fault(ledger) is None
    assert verify(ledger, KEY.public).compared is None
    assert fault(ledger, head=remembered).sequence == length + 1


@pytest.mark.parametrize("start", range(6))
def test_entries_that_another_key_signed_are_found(start, ledger, whole):
    """Whoever has no key of the store's, but all the rest, chains everything anew."""
    entries = list(verify(whole, KEY.public).entries)
    forged = chained(entries[:start], KEY) + chained(entries, OTHER_KEY)[start:]
    made = entries[:start]
    for entry in forged[start:]:
        previous = made[-1].hash if made else entry.previous
        made.append(replace(entry, previous=previous, signature=b"").sign(OTHER_KEY))
    put(ledger, [as_row(entry) for entry in made])
    write_head(ledger, verify(ledger).head)  # the forger's own
    found = fault(ledger)
    assert (found.sequence, found.problem) == (start + 1, "another key")
    # A signature under the store's name, made with the other key.
    lie = replace(entries[start], signature=OTHER_KEY.sign(b"hanse/ledger-entry/1", b""))
    put(ledger, [as_row(entry) for entry in [*entries[:start], lie, *entries[start + 1 :]]])
    assert (fault(ledger).sequence, fault(ledger).problem) == (start + 1, "bad signature")
    # The store may have had that key before.
    put(ledger, [as_row(entry) for entry in made])
    assert fault(ledger, earlier_keys=[OTHER_KEY.public]) is None


def test_unsigned_entries_of_a_store_that_has_a_key_are_found(ledger, whole):
    entries = chained(list(verify(whole, KEY.public).entries), None)
    put(ledger, [as_row(entry) for entry in entries])
    head_path(ledger).unlink()
    assert (fault(ledger).sequence, fault(ledger).problem) == (1, "unsigned")
    assert verify(ledger).fault is None
    assert verify(ledger).unsigned == 6


@pytest.mark.parametrize("lie", ["epsilon_before", "epsilon_after", "steps", "kind"])
def test_an_epsilon_that_does_not_follow_from_the_charges_is_found_though_rightly_signed(
    lie, ledger, whole
):
    """The store itself writes its ledger anew, to look cheaper."""
    entries = list(verify(whole, KEY.public).entries)
    cheap = SampledGaussianSteps(noise_multiplier=8.0, sample_rate=0.1, count=1)
    change = {
        "epsilon_before": {"epsilon_before": entries[3].epsilon_before * 0.9},
        "epsilon_after": {"epsilon_after": entries[3].epsilon_after * 0.9},
        "steps": {"steps": cheap},
        "kind": {"kind": "refusal"},
    }[lie]
    entries[3] = replace(entries[3], **change)
    put(ledger, [as_row(entry) for entry in chained(entries, KEY)])
    head_path(ledger).unlink()
    found = fault(ledger)
    assert (found.sequence, found.problem) == (4, "wrong epsilon")


def test_a_ledger_that_the_store_wrote_anew_is_found_by_a_head_that_others_remember(ledger, whole):
    remembered = verify(whole, KEY.public).head
    entries = chained([replace(entry, note="!") for entry in verify(whole).entries], KEY)
    put(ledger, [as_row(entry) for entry in entries])
    head_path(ledger).unlink()
    assert fault(ledger) is None
    assert fault(ledger, head=remembered).problem == "another history"


def flips_are_harmless(whole, folder, places):
    entries = verify(whole, KEY.public).entries
    data = whole.read_bytes()
    path = folder / "ledger.sqlite"
    shutil.copy(head_path(whole), head_path(path))
    caught = 0
    for place in places:
        path.write_bytes(changed(data, place))
        try:
            found = verify(path, KEY.public)
        except LedgerError:
            caught += 1
            continue
        if found.fault is None:
            assert found.entries == entries, place
        else:
            caught += 1
    return caught


def test_a_flipped_byte_of_the_file_is_an_error_or_named_or_changes_no_entry(whole, tmp_path):
    size = whole.stat().st_size
    places = sorted(random.Random(2).sample(range(size), 300))
    assert flips_are_harmless(whole, tmp_path, [*range(100), *places]) > 30


@pytest.mark.slow
def test_no_flipped_byte_of_the_whole_file_passes_for_another_ledger(whole, tmp_path):
    assert flips_are_harmless(whole, tmp_path, range(whole.stat().st_size)) > 3000
