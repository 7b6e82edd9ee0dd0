"""Recovery of a ledger whose head is lost: accept its entries, and record that decision.

Without its head a store cannot know whether entries are missing at the end, and releases
nothing. If the head cannot be restored, a person has to decide that the ledger is complete.

>>> from tempfile import TemporaryDirectory
>>> from hanse_common.privacy.accounting import SampledGaussianSteps
>>> from hanse_common.privacy.charge import Charge
>>> from hanse_common.privacy.ledger import Ledger
>>> folder, key = TemporaryDirectory(), StoreKey.generate()
>>> path = Path(folder.name) / "ledger.sqlite"
>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5)
>>> _ = Ledger.open(path, key).charge(Charge(steps=steps, target_delta=1e-6))
>>> ledger_file.head_path(path).unlink()
>>> entry = restore_head(path, key)
>>> entry.sequence, entry.kind, entry.note
(2, 'recovery', 'the head was lost; entries up to 1 were accepted as they lay there')
>>> Ledger.open(path, key).head.sequence
2
>>> folder.cleanup()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hanse_common.errors import LedgerError
from hanse_common.identity import StoreKey
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import accountant, epsilon
from hanse_common.privacy.chain import head_of, paid
from hanse_common.privacy.entry import UNSIGNED, Entry
from hanse_common.privacy.ledger_file import EMPTY, Row
from hanse_common.privacy.verify import verify

_NOTHING_WRITTEN = "nothing was written"


def check_headless(
    path: Path, key: StoreKey | None, *, earlier_keys: Collection[bytes] = ()
) -> tuple[Entry, ...]:
    """Return a ledger's entries if the lost head is its only fault.

    Args:
        path: `ledger.sqlite`.
        key: The store's key; None for a node that is in no federation.
        earlier_keys: Public keys that the store had before; `UNSIGNED` if it had none.

    Raises:
        LedgerError: There is no ledger, or it is empty; its head is readable; or an entry is
            not as the store wrote it.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}", hint="give the store's ledger.sqlite")
    _check_lost(path)
    public = None if key is None else key.public
    result = verify(path, public, earlier_keys=earlier_keys, head=EMPTY)
    if result.fault is not None:
        raise LedgerError(
            f"{path} does not verify: {result.fault}",
            hint=f"{_NOTHING_WRITTEN}; restore it from a backup no older than the last round",
        )
    if not result.entries:
        raise LedgerError(f"{path} has no entry", hint="it needs no head before its first entry")
    if key is None and result.entries[-1].signer != UNSIGNED:
        raise LedgerError(
            f"the entries of {path} are signed, and no key was given",
            hint=f"{_NOTHING_WRITTEN}; the store must sign the entry about the recovery as well",
        )
    return result.entries


def restore_head(
    path: Path,
    key: StoreKey | None,
    *,
    earlier_keys: Collection[bytes] = (),
    clock: Callable[[], float] = time.time,
) -> Entry:
    """Write a new head for a ledger, durably, and an entry that records the loss of the old one.

    Args:
        path: `ledger.sqlite`.
        key: The store's key, which signs the entry.
        earlier_keys: As for `check_headless`.
        clock: Returns Unix seconds.

    Returns:
        The new entry, a `recovery`.

    Raises:
        LedgerError: As for `check_headless`, or the ledger cannot be written.

    Guarantees:
        No head is written without the entry, and the entry cannot be removed: every audit of
        the ledger shows that its end was accepted, and who signed that.

    Edge cases:
        Entries that were cut off together with the head are not detected here, but by an
        auditor who remembers a later head. A readable head is never replaced.
    """
    entries = check_headless(path, key, earlier_keys=earlier_keys)
    entry = _recovery(entries, key, int(max(clock(), 0)))
    with ledger_file.writing(path) as database:
        # Again, under the write lock: another process may have written since the first check.
        _check_lost(path)
        rows = ledger_file.read_rows(database, path)
        if [row.hash for row in rows] != [known.hash for known in entries]:
            raise LedgerError(f"{path} changed meanwhile", hint=f"{_NOTHING_WRITTEN}; try again")
        row = Row(entry.sequence, entry.body(), entry.hash, entry.signature)
        ledger_file.insert_row(database, path, row)
    # After the entry is committed: a crash in between leaves the head lost, as it was.
    ledger_file.write_head(path, head_of([entry]))
    return entry


def _check_lost(path: Path) -> None:
    """Check that the head is missing or damaged: a readable head must be respected.

    Raises:
        LedgerError: The head can be read, or may be intact but is out of reach.
    """
    try:
        head = ledger_file.read_head(path)
    except LedgerError as error:
        if isinstance(error.__cause__, OSError):
            raise  # It may be intact: permissions or the disk are the problem.
        return
    if head is not None:
        raise LedgerError(
            f"the head of {path} is there, and remembers {head.sequence} entries",
            hint=f"{_NOTHING_WRITTEN}; if entries are missing, restore the newest ledger",
        )


def _recovery(entries: Sequence[Entry], key: StoreKey | None, now: int) -> Entry:
    last = entries[-1]
    spent = epsilon(paid(entries), target_delta=last.target_delta)
    entry = Entry(
        sequence=last.sequence + 1,
        kind="recovery",
        previous=last.hash,
        time=max(last.time, now),
        clock_went_back=now < last.time,
        signer=UNSIGNED if key is None else key.public,
        target_delta=last.target_delta,
        epsilon_before=spent,
        epsilon_after=spent,
        accountant=accountant(),
        note=f"the head was lost; entries up to {last.sequence} were accepted as they lay there",
    )
    return entry if key is None else entry.sign(key)
