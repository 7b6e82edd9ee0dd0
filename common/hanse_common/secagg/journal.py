"""What a store remembers of the attempts it made, so that no update is masked twice in vain.

A store whose shares were released must not mask the same update again: the difference of
two sums would show it. The journal holds no secret and belongs on disk.

>>> from dataclasses import replace
>>> header = Header(run=1, round=3, attempt=1, manifest_digest=bytes(32), model_digest=bytes(32))
>>> journal = Journal().admit(header).close(header)
>>> journal.admit(replace(header, attempt=2))
Traceback (most recent call last):
    ...
hanse_common.errors.AttemptRefused: round 3 of run 1 is closed here: its shares were released \
(go on with the next round)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hanse_common.codec import Reader, Writer
from hanse_common.errors import AttemptRefused, MalformedMessage
from hanse_common.secagg.terms import MAX_ATTEMPTS, Header

JOURNAL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest attempt of one run, and whether its round is closed."""

    round: int
    attempt: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Journal:
    """The newest attempt of every run that a store took part in.

    Guarantees:
        Within a run, attempts only move forward: (round, attempt) grows with each one, no
        round has more than two, and none follows the release of a round's shares.
    """

    runs: Mapping[int, Entry] = field(default_factory=dict)

    def admit(self, header: Header) -> Journal:
        """Return the journal after starting an attempt.

        Raises:
            AttemptRefused: The attempt, or a later one, was started before, or the round
                is closed.
        """
        entry = self.runs.get(header.run)
        if entry and entry.closed and header.round == entry.round:
            raise AttemptRefused(
                f"round {header.round} of run {header.run} is closed here: its shares "
                f"were released",
                hint="go on with the next round",
            )
        if entry and (header.round, header.attempt) <= (entry.round, entry.attempt):
            raise AttemptRefused(
                f"attempt {header.attempt} of round {header.round} comes after attempt "
                f"{entry.attempt} of round {entry.round} of the same run",
                hint="rounds and attempts only move forward",
            )
        return self._with(header, Entry(header.round, header.attempt))

    def close(self, header: Header) -> Journal:
        """Return the journal after releasing an attempt's shares.

        Raises:
            AttemptRefused: As for `check_current`.
        """
        self.check_current(header)
        return self._with(header, Entry(header.round, header.attempt, closed=True))

    def check_current(self, header: Header) -> None:
        """Check that an attempt is the newest of its run, and that its round is open.

        Raises:
            AttemptRefused: A later attempt was started, or the round is closed.
        """
        if self.runs.get(header.run) != Entry(header.round, header.attempt):
            raise AttemptRefused(
                f"attempt {header.attempt} of round {header.round} of run {header.run} is "
                f"not the newest one here, or is closed",
                hint="rounds and attempts only move forward",
            )

    def _with(self, header: Header, entry: Entry) -> Journal:
        return Journal({**self.runs, header.run: entry})

    def encode(self) -> bytes:
        """Return canonical bytes, to store."""
        writer = Writer().u16(JOURNAL_VERSION).u32(len(self.runs))
        for run, entry in sorted(self.runs.items()):
            writer.u64(run).u32(entry.round).u8(entry.attempt).u8(int(entry.closed))
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Journal:
        """Read what `encode` wrote.

        Raises:
            MalformedMessage: It is not a journal.
        """
        reader = Reader(data, "journal")
        if reader.u16() != JOURNAL_VERSION:
            raise MalformedMessage(f"this is not a journal of version {JOURNAL_VERSION}")

        def entry() -> tuple[int, Entry]:
            run, number, attempt, closed = reader.u64(), reader.u32(), reader.u8(), reader.u8()
            if not 1 <= attempt <= MAX_ATTEMPTS or closed > 1:
                raise MalformedMessage("journal has an attempt or a flag out of range")
            return run, Entry(number, attempt, closed=bool(closed))

        entries = reader.many(entry, size=14, limit=2**32)
        reader.end()
        journal = cls(dict(entries))
        if journal.encode() != data:
            raise MalformedMessage("journal is not in canonical order")
        return journal
