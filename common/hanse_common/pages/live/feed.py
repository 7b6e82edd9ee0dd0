"""Reads the parts of a page while somebody watches, and hands changed ones to every reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hanse_common.pages.live.parts import LivePage, render

PERIOD = 2.0
"""Seconds from the end of one update to the beginning of the next, at least."""
_REST = 4.0
"""Least rest between two updates, in durations of an update."""
_LOOK = 0.5
"""Seconds after which a reader notices that the server ends."""


class Feed:
    """The HTML of a page's parts, kept up to date while there are readers.

    Args:
        page: The page.
        ends: Says whether the server is ending, so that streams end with it.
        period: Seconds between updates.
    """

    def __init__(
        self, page: LivePage, *, ends: Callable[[], bool] = lambda: False, period: float = PERIOD
    ) -> None:
        self._page, self._ends, self._period = page, ends, period
        self._html: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.readers = 0

    @property
    def html(self) -> dict[str, str]:
        """The newest HTML of each part that has been read."""
        return dict(self._html)

    async def update(self, *, seconds: float) -> None:
        """Read all parts, unless they are new; give up the waiting, not the reading, in time.

        Args:
            seconds: How long to wait at most.
        """
        if self._read_at is None or time.monotonic() - self._read_at > self._period:
            task = asyncio.create_task(self._read())
            self._tasks.add(task)  # asyncio itself holds tasks weakly
            task.add_done_callback(self._tasks.discard)
            await asyncio.wait([task], timeout=seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Update the parts in the background while there are readers."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def changes(self, beat: float) -> AsyncIterator[tuple[str, str] | None]:
        """Yield each part whose HTML changes, beginning with all; None after a pause.

        Args:
            beat: Seconds without a change after which None is yielded, so that the reader knows
                that the connection holds.
        """
        sent: dict[str, str] = {}
        quiet_since = time.monotonic()
        self.readers += 1
        self._wanted.set()
        try:
            while not self._ends():
                new = {name: html for name, html in self._html.items() if sent.get(name) != html}
                for change in new.items():
                    yield change
                sent |= new
                if new or time.monotonic() - quiet_since >= beat:
                    quiet_since = time.monotonic()
                    if not new:
                        yield None
                async with self._changed:
                    if self._html == sent:
                        try:
                            await asyncio.wait_for(self._changed.wait(), _LOOK)
                        except TimeoutError:
                            continue
        finally:
            self.readers -= 1

    async def _run(self) -> None:
        while True:
            if not self.readers:
                self._wanted.clear()
                await self._wanted.wait()
            begun = time.monotonic()
            await self._read()
            # Where reading is slow, it is done more rarely: the page must not load the machine.
            await asyncio.sleep(max(self._period, _REST * (time.monotonic() - begun)))

    async def _read(self) -> None:
        async with self._reading:  # two updates at a time would only read the same twice
            for part in self._page.parts():
                html = await asyncio.to_thread(render, part, self._page.environment)
                # One part at a time: a slow one must not hold up the others.
                async with self._changed:
                    if self._html.get(part.name) != html:
                        self._html[part.name] = html
                        self._changed.notify_all()
            self._read_at = time.monotonic()
