"""Tables and lines that `hanse server` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from hanse_common.printing import console
from hanse_common.roundlog.records import SUMMED
from hanse_common.versions import EARLIER
from hanse_common.wording import printable
from hanse_server.deployment.run_state import RunState
from hanse_server.deployment.status import Status


def print_status(status: Status) -> None:
    """Print the members and the run of a federation."""
    screen = console()
    up = f"up, process {status.pid}" if status.up else "not up"
    screen.print(Text(f"{status.federation}: {up}; stores connect to {status.address}"))
    screen.print(Text(f"Hanse {status.release}, protocol version {status.protocol}"))
    table = Table(box=None, pad_edge=False)
    for column in ("store", "standing", "manifest", "connection", "release", "last seen", "stage"):
        table.add_column(column)
    table.add_column("refused")
    for row in status.stores:
        refusal = f"round {row.refused_round}: {row.refusal}" if row.refusal else ""
        cells = (
            row.store,
            row.standing,
            "yes" if row.in_manifest else "no",
            row.connection,
            EARLIER if row.release == "" else row.release or "",
            (row.last_seen or "").removesuffix("+00:00").replace("T", " "),
            row.stage or "",
            refusal,
        )
        # Text, not markup, and printable: refusals hold words that stores have written.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    screen.print(table)
    for row in status.stores:
        if row.upgrade:
            screen.print(Text(printable(row.upgrade)))
        if row.blamed:
            screen.print(Text(printable(f"{row.store} is {row.blamed}")))
    for what, note in status.searches.items():
        screen.print(Text(printable(f"{what}: {note}")))
    for warning in (*status.unreadable, *status.warnings):
        screen.print(Text(printable(warning)))
    screen.print(Text(run_line(status.run) if status.run else "no run yet"))


def print_blame(
    name: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[tuple[str, str]]
) -> None:
    """Print the stores that rounds leave out, and the state of searches."""
    screen = console()
    if not rows:
        screen.print(Text(f"{printable(name)}: nothing is held against any store"))
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("store", "standing", "why"):
            table.add_column(column)
        for row in rows:
            table.add_row(
                *(Text(printable(row[column])) for column in ("store", "standing", "why"))
            )
        screen.print(table)
    for what, note in notes:
        screen.print(Text(printable(f"{what}: {note}")))


def run_line(run: RunState) -> str:
    """The state of a run on one line."""
    line = f"run {run.name}: {run.state}, round {run.round} of {run.rounds}"
    if run.failure:
        hint = run.failure.get("hint")
        line += f": {run.failure.get('message')}" + (f" ({hint})" if hint else "")
    return line


def stage_line(stage: Mapping[str, Any], rounds: int) -> str:
    """A finished stage of a run on one line."""
    number, replies, note = stage["round"], stage["replies"], stage["note"]
    if stage["stage"] == "done":
        return f"round {number}/{rounds}  {note or 'done'}"
    what = "trained" if stage["stage"] == "train" else f"evaluated ({stage['split']})"
    line = f"round {number}/{rounds}  {what} by {replies} stores in {stage['seconds']:.1f} s"
    if stage["outcome"] != SUMMED:
        line = f"round {number}/{rounds}  lost [{stage['outcome']}]"
    elif stage["cut"] is not None and stage["cut"] < 1:
        line += f", the sum cut to {stage['cut']:.0%}"
    if note:
        line += f": {note}"
    releases = stage.get("releases", {})  # lines of earlier releases have none
    if len(releases) > 1:
        parts = ", ".join(f"{name} at {count} stores" for name, count in releases.items())
        line += f"; releases differ: {printable(parts)}"
    for store, reason in stage["refusals"].items():
        line += f"\n    {store}: {reason}"
    return line
