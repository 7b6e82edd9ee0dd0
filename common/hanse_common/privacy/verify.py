"""Is a ledger as it was written? For whoever was handed one, with no need to trust the store.

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
"""By how much, relatively, two versions of the accountant may differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCopy:
    """A ledger as it lies there, read once; signatures and epsilon are unchecked.

    Args:
        entries: Those that follow each other, up to the first that does not.
        fault: Where the chain breaks; None if it does not.
        damage: What SQLite finds wrong with the file's pages; None if nothing.
        unreadable: Why the rows could not be read; None if they could.
    """

    entries: tuple[Entry, ...] = ()
    fault: Fault | None = None
    damage: LedgerError | None = None
    unreadable: LedgerError | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a ledger's file, once, and read all that an audit needs of it.

        Raises:
            LedgerError: It is no ledger, or of a newer version.
        """
        damage: LedgerError | None = None
        with ledger_file.reading(path) as database:
            try:
                ledger_file.check_pages(database, path)
            except LedgerError as error:
                # Entries may still be readable; what is made of them is for the reader.
                damage = error
            try:
                rows = ledger_file.read_rows(database, path)
            except LedgerError as error:
                return cls(damage=damage, unreadable=error)
        entries: list[Entry] = []
        for row in rows:
            found = follow(entries, row)
            if isinstance(found, Fault):
                return cls(entries=tuple(entries), fault=found, damage=damage)
            entries.append(found)
        return cls(entries=tuple(entries), damage=damage)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found in a ledger.

    Args:
        entries: Those before the first fault.
        fault: The first entry that is not as it was written; None if all are.
        compared: With the head of how many entries the ledger was compared; None if with none,
            and then entries missing at the end are not noticed.
    """

    entries: tuple[Entry, ...]
    fault: Fault | None
    compared: int | None

    @property
    def head(self) -> Head:
        """How far the good entries go."""
        return head_of(self.entries)

    @property
    def unsigned(self) -> int:
        """How many entries nobody signed: they are chained, and no more."""
        return sum(entry.signer == UNSIGNED for entry in self.entries)


def verify(
    path: Path,
    public_key: bytes | None = None,
    *,
    earlier_keys: Collection[bytes] = (),
    head: Head | None = None,
) -> Verification:
    """Check every entry of a ledger: place, hash, signature, time and epsilon.

    Args:
        path: The SQLite file; nothing in it is changed.
        public_key: The store's, as its certificate has it. Without one, signatures are
            checked against the signers that entries name, and unsigned entries pass.
        earlier_keys: Others that the store had before; `UNSIGNED` if it had none for a while.
        head: One that the reader remembers, or the store has shown elsewhere. If unset, the
            one that lies beside the file, if there is one.

    Raises:
        LedgerError: There is no readable ledger at all.

    Edge cases:
        Entries that are gone from the end are noticed by the head only. A ledger and head
        that are both replaced by older ones, or made anew by the holder of the key, are
        noticed only by a head that somebody else remembers.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}")
    # The head first: what was remembered by then, the file holds by now.
    remembered = head or ledger_file.read_head(path)
    return verify_copy(LedgerCopy.read(path), public_key, earlier_keys, remembered)


def verify_copy(
    copy: LedgerCopy,
    public_key: bytes | None,
    earlier_keys: Collection[bytes],
    head: Head | None,
) -> Verification:
    """Check a ledger that was read before its head could change; see `verify`.

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
        detail = f"target_delta={entry.target_delta} lies not in (0, 1)"
        return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
    for name, claimed, spent in (
        ("before", entry.epsilon_before, paid(before)),
        ("after", entry.epsilon_after, paid([*before, entry])),
    ):
        try:
            found = epsilon(spent, target_delta=entry.target_delta)
        except (ArithmeticError, ValueError) as error:
            detail = f"its terms have no epsilon: {error}"
            return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
        if not (claimed == found or math.isclose(claimed, found, rel_tol=TOLERANCE)):
            detail = f"it says {claimed:.6g} {name} it, its charges come to {found:.6g}"
            return Fault(sequence=entry.sequence, problem="wrong epsilon", detail=detail)
    return None
