"""Lets a run go on by itself after a crash, or once the stores that it lacked are back.

`hanse server up` looks after the last run. A run whose process ended is resumed from its last
checkpoint, unless the operator stopped it or its error would only come again: terms, settings,
budget and missing noise are for people. After too few stores it waits until enough are
connected. Every resumption repeats at most one round, which stores charge again within what the
terms grant; after `MOST_TRIES` without a new checkpoint the run has failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hanse_common.errors import (
    HanseError,
    RoundFailed,
    SuperLinkDown,
)
from hanse_server.deployment.control import Control
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.run import resume
from hanse_server.deployment.run_record import RunRecord
from hanse_server.deployment.run_state import (
    MOST_TRIES,
    RunState,
    all_runs,
    state_of,
    write_failure,
)
from hanse_server.deployment.sign import signed_manifest

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
"""Seconds until a run goes on: the first time, and at most. Each try doubles them."""


@contextmanager
def looking_after_runs(folder: FederationFolder) -> Iterator[None]:
    """Resume the last run whenever it can go on by itself, in a thread, until the block ends."""
    stop = threading.Event()

    def look() -> None:
        keeper = Keeper(folder)
        while not stop.wait(_LOOK_SECONDS):
            try:
                keeper.look(now=time.monotonic())
            except (HanseError, OSError) as error:
                # Nothing may end this thread: the SuperLink may be starting, the disk be full.
                _log.debug("cannot look after the runs: %s", error)
            except Exception:
                # A mistake in the program: a run that goes on by itself must not depend on it.
                _log.exception("cannot look after the runs")

    # A daemon: a call to a SuperLink that hangs must not keep the process alive.
    thread = threading.Thread(target=look, name="recovery", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=_LOOK_SECONDS)


class Keeper:
    """Looks after the last run of a federation.

    Args:
        folder: The federation's folder.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self._over: tuple[str, int] | None = None
        self._broken: tuple[str, int] | None = None
        self._since = 0.0

    def look(self, *, now: float) -> RunState | None:
        """Resume the last run if it is its time.

        Args:
            now: Seconds of a clock that only goes forward.

        Returns:
            The state of the run if it was resumed; None otherwise.

        Raises:
            HanseError: The state of the run cannot be read now.
        """
        runs = all_runs(self._folder)
        if not runs:
            return None
        record = RunRecord.read(runs[-1])
        broken = (runs[-1].name, len(record.runs))
        if broken == self._over or not record.may_go_on:
            return None
        state = state_of(self._folder, runs[-1])
        if state.state in ("finished", "ended early"):
            self._over = broken  # its files need not be read again every few seconds
        if state.state != "recovering":
            return None
        if broken != self._broken:
            self._broken, self._since = broken, now
            _log.warning("run %s ended: %s", state.name, state.failure.get("message"))
        pause = min(_FIRST_PAUSE * 2 ** record.tries_from(state.round), _LONGEST_PAUSE)
        if now - self._since < pause or not self._enough_connected(state):
            return None
        return self._resume(runs[-1], state, record)

    def _resume(self, run_dir: Path, state: RunState, record: RunRecord) -> RunState | None:
        tries = record.tries_from(state.round) + 1
        # Written first: a crash in between must not make the number of tries unlimited.
        record.changed(tried_at=state.round, tries=tries).write(run_dir)
        try:
            resumed = resume(self._folder, name=state.name, stores=record.stores)
        except (SuperLinkDown, OSError):
            raise  # passes; the try counts
        except HanseError as error:
            write_failure(run_dir, error)  # shown by `status`, and not tried again
            _log.error("run %s cannot go on by itself: %s", state.name, error)
            return None
        _log.warning(
            "run %s goes on by itself after round %d (try %d of %d)",
            state.name,
            state.round,
            tries,
            MOST_TRIES,
        )
        return resumed

    def _enough_connected(self, state: RunState) -> bool:
        if state.failure.get("code") != RoundFailed.code:
            return True
        terms = signed_manifest(self._folder)
        with Control(self._folder) as control:
            online = {node.store_id for node in control.nodes() if node.status == "online"}
        return len(online.intersection(terms.stores)) >= terms.minimum_cohort
