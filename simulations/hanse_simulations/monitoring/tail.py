r"""Follow a run by reading its logs while they grow.

The training processes only append lines of JSON; a watcher reads the lines since its last look.
Nothing here can slow a store down or change what it computes.

>>> import tempfile
>>> log = Path(tempfile.mkdtemp()) / "rounds.jsonl"
>>> lines = JsonLines(log)
>>> _ = log.write_text('{"round": 1}\n{"rou')
>>> lines.new()
[{'round': 1}]
>>> with log.open("a") as file: _ = file.write('nd": 2}\n')
>>> lines.new()
[{'round': 2}]
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse_simulations.runs.arm_folder import ArmFolder


class JsonLines:
    """Reads the lines appended to a file of JSON lines since the last look.

    **Edge cases**: a half-written last line waits for its end; a line that is not an
    object is skipped; a file that was replaced, or became shorter, is read again from its
    beginning (a resumed run drops the rounds that it will repeat); a missing file is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._file_id = 0

    def new(self) -> list[dict[str, Any]]:
        """Return the objects on the complete lines appended since the last call."""
        try:
            status = self.path.stat()
            # Another inode, or fewer bytes: the file was replaced or cut, so it is read again.
            if status.st_ino != self._file_id or status.st_size < self._offset:
                self._file_id, self._offset = status.st_ino, 0
            if status.st_size == self._offset:
                return []
            with self.path.open("rb") as file:
                file.seek(self._offset)
                block = file.read()
        except OSError:
            return []
        # The writer may be in the middle of the last line: it is left for the next look.
        complete, newline, _ = block.rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [entry for line in complete.splitlines() if (entry := _parse(line)) is not None]


@dataclass(slots=True)
class StoreState:
    """The latest state in one store's own log."""

    round: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    epsilon: float | None = None
    time: float = 0.0

    @property
    def rounds_done(self) -> int:
        """Number of rounds whose steps are all done."""
        return self.round - 1 if self.busy else self.round

    @property
    def busy(self) -> bool:
        """Whether the store has steps left in its round."""
        return self.step < self.steps


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """A round whose training has just been completed."""

    round: int
    seconds: float
    replies: int
    refusals: dict[str, str]
    """Reasons of the stores that took no part, by store."""


class ArmWatch:
    """The state of one arm, according to its logs.

    Args:
        arm: The arm's name.
        folder: The folder that the arm writes to.
        rounds: Number of rounds of the arm.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        arm: str,
        folder: str | os.PathLike[str],
        rounds: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.arm = arm
        self.folder = ArmFolder(folder)
        self.rounds = rounds
        self.finished = False
        self.stores: dict[str, StoreState] = {}
        self._ended = 0
        self._clock = clock
        self._rounds_log = JsonLines(self.folder.rounds_file)
        self._store_logs: dict[str, JsonLines] = {}
        # Rounds from before a resume say nothing about the pace now.
        self.look()
        self._done_before = self._done
        self._started = self._last_end = clock()

    def look(self) -> list[RoundEnd]:
        """Read the new lines; return the rounds whose training ended since the last look."""
        for store, path in self.folder.store_logs().items():
            log = self._store_logs.setdefault(store, JsonLines(path))
            for entry in log.new():
                _update(self.stores.setdefault(store, StoreState()), entry)
        ended = []
        for entry in self._rounds_log.new():
            end = self._advance(entry)
            if end is not None:
                ended.append(end)
        if ended:
            self._last_end = self._clock()
        return ended

    @property
    def rounds_done(self) -> int:
        """Rounds that the server has ended; for stores that train alone, the mean of theirs."""
        return int(self._done)

    @property
    def _done(self) -> float:
        if self._ended or self._rounds_log.path.exists():
            return self._ended
        rounds = sum(store.rounds_done for store in self.stores.values())
        return rounds / max(1, len(self._store_logs))

    @property
    def round(self) -> int:
        """The current round, or the last one."""
        seen = max((store.round for store in self.stores.values()), default=0)
        return min(max(seen, self.rounds_done + 1), self.rounds)

    @property
    def elapsed(self) -> float:
        """Seconds since the arm was started."""
        return self._clock() - self._started

    @property
    def left(self) -> float | None:
        """Estimated seconds left, from the mean round so far; None before the first has ended."""
        done = self._done - self._done_before
        if self._done >= self.rounds:
            return 0.0
        if done < 1:
            return None
        # No server ends the rounds of stores that train alone: their rounds count as they go.
        last_end = self._last_end if self._ended else self._clock()
        mean = (last_end - self._started) / done
        since = self._clock() - last_end
        return max(0.0, mean * (self.rounds - self._done) - since)

    @property
    def loss(self) -> float | None:
        """Mean of the stores' latest losses."""
        losses = [store.loss for store in self.stores.values() if store.loss is not None]
        return sum(losses) / len(losses) if losses else None

    @property
    def epsilon(self) -> float | None:
        """The largest ε of any store so far."""
        spent = [store.epsilon for store in self.stores.values() if store.epsilon is not None]
        return max(spent, default=None)

    def _advance(self, entry: dict[str, Any]) -> RoundEnd | None:
        """Apply one line of the server's log; return the round that it ends, if any."""
        number, stage = _integer(entry.get("round")), entry.get("stage")
        if stage == "done":
            self.finished = True
        if number is None or stage != "train" or number <= self._ended:
            return None
        self._ended = number
        refusals = entry.get("refusals")
        return RoundEnd(
            number,
            _number(entry.get("seconds")) or 0.0,
            _integer(entry.get("replies")) or 0,
            {str(k): str(v) for k, v in refusals.items()} if isinstance(refusals, dict) else {},
        )


def _update(store: StoreState, entry: dict[str, Any]) -> None:
    store.round = _integer(entry.get("round")) or store.round
    if "step" in entry:
        store.step = _integer(entry["step"]) or 0
        store.steps = _integer(entry.get("steps")) or 0
    store.time = _number(entry.get("time")) or store.time
    loss, spent = _number(entry.get("loss")), _number(entry.get("epsilon"))
    store.loss = store.loss if loss is None else loss
    store.epsilon = store.epsilon if spent is None else spent


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
