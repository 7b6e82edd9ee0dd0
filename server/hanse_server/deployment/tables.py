"""What `hanse server` shows to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from hanse_common.printing import console
from hanse_common.wording import printable
from hanse_server.deployment.running import RunState
from hanse_server.deployment.status import Status


def print_status(status: Status) -> None:
    """Print members and run."""
    screen = console()
    up = f"up, process {status.pid}" if status.up else "not up"
    screen.print(Text(f"{status.federation}: {up}; stores connect to {status.address}"))
    table = Table(box=None, pad_edge=False)
    for column in ("store", "standing", "manifest", "connection", "last seen", "stage", "refused"):
        table.add_column(column)
    for row in status.stores:
        refusal = f"round {row.refused_round}: {row.refusal}" if row.refusal else ""
        cells = (
            row.store,
            row.standing,
            "yes" if row.in_manifest else "no",
            row.connection,
            (row.last_seen or "").removesuffix("+00:00").replace("T", " "),
            row.stage or "",
            refusal,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    screen.print(table)
    screen.print(Text(run_line(status.run) if status.run else "no run yet"))


def run_line(run: RunState) -> str:
    """A run on one line."""
    line = f"run {run.name}: {run.state}, round {run.round} of {run.rounds}"
    if run.failure:
        hint = run.failure.get("hint")
        line += f": {run.failure.get('message')}" + (f" ({hint})" if hint else "")
    return line


def stage_line(stage: Mapping[str, Any], rounds: int) -> str:
    """A finished stage of a run on one line."""
    number, replies = stage["round"], stage["replies"]
    if stage["stage"] == "done":
        return f"round {number}/{rounds}  done"
    what = "trained" if stage["stage"] == "train" else f"evaluated ({stage['split']})"
    line = f"round {number}/{rounds}  {what} by {replies} stores in {stage['seconds']:.1f} s"
    for store, reason in stage["refusals"].items():
        line += f"\n    {store}: {reason}"
    return line
