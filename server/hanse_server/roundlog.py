"""The coordinator's round log: what it asked of stores and what came of it, never taken back.

An exchange is announced before any store hears of it, closed when it ends, however it ends,
and every model that comes of it is published. Each record is on the disk, under a signed
checkpoint, before anything rests on it.

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
"""Checkpoints that a silent node may remember, beside the one that it cosigned last."""


class RoundLog:
    """An append-only file of records, and the Merkle tree over them.

    Guarantees:
        - `append` returns after record and checkpoint are on the disk.
        - What was ever checkpointed stays, byte for byte, or opening fails.
    """

    def __init__(self, path: Path, key: CoordinatorKey, records: Iterable[bytes]) -> None:
        self._path = path
        self._key = key
        bodies = list(records)
        self._tree = Tree(bodies)
        self.records: list[Record] = _decoded(bodies, path)
        """In order; do not change the list."""
        self._signed = 0
        """How many records the checkpoint on the disk has."""

    @classmethod
    def open(cls, path: Path, key: CoordinatorKey) -> RoundLog:
        """Open a log; the first record makes the file.

        Args:
            path: `roundlog.sqlite`.
            key: Signs its checkpoints.

        Raises:
            RoundLogError: The file is damaged, or is not the one of the last checkpoint.

        Edge cases:
            A record that a crash left without its checkpoint is signed now.
        """
        bodies: list[bytes] = []
        if path.exists():
            with FORMAT.reading(path) as database:
                bodies = read_records(database, path)
        log = cls(path, key, bodies)
        log._check_last(Checkpoint.load(checkpoint_path(path)))
        log._sign()
        return log

    @property
    def size(self) -> int:
        """How many records it has; unlike a checkpoint, it costs no signature."""
        return len(self._tree)

    @property
    def checkpoint(self) -> Checkpoint:
        """The log as it is, signed."""
        size = len(self._tree)
        root = self._tree.root()
        return Checkpoint(log_key=self._key.public, size=size, root=root).sign(self._key)

    def append(self, record: Record) -> Checkpoint:
        """Add a record, durably.

        Raises:
            RoundLogError: It cannot be written, or somebody else writes this log.
        """
        self._sign()  # What an earlier attempt to write left unsigned comes first.
        body = record.encode()
        with FORMAT.writing(self._path) as database:
            if count_records(database, self._path) != len(self._tree):
                raise RoundLogError(
                    f"another process has written to {self._path}",
                    hint="run one coordinator at a time on a round log",
                )
            insert_record(database, self._path, len(self._tree) + 1, body)
        self._tree.append(body)
        self.records.append(record)
        return self._sign()

    def announce(self, told: Instructions) -> Checkpoint:
        """Write down what stores will be asked, before they are.

        Raises:
            RoundLogError: As `append`; ask nobody.
        """
        return self.append(Announced.of(told))

    def publish(self, *, run: int, number: int, digest: bytes) -> None:
        """Write down the model after a round, unless it is the last one that was.

        Raises:
            RoundLogError: As `append`.
        """
        last = next((r for r in reversed(self.records) if isinstance(r, Published)), None)
        if last is None or (last.round, last.model_digest) != (number, digest):
            self.append(Published(run=run, round=number, model_digest=digest))

    def may_have_seen(self, store_id: str) -> set[int]:
        """Sizes that a store may remember: the last that it cosigned, and all shown since."""
        found: set[int] = set()
        for position, record in enumerate(self.records, start=1):
            if isinstance(record, Announced):
                found.add(position)
            elif isinstance(record, Closed) and store_id in record.stores:
                found = {max(found, default=position)}
        return found

    def proofs(self, earlier: Iterable[int]) -> Proofs:
        """Prove that the last record is in the log, and that it goes on from earlier sizes.

        Args:
            earlier: Sizes that stores may have seen; those that the log never had are left out.
        """
        sizes = [size for size in set(earlier) if 0 < size < len(self._tree)]
        return Proofs(
            inclusion=self._tree.inclusion_of_last(),
            consistency={size: self._tree.consistency(size) for size in sizes},
        )

    def _sign(self) -> Checkpoint:
        """Write the checkpoint of all records, if the one on the disk has fewer."""
        checkpoint, beside = self.checkpoint, checkpoint_path(self._path)
        if checkpoint.size > self._signed:
            with FORMAT.named_errors(beside):
                write_durably(beside, checkpoint.line())
            self._signed = checkpoint.size
        return checkpoint

    def _check_last(self, last: Checkpoint | None) -> None:
        """Compare the records with the checkpoint beside them; a crash leaves one fewer in it."""
        size, beside = len(self._tree), checkpoint_path(self._path)
        if last is None:
            if size > 1:
                raise RoundLogError(
                    f"{self._path} has {size} records, and there is no {beside.name}",
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
                f"{beside} is not signed by this coordinator",
                hint="use the key that the log was begun with",
            )
        if last.size > size or self._tree.root(last.size) != last.root:
            raise RoundLogError(
                f"{self._path} is not the log of {last.size} records that {beside.name} names",
                hint="restore both from one backup no older than the last round",
            )
        if size > last.size + 1:
            raise RoundLogError(
                f"{self._path} has {size - last.size} records that {beside.name} does not cover",
                hint="restore both from one backup no older than the last round",
            )
        self._signed = last.size


class Witnesses:
    """Which checkpoint each node may remember, so that it can be proven to go on from there.

    Args:
        log: What it says of stores that have said nothing themselves.

    Edge cases:
        Of a node that is silent for long, the newest checkpoints and the one that it cosigned
        last are kept. One that remembers another refuses to take part.
    """

    def __init__(self, log: RoundLog) -> None:
        self._log = log
        self._sizes: dict[int, set[int]] = {}

    def shown(self, nodes: Mapping[int, str], said: Mapping[int, int]) -> set[int]:
        """Note that nodes are shown the log as it is; return the sizes to prove it from.

        Args:
            nodes: Store names by node; they are ids where the coordinator named the nodes.
            said: How much of the log nodes have said that they have seen.
        """
        before: set[int] = set()
        for node, name in nodes.items():
            if node not in self._sizes:
                known = {said[node]} if node in said else self._log.may_have_seen(name)
                self._sizes[node] = known
            sizes = sorted(self._sizes[node])
            # Everybody is sent every proof: one silent node must not make them many.
            kept = {*sizes[:1], *sizes[1:][-_MOST_SIZES:]}
            before |= kept
            self._sizes[node] = {*kept, self._log.size}
        return before

    def cosigned(self, node: int, size: int) -> None:
        """Note that a node has accepted a checkpoint, and goes on from it alone."""
        self._sizes[node] = {size}


class AttemptLog:
    """Collects what an attempt leaves in the log, from the messages themselves.

    Args:
        header: Of the attempt.
        checkpoint: That announces it.
        witnesses: Told who cosigned it.
        private: Whether uploads are charged.
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
        """Note what a stage's message says of roster, sharers and survivors."""
        if isinstance(message, Roster):
            self._hellos = message.hellos
            self._roster_digest = form_cohort(message.hellos, self._header).roster_digest
        elif isinstance(message, Delivery):
            self._sharers = message.sharers
        elif isinstance(message, Survivors):
            self._survivors = message.survivors

    def check(self, message: StoreMessage, config: Mapping[str, object]) -> None:
        """Check what a store's message must bring for the log, before the message is taken.

        Raises:
            MalformedMessage: A Hello without cosignature, or a vector without the receipt
                for it.
            BadSignature: One that is not the store's.
        """
        if isinstance(message, Hello):
            cosignature = _bytes(config, COSIGNATURE, message.store_id)
            self._checkpoint.check_cosignature(cosignature, message.certificate.public_key)
        elif isinstance(message, MaskedVector):
            receipt = Receipt.decode(_bytes(config, RECEIPT, message.store_id))
            expected = (message.store_id, message.header_digest, message.roster_digest)
            if (receipt.store_id, receipt.header_digest, receipt.roster_digest) != expected:
                raise MalformedMessage(f"receipt of {message.store_id!r} is for something else")
            if self._private and not receipt.sequence:
                raise MalformedMessage(f"{message.store_id!r} has charged nothing for its upload")
            receipt.check_signature(self._key_of(message.store_id))

    def keep(self, message: StoreMessage, config: Mapping[str, object], node: int) -> None:
        """Keep what came with a message that was taken, from a node."""
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
            outcome: As `Closed` has it.
        """
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
