"""The events that a person is told of, each once until it is over.

An event is decided from files that a coordinator or a store has anyway. It names the federation,
a store or a run, the time, and the next command. Nothing in it derives from customers: no count,
no loss, no epsilon, and of a refusal only its code.

>>> event = Event(kind="run-failed", subject="baltic-2027", message="it ended [round-failed]")
>>> event.title, event.key
('A run has failed', 'run-failed baltic-2027')
>>> event.row(source="baltic", now=1_800_000_000.0)["next"]
'hanse server status'
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hanse_common.monitoring.expiry import in_words, step
from hanse_common.paths import RUNTIME_FOLDER, SUPERLINK_LOG_FILE
from hanse_common.wording import printable

VERSION = 1
_LONGEST = 500
"""Characters of a message: it may quote an error, and goes into e-mails and chats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of event: its title, and the command that shows more or ends it."""

    title: str
    command: str


EVENTS: Mapping[str, Kind] = {
    "run-failed": Kind(title="A run has failed", command="hanse server status"),
    "coordinator-stopped": Kind(
        title="The coordinator has stopped by itself", command="hanse server up"
    ),
    "process-crashed": Kind(
        title="A process of the coordinator ended and was started again",
        command=f"tail -n 100 {RUNTIME_FOLDER}/{SUPERLINK_LOG_FILE}",
    ),
    "store-lost": Kind(title="A store is missing from rounds", command="hanse server status"),
    "rounds-refused": Kind(title="The store refuses rounds", command="hanse store doctor"),
    "budget-near-end": Kind(title="A privacy budget is near its end", command="hanse store budget"),
    "grant-near-end": Kind(
        title="The terms grant fewer exchanges than rounds are left",
        command="hanse server manifest sign --continue-from RUN",
    ),
    "tls-near-end": Kind(
        title="The TLS certificate is near its end", command="hanse server tls renew"
    ),
    "certificate-near-end": Kind(
        title="A store's certificate is near its end", command="hanse store enrol"
    ),
    "noise-missing": Kind(title="Noise is missing from a sum", command="hanse server blame"),
    "test": Kind(title="A test", command="nothing to do"),
}
"""All kinds of events, by the name that they have in JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that is so now, and that a person should know.

    Args:
        kind: A name in `EVENTS`.
        subject: What it is about: a run, a store, a certificate. With the kind it says whether
            two events are the same.
        message: What is so, in one sentence of public words.
        step: For an event that is told again as it gets worse, how far it has come.
    """

    kind: str
    subject: str
    message: str
    step: int | None = None

    @property
    def title(self) -> str:
        """The title of its kind."""
        return EVENTS[self.kind].title

    @property
    def command(self) -> str:
        """The command that shows more, or that ends it."""
        return EVENTS[self.kind].command

    @property
    def key(self) -> str:
        """What two looks at the same event have in common."""
        name = f"{self.kind} {self.subject}"
        return name if self.step is None else f"{name} {self.step}"

    @property
    def sentence(self) -> str:
        """Title, subject and message on one line, without control characters."""
        return printable(f"{self.title}: {self.subject}: {self.message}")[:_LONGEST]

    def row(self, *, source: str, now: float | None = None) -> dict[str, Any]:
        """Return the event as plain JSON.

        Args:
            source: The federation or store that tells it.
            now: Unix seconds; the current time if unset.
        """
        moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
        return {
            "version": VERSION,
            "event": self.kind,
            "source": source,
            "subject": printable(self.subject)[:_LONGEST],
            "title": self.title,
            "message": printable(self.message)[:_LONGEST],
            "next": self.command,
            "time": moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }


def expiring(kind: str, subject: str, end: float, *, now: float) -> Iterator[Event]:
    """Yield the event of a certificate that ends within 30, 7 or 1 days, or has ended.

    Args:
        kind: `tls-near-end` or `certificate-near-end`.
        subject: The certificate, in words.
        end: Unix seconds at which it ends.
        now: Unix seconds.
    """
    reached = step(end, now=now)
    if reached is not None:
        yield Event(kind=kind, subject=subject, message=in_words("it", end, now=now), step=reached)
