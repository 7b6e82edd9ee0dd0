"""A store's ledger: what every round cost its customers, written before it leaves.

Entries are chained by their hashes and signed with the store's key, in one SQLite file. The
last hash is remembered in a second file, so that bringing back an older ledger is noticed.

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
    """What one store has spent.

    Guarantees:
        - `charge` returns after its entry is on the disk; nothing under-counts, a crash
          before the release over-counts.
        - Processes that write at once do so in turn, and no entry is lost.
        - Entries keep the order of their numbers. Where the clock goes back, an entry bears
          the time of the one before and says so; a renewal then waits for the clock.
        - After any error, nothing was spent that is not in the ledger.
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
        """As far as this object has read and checked them."""

    @classmethod
    def open(
        cls,
        path: Path,
        key: StoreKey | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sync: bool = True,
    ) -> Ledger:
        """Open a ledger, and check it as far as can be done without a signature.

        Args:
            path: `ledger.sqlite`; it is made by the first entry.
            key: Signs new entries; without one they are chained, and say that nobody signed.
            clock: Unix seconds.
            sync: Wait for the disk; without it a power failure can lose entries, a killed
                process cannot. For simulations.

        Raises:
            LedgerError: The file is damaged, foreign, or of a newer version.
            LedgerWentBack: It lacks entries that were made.
        """
        ledger = cls(path, key, clock=clock, sync=sync)
        ledger._read()
        return ledger

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._read())

    @property
    def head(self) -> Head:
        """How far the ledger goes."""
        return head_of(self._read())

    def spent(self, *, since: int | None = None) -> list[SampledGaussianSteps]:
        """Return what was paid for, neighbours of the same terms joined.

        Args:
            since: Only what came after the entry of this number.

        Raises:
            LedgerError: As `open`; who cannot tell what it has spent must not spend more.
        """
        return paid(self._read(), since=since or 0)

    def check_affordable(
        self, charge: Charge, *, budget: Budget, grant: Grant | None = None
    ) -> None:
        """Refuse what the budget or the grant cannot pay for; the refusal is an entry.

        Raises:
            BudgetSpent: Epsilon since the last renewal would exceed the budget, or what was
                charged under the manifest would exceed its grant.
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
        """Write a charge down as paid, durably.

        Args:
            charge: What is spent, and what will leave for it.
            budget: The store's limit, looked at once more while nobody else can write.
            grant: The manifest's, likewise.
            vector: What will be masked; the entry commits to it.

        Raises:
            BudgetSpent: It would exceed budget or grant; a refusal was written instead.
            LedgerError: As `open`; or the entry could not be written. Release nothing.
        """
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
        """Write down what was asked and not done.

        Between two charges, one refusal is written for each kind of exchange under each
        manifest: a coordinator that asks without end must not make the ledger grow without end.

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
        """Whether an entry's commitment is to that vector; only the store can tell."""
        return entry.commitment == self._commitment(entry, vector, make=False)

    def _beyond(
        self,
        entries: list[Entry],
        charge: Charge,
        budget: Budget | None,
        grant: Grant | None,
    ) -> BudgetSpent | None:
        """What to say if the manifest's grant or the store's budget cannot pay for a charge."""
        if grant is not None and (beyond := _beyond_grant(entries, charge, grant)):
            return beyond
        if budget is None:
            return None
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
        # By the clock as it is: an entry's time may be ahead of it, and would renew too early.
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
        """The next entry; a renewal charges nothing, and reads epsilon at the delta given."""
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
            # The head first: what was remembered by then, the file holds by now.
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
                    # From the first entry on, a ledger without a head is one that lost it.
                    ledger_file.write_head(self.path, EMPTY, sync=self._sync)
                write = _Write(self.path, self._key, database, self._entries)
                yield write
            if write.has_more:
                # With the right to write once more, so that no older head replaces a newer.
                with ledger_file.writing(self.path, sync=self._sync) as database:
                    self._catch_up(database, EMPTY)
                    ledger_file.write_head(self.path, head_of(self._entries), sync=self._sync)

    def _catch_up(self, database: sqlite3.Connection, remembered: Head | None) -> None:
        """Read and check the entries that are new since this object last looked."""
        entries = list(self._entries)
        rows = ledger_file.read_rows(database, self.path, start=max(len(entries), 1))
        if entries:
            if not rows or Head(rows[0].sequence, rows[0].hash) != head_of(entries):
                self._went_back(f"entry {len(entries)} is gone, or was replaced while in use")
            rows = rows[1:]
        for row in rows:
            found = follow(entries, row)
            if isinstance(found, Fault):
                raise LedgerError(
                    f"{self.path} is damaged: {found}",
                    hint="nothing was released; restore it from a backup no older than the "
                    "last round",
                )
            entries.append(found)
        if remembered is None and entries:
            beside = ledger_file.head_path(self.path).name
            self._went_back(f"{beside} is gone", more=f"; {ledger_file.HEAD_LOST}")
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
            hint=f"nothing was released; bring back the newest ledger and its head, both{more}",
        )


class _Write:
    """The entries of a ledger while nobody else can write, and the way to add one."""

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
        self._found = len(entries)
        self.entries = list(entries)

    @property
    def has_more(self) -> bool:
        return len(self.entries) > self._found

    def append(self, entry: Entry) -> Entry:
        signed = entry if self._key is None else entry.sign(self._key)
        row = Row(signed.sequence, signed.body(), signed.hash, signed.signature)
        ledger_file.insert_row(self._database, self._path, row)
        self.entries.append(signed)
        return signed


def _beyond_grant(entries: list[Entry], charge: Charge, grant: Grant) -> BudgetSpent | None:
    """What to say if a manifest does not grant one more exchange of this kind and cost."""
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
