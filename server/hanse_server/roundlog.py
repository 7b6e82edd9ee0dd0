"""The coordinator's round log: an append-only record of its exchanges and their outcomes.

The records are the leaves of a Merkle tree (RFC 9162, section 2.1; docs/protocol.md, "The
round log"). An exchange is announced before any store is asked and closed when it ends, also
if it fails; the model after each round is published. A record is on the disk, under a signed
checkpoint, before anything depends on it.

>>> from tempfile import TemporaryDirectory
>>> folder = TemporaryDirectory()
>>> log = RoundLog.open(Path(folder.name) / "roundlog.sqlite", CoordinatorKey.generate())
>>> log.publish(run=7, number=0, digest=bytes(32))
>>> log.checkpoint.size, len(log.records)
(1, 1)
>>> folder.cleanup()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hanse_common.durable import write_durably
from hanse_common.errors import BadSignature, MalformedMessage, RoundLogError
from hanse_common.identity import CoordinatorKey
from hanse_common.instructions import Instructions
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import COSIGNATURE, RECEIPT, Proofs
from hanse_common.roundlog.file import (
    FORMAT,
    checkpoint_path,
    count_records,
    insert_record,
    read_records,
)
from hanse_common.roundlog.merkle import Tree
from hanse_common.roundlog.receipt import Receipt
from hanse_common.roundlog.records import Announced, Closed, Member, Published, Record, decode
from hanse_common.secagg import Header
from hanse_common.secagg.messages import (
    Confirmation,
    Delivery,
    Hello,
    MaskedVector,
    Message,
    Roster,
    StoreMessage,
    Survivors,
)
from hanse_common.secagg.roster import form_cohort

_MOST_SIZES = 1_000
"""The number of checkpoints that a silent node may remember, after the last that it cosigned."""


class RoundLog:
    """An append-only file of records, and the Merkle tree over them.

    Args:
        path: `roundlog.sqlite`.
        key: Signs the checkpoints.
        records: The encoded records so far, in order.

    Guarantees:
        - `append` returns after record and checkpoint are on the disk.
        - Every record under a checkpoint stays, byte for byte; otherwise opening fails.
    """

    def __init__(self, path: Path, key: CoordinatorKey, records: Iterable[bytes]) -> None:
        self._path = path
        self._key = key
        bodies = list(records)
        self._tree = Tree(bodies)
        self.records: list[Record] = _decoded(bodies, path)
        """All records in order; do not change the list."""
        self._signed = 0
        """The number of records under the checkpoint on the disk."""

    @classmethod
    def open(cls, path: Path, key: CoordinatorKey) -> RoundLog:
        """Open a log; the first record creates the file.

        Args:
            path: `roundlog.sqlite`.
            key: Signs the checkpoints.

        Raises:
            RoundLogError: The file is damaged, or does not match the last checkpoint.

        Edge cases:
            If a crash left a record without its checkpoint, the checkpoint is signed now.
        """
        bodies: list[bytes] = []
        if path.exists():
            with FORMAT.reading(path) as database:
                bodies = read_records(database, path)
        log = cls(path, key, bodies)
        # Checked before signing: a new signature would vouch for a log that lost records.
        log._check_last(Checkpoint.load(checkpoint_path(path)))
        log._sign()
        return log

    @property
    def size(self) -> int:
        """The number of records; unlike `checkpoint`, it costs no signature."""
        return len(self._tree)

    @property
    def checkpoint(self) -> Checkpoint:
        """A signed checkpoint of all records."""
        size = len(self._tree)
        root = self._tree.root()
        return Checkpoint(log_key=self._key.public, size=size, root=root).sign(self._key)

    def append(self, record: Record) -> Checkpoint:
        """Append a record durably, and sign a checkpoint that ends with it.

        Raises:
            RoundLogError: The log cannot be written, or another process writes it too.
        """
        self._sign()  # first a record that an earlier, failed write left unsigned
        body = record.encode()
        with FORMAT.writing(self._path) as database:
            # Within the transaction: two coordinators would fork the log, and stores refuse that.
            if count_records(database, self._path) != len(self._tree):
                raise RoundLogError(
                    f"another process has written to {self._path}",
                    hint="run one coordinator at a time on a round log",
                )
            insert_record(database, self._path, len(self._tree) + 1, body)
        # The record first, then its checkpoint: a crash between them leaves one unsigned record,
        # which opening signs. The other way round, a signature would name a record that is lost.
        self._tree.append(body)
        self.records.append(record)
        return self._sign()

    def announce(self, instructions: Instructions) -> Checkpoint:
        """Append the announcement of an exchange, before any store is asked.

        Raises:
            RoundLogError: As `append`; no store may be asked then.
        """
        return self.append(Announced.of(instructions))

    def publish(self, *, run: int, number: int, digest: bytes) -> None:
        """Append the model after a round, unless it is the last one published.

        Raises:
            RoundLogError: As `append`.
        """
        # A resumed run begins by publishing the round that it goes on from once more.
        last = next((r for r in reversed(self.records) if isinstance(r, Published)), None)
        if last is None or (last.round, last.model_digest) != (number, digest):
            self.append(Published(run=run, round=number, model_digest=digest))

    def may_have_seen(self, store_id: str) -> set[int]:
        """Log sizes that a store may remember: the last that it cosigned, and all shown since."""
        sizes: set[int] = set()
        for position, record in enumerate(self.records, start=1):
            if isinstance(record, Announced):
                # Its reply may have been lost, so it may remember any size shown to it.
                sizes.add(position)
            elif isinstance(record, Closed) and store_id in record.stores:
                # Its cosignature came: it accepted the announcement of this attempt.
                sizes = {max(sizes, default=position)}
        return sizes

    def proofs(self, earlier: Iterable[int]) -> Proofs:
        """Prove that the last record is in the log, and that the log extends earlier sizes.

        Args:
            earlier: Sizes that stores may have seen; sizes that the log never had are ignored.
        """
        sizes = [size for size in set(earlier) if 0 < size < len(self._tree)]
        return Proofs(
            inclusion=self._tree.inclusion_of_last(),
            consistency={size: self._tree.consistency(size) for size in sizes},
        )

    def _sign(self) -> Checkpoint:
        """Write the checkpoint of all records, if the one on the disk has fewer."""
        checkpoint, path = self.checkpoint, checkpoint_path(self._path)
        if checkpoint.size > self._signed:
            with FORMAT.named_errors(path):
                write_durably(path, checkpoint.line())
            self._signed = checkpoint.size
        return checkpoint

    def _check_last(self, last: Checkpoint | None) -> None:
        """Compare the records with the checkpoint on the disk, which may have one record fewer.

        Raises:
            RoundLogError: They do not match in a way that a crash can explain.
        """
        size, path = len(self._tree), checkpoint_path(self._path)
        if last is None:
            # A crash after the first record leaves one without a checkpoint; more were signed.
            if size > 1:
                raise RoundLogError(
                    f"{self._path} has {size} records, and there is no {path.name}",
                    hint="restore both from one backup no older than the last round",
                )
            return
        try:
            last.check_signature()
            signed = last.log_key == self._key.public
        except BadSignature:
            signed = False
        if not signed:
            raise RoundLogError(
                f"{path} is not signed by this coordinator",
                hint="use the key that the log was begun with",
            )
        if last.size > size or self._tree.root(last.size) != last.root:
            raise RoundLogError(
                f"{self._path} is not the log of {last.size} records that {path.name} names",
                hint="restore both from one backup no older than the last round",
            )
        # `append` signs each record before the next, so a crash leaves one at most.
        if size > last.size + 1:
            raise RoundLogError(
                f"{self._path} has {size - last.size} records that {path.name} does not cover",
                hint="restore both from one backup no older than the last round",
            )
        self._signed = last.size


class Witnesses:
    """The log sizes that each node may remember, from which the log is proven consistent.

    Args:
        log: The round log, which says what stores may remember that have not reported a size.

    Edge cases:
        Of a node that is silent for long, the newest sizes and the one that it cosigned last
        are kept. A node that remembers another size refuses to take part.
    """

    def __init__(self, log: RoundLog) -> None:
        self._log = log
        self._sizes: dict[int, set[int]] = {}

    def shown(self, nodes: Mapping[int, str], reported: Mapping[int, int]) -> set[int]:
        """Record that nodes are shown the log as it is.

        Args:
            nodes: Store names by node id; they are store ids where the coordinator named the nodes.
            reported: The log size that a node reports to have seen, by node id.

        Returns:
            The sizes from which the log has to be proven consistent.
        """
        before: set[int] = set()
        for node, name in nodes.items():
            if node not in self._sizes:
                known = {reported[node]} if node in reported else self._log.may_have_seen(name)
                self._sizes[node] = known
            sizes = sorted(self._sizes[node])
            # Every store is sent every proof: one silent node must not make them too many.
            bounded = {*sizes[:1], *sizes[1:][-_MOST_SIZES:]}
            before |= bounded
            self._sizes[node] = {*bounded, self._log.size}
        return before

    def cosigned(self, node: int, size: int) -> None:
        """Record that a node has accepted a checkpoint, the only one that it now remembers."""
        self._sizes[node] = {size}


class AttemptLog:
    """Collects an attempt's record for the log from the messages themselves.

    Args:
        header: The attempt's header.
        checkpoint: The checkpoint that ends with the attempt's announcement.
        witnesses: Informed of each node that cosigns it.
        private: Whether stores charge their ledgers for uploads.
    """

    def __init__(
        self, header: Header, checkpoint: Checkpoint, witnesses: Witnesses, *, private: bool
    ) -> None:
        self._header = header
        self._checkpoint = checkpoint
        self._witnesses = witnesses
        self._private = private
        self._roster_digest = bytes(32)
        self._hellos: tuple[Hello, ...] = ()
        self._sharers: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._cosignatures: dict[str, bytes] = {}
        self._receipts: dict[str, Receipt] = {}
        self._confirmations: dict[str, Confirmation] = {}

    def sends(self, message: Message) -> None:
        """Note the roster, the sharers or the survivors that a stage's message names."""
        if isinstance(message, Roster):
            self._hellos = message.hellos
            self._roster_digest = form_cohort(message.hellos, self._header).roster_digest
        elif isinstance(message, Delivery):
            self._sharers = message.sharers
        elif isinstance(message, Survivors):
            self._survivors = message.survivors

    def check(self, message: StoreMessage, config: Mapping[str, object]) -> None:
        """Check the cosignature or receipt of a store's message, before the message is accepted.

        Raises:
            MalformedMessage: A Hello has no cosignature, or a vector no receipt for it.
            BadSignature: A signature is not the store's.
        """
        if isinstance(message, Hello):
            cosignature = _bytes(config, COSIGNATURE, message.store_id)
            # The certificate itself is checked by the state machine, which takes it next.
            self._checkpoint.check_cosignature(cosignature, message.certificate.public_key)
        elif isinstance(message, MaskedVector):
            receipt = Receipt.decode(_bytes(config, RECEIPT, message.store_id))
            expected = (message.store_id, message.header_digest, message.roster_digest)
            if (receipt.store_id, receipt.header_digest, receipt.roster_digest) != expected:
                raise MalformedMessage(f"receipt of {message.store_id!r} is for something else")
            # Ledgers count from 1; 0 is the receipt of an upload without privacy.
            if self._private and not receipt.sequence:
                raise MalformedMessage(f"{message.store_id!r} has charged nothing for its upload")
            receipt.check_signature(self._key_of(message.store_id))

    def keep(self, message: StoreMessage, config: Mapping[str, object], node: int) -> None:
        """Keep the log's part of a message from a node, after the message was accepted."""
        name = message.store_id
        if isinstance(message, Hello):
            self._cosignatures[name] = _bytes(config, COSIGNATURE, name)
            self._witnesses.cosigned(node, self._checkpoint.size)
        elif isinstance(message, MaskedVector):
            self._receipts[name] = Receipt.decode(_bytes(config, RECEIPT, name))
        elif isinstance(message, Confirmation):
            self._confirmations[name] = message

    def closed(self, outcome: str) -> Closed:
        """The record of the attempt.

        Args:
            outcome: `summed`, or the code of the error that ended the attempt; see `Closed`.
        """
        # Sorted by store: the record's bytes must not depend on the order of arrival.
        return Closed(
            header=self._header,
            outcome=outcome,
            roster_digest=self._roster_digest,
            members=tuple(
                Member(
                    certificate=hello.certificate, cosignature=self._cosignatures[hello.store_id]
                )
                for hello in self._hellos
            ),
            sharers=self._sharers,
            survivors=self._survivors,
            receipts=tuple(receipt for _, receipt in sorted(self._receipts.items())),
            confirmations=tuple(signed for _, signed in sorted(self._confirmations.items())),
        )

    def _key_of(self, store_id: str) -> bytes:
        for hello in self._hellos:
            if hello.store_id == store_id:
                return hello.certificate.public_key
        raise MalformedMessage(f"{store_id!r} is not in the roster")


def _decoded(bodies: Iterable[bytes], path: Path) -> list[Record]:
    records: list[Record] = []
    for position, body in enumerate(bodies, start=1):
        try:
            records.append(decode(body))
        except RoundLogError as error:
            raise RoundLogError(
                f"record {position} of {path} is damaged: {error.message}",
                hint=error.hint or FORMAT.hint,
            ) from None
    return records


def _bytes(config: Mapping[str, object], key: str, store_id: str) -> bytes:
    value = config.get(key)
    if not isinstance(value, bytes):
        raise MalformedMessage(f"{store_id!r} sent no {key}", hint="the manifest names a round log")
    return value
