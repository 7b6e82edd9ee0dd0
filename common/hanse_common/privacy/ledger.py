"""A store's ledger: the privacy cost of every release, recorded before the release leaves.

Entries are chained by their hashes and signed with the store's key, in one SQLite file. The
last hash, the head, is stored in a second file, so that a restored older ledger is detected.

>>> from tempfile import TemporaryDirectory
>>> from hanse_common.identity import StoreKey
>>> folder = TemporaryDirectory()
>>> ledger = Ledger.open(Path(folder.name) / "ledger.sqlite", StoreKey.generate())
>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5)
>>> round_ = Charge(steps=steps, target_delta=1e-6, release=Release(kind="train", round=1))
>>> entry = ledger.charge(round_)
>>> entry.sequence, round(entry.epsilon_after, 2)
(1, 0.75)
>>> ledger.charge(round_, budget=Budget(max_epsilon=0.8))
Traceback (most recent call last):
    ...
hanse_common.errors.BudgetSpent: the store would have spent epsilon=0.961, its policy allows \
0.8 (nothing was released; leave the federation, or raise max_epsilon)
>>> [entry.kind for entry in ledger]
['charge', 'refusal']
>>> folder.cleanup()
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from threading import RLock
from typing import NoReturn

from hanse_common.codec import digest
from hanse_common.errors import BudgetSpent, LedgerError, LedgerWentBack
from hanse_common.identity import StoreKey
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import SampledGaussianSteps, accountant, epsilon
from hanse_common.privacy.budget import Budget, Grant
from hanse_common.privacy.chain import Fault, compare, follow, head_of, paid
from hanse_common.privacy.charge import NOTHING, Charge, Release
from hanse_common.privacy.entry import GENESIS, UNSIGNED, Entry, Kind
from hanse_common.privacy.ledger_file import EMPTY, Head, Row

_COMMITMENT_LABEL = b"hanse/ledger-commitment/1"
_SALT_LABEL = b"hanse/ledger-salt/1"


class Ledger:
    """The record of one store's spending.

    Guarantees:
        - `charge` returns after its entry is on the disk. Spending is never under-counted; a
          crash between the charge and the release over-counts.
        - Processes that write at the same time do so in turn, and no entry is lost.
        - Times never decrease. If the clock goes back, an entry has the time of the previous
          one and records that; a renewal then waits for the clock.
        - After any error, everything that was spent is in the ledger.
    """

    def __init__(
        self,
        path: Path,
        key: StoreKey | None,
        *,
        clock: Callable[[], float] = time.time,
        sync: bool = True,
    ) -> None:
        self.path = path
        self._key = key
        self._clock = clock
        self._sync = sync
        self._lock = RLock()
        self._entries: list[Entry] = []
        """The entries that this object has read and checked."""

    @classmethod
    def open(
        cls,
        path: Path,
        key: StoreKey | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sync: bool = True,
    ) -> Ledger:
        """Open a ledger and check its chain and head; signatures are not checked.

        Args:
            path: `ledger.sqlite`; the first entry creates it.
            key: Signs new entries; without it they are chained and marked as unsigned.
            clock: Returns Unix seconds.
            sync: Whether to wait for the disk. Without it a power failure can lose entries, but
                a killed process cannot. Only simulations do without.

        Raises:
            LedgerError: The file is damaged, foreign, or of a newer version.
            LedgerWentBack: It lacks entries that were written.
        """
        ledger = cls(path, key, clock=clock, sync=sync)
        ledger._read()
        return ledger

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._read())

    @property
    def head(self) -> Head:
        """Number and hash of the last entry."""
        return head_of(self._read())

    def spent(self, *, since: int | None = None) -> list[SampledGaussianSteps]:
        """Return the charged steps; adjacent ones of equal terms are joined.

        Args:
            since: Only count entries after the one of this number.

        Raises:
            LedgerError: As `open`. A store that cannot read its spending must not spend more.
        """
        return paid(self._read(), since=since or 0)

    def check_affordable(
        self, charge: Charge, *, budget: Budget, grant: Grant | None = None
    ) -> None:
        """Check that budget and grant can pay for a charge; a refusal is recorded.

        Raises:
            BudgetSpent: Epsilon since the last renewal would exceed the budget, or the charges
                under the manifest would exceed its grant.
            LedgerError: As `open`.
        """
        beyond = self._beyond(self._read(), charge, budget, grant)
        if beyond is not None:
            self.refuse(charge, note=beyond.message, budget=budget)
            raise beyond

    def charge(
        self,
        charge: Charge,
        *,
        budget: Budget | None = None,
        grant: Grant | None = None,
        vector: bytes | None = None,
    ) -> Entry:
        """Record a charge as paid, durably; call this before the release leaves.

        Args:
            charge: The spending, and the release that it pays for.
            budget: The store's limit, checked once more under the write lock.
            grant: The manifest's limit, checked likewise.
            vector: The vector that will be masked; the entry commits to it.

        Raises:
            BudgetSpent: It would exceed budget or grant; a refusal was recorded instead.
            LedgerError: As `open`; or the entry could not be written. Release nothing.
        """
        # Check and entry are in one transaction: two processes that both fit alone must not
        # both be admitted.
        with self._writing() as write:
            beyond = self._beyond(write.entries, charge, budget, grant)
            if beyond is None:
                self._renew(write, charge.target_delta, budget)
                entry = self._entry(write, "charge", charge, budget)
                if vector is not None:
                    commitment = self._commitment(entry, vector, make=True)
                    entry = replace(entry, commitment=commitment or NOTHING)
                return write.append(entry)
        self.refuse(charge, note=beyond.message, budget=budget)
        raise beyond

    def refuse(self, charge: Charge, *, note: str, budget: Budget | None = None) -> Entry:
        """Record an exchange that was asked for and refused.

        Between two charges, one refusal is recorded for each kind of exchange under each
        manifest: a coordinator that asks repeatedly must not make the ledger grow without bound.

        Returns:
            The new entry, or the one that recorded the same refusal before.

        Raises:
            LedgerError: As `charge`.
        """
        about = charge.release
        with self._writing() as write:
            for last in takewhile(lambda entry: entry.kind == "refusal", reversed(write.entries)):
                known = (last.release.kind, last.release.manifest_digest)
                if known == (about.kind, about.manifest_digest):
                    return last
            self._renew(write, charge.target_delta, budget)
            entry = self._entry(write, "refusal", charge, budget)
            return write.append(replace(entry, note=note))

    def opens(self, entry: Entry, vector: bytes) -> bool:
        """Whether an entry's commitment is to that vector; only the store has the salt."""
        return entry.commitment == self._commitment(entry, vector, make=False)

    def _beyond(
        self,
        entries: list[Entry],
        charge: Charge,
        budget: Budget | None,
        grant: Grant | None,
    ) -> BudgetSpent | None:
        """Return the error if grant or budget cannot pay for a charge; None if they can."""
        if grant is not None and (beyond := _beyond_grant(entries, charge, grant)):
            return beyond
        if budget is None:
            return None
        # A due renewal is written together with the charge, so nothing before counts.
        due = self._is_due(entries, budget)
        since = len(entries) if due else _last_renewal(entries).sequence
        spent = [*paid(entries, since=since), charge.steps]
        total = epsilon(spent, target_delta=charge.target_delta)
        if total <= budget.max_epsilon:
            return None
        hint = "leave the federation, or raise max_epsilon"
        if budget.renews > self._now() and not due:
            hint = f"the budget renews on {datetime.fromtimestamp(budget.renews, UTC).date()}"
        return BudgetSpent(
            f"the store would have spent epsilon={total:.3f}, its policy allows "
            f"{budget.max_epsilon:g}",
            hint=f"nothing was released; {hint}",
        )

    def _is_due(self, entries: list[Entry], budget: Budget) -> bool:
        # By the clock itself: an entry's time may be ahead of the clock, and would renew too
        # early. Only a later date renews again: the policy's date is used once.
        return budget.is_due(now=self._now()) and budget.renews > _last_renewal(entries).renews

    def _renew(self, write: _Write, target_delta: float, budget: Budget | None) -> None:
        if budget is not None and self._is_due(write.entries, budget):
            entry = self._entry(write, "renewal", None, budget, target_delta=target_delta)
            write.append(replace(entry, renews=budget.renews))

    def _entry(
        self,
        write: _Write,
        kind: Kind,
        charge: Charge | None,
        budget: Budget | None,
        *,
        target_delta: float = 0.0,
    ) -> Entry:
        """Make the next entry; without a charge, epsilon is read at the given delta."""
        steps = None if charge is None else charge.steps
        target_delta = target_delta if charge is None else charge.target_delta
        head, before = head_of(write.entries), paid(write.entries)
        now, last = self._now(), write.entries[-1].time if write.entries else 0
        spends = [steps] if kind == "charge" and steps is not None else []
        return Entry(
            sequence=head.sequence + 1,
            kind=kind,
            previous=head.hash,
            time=max(last, now),
            clock_went_back=now < last,
            signer=UNSIGNED if self._key is None else self._key.public,
            release=Release() if charge is None else charge.release,
            steps=steps,
            target_delta=target_delta,
            epsilon_before=epsilon(before, target_delta=target_delta),
            epsilon_after=epsilon([*before, *spends], target_delta=target_delta),
            max_epsilon=0.0 if budget is None else budget.max_epsilon,
            accountant=accountant(),
        )

    def _commitment(self, entry: Entry, vector: bytes, *, make: bool) -> bytes | None:
        key = ledger_file.salt_key(self.path, make=make, sync=self._sync)
        if key is None:
            return None
        salt = digest(_SALT_LABEL, key, entry.sequence.to_bytes(8, "big"), entry.previous)
        return digest(_COMMITMENT_LABEL, salt, vector)

    def _now(self) -> int:
        return max(int(self._clock()), 0)

    def _read(self) -> list[Entry]:
        with self._lock:
            # The head before the file: an entry is committed before its head is written, so the
            # file holds everything that this head names, even if another process writes now.
            remembered = ledger_file.read_head(self.path)
            if self.path.exists():
                with ledger_file.reading(self.path) as database:
                    self._catch_up(database, remembered)
            else:
                self._check_gone(remembered)
            return list(self._entries)

    @contextmanager
    def _writing(self) -> Iterator[_Write]:
        with self._lock:
            if not self.path.exists():
                self._check_gone(ledger_file.read_head(self.path))
            with ledger_file.writing(self.path, sync=self._sync) as database:
                remembered = ledger_file.read_head(self.path)
                self._catch_up(database, remembered)
                if remembered is None:
                    # Before the first entry: a ledger with entries and no head has lost it.
                    ledger_file.write_head(self.path, EMPTY, sync=self._sync)
                write = _Write(self.path, self._key, database, self._entries)
                yield write
            # After the commit: a head that names an entry which a crash then lost would stop
            # the store for good. A head that lags behind is harmless.
            if write.has_more:
                # Under the write lock again, so that no older head replaces a newer one.
                with ledger_file.writing(self.path, sync=self._sync) as database:
                    self._catch_up(database, EMPTY)
                    ledger_file.write_head(self.path, head_of(self._entries), sync=self._sync)

    def _catch_up(self, database: sqlite3.Connection, remembered: Head | None) -> None:
        """Read and check the entries that were added since this object last read the file."""
        entries = list(self._entries)
        # The last known row is read again: it shows whether the file was replaced meanwhile.
        rows = ledger_file.read_rows(database, self.path, start=max(len(entries), 1))
        if entries:
            if not rows or Head(rows[0].sequence, rows[0].hash) != head_of(entries):
                self._went_back(f"entry {len(entries)} is gone, or was replaced while in use")
            rows = rows[1:]
        for row in rows:
            entry = follow(entries, row)
            if isinstance(entry, Fault):
                raise LedgerError(
                    f"{self.path} is damaged: {entry}",
                    hint="nothing was released; restore it from a backup no older than the "
                    "last round",
                )
            entries.append(entry)
        if remembered is None and entries:
            head_file = ledger_file.head_path(self.path).name
            self._went_back(f"{head_file} is gone", more=f"; {ledger_file.HEAD_LOST}")
        fault = remembered and compare(entries, remembered)
        if fault:
            self._went_back(str(fault))
        self._entries = entries

    def _check_gone(self, remembered: Head | None) -> None:
        if self._entries or remembered not in (None, EMPTY):
            self._went_back("the file is gone")

    def _went_back(self, why: str, *, more: str = "") -> NoReturn:
        raise LedgerWentBack(
            f"{self.path} is not the ledger that this store remembers: {why}",
            hint=f"nothing was released; restore the newest ledger together with its head{more}",
        )


class _Write:
    """A transaction: the entries of a ledger under the write lock, and a way to add one."""

    def __init__(
        self,
        path: Path,
        key: StoreKey | None,
        database: sqlite3.Connection,
        entries: list[Entry],
    ) -> None:
        self._path = path
        self._key = key
        self._database = database
        self._count_before = len(entries)
        self.entries = list(entries)

    @property
    def has_more(self) -> bool:
        return len(self.entries) > self._count_before

    def append(self, entry: Entry) -> Entry:
        signed = entry if self._key is None else entry.sign(self._key)
        row = Row(signed.sequence, signed.body(), signed.hash, signed.signature)
        ledger_file.insert_row(self._database, self._path, row)
        self.entries.append(signed)
        return signed


def _beyond_grant(entries: list[Entry], charge: Charge, grant: Grant) -> BudgetSpent | None:
    """Return the error if a manifest does not grant one more exchange of this kind and cost."""
    charged = [
        entry
        for entry in entries
        if entry.kind == "charge" and entry.release.manifest_digest == grant.manifest_digest
    ]
    hint = "nothing was released; ask the federation for new terms"
    kind = charge.release.kind
    count = sum(entry.release.kind == kind for entry in charged)
    granted = grant.exchanges.get(kind, 0)
    if count >= granted:
        return BudgetSpent(
            f"the store has paid for {count} exchanges of kind {kind!r} under this "
            f"manifest, which grants {granted}",
            hint=hint,
        )
    total = epsilon([*paid(charged), charge.steps], target_delta=grant.target_delta)
    if total <= grant.max_epsilon:
        return None
    return BudgetSpent(
        f"the store would have spent epsilon={total:.3f} under this manifest, which promises "
        f"{grant.max_epsilon:g}",
        hint=hint,
    )


def _last_renewal(entries: list[Entry]) -> Entry:
    nothing = Entry(sequence=0, kind="renewal", previous=GENESIS, time=0)
    return next((entry for entry in reversed(entries) if entry.kind == "renewal"), nothing)
