"""A store's persistent record of its attempts, and of the other stores' certificates.

The journal lets attempts only move forward, counts how often each exchange was begun, and
records the stage of the newest attempt, so that an older state cannot be used again. It holds
no secret and is stored on disk. Its `Mark` is stored in a second place, which restoring a
backup of the first does not restore with it.

>>> from dataclasses import replace
>>> header = Header(run=1, round=3, attempt=1, manifest_digest=bytes(32), model_digest=bytes(32))
>>> journal = Journal().admit(header).reach(header, Stage.FINISHED)
>>> journal.admit(replace(header, attempt=2))
Traceback (most recent call last):
    ...
hanse_common.errors.ProtocolError: round 1 of run 1 is closed here: its shares were released \
(go on with the next round)
>>> Journal().caught_up(journal.mark).admit(header)
Traceback (most recent call last):
    ...
hanse_common.errors.ProtocolError: round 1 of run 1 is closed here: its shares were released \
(go on with the next round)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hanse_common.codec import DIGEST_SIZE, Reader, Writer
from hanse_common.errors import MalformedMessage, ProtocolError
from hanse_common.identity import KEY_SIZE, Certificate, check_store_id
from hanse_common.phases import exchange_name
from hanse_common.secagg.stage import Stage
from hanse_common.secagg.terms import MAX_ATTEMPTS, MAX_OPENINGS, Header

_JOURNAL_VERSION = 2
_MARK_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest attempt of one run.

    Args:
        number: Counts all attempts that the store ever began, from 1.
        round: Number of the exchange.
        attempt: 1 or 2.
        stage: The last step that the store completed; failures are not recorded.
    """

    number: int
    round: int
    attempt: int
    stage: Stage = Stage.GREETED

    @property
    def masked(self) -> bool:
        """Whether a masked vector was made."""
        # It counts as released: a crash right after it leaves open whether it was sent.
        return self.stage >= Stage.MASKED

    @property
    def closed(self) -> bool:
        """Whether shares were released."""
        return self.stage is Stage.FINISHED

    @classmethod
    def read(cls, reader: Reader) -> Entry:
        """Read what `write` wrote."""
        entry = number, at, attempt, stage = reader.u64(), reader.u32(), reader.u8(), reader.u8()
        if not (number and 1 <= attempt <= MAX_ATTEMPTS and stage <= Stage.FINISHED):
            raise MalformedMessage(f"journal has an attempt out of range: {entry}")
        return cls(number, at, attempt, Stage(stage))

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        writer.u64(self.number).u32(self.round).u8(self.attempt).u8(self.stage)


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest attempt of a store, with its stage.

    Store the encoded mark in another place than the journal, after the journal and before the
    reply is sent. Pass the mark that is read from there to `Journal.caught_up`.
    """

    run: int
    newest: Entry

    def encode(self) -> bytes:
        """Return canonical bytes, to store."""
        writer = Writer().u16(_MARK_VERSION).u64(self.run)
        self.newest.write(writer)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """Read what `encode` wrote.

        Raises:
            MalformedMessage: It is not a mark.
        """
        reader = Reader(data, "mark")
        reader.expect(_MARK_VERSION)
        mark = cls(reader.u64(), Entry.read(reader))
        reader.end()
        return mark


@dataclass(frozen=True, slots=True)
class Met:
    """The newest certificate that was seen for a store."""

    valid_from: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Journal:
    """The record of all attempts of a store; every change returns a new journal.

    Args:
        begun: Number of attempts that the store ever began.
        runs: By run, its newest attempt.
        openings: How often each exchange was begun, by the manifest's digest and the
            exchange's number, over all runs and attempts.
        met: By store id, the newest certificate seen.

    Guarantees:
        - Within a run, attempts only move forward: (round, attempt) grows with each one, no
          round has more than two, and none follows the release of a round's shares.
        - A store continues only its newest attempt, and only from the stage recorded here.
        - No exchange of a manifest is begun more often than the terms allow, whatever run
          and attempt numbers it is shown with.
        - A key that was seen to be replaced is not accepted for its store again.
        - The size is bounded: a manifest has a fixed number of exchanges, hence at most that
          times `max_openings` runs, and there is one certificate for each store id.
    """

    begun: int = 0
    runs: Mapping[int, Entry] = field(default_factory=dict)
    openings: Mapping[bytes, Mapping[int, int]] = field(default_factory=dict)
    met: Mapping[str, Met] = field(default_factory=dict)

    @property
    def mark(self) -> Mark | None:
        """The mark of the newest attempt; None before the first attempt."""
        for run, entry in self.runs.items():
            if entry.number == self.begun:
                return Mark(run, entry)
        return None

    def caught_up(self, mark: Mark | None) -> Journal:
        """Return the journal, advanced to the attempt and stage of a mark.

        Edge cases:
            A journal from a backup lacks the attempts after the backup. The mark restores the
            newest one, which closes that attempt and the earlier ones of its run. The opening
            counts since the backup, and the newest attempts of other runs, remain lost.
        """
        ours = self.mark
        if mark is None or (ours is not None and _order(mark) <= _order(ours)):
            return self
        return replace(self, begun=mark.newest.number, runs={**self.runs, mark.run: mark.newest})

    def admit(self, header: Header, *, max_openings: int = MAX_OPENINGS) -> Journal:
        """Return the journal after beginning an attempt.

        Args:
            header: The attempt's header.
            max_openings: Most times that one exchange may be begun; see `Terms`.

        Raises:
            ProtocolError [attempt-refused]: The attempt, or a later one, was begun before, the
                round is closed, or the exchange was begun too often.
        """
        entry = self.runs.get(header.run)
        # A store that helped to unmask one sum of a round joins no second sum of it: otherwise
        # the difference of the two sums could hold a single update.
        if entry and entry.closed and header.round == entry.round:
            raise ProtocolError(
                f"{exchange_name(header.round)} of run {header.run} is closed here: its shares "
                f"were released",
                code="attempt-refused",
                hint="go on with the next round",
            )
        if entry and (header.round, header.attempt) <= (entry.round, entry.attempt):
            raise ProtocolError(
                f"attempt {header.attempt} of {exchange_name(header.round)} comes after attempt "
                f"{entry.attempt} of {exchange_name(entry.round)} of the same run",
                code="attempt-refused",
                hint="rounds and attempts only move forward",
            )
        # The coordinator chooses run numbers freely, so openings are counted across runs.
        counts = self.openings.get(header.manifest_digest, {})
        count = counts.get(header.round, 0)
        if count >= max_openings:
            raise ProtocolError(
                f"{exchange_name(header.round)} was begun {count} times under this manifest, "
                f"max_openings is {max_openings}",
                code="attempt-refused",
                hint="ask the federation why this exchange is repeated; the authority can "
                "sign a manifest with a larger max_openings",
            )
        return replace(
            self,
            begun=self.begun + 1,
            runs={**self.runs, header.run: Entry(self.begun + 1, header.round, header.attempt)},
            openings={
                **self.openings,
                header.manifest_digest: {**counts, header.round: count + 1},
            },
        )

    def reach(self, header: Header, stage: Stage) -> Journal:
        """Return the journal after the newest attempt went on to a later stage.

        Raises:
            ProtocolError [attempt-refused]: The attempt is not the newest one, or has reached
                that stage already.
        """
        entry = self._current(header)
        if stage <= entry.stage:
            raise ProtocolError(
                f"attempt {header.attempt} of {exchange_name(header.round)} has "
                f"{entry.stage.name.lower()} here already",
                code="attempt-refused",
                hint="nothing is done twice in one attempt; go on with the next one",
            )
        return replace(self, runs={**self.runs, header.run: replace(entry, stage=stage)})

    def check_current(self, header: Header, stage: Stage) -> None:
        """Check that an attempt is the newest one, open, and at exactly this stage.

        Raises:
            ProtocolError [attempt-refused]: It is not: the state that claims so was restored
                from a backup, or is left over.
        """
        entry = self._current(header)
        if entry.closed or entry.stage is not stage:
            raise ProtocolError(
                f"the state of attempt {header.attempt} of {exchange_name(header.round)} says that "
                f"it has {stage.name.lower()}, the journal that it has {entry.stage.name.lower()}",
                code="attempt-refused",
                hint="nothing is done twice in one attempt; go on with the next one",
            )

    def was_masked(self, header: Header) -> bool:
        """Whether this attempt, or an earlier one of the same round, masked a vector.

        A masked vector may be in a sum, so the round's next attempt must draw a new one.
        """
        entry = self.runs.get(header.run)
        return entry is not None and entry.round == header.round and entry.masked

    def meet(self, certificates: Iterable[Certificate]) -> Journal:
        """Return the journal after seeing the roster's certificates, which were checked before.

        Raises:
            ProtocolError [bad-roster]: A store shows another key than in a certificate that was
                issued later.
        """
        met = dict(self.met)
        for certificate in certificates:
            name, seen = certificate.store_id, Met(certificate.valid_from, certificate.public_key)
            newest = met.get(name)
            if newest is None or newest.valid_from <= seen.valid_from:
                met[name] = seen
            elif newest.public_key != seen.public_key:
                raise ProtocolError(
                    f"{name!r} shows a replaced key: a later certificate has another one",
                    code="bad-roster",
                    hint="its node must use the newest certificate that it was given",
                    culprits=(name,),
                )
        return replace(self, met=met)

    def _current(self, header: Header) -> Entry:
        entry = self.runs.get(header.run)
        known = entry and (entry.number, entry.round, entry.attempt)
        if entry is None or known != (self.begun, header.round, header.attempt):
            raise ProtocolError(
                f"attempt {header.attempt} of {exchange_name(header.round)} of run {header.run} "
                f"is not the newest one here",
                code="attempt-refused",
                hint="rounds and attempts only move forward",
            )
        return entry

    def encode(self) -> bytes:
        """Return canonical bytes, to store."""
        writer = Writer().u16(_JOURNAL_VERSION).u64(self.begun).u32(len(self.runs))
        for run, entry in sorted(self.runs.items()):
            entry.write(writer.u64(run))
        writer.u32(len(self.openings))
        for manifest, counts in sorted(self.openings.items()):
            writer.raw(manifest).u32(len(counts))
            for exchange, count in sorted(counts.items()):
                writer.u32(exchange).u32(count)
        writer.u32(len(self.met))
        for name, seen in sorted(self.met.items()):
            writer.text(name).u64(seen.valid_from).raw(seen.public_key)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Journal:
        """Read what `encode` wrote.

        Raises:
            MalformedMessage: It is not a journal.
        """
        reader = Reader(data, "journal")
        reader.expect(_JOURNAL_VERSION)

        def run() -> tuple[int, Entry]:
            return reader.u64(), Entry.read(reader)

        def count() -> tuple[int, int]:
            return reader.u32(), reader.u32()

        def manifest() -> tuple[bytes, dict[int, int]]:
            key = reader.raw(DIGEST_SIZE)
            return key, dict(reader.many(count, size=8, limit=2**32))

        def met() -> tuple[str, Met]:
            return check_store_id(reader.text()), Met(reader.u64(), reader.raw(KEY_SIZE))

        # Smallest encodings in bytes. A run: u64, and an entry of 14; a manifest: digest and
        # count; a store: an id of one letter behind its length, u64 and key.
        journal = cls(
            begun=reader.u64(),
            runs=dict(reader.many(run, size=22, limit=2**32)),
            openings=dict(reader.many(manifest, size=36, limit=2**32)),
            met=dict(reader.many(met, size=45, limit=2**32)),
        )
        reader.end()
        numbers = {entry.number for entry in journal.runs.values()}
        if len(numbers) != len(journal.runs) or max(numbers, default=0) != journal.begun:
            raise MalformedMessage("journal has attempts that were numbered twice, or none newest")
        # Dictionaries swallow repeated keys and any order; encoding once more finds both.
        if journal.encode() != data:
            raise MalformedMessage("journal is not in canonical order")
        return journal


def _order(mark: Mark) -> tuple[int, Stage]:
    return mark.newest.number, mark.newest.stage
