"""A store's side of one exchange under secure aggregation (docs/protocol.md, *An attempt*).

The state between two messages lies in the node's own folder and not in Flower's memory, so that
it survives a restart and no other user can read it.

    <node>/secagg/journal   every attempt made, so that none is made twice
    <node>/secagg/waiting   the quantised vector with its privacy charge (0600)
    <node>/secagg/state     the protocol's secrets between two messages (0600)
    <node>/attempt          the newest attempt and its stage, in a second place: restoring a
                            backup of `secagg/` does not restore this file

Everything is on disk before a reply leaves. The module imports no torch, so that the stages
after training are answered at once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse_client.enrolment import Enrolment
from hanse_client.node import Node
from hanse_common.decoding import decoding
from hanse_common.errors import MalformedMessage, OutOfTurn, ProtocolError
from hanse_common.instructions import MESSAGE
from hanse_common.locks import locked
from hanse_common.manifest_terms import grant_of
from hanse_common.paths import ATTEMPT_FILE, JOURNAL_FILE, SECAGG_FOLDER, STATE_FILE, WAITING_FILE
from hanse_common.privacy.charge import NOTHING, Charge
from hanse_common.privacy.ledger_file import EMPTY, Head
from hanse_common.roundlog.evidence import RECEIPT
from hanse_common.roundlog.receipt import Receipt
from hanse_common.secagg import Header, Journal, Store
from hanse_common.secagg.journal import Mark
from hanse_common.secagg.layout import Integers
from hanse_common.secagg.messages import Delivery, Hello, Roster, Survivors, UnmaskRequest
from hanse_common.secagg.state import Stage
from hanse_common.secagg.wire import Message, StoreMessage

Answer = dict[str, bytes]
"""A store's reply at one stage: the protocol's message, with receipt or cosignature."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Waiting:
    """A vector that is ready to be masked; it is private, so that `repr` does not show it.

    Args:
        header: Header of the attempt that it waits in.
        instructions_digest: Digest of the instructions without the round log's checkpoint: a
            second attempt has another checkpoint, and is for the same vector.
        kind: `train`, `evaluate` or the name of a phase of statistics.
        number: The training round.
        vector: The quantised vector, within the manifest's bounds.
        charge: The ledger's charge, except for the roster's digest; None without differential
            privacy.
    """

    header: Header
    instructions_digest: bytes
    kind: str
    number: int
    vector: Integers
    charge: Charge | None

    def encode(self) -> bytes:
        """Return the bytes of the file `waiting`."""
        table = {
            "header": self.header.encode().hex(),
            "asked": self.instructions_digest.hex(),
            "kind": self.kind,
            "number": self.number,
            "charge": self.charge and self.charge.table(),
        }
        file = io.BytesIO()
        np.savez(file, vector=self.vector, about=np.array(json.dumps(table)))
        return file.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Waiting:
        """Read what `encode` wrote.

        Raises:
            MalformedMessage: The bytes are something else.
        """
        with decoding("the waiting update", MalformedMessage):
            # Without pickle: a damaged or planted file must not run code.
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                table: dict[str, Any] = json.loads(str(file["about"]))
                vector: Integers = file["vector"]
            charge = table["charge"]
            return cls(
                header=Header.decode(bytes.fromhex(table["header"])),
                instructions_digest=bytes.fromhex(table["asked"]),
                kind=table["kind"],
                number=table["number"],
                vector=vector,
                charge=None if charge is None else Charge.from_table(charge),
            )


class SecureExchange:
    """One store's exchanges under secure aggregation."""

    def __init__(self, node: Node, enrolment: Enrolment) -> None:
        self._node = node
        self._enrolment = enrolment
        self._folder = node.folder / SECAGG_FOLDER

    def admit(self, header: Header) -> None:
        """Check that the store may still make an attempt.

        Raises:
            ProtocolError [attempt-refused]: The attempt, or a later one, was made before.
        """
        limit = self._enrolment.manifest.max_openings
        self._journal().admit(header, max_openings=limit)

    def current(self) -> Waiting | None:
        """The vector that waits for the next message; None if there is none.

        Raises:
            MalformedMessage: The file is damaged.
        """
        path = self._folder / WAITING_FILE
        return Waiting.decode(path.read_bytes()) if path.exists() else None

    def unmasked(self, header: Header, instructions_digest: bytes) -> Waiting | None:
        """The vector of this exchange's first attempt, if it was never masked.

        Args:
            header: Header of the attempt that begins.
            instructions_digest: Digest of its instructions, without the checkpoint.

        Guarantees:
            A vector that was masked is never returned. It may be in a sum that the coordinator
            has, and the same noise would be in two sums, while the accounting takes every sum
            to have noise of its own.
        """
        waiting = self.current()
        if waiting is None or self._journal().was_masked(header):
            return None
        histories, path = self._node.settings.histories, self._folder / WAITING_FILE
        # Prepared again in between: a customer who was erased may be in the vector.
        if histories.exists() and histories.stat().st_mtime_ns > path.stat().st_mtime_ns:
            return None
        # All must agree: another manifest may have other bounds and other noise, and other
        # instructions another model.
        first, now = (
            (h.run, h.round, h.manifest_digest, digest)
            for h, digest in (
                (waiting.header, waiting.instructions_digest),
                (header, instructions_digest),
            )
        )
        return waiting if first == now else None

    def begin(self, header: Header, kind: str) -> Hello:
        """Stage 0, first half: begin an attempt, before any data are read.

        The attempt is in the journal when this returns, so that the coordinator cannot repeat it,
        whether the computation succeeds or fails.

        Returns:
            The Hello, to send once `put_aside` has stored the vector.

        Raises:
            ProtocolError: As `Store.start` does.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self._folder):
            store = Store.start(
                self._enrolment.attempt(header, kind),
                key=self._enrolment.key,
                certificate=self._enrolment.certificate,
                journal=self._journal(),
            )
            # A vector of an earlier attempt must not be masked in this one. It is deleted before
            # the journal is written: a crash in between loses a vector, and masks none twice.
            (self._folder / WAITING_FILE).unlink(missing_ok=True)
            self._save(store)
        return store.hello

    def put_aside(self, waiting: Waiting) -> None:
        """Stage 0, second half: store the vector until the message of stage 2.

        Raises:
            ProtocolError [bad-vector]: The vector is not within the manifest's bounds.
        """
        attempt = self._enrolment.attempt(waiting.header, waiting.kind)
        attempt.terms.layout.check(waiting.vector)
        self._node.write(f"{SECAGG_FOLDER}/{WAITING_FILE}", waiting.encode(), mode=0o600)

    def share(self, data: bytes) -> Answer:
        """Stage 1; see `Store.share`. A failed check is answered with a signed Refusal.

        Raises:
            OutOfTurn: The message is for another stage or attempt; nothing has changed.
        """
        return self._answer(lambda store, _: store.share(Roster.decode(data)))

    def mask(self, data: bytes) -> Answer:
        """Stage 2: check the shares, charge the upload, then mask.

        Guarantees:
            The charge is on disk before the masked vector exists. A signed receipt of the ledger's
            entry goes with the vector.

        Raises:
            OutOfTurn: See `share`.
        """
        receipt: Answer = {}

        def answer(store: Store, waiting: Waiting) -> StoreMessage:
            store.accept(Delivery.decode(data))
            head = EMPTY  # without differential privacy there is no entry
            if waiting.charge is not None:
                entry = self._node.charge(
                    waiting.charge.of(roster_digest=store.roster_digest or NOTHING),
                    budget=self._enrolment.policy.budget,
                    grant=grant_of(self._enrolment.manifest),
                    vector=np.ascontiguousarray(waiting.vector, "<i8").tobytes(),
                )
                head = Head(entry.sequence, entry.hash)
            receipt[RECEIPT] = self._receipt(store, waiting.header, head).encode()
            return store.mask(waiting.vector)

        return {**self._answer(answer, charges=True), **receipt}

    def confirm(self, data: bytes) -> Answer:
        """Stage 3; see `Store.confirm`, and `share` for errors."""
        return self._answer(lambda store, _: store.confirm(Survivors.decode(data)))

    def unmask(self, data: bytes) -> Answer:
        """Stage 4; see `Store.unmask`, and `share` for errors. Deletes the vector."""
        return self._answer(lambda store, _: store.unmask(UnmaskRequest.decode(data)))

    def _receipt(self, store: Store, header: Header, head: Head) -> Receipt:
        return Receipt(
            store_id=self._enrolment.certificate.store_id,
            header_digest=header.digest(),
            roster_digest=store.roster_digest or NOTHING,
            sequence=head.sequence,
            entry_hash=head.hash,
        ).sign(self._enrolment.key)

    def _answer(
        self, step: Callable[[Store, Waiting], Message], *, charges: bool = False
    ) -> Answer:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # Two processes that resume one state could mask the vector twice.
        with locked(self._folder):
            return self._answer_locked(step, charges)

    def _answer_locked(self, step: Callable[[Store, Waiting], Message], charges: bool) -> Answer:
        waiting = self.current()
        if waiting is None:
            raise OutOfTurn("this store has no update waiting to be masked")
        store = Store.resume(
            self._enrolment.attempt(waiting.header, waiting.kind),
            (self._folder / STATE_FILE).read_bytes(),
            key=self._enrolment.key,
            journal=self._journal(),
            charged=charges and self._charged(waiting),
        )
        before = store.stage
        try:
            reply = step(store, waiting)
        except ProtocolError as error:
            # A message out of turn must change nothing, or a replay could end an attempt.
            if isinstance(error, OutOfTurn) and store.stage is before:
                raise
            self._node.log(round=waiting.number, error=f"[{error.code}] {error}")
            reply = store.refuse(error)
        self._save(store)  # before the reply leaves, so that no step is taken twice
        if store.stage is Stage.FINISHED:
            # Only after the state was saved: after a crash before, the store can be asked again.
            (self._folder / WAITING_FILE).unlink()
        return {MESSAGE: reply.encode()}

    def _journal(self) -> Journal:
        path, mark = self._folder / JOURNAL_FILE, self._node.folder / ATTEMPT_FILE
        journal = Journal.decode(path.read_bytes()) if path.exists() else Journal()
        # The mark wins over a journal that came back from a backup.
        return journal.caught_up(Mark.decode(mark.read_bytes()) if mark.exists() else None)

    def _charged(self, waiting: Waiting) -> bool:
        """Whether the ledger has a charge of this attempt, so that a masked vector may exist."""
        if waiting.charge is None:
            return False
        header = waiting.header
        this = (header.manifest_digest, header.run, header.round, header.attempt)
        return any(
            (about.manifest_digest, about.run, about.exchange, about.attempt) == this
            for about in (entry.release for entry in self._node.ledger if entry.spends)
        )

    def _save(self, store: Store) -> None:
        # The journal first: after a crash in between, the state on disk is of an earlier stage
        # than the journal, and is refused.
        self._node.write(f"{SECAGG_FOLDER}/{JOURNAL_FILE}", store.journal.encode())
        self._node.write(f"{SECAGG_FOLDER}/{STATE_FILE}", store.encode(), mode=0o600)
        if store.journal.mark is not None:
            self._node.write(ATTEMPT_FILE, store.journal.mark.encode())
