"""Looks for events in a thread while a command runs, and tells each of them once.

Every new event is a warning in the log; which ways lead to a person, the settings say. What was
told is kept in a file, so that a restart tells nothing twice. An event that is over is forgotten,
and told again if it comes back.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hanse_common.alerting.events import Event
from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.errors import HanseError

LOOK_SECONDS = 30.0
"""Seconds between two looks at the files."""
_AGAIN_SECONDS = 300.0
"""Seconds for which a way that failed is not tried again."""
_LAST_SECONDS = 15.0
"""Longest time that a command which ends by an error waits until somebody is told of it."""
_END_SECONDS = 1.0
"""Longest time that a command which is stopped waits for the thread."""
_LOG = "log"

_log = logging.getLogger(__name__)

Way = Callable[[Event], None]
"""Tells a person of an event; raises `HanseError` if that was not possible."""


class Watcher:
    """A thread that looks for events, and tells new ones.

    Args:
        read: Returns the events that hold now.
        told: File of the events that were told.
        ways: The ways to a person, by name.
        seconds: Time between two looks.

    Guarantees:
        Nothing that it does delays or ends the command that it runs beside: it reads files, and
        errors of reading or telling become lines in the log.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Event]],
        *,
        told: Path,
        ways: Mapping[str, Way],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._read, self._file, self._seconds = read, told, seconds
        self._ways: dict[str, Way] = {_LOG: _write_line, **ways}
        self._told = _read_told(told)
        self._not_before: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # A daemon: a way that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="alerting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_END_SECONDS)

    def look(self) -> None:
        """Read the events once, and tell those that are new."""
        try:
            events = list(self._read())
        except (HanseError, OSError) as error:
            _log.warning("could not look for events: %s", error)
            return
        with self._lock:
            # Only events that still hold: one that is over and comes back is told again.
            held = {event.key for event in events}
            told = {key: ways for key, ways in self._told.items() if key in held}
            for event in events:
                told[event.key] = self._tell(event, told.get(event.key, frozenset()))
            self._remember(told)

    def last(self, event: Event) -> None:
        """Tell of the command's own end; waits for at most `_LAST_SECONDS`."""
        telling = threading.Thread(
            target=self._tell, args=(event, frozenset()), name="alerting-last", daemon=True
        )
        telling.start()
        telling.join(_LAST_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                _log.exception("could not look for events")
            if self._stop.wait(self._seconds):
                return

    def _tell(self, event: Event, already: frozenset[str]) -> frozenset[str]:
        """Tell an event on all ways that it was not told on; returns those it was told on."""
        done = set(already)
        for name in self._ways.keys() - already:
            if time.monotonic() < self._not_before.get(name, 0.0):
                continue
            try:
                self._ways[name](event)
                done.add(name)
            except HanseError as error:
                # Its own words, which name no secret: see `delivery`.
                _log.warning("nobody was told by %s: %s", name, error.message)
                self._not_before[name] = time.monotonic() + _AGAIN_SECONDS
        return frozenset(done)

    def _remember(self, told: Mapping[str, frozenset[str]]) -> None:
        if told == self._told:
            return
        self._told = dict(told)
        table = {"told": {key: sorted(ways) for key, ways in told.items()}}
        try:
            write_durably(self._file, json.dumps(table, indent=1) + "\n")
        except OSError as error:
            _log.warning("cannot keep what was told: %s", error)


def _read_told(path: Path) -> dict[str, frozenset[str]]:
    table = json_file(path).get("told")
    if not isinstance(table, dict):
        return {}
    return {
        str(key): frozenset(map(str, ways)) - {_LOG}  # each process writes its own log
        for key, ways in table.items()
        if isinstance(ways, list)
    }


def _write_line(event: Event) -> None:
    _log.warning("%s; next: %s", event.sentence, event.command)
