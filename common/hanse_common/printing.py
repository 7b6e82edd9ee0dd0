"""Prints untrusted text so that it cannot control the terminal.

Names, refusals, file names and errors that quote a file come from other stores, the
coordinator, or the author of a file. All output of Hanse passes through here: control characters
become visible escapes, and nothing is interpreted as markup.
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
    """Return a console for tables without markup that escapes control characters.

    Args:
        file: The output; stdout if unset.
        stderr: Print to stderr instead.
        width: Width of a line in characters; the terminal's if unset.
        plain: Print no colours, even to a terminal.
    """
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.segment import Segment

    class Printable:
        """A renderable whose texts have their control characters escaped."""

        def __init__(self, inner: ConsoleRenderable) -> None:
            self._inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in console.render(self._inner, options):
                # Segments marked as control are rich's own escape sequences. All other text may
                # be another party's.
                text = part.text if part.control else printable(part.text, lines=True)
                yield Segment(text, part.style, part.control)

    class Hook(RenderHook):
        """Wraps every renderable that is printed."""

        def process_renderables(
            self, renderables: Iterable[ConsoleRenderable]
        ) -> list[ConsoleRenderable]:
            return [Printable(renderable) for renderable in renderables]

    escaping = Console(
        file=file,
        stderr=stderr,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
    escaping.push_render_hook(Hook())
    return escaping
