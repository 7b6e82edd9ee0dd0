"""The shared body of `hanse server notify` and `hanse store notify`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from hanse_common.alerting.events import Event
from hanse_common.alerting.watcher import Way
from hanse_common.errors import ConfigError, HanseError, NotReady
from hanse_common.printing import echo
from hanse_common.wording import json_text

TestOption = Annotated[
    bool, typer.Option("--test", help="Send a test event on every way that is configured.")
]


def show(events: Iterable[Event], *, source: str, as_json: bool) -> None:
    """Print the events that hold now."""
    rows = [event.row(source=source) for event in events]
    if as_json:
        echo(json_text(rows))
        return
    for row in rows:
        echo(f"{row['title']}: {row['subject']}: {row['message']}; next: {row['next']}")
    if not rows:
        echo("nothing to tell")


def try_ways(ways: Mapping[str, Way], *, source: str, as_json: bool) -> None:
    """Send a test event on every way, and print how each went.

    Raises:
        ConfigError: No way is configured.
        NotReady [not-told]: A way failed.
    """
    if not ways:
        raise ConfigError(
            "there is nobody to tell: [notify] names no webhook, command or email",
            hint="docs/operators.md shows the table",
        )
    event = Event(kind="test", subject=source, message="nothing has happened, this is a test")
    results: dict[str, Any] = {}
    for name, tell in ways.items():
        try:
            tell(event)
            results[name] = "told"
        except HanseError as error:
            results[name] = f"{error.message} [{error.code}]"
    if as_json:
        echo(json_text(results))
    else:
        for name, result in results.items():
            echo(f"{name}: {result}")
    failed = [name for name, result in results.items() if result != "told"]
    if failed:
        raise NotReady(f"nobody was told by {', '.join(failed)}", code="not-told")
