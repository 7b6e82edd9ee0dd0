"""Show a run's progress: arm, round, every store's step, loss and ε, and the time left.

    with Progress(quiet=False) as progress:
        progress.note("reading 12 shops")
        progress.arm("federated_private", folder, rounds=10)
        ...                                       # train; the logs in `folder` are followed

On a terminal this is a live table; elsewhere plain lines: for the first round, for every tenth
one, after a long silence, and when an arm is finished. An arm with few rounds has a line for
each. All of it goes to stderr: stdout is for data.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hanse_common import printing
from hanse_simulations.experiment.arms import arm as arm_named
from hanse_simulations.monitoring.tail import ArmWatch, RoundEnd, StoreState
from hanse_simulations.report.wording import ABSENT, counted, duration, epsilon, natural

ALL_SHOWN = 20
"""With more stores than this, only the busiest are shown one by one."""
BUSIEST = 8
EVERY = 10
"""Without a terminal, an arm with more rounds than this has a line for every tenth only."""
SILENCE = 60.0
"""Seconds without a line after which the next round has one, whatever its number."""


class _Display(Protocol):
    """A way to show a run; `Progress` calls it from one thread at a time, under its lock."""

    def note(self, text: str) -> None: ...
    def rounds(self, watch: ArmWatch, ended: list[RoundEnd]) -> None: ...
    def end(self, watch: ArmWatch) -> None: ...
    def close(self) -> None: ...


class Progress:
    """Follows the arms of a run and shows their progress.

    Args:
        quiet: Show nothing and start no thread.
        console: Where to show it; stderr by default.
        interval: Seconds between two looks at the logs.
    """

    def __init__(
        self, *, quiet: bool = False, console: Console | None = None, interval: float = 0.25
    ) -> None:
        self._quiet = quiet
        self._console = console or printing.console(stderr=True)
        self._interval = interval
        self._display: _Display = _Nothing()
        self._watch: ArmWatch | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._quiet:
            live = self._console.is_terminal and not self._console.is_dumb_terminal
            self._display = _LiveTable(self._console) if live else _Lines(self._console)
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The thread is joined before the last look: it must not draw after the display closed.
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._end_arm()
            self._display.close()
            self._display = _Nothing()

    def note(self, text: str) -> None:
        """Show in one line what is being done outside of the rounds."""
        with self._lock:
            self._display.note(text)

    def arm(self, arm: str, folder: str | os.PathLike[str], rounds: int) -> None:
        """Follow the next arm; the one before is finished.

        Args:
            arm: The arm's name.
            folder: Where it writes `rounds.jsonl` and `stores/<store>/log.jsonl`.
            rounds: Number of its rounds.
        """
        with self._lock:
            self._end_arm()
            if not self._quiet:
                self._watch = ArmWatch(arm, folder, rounds)
                self._display.rounds(self._watch, [])

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                self._look()

    def _look(self) -> None:
        if self._watch is not None:
            self._display.rounds(self._watch, self._watch.look())

    def _end_arm(self) -> None:
        if self._watch is not None:
            self._look()
            self._display.end(self._watch)
            self._watch = None


class _Nothing:
    """Shows nothing, for `--quiet`."""

    def note(self, text: str) -> None: ...
    def rounds(self, watch: ArmWatch, ended: list[RoundEnd]) -> None: ...
    def end(self, watch: ArmWatch) -> None: ...
    def close(self) -> None: ...


class _Refusals:
    """Reports once why a store takes no part, not in every round."""

    def __init__(self) -> None:
        self._reported: set[tuple[str, str]] = set()

    def new(self, end: RoundEnd) -> list[str]:
        fresh = [item for item in end.refusals.items() if item not in self._reported]
        self._reported.update(fresh)
        return [f"{store} took no part in round {end.round}: {why}" for store, why in fresh]


class _Lines:
    """Shows plain lines in a log file or a pipe, few enough to be read later.

    Args:
        console: Where to print.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last = clock()
        self._refusals = _Refusals()

    def note(self, text: str) -> None:
        self._print(text)

    def rounds(self, watch: ArmWatch, ended: list[RoundEnd]) -> None:
        for end in ended:
            if self._due(end, watch.rounds):
                self._print(_round_line(watch, end))
            for line in self._refusals.new(end):
                self._print(line)

    def end(self, watch: ArmWatch) -> None:
        self._print(_summary(watch))

    def close(self) -> None: ...

    def _due(self, end: RoundEnd, rounds: int) -> bool:
        """Whether a round has a line; the last of many has its arm's summary instead."""
        if rounds <= EVERY or end.round == 1:
            return True
        listed = end.round % EVERY == 0 and end.round < rounds
        return listed or self._clock() - self._last >= SILENCE

    def _print(self, text: str) -> None:
        self._last = self._clock()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _LiveTable:
    """Redraws one table on a terminal, and prints a line for each finished arm."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Rich's own refreshing would add a thread, and redirecting stdout would mix in data.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start()
        self._refusals = _Refusals()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def rounds(self, watch: ArmWatch, ended: list[RoundEnd]) -> None:
        for end in ended:
            for line in self._refusals.new(end):
                self.note(line)
        self._live.update(live_table(watch, height=self._console.height), refresh=True)

    def end(self, watch: ArmWatch) -> None:
        self._live.update(Group(), refresh=True)
        self._console.print(_summary(watch), markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()


def live_table(watch: ArmWatch, *, height: int = 40) -> RenderableType:
    """Draw the state of an arm.

    Args:
        watch: The arm.
        height: Height of the terminal in lines.
    """
    time_left = watch.left
    if watch.rounds_done >= watch.rounds:
        left = "measuring on the test weeks"
    else:
        left = "time left not known yet" if time_left is None else f"{duration(time_left)} left"
    title = Text.assemble(
        (arm_named(watch.arm).label, "bold"), f"  round {watch.round} of {watch.rounds}"
    )
    pace = Table.grid(padding=(0, 2))
    pace.add_row(
        ProgressBar(total=max(watch.rounds, 1), completed=_fraction(watch), width=24),
        Text(f"{duration(watch.elapsed)} so far, {left}"),
    )
    shown = _shown(watch.stores, height - 8)
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    table.add_column("Store", no_wrap=True, overflow="ellipsis", max_width=32)
    for heading in ("Round", "Step", "Loss", "ε"):
        table.add_column(heading, justify="right")
    for name in shown:
        store = watch.stores[name]
        table.add_row(
            Text(name),
            str(store.round),
            f"{store.step}/{store.steps}",
            _loss(store.loss),
            epsilon(store.epsilon),
            style="" if store.busy else "dim",
        )
    rest = [store for name, store in watch.stores.items() if name not in shown]
    lines: list[RenderableType] = [title, pace, table] if shown else [title, pace]
    return Group(*lines, Text(_rest(rest), style="dim")) if rest else Group(*lines)


def _shown(stores: dict[str, StoreState], lines: int) -> list[str]:
    """Names of all stores in order; of too many, the busy ones with the latest log lines."""
    if len(stores) <= min(ALL_SHOWN, max(lines, 1)):
        return sorted(stores, key=natural)
    order = sorted(stores, key=lambda name: (not stores[name].busy, -stores[name].time, name))
    return sorted(order[: max(1, min(BUSIEST, lines - 1))], key=natural)


def _rest(stores: list[StoreState]) -> str:
    losses = [store.loss for store in stores if store.loss is not None]
    spent = [store.epsilon for store in stores if store.epsilon is not None]
    parts = [f"and {counted(len(stores), 'more store')}"]
    if losses:
        parts.append(f"mean loss {_loss(sum(losses) / len(losses))}")
    if spent:
        parts.append(f"ε at most {epsilon(max(spent))}")
    return ", ".join(parts)


def _fraction(watch: ArmWatch) -> float:
    """Rounds done, plus the fraction of the current round's training steps."""
    stores = [store for store in watch.stores.values() if store.steps]
    if watch.rounds_done >= watch.rounds or not stores:
        return watch.rounds_done
    under_way = [
        store.step / store.steps if store.round > watch.rounds_done else 0.0 for store in stores
    ]
    return watch.rounds_done + sum(under_way) / len(under_way)


def _round_line(watch: ArmWatch, end: RoundEnd) -> str:
    parts = [
        f"{arm_named(watch.arm).label}: round {end.round}/{watch.rounds}",
        f"loss {_loss(watch.loss)}",
        f"ε {epsilon(watch.epsilon)}" if watch.epsilon is not None else "",
        f"{end.replies} of {counted(end.replies + len(end.refusals), 'store')}"
        if end.refusals
        else counted(end.replies, "store"),
        duration(end.seconds),
        f"{duration(watch.left)} left" if watch.left else "",
    ]
    return ", ".join(part for part in parts if part)


def _summary(watch: ArmWatch) -> str:
    parts = [
        f"{arm_named(watch.arm).label}: {watch.rounds_done} of {counted(watch.rounds, 'round')}"
        f" in {duration(watch.elapsed)}"
    ]
    if watch.loss is not None:
        parts.append(f"loss {_loss(watch.loss)}")
    if watch.epsilon is not None:
        parts.append(f"ε at most {epsilon(watch.epsilon)}")
    return ", ".join(parts)


def _loss(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
