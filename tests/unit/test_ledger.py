"""The ledger by itself: what it holds, what it refuses, and what it says when it cannot go on."""

import hashlib
import struct
from dataclasses import replace
from datetime import date

from hanse_common.identity import StoreKey
from hanse_common.policy import StorePolicy
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.charge import NOTHING
from hanse_common.privacy.entry import GENESIS, UNSIGNED, Entry
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import Head, salt_path
from hanse_common.privacy.verify import verify
from kits.errors import raises
from kits.ledger import CHARGE, DELTA, NOW, RELEASE, STEPS, UNNAMED, charge, new, steps_in

KEY = StoreKey.generate()
TWO = epsilon([replace(STEPS, count=2)], target_delta=DELTA)
TWO_STEPS = Budget(max_epsilon=TWO)
"""Pays for two steps, and not for a third."""
DAY = 86_400


# What an entry says


def test_a_charge_holds_everything_that_was_known_of_the_release(tmp_path):
    ledger = new(tmp_path, KEY)
    first = charge(ledger, vector=b"vector")
    second = charge(ledger, budget=TWO_STEPS)
    one = epsilon([STEPS], target_delta=DELTA)
    assert first == Entry(
        sequence=1,
        kind="charge",
        previous=GENESIS,
        time=NOW,
        signer=KEY.public,
        release=RELEASE,
        steps=STEPS,
        target_delta=DELTA,
        commitment=first.commitment,
        epsilon_before=0.0,
        epsilon_after=one,
        accountant=first.accountant,
        signature=first.signature,
    )
    assert first.accountant.startswith("dp-accounting PLD ")
    assert (second.sequence, second.previous, second.commitment) == (2, first.hash, NOTHING)
    assert (second.epsilon_before, second.epsilon_after) == (one, TWO)
    assert second.max_epsilon == TWO
    assert list(Ledger.open(ledger.path)) == [first, second]
    assert ledger.head == Head(2, second.hash)


def test_the_commitment_opens_to_the_vector_and_to_no_other(tmp_path):
    ledger = new(tmp_path)
    first, second = charge(ledger, vector=b"vector"), charge(ledger, vector=b"vector")
    assert first.commitment != second.commitment
    assert Ledger.open(ledger.path).opens(first, b"vector")
    assert not ledger.opens(first, b"vectos")
    assert salt_path(ledger.path).stat().st_mode & 0o777 == 0o600
    secret = salt_path(ledger.path).read_bytes()
    assert secret not in ledger.path.read_bytes()
    salt_path(ledger.path).unlink()
    assert not ledger.opens(first, b"vector")


def test_a_ledger_without_a_key_is_chained_and_says_that_nobody_signed(tmp_path):
    ledger = new(tmp_path)
    charge(ledger, 2)
    assert {(entry.signer, entry.signature) for entry in ledger} == {(UNSIGNED, b"")}
    assert verify(ledger.path).unsigned == 2


def test_only_its_owner_can_read_a_ledger(tmp_path):
    ledger = new(tmp_path)
    assert not ledger.path.exists()  # a store that spends nothing has none
    charge(ledger)
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_spending_adds_up_over_everything_and_since_an_entry(tmp_path):
    ledger = new(tmp_path)
    charge(ledger, 2)
    other = SampledGaussianSteps(noise_multiplier=40.0, sample_rate=1.0, count=1)
    ledger.charge(replace(UNNAMED, steps=other))
    ledger.refuse(UNNAMED, note="no")
    charge(ledger)
    assert ledger.spent() == [replace(STEPS, count=2), other, STEPS]
    assert ledger.spent(since=3) == [STEPS]


def test_an_entry_has_these_bytes_and_this_hash():
    """By hand, field by field; whoever audits with another program needs them so."""
    entry = Entry(
        sequence=2,
        kind="charge",
        previous=b"P" * 32,
        time=NOW,
        clock_went_back=True,
        signer=b"K" * 32,
        release=RELEASE,
        steps=replace(STEPS, count=5, stores=2),
        target_delta=DELTA,
        commitment=b"C" * 32,
        epsilon_before=0.5,
        epsilon_after=0.75,
        max_epsilon=8.0,
        accountant="PLD",
        note="lübeck",
    )
    body = b"".join(
        (
            bytes.fromhex("0001"),  # version
            bytes.fromhex("0000000000000002"),  # sequence
            bytes.fromhex("00"),  # kind: charge
            b"P" * 32,  # hash of the entry before
            bytes.fromhex("00000000684ee180"),  # Unix time
            bytes.fromhex("01"),  # the clock went back
            b"K" * 32,  # signer
            bytes.fromhex("00000005") + b"train",  # kind of exchange
            bytes.fromhex("00000005") + b"local",  # mode
            struct.pack(">d", 0.5),  # clip
            struct.pack(">QQQB", 7, 1, 3, 1),  # run, round, exchange, attempt
            b"M" * 32 + b"I" * 32 + b"R" * 32,  # manifest, instructions, roster
            bytes.fromhex("01"),  # there are steps
            struct.pack(">ddQI", 4.0, 0.1, 5, 2),  # noise, sample rate, count, stores
            struct.pack(">d", 1e-6),  # delta
            b"C" * 32,  # commitment
            struct.pack(">ddd", 0.5, 0.75, 8.0),  # epsilon before, after, limit
            bytes(8),  # renews
            bytes.fromhex("00000003") + b"PLD",  # accountant
            bytes.fromhex("00000007") + "lübeck".encode(),  # note
        )
    )
    assert entry.body() == body
    label = b"hanse/ledger-entry/1"
    sized = len(label).to_bytes(8, "big") + label + len(body).to_bytes(8, "big") + body
    assert entry.hash == hashlib.sha256(sized).digest()
    assert Entry.decode(body) == entry


def test_an_entry_is_read_in_its_one_encoding_only(tmp_path):
    body = charge(new(tmp_path)).body()
    assert Entry.decode(body).body() == body
    kinds = [body[:10] + bytes([kind]) + body[11:] for kind in (3, 5, 7)]
    for wrong in (b"", body[:-1], body + b"\0", b"\0\2" + body[2:], *kinds):
        with raises("ledger"):
            Entry.decode(wrong)
    for number in (float("nan"), -0.0, -1.0):
        with raises("ledger"):
            Entry(sequence=1, kind="charge", previous=GENESIS, time=0, target_delta=number).body()


# The budget


def test_a_spent_budget_is_refused_and_the_refusal_is_written_once(tmp_path):
    ledger = new(tmp_path, KEY)
    charge(ledger, 2, budget=TWO_STEPS)
    for _ in range(2):
        with raises("budget-spent", match="epsilon="):
            ledger.check_affordable(CHARGE, budget=TWO_STEPS)
    with raises("budget-spent"):
        charge(ledger, budget=TWO_STEPS)
    kinds = [entry.kind for entry in ledger]
    assert kinds == ["charge", "charge", "refusal"]
    refusal = list(ledger)[-1]
    assert refusal.epsilon_before == refusal.epsilon_after == TWO == refusal.max_epsilon
    assert (refusal.release, refusal.steps) == (RELEASE, STEPS)
    assert "would have spent" in refusal.note
    assert steps_in(ledger) == 2
    assert verify(ledger.path, KEY.public).fault is None


def test_a_spent_budget_stays_spent_after_a_restart_and_in_another_run(tmp_path):
    charge(new(tmp_path), 2, budget=TWO_STEPS)
    for run in (8, 9):
        again = new(tmp_path)
        with raises("budget-spent"):
            again.charge(CHARGE.of(run=run), budget=TWO_STEPS)
        assert [entry.release.run for entry in again if entry.kind == "refusal"] == [8]


def test_a_charge_looks_at_the_budget_with_what_another_process_spent(tmp_path):
    here, there = new(tmp_path), new(tmp_path)
    charge(here, budget=TWO_STEPS)
    here.check_affordable(UNNAMED, budget=TWO_STEPS)
    charge(there, budget=TWO_STEPS)
    with raises("budget-spent"):
        charge(here, budget=TWO_STEPS)
    assert steps_in(here) == 2


def test_a_budget_renews_on_its_day_once_and_the_ledger_says_so(tmp_path):
    spent = replace(TWO_STEPS, renews=NOW + DAY)
    charge(new(tmp_path, now=NOW), 2, budget=spent)
    with raises("budget-spent", match="2025-06-16"):
        charge(new(tmp_path, now=NOW + DAY - 1), budget=spent)
    ledger = new(tmp_path, now=NOW + DAY)
    ledger.check_affordable(UNNAMED, budget=spent)
    charge(ledger, 2, budget=spent)
    with raises("budget-spent", match="max_epsilon"):
        charge(new(tmp_path, now=NOW + 9 * DAY), budget=spent)
    kinds = [entry.kind for entry in ledger]
    assert kinds == ["charge", "charge", "refusal", "renewal", "charge", "charge", "refusal"]
    renewal = list(ledger)[3]
    assert (renewal.renews, renewal.time) == (NOW + DAY, NOW + DAY)
    # What is spent for good goes on adding up.
    assert list(ledger)[-1].epsilon_before == epsilon([replace(STEPS, count=4)], target_delta=DELTA)
    # An earlier day than the last does not renew again, a later one does.
    with raises("budget-spent"):
        charge(new(tmp_path, now=NOW + 9 * DAY), budget=replace(spent, renews=NOW + DAY - 1))
    charge(new(tmp_path, now=NOW + 9 * DAY), budget=replace(spent, renews=NOW + 2 * DAY))
    assert verify(ledger.path).fault is None


def test_a_policy_names_its_renewal_by_a_day(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'authority = "{"00" * 32}"\nmax_epsilon = 3.0\nbudget_renews = 2027-01-01\n')
    policy = StorePolicy.from_toml(path)
    assert policy.budget_renews == date(2027, 1, 1)
    assert policy.budget == Budget(max_epsilon=3.0, renews=1_798_761_600)
    assert StorePolicy(authority="00" * 32).budget == Budget(max_epsilon=8.0)


# The clock


def test_a_clock_that_goes_back_changes_no_order_and_is_written_down(tmp_path):
    times = iter([NOW, NOW - 500, NOW - 400, NOW + 1])
    ledger = Ledger.open(tmp_path / "ledger.sqlite", clock=lambda: next(times))
    charge(ledger, 4)
    assert [(entry.time, entry.clock_went_back) for entry in ledger] == [
        *((NOW, False), (NOW, True), (NOW, True)),
        (NOW + 1, False),
    ]
    assert verify(ledger.path).fault is None


def test_a_clock_that_ran_ahead_once_renews_no_budget_before_its_day(tmp_path):
    """The ledger bears the wrong time from then on; the renewal goes by the clock."""
    spent = replace(TWO_STEPS, renews=NOW + 30 * DAY)
    charge(new(tmp_path, now=NOW + 20 * DAY), budget=spent)
    charge(new(tmp_path, now=NOW + 29 * DAY), budget=spent)
    for now in (0, NOW, NOW + 30 * DAY - 1):
        with raises("budget-spent"):
            charge(new(tmp_path, now=now), budget=spent)


def test_what_is_charged_behind_a_slow_clock_counts_in_the_window_it_was_written_in(tmp_path):
    spent = replace(TWO_STEPS, renews=NOW)
    charge(new(tmp_path, now=NOW), budget=spent)
    charge(new(tmp_path, now=0), budget=spent)
    with raises("budget-spent"):
        charge(new(tmp_path, now=NOW + DAY), budget=spent)
