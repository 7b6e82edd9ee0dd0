"""Printing that no text of another party can turn against the terminal.

Names, refusals, file names and errors that quote a file come from other stores, from the
coordinator, from whoever made the file. Everything that Hanse prints passes through here, where
control characters become visible escapes, and nothing is read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

import typer

from hanse_common.wording import printable

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: object, *, err: bool = False) -> None:
    """Print plain text, which may have several lines."""
    typer.echo(printable(str(text), lines=True), err=err)


def console(
    *,
    file: IO[str] | None = None,
    stderr: bool = False,
    width: int | None = None,
    plain: bool = False,
) -> Console:
    """A console for tables: no markup, no highlighting, and control characters as escapes.

    Args:
        file: Where to; stdout if unset.
        stderr: To stderr instead.
        width: Of lines; the terminal's if unset.
        plain: Without colours, wherever it goes.
    """
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.segment import Segment

    class Printable:
        """What a renderable draws, with control characters of its texts as escapes."""

        def __init__(self, inner: ConsoleRenderable) -> None:
            self._inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in console.render(self._inner, options):
                # What rich itself has the terminal do is marked as control.
                seen = part.text if part.control else printable(part.text, lines=True)
                yield Segment(seen, part.style, part.control)

    class Hook(RenderHook):
        """Wraps everything that is printed."""

        def process_renderables(
            self, renderables: Iterable[ConsoleRenderable]
        ) -> list[ConsoleRenderable]:
            return [Printable(one) for one in renderables]

    made = Console(
        file=file,
        stderr=stderr,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
    made.push_render_hook(Hook())
    return made
