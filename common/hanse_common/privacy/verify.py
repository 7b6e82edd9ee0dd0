"""Verification of a ledger by a third party that does not trust the store.

>>> from tempfile import TemporaryDirectory
>>> from hanse_common.identity import StoreKey
>>> from hanse_common.privacy.accounting import SampledGaussianSteps
>>> from hanse_common.privacy.charge import Charge
>>> from hanse_common.privacy.ledger import Ledger
>>> folder, key = TemporaryDirectory(), StoreKey.generate()
>>> path = Path(folder.name) / "ledger.sqlite"
>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5)
>>> _ = Ledger.open(path, key).charge(Charge(steps=steps, target_delta=1e-6))
>>> report = verify(path, key.public)
>>> report.fault, len(report.entries), report.unsigned
(None, 1, 0)
>>> str(verify(path, bytes(32)).fault)[:27]
'entry 1 is another key: it '
>>> folder.cleanup()
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hanse_common.errors import BadSignature, LedgerError
from hanse_common.identity import fingerprint
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.chain import Fault, compare, follow, head_of, paid
from hanse_common.privacy.entry import UNSIGNED, Entry
from hanse_common.privacy.ledger_file import Head

TOLERANCE = 1e-3
"""Largest relative difference of epsilon between two versions of the accountant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCopy:
    """The content of a ledger's file, read once; signatures and epsilon are unchecked.

    Args:
        entries: The entries up to the first break of the chain.
        fault: The first break of the chain; None without one.
        damage: SQLite's error about the file's pages; None without one.
        unreadable: The error that prevented reading the rows; None without one.
    """

    entries: tuple[Entry, ...] = ()
    fault: Fault | None = None
    damage: LedgerError | None = None
    unreadable: LedgerError | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read everything that an audit needs from a ledger's file.

        Raises:
            LedgerError: It is not a ledger, or of a newer version.
        """
        damage: LedgerError | None = None
        with ledger_file.reading(path) as database:
            try:
                ledger_file.check_pages(database, path)
            except LedgerError as error:
                # Entries may still be readable; the caller decides what they are worth.
                damage = error
            try:
                rows = ledger_file.read_rows(database, path)
            except LedgerError as error:
                return cls(damage=damage, unreadable=error)
        entries: list[Entry] = []
        for row in rows:
            entry = follow(entries, row)
            if isinstance(entry, Fault):
                return cls(entries=tuple(entries), fault=entry, damage=damage)
            entries.append(entry)
        return cls(entries=tuple(entries), damage=damage)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The result of verifying a ledger.

    Args:
        entries: The entries before the first fault.
        fault: The first entry that is not as it was written; None if all are.
        compared: Number of entries of the head that the ledger was compared with; None without
            a head, in which case entries missing at the end are not detected.
    """

    entries: tuple[Entry, ...]
    fault: Fault | None
    compared: int | None

    @property
    def head(self) -> Head:
        """Number and hash of the last entry before the first fault."""
        return head_of(self.entries)

    @property
    def unsigned(self) -> int:
        """Number of entries without a signature, which are protected by the chain only."""
        return sum(entry.signer == UNSIGNED for entry in self.entries)


def verify(
    path: Path,
    public_key: bytes | None = None,
    *,
    earlier_keys: Collection[bytes] = (),
    head: Head | None = None,
) -> Verification:
    """Check every entry of a ledger: position, hash, signature, time and epsilon.

    Args:
        path: The SQLite file; it is not changed.
        public_key: The store's public key, as in its certificate. Without it, signatures are
            checked against the signers that entries name, and unsigned entries pass.
        earlier_keys: Keys that the store had before; `UNSIGNED` if it had none for a while.
        head: A head that the caller remembers, or that the store showed elsewhere. If unset,
            the head in the ledger's folder is used, if there is one.

    Raises:
        LedgerError: There is no readable ledger.

    Edge cases:
        Entries that are missing at the end are detected by the head only. A ledger and head
        that were both replaced by older ones, or rewritten by the holder of the key, are
        detected only by a head that another party remembers.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}")
    # The head before the file: an entry is committed before its head is written, so a store
    # that writes meanwhile is not accused of missing entries.
    remembered = head or ledger_file.read_head(path)
    return verify_copy(LedgerCopy.read(path), public_key, earlier_keys, remembered)


def verify_copy(
    copy: LedgerCopy,
    public_key: bytes | None,
    earlier_keys: Collection[bytes],
    head: Head | None,
) -> Verification:
    """Check a ledger that was read already, against a head that was read before it; see `verify`.

    Raises:
        LedgerError: The file is damaged.
    """
    broken = copy.damage or copy.unreadable
    if broken is not None:
        raise broken
    allowed = None if public_key is None else {public_key, *earlier_keys}
    compared = None if head is None else head.sequence
    for number, entry in enumerate(copy.entries):
        before = copy.entries[:number]
        fault = _judge(before, entry, allowed)
        if fault is not None:
            return Verification(entries=before, fault=fault, compared=compared)
    entries, fault = copy.entries, copy.fault
    if fault is None and head is not None:
        fault = compare(entries, head)
        if fault is not None:
            entries = entries[: fault.sequence - 1]
    return Verification(entries=entries, fault=fault, compared=compared)


def _judge(
    before: Sequence[Entry], entry: Entry, allowed: Collection[bytes] | None
) -> Fault | None:
    number = entry.sequence
    if allowed is not None and entry.signer not in allowed:
        if entry.signer == UNSIGNED:
            return Fault(sequence=number, problem="unsigned", detail="the store has a key")
        detail = f"it is signed by {fingerprint(entry.signer)[:9]}…, not by the store"
        return Fault(sequence=number, problem="another key", detail=detail)
    try:
        entry.check_signature()
    except (BadSignature, LedgerError) as error:
        return Fault(sequence=number, problem="bad signature", detail=error.message)
    return _judge_epsilon(before, entry)


def _judge_epsilon(before: Sequence[Entry], entry: Entry) -> Fault | None:
    if not 0 < entry.target_delta < 1:
        detail = f"target_delta={entry.target_delta} is not in (0, 1)"
        return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
    for name, claimed, spent in (
        ("before", entry.epsilon_before, paid(before)),
        ("after", entry.epsilon_after, paid([*before, entry])),
    ):
        try:
            computed = epsilon(spent, target_delta=entry.target_delta)
        except (ArithmeticError, ValueError) as error:
            detail = f"its terms have no epsilon: {error}"
            return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
        if not (claimed == computed or math.isclose(claimed, computed, rel_tol=TOLERANCE)):
            detail = f"it says {claimed:.6g} {name} it, its charges come to {computed:.6g}"
            return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
    return None
