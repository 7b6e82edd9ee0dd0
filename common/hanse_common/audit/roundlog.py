"""Checks a coordinator's round log on its own: integrity, signatures and consistency.

No record is trusted because the coordinator wrote it: the authority signs certificates, stores
sign cosignatures, receipts and confirmations, and every header binds the log up to the
announcement of its exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hanse_common.audit.attempts import LoggedAttempt
from hanse_common.audit.evidence import is_there
from hanse_common.audit.findings import Notes
from hanse_common.audit.repeats import kind_of
from hanse_common.errors import BadSignature, HanseError, LedgerError, RoundLogError
from hanse_common.instructions import logged_digest
from hanse_common.manifest import Manifest
from hanse_common.phases import EXCHANGES_PER_ROUND
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import FORMAT, checkpoint_path, read_records
from hanse_common.roundlog.merkle import Tree
from hanse_common.roundlog.records import SUMMED, Announced, Closed, Published, Record, decode


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFile:
    """The content of a round log.

    Args:
        path: Path of the log.
        records: The decoded records in order, up to the first malformed one.
        tree: Merkle tree over all records, malformed ones included.
        checkpoint: The checkpoint in the log's folder, not checked.
    """

    path: Path
    records: tuple[Record, ...]
    tree: Tree
    checkpoint: Checkpoint | None

    def closed(self) -> list[Closed]:
        """Return the records of attempts that ended."""
        return [record for record in self.records if isinstance(record, Closed)]

    def certified(self) -> dict[bytes, str]:
        """Return the ids of stores in rosters, by the public key in their certificates."""
        members = (member for attempt in self.closed() for member in attempt.members)
        return {one.certificate.public_key: one.certificate.store_id for one in members}


@dataclass(slots=True)
class _Reading:
    """State of the pass over a log's records."""

    announced: dict[bytes, tuple[int, Announced]] = field(default_factory=dict)
    """Open announcements, by the model digest that the header of their attempt must have."""
    attempts: list[LoggedAttempt] = field(default_factory=list)
    """Closed attempts so far."""
    model: Published | None = None
    """The newest published model."""
    models: set[bytes] = field(default_factory=set)
    """Digests of all published models."""
    summed: set[int] = field(default_factory=set)
    """Exchanges that gave a sum since the newest model."""


def read_log(path: Path, notes: Notes) -> LogFile | None:
    """Read a log up to its first malformed record; add faults to the notes.

    Returns:
        The log; None if it cannot be read at all.
    """
    try:
        is_there(checkpoint_path(path))
        if not is_there(path):
            raise RoundLogError(f"there is no round log at {path}, but its checkpoint exists")
        with FORMAT.reading(path) as database:
            FORMAT.check_pages(database, path)
            bodies = read_records(database, path)
        checkpoint = Checkpoint.load(checkpoint_path(path))
    except (RoundLogError, LedgerError) as error:
        notes.reject("the round log cannot be read", error)
        return None
    records: list[Record] = []
    for position, body in enumerate(bodies, start=1):
        try:
            records.append(decode(body))
        except RoundLogError as error:
            notes.fault(position, "altered", error.message)
            break
    return LogFile(path=path, records=tuple(records), tree=Tree(bodies), checkpoint=checkpoint)


def check_log(
    log: LogFile,
    log_key: str | None,
    terms: Mapping[bytes, Manifest],
    authority: bytes | None,
    notes: Notes,
) -> list[LoggedAttempt]:
    """Check a log's records against one another and against their signatures.

    Args:
        log: The log.
        log_key: The key in the coordinator's manifest; None without a manifest.
        terms: Checked manifests, by digest.
        authority: The enrolment authority's public key; None if it is not known.
        notes: Receive the findings.

    Returns:
        Attempts in the order of their announcements, up to the first fault.

    Guarantees:
        If there is no fault, no record up to the checkpoint, or that a store has cosigned, was
        altered, moved or removed, and stores signed what each record says of them.
    """
    _check_checkpoint(log, log_key, notes)
    reading = _Reading()
    for position, record in enumerate(log.records, start=1):
        if isinstance(record, Announced):
            _take_announcement(log, position, record, reading, notes)
        elif isinstance(record, Closed):
            _take_outcome(log, position, record, reading, terms, authority, notes)
        else:
            _take_model(position, record, reading, notes)
        if notes.faults:
            # Later records are judged by the state that earlier ones leave.
            return _attempts(reading)
    notes.verified += [
        "every announcement precedes its exchange, and every header binds the log as it was",
        "every cosignature, receipt and confirmation is signed by its store",
        "every change of the model follows a sum, and every round starts from the model before it",
    ]
    if reading.announced:
        count = len(reading.announced)
        notes.unverified.append(f"what came of {count} announced attempts: never closed")
    return _attempts(reading)


def _attempts(reading: _Reading) -> list[LoggedAttempt]:
    never_closed = [
        LoggedAttempt(position=position, announced=order)
        for position, order in reading.announced.values()
    ]
    return sorted([*reading.attempts, *never_closed], key=lambda attempt: attempt.position)


def _check_checkpoint(log: LogFile, log_key: str | None, notes: Notes) -> None:
    """Compare the log with its checkpoint."""
    size, last = len(log.tree), log.checkpoint
    if last is None:
        notes.fault(0, "unsigned", "there is no checkpoint beside the log")
        return
    try:
        last.check_signature()
    except BadSignature as error:
        notes.fault(0, "bad signature", f"of the checkpoint: {error.message}")
        return
    if log_key is None:
        notes.unverified.append("whose log it is: no manifest names its key")
    elif last.log_key.hex() != log_key:
        detail = "the checkpoint is not signed by the key that the manifest names"
        notes.fault(0, "another key", detail)
        return
    if last.size <= size and log.tree.root(last.size) == last.root:
        # A record is written before the checkpoint that covers it: a crash leaves one uncovered.
        if size > last.size + 1:
            notes.fault(last.size + 1, "unsigned", "no checkpoint covers it")
        elif size > last.size:
            notes.unverified.append("the last record: a crash left it without a checkpoint")
        notes.verified.append(f"the log is that of the signed checkpoint of {last.size} records")
        return
    # A Merkle root does not say which record differs. The headers of attempts narrow it down.
    good, all_bound = _vouched(log)
    if all_bound and last.size > size:
        notes.fault(size + 1, "cut off", f"the log ends before it, and had {last.size} records")
    else:
        notes.fault(good + 1, "altered", "the root of the log is not the one that is signed")


def _vouched(log: LogFile) -> tuple[int, bool]:
    """Return the last record that attempts' headers bind, and whether all attempts are bound."""
    good = 0
    for position, record in enumerate(log.records, start=1):
        if not isinstance(record, Closed) or not record.members:
            continue
        announced = _announcement_of(log, position, record)
        if announced is None or announced <= good:
            return good, False
        good = announced
    return good, True


def _announcement_of(log: LogFile, position: int, closed: Closed) -> int | None:
    """Return the number of the announcement that a closed attempt's header binds, or None."""
    for earlier in range(position - 1, 0, -1):
        record = log.records[earlier - 1]
        if isinstance(record, Announced) and closed.header.model_digest == _bound(
            log, earlier, record
        ):
            return earlier
    return None


def _bound(log: LogFile, position: int, announced: Announced) -> bytes:
    """Return the model digest in the header of an announced attempt."""
    return logged_digest(announced.instructions_digest, _checkpoint(log, position).payload())


def _checkpoint(log: LogFile, size: int) -> Checkpoint:
    key = log.checkpoint.log_key if log.checkpoint is not None else bytes(32)
    return Checkpoint(log_key=key, size=size, root=log.tree.root(size))


def _take_announcement(
    log: LogFile, position: int, record: Announced, reading: _Reading, notes: Notes
) -> None:
    model = reading.model
    if model is not None and record.model_digest != model.model_digest:
        detail = f"it sends another model than round {model.round} gave"
        notes.fault(position, "another model", detail)
    reading.announced[_bound(log, position, record)] = (position, record)


def _take_outcome(
    log: LogFile,
    position: int,
    record: Closed,
    reading: _Reading,
    terms: Mapping[bytes, Manifest],
    authority: bytes | None,
    notes: Notes,
) -> None:
    header = record.header
    announced = reading.announced.pop(header.model_digest, None)
    if announced is None:
        notes.fault(position, "never announced", "no record before it announces this attempt")
        return
    place, order = announced
    if (order.run, order.exchange, order.attempt) != (header.run, header.round, header.attempt):
        notes.fault(position, "another attempt", f"record {place} announces another than it closes")
        return
    try:
        _check_signatures(record, _checkpoint(log, place), authority)
        # A log outlives manifests: it may have attempts under terms that are not in the evidence.
        if header.manifest_digest in terms:
            _check_terms(record, order, terms[header.manifest_digest])
    except HanseError as error:
        notes.fault(position, "not to be trusted", error.message)
        return
    reading.attempts.append(
        LoggedAttempt(position=place, announced=order, closed=record, closed_at=position)
    )
    if record.outcome == SUMMED:
        reading.summed.add(header.round)


def _check_signatures(record: Closed, announcing: Checkpoint, authority: bytes | None) -> None:
    """Check all signatures of stores in an attempt.

    Raises:
        HanseError: A signature or list is wrong; the message names the store.
    """
    keys = {}
    for member in record.members:
        certificate = member.certificate
        if authority is not None:
            # Validity in time was checked by the other stores of the roster. The log has no clock
            # that an auditor could trust.
            certificate.check(authority, now=certificate.valid_from)
        keys[certificate.store_id] = certificate.public_key
        cosigned = partial(announcing.check_cosignature, member.cosignature, certificate.public_key)
        _signed(certificate.store_id, "cosignature", cosigned)
    # Unique ids: a store that counted twice would make the sum look larger than it was.
    if list(keys) != sorted(set(record.stores)) or len(keys) != len(record.members):
        raise RoundLogError("its roster is not sorted and unique")
    header_digest = record.header.digest()
    sharers_digest, survivors_digest = record.signed_digests()
    sharers = {record.stores[index] for index in record.sharers}
    for receipt in record.receipts:
        if receipt.store_id not in sharers:
            raise RoundLogError(
                f"it holds a receipt of {receipt.store_id!r}, which dealt no shares"
            )
        if (receipt.header_digest, receipt.roster_digest) != (header_digest, record.roster_digest):
            raise RoundLogError(f"the receipt of {receipt.store_id!r} is for another attempt")
        name = receipt.store_id
        _signed(name, "receipt", partial(receipt.check_signature, keys[name]))
    given = [receipt.store_id for receipt in record.receipts]
    if given != sorted(set(given)) or not set(record.summed) <= set(given):
        raise RoundLogError(
            "a store in the sum has no receipt, or receipts are repeated or unsorted"
        )
    for confirmation in record.confirmations:
        name = confirmation.store_id
        expected = (header_digest, record.roster_digest, sharers_digest, survivors_digest)
        signed = (
            confirmation.header_digest,
            confirmation.roster_digest,
            confirmation.sharers_digest,
            confirmation.survivors_digest,
        )
        if signed != expected or name not in record.summed:
            raise RoundLogError(f"the confirmation of {name!r} is for another list of survivors")
        _signed(name, "confirmation", partial(confirmation.check_signature, keys[name]))


def _signed(store: str, what: str, check: Callable[[], None]) -> None:
    try:
        check()
    except BadSignature:
        raise RoundLogError(f"the {what} of {store!r} is not signed by its key") from None


def _check_terms(record: Closed, announced: Announced, manifest: Manifest) -> None:
    """Check an attempt against the federation's terms.

    Raises:
        RoundLogError: The attempt violates one of the terms.
    """
    first = record.header.round == EXCHANGES_PER_ROUND
    if first and announced.model_digest.hex() != manifest.model_digest:
        raise RoundLogError("the first round starts from another model than the manifest names")
    strangers = set(record.stores) - set(manifest.stores)
    if strangers:
        raise RoundLogError(f"{min(strangers)!r} is not in the manifest")
    if record.outcome != SUMMED:
        return
    terms = manifest.terms(kind_of(record.header.round, manifest))
    count = len(record.members)
    for what, actual, needed in (
        ("stores in the roster", count, terms.minimum_cohort),
        ("stores in the sum", len(record.survivors), terms.survivors(count)),
        (
            "confirmations",
            len({c.store_id for c in record.confirmations}),
            terms.threshold(count),
        ),
    ):
        if actual < needed:
            raise RoundLogError(f"it has {actual} {what}, its manifest requires {needed}")


def _take_model(position: int, record: Published, reading: _Reading, notes: Notes) -> None:
    # A known digest is no change: after a lost round, or a restart from a checkpoint, the
    # coordinator publishes an earlier model again.
    if (
        record.round
        and reading.models
        and record.model_digest not in reading.models
        and EXCHANGES_PER_ROUND * record.round not in reading.summed
    ):
        detail = f"it changes the model, and round {record.round} gave no sum"
        notes.fault(position, "a model from nowhere", detail)
    reading.model = record
    reading.models.add(record.model_digest)
    reading.summed.clear()
