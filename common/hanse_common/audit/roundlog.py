"""A coordinator's round log by itself: is it as written, and does what it says hold together?

Nothing in it is believed for the coordinator's sake: certificates are the authority's,
cosignatures, receipts and confirmations the stores', and every header binds the log as it
was when the exchange was announced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hanse_common.audit.attempts import LoggedAttempt
from hanse_common.audit.evidence import is_there
from hanse_common.audit.findings import Notes
from hanse_common.audit.repeats import EXCHANGES_PER_ROUND
from hanse_common.errors import BadSignature, HanseError, LedgerError, RoundLogError
from hanse_common.instructions import logged_digest
from hanse_common.manifest import Manifest
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.file import FORMAT, checkpoint_path, read_records
from hanse_common.roundlog.merkle import Tree
from hanse_common.roundlog.records import SUMMED, Announced, Closed, Published, Record, decode


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFile:
    """A round log as it lies there.

    Args:
        path: Of the records.
        records: Good ones, in order.
        tree: Over all of them.
        checkpoint: That lies beside it, unchecked.
    """

    path: Path
    records: tuple[Record, ...]
    tree: Tree
    checkpoint: Checkpoint | None

    def closed(self) -> list[Closed]:
        """Attempts that came to an end."""
        return [record for record in self.records if isinstance(record, Closed)]

    def certified(self) -> dict[bytes, str]:
        """Ids of the stores in rosters, by the public key in their certificate there."""
        members = (member for attempt in self.closed() for member in attempt.members)
        return {one.certificate.public_key: one.certificate.store_id for one in members}


@dataclass(slots=True)
class _Reading:
    """What has been read of a log so far."""

    announced: dict[bytes, tuple[int, Announced]] = field(default_factory=dict)
    """Open announcements by the model digest that their header must have."""
    attempts: list[LoggedAttempt] = field(default_factory=list)
    """Those that were closed."""
    model: Published | None = None
    models: set[bytes] = field(default_factory=set)
    """Digests of all that were published."""
    summed: set[int] = field(default_factory=set)
    """Exchanges that gave a sum since."""


def read_log(path: Path, notes: Notes) -> LogFile | None:
    """Read a log as far as it can be; what is wrong with it goes to the notes."""
    try:
        is_there(checkpoint_path(path))
        if not is_there(path):
            raise RoundLogError(f"there is no round log at {path}, and its checkpoint is there")
        with FORMAT.reading(path) as database:
            FORMAT.check_pages(database, path)
            bodies = read_records(database, path)
        checkpoint = Checkpoint.load(checkpoint_path(path))
    except (RoundLogError, LedgerError) as error:
        notes.whole("the round log cannot be read", error)
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
    """Check everything that a log says by itself.

    Args:
        log: As read.
        log_key: The key that the coordinator's manifest names; None if it was not handed over.
        terms: Manifests by digest, each checked.
        authority: The enrolment authority's public key; None if it is not known.
        notes: Take what is found.

    Returns:
        Attempts in the order of their announcements, as far as the log is good.

    Guarantees:
        After no fault, no record that a store has cosigned, and none up to the checkpoint,
        was altered, moved or removed; what each record says of stores is signed by them.
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
    """Compare the log with the checkpoint beside it."""
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
        if size > last.size + 1:
            notes.fault(last.size + 1, "unsigned", "no checkpoint covers it")
        elif size > last.size:
            notes.unverified.append("the last record: a crash left it without a checkpoint")
        notes.verified.append(f"the log is that of the signed checkpoint of {last.size} records")
        return
    # Which record it is, the headers of attempts tell.
    good, all_bound = _vouched(log)
    if all_bound and last.size > size:
        notes.fault(size + 1, "cut off", f"the log ends before it, and had {last.size} records")
    else:
        notes.fault(good + 1, "altered", "the root of the log is not the one that is signed")


def _vouched(log: LogFile) -> tuple[int, bool]:
    """Up to where attempts were bound to the log as it is, and whether all of them were."""
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
    """Where the announcement is that a closed attempt's header binds."""
    for earlier in range(position - 1, 0, -1):
        record = log.records[earlier - 1]
        if isinstance(record, Announced) and closed.header.model_digest == _bound(
            log, earlier, record
        ):
            return earlier
    return None


def _bound(log: LogFile, position: int, announced: Announced) -> bytes:
    """What the header of an announced attempt has for model digest."""
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
        # A log outlives manifests: it may hold attempts under terms that nobody handed over.
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
    """Check all that stores have signed in an attempt.

    Raises:
        HanseError: Names the store.
    """
    keys = {}
    for member in record.members:
        certificate = member.certificate
        if authority is not None:
            # Whether it was valid then, the other stores of the roster have checked.
            certificate.check(authority, now=certificate.valid_from)
        keys[certificate.store_id] = certificate.public_key
        cosigned = partial(announcing.check_cosignature, member.cosignature, certificate.public_key)
        _signed(certificate.store_id, "cosignature", cosigned)
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
        raise RoundLogError("a store is in the sum, and its receipt is not there once")
    for confirmation in record.confirmations:
        name = confirmation.store_id
        expected = (header_digest, record.roster_digest, sharers_digest, survivors_digest)
        said = (
            confirmation.header_digest,
            confirmation.roster_digest,
            confirmation.sharers_digest,
            confirmation.survivors_digest,
        )
        if said != expected or name not in record.summed:
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
        RoundLogError: It breaks one of them.
    """
    first = record.header.round == EXCHANGES_PER_ROUND
    if first and announced.model_digest.hex() != manifest.model_digest:
        raise RoundLogError("the first round starts from another model than the manifest names")
    strangers = set(record.stores) - set(manifest.stores)
    if strangers:
        raise RoundLogError(f"{min(strangers)!r} is not in the manifest")
    if record.outcome != SUMMED:
        return
    trains = record.header.round % EXCHANGES_PER_ROUND == 0
    terms, count = manifest.terms("train" if trains else "evaluate"), len(record.members)
    for what, found, needed in (
        ("stores in the roster", count, terms.minimum_cohort),
        ("stores in the sum", len(record.survivors), terms.survivors(count)),
        (
            "confirmations",
            len({c.store_id for c in record.confirmations}),
            terms.threshold(count),
        ),
    ):
        if found < needed:
            raise RoundLogError(f"it has {found} {what}, its manifest requires {needed}")


def _take_model(position: int, record: Published, reading: _Reading, notes: Notes) -> None:
    # A lost round, or a coordinator that went on from a checkpoint, publishes a model again.
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
