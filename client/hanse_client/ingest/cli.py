"""`hanse data`: commands that check a store's own data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption
from hanse_common.printing import console, echo
from hanse_common.wording import json_text

if TYPE_CHECKING:
    from rich.table import Table

data = command_group("A store's own tables: events, catalogue, reviews, offers.")


@data.command()
def check(
    store: Annotated[Path, typer.Argument(metavar="FILE", help="The store's store.toml.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Read a store's data as training would, and count accepted and rejected rows.

    Prints counts only, never a row or an id. Creates the store's pseudonym key if it is missing.
    """
    from hanse_client.ingest.check import StoreTables  # imported on use: polars
    from hanse_client.ingest.store_config import load_store

    config = load_store(store)
    counts = {"store": config.name, **StoreTables.read(config).summary()}
    if output is Format.JSON:
        echo(json_text(counts))
    else:
        _print_table(counts)


def _print_table(counts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(counts["store"]), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    if "rows_read" in counts:
        _add_events(table, counts)
    for name in ("reviews", "offers", "campaigns"):
        if name in counts:
            _add_counts(table, name, counts[name])
    console().print(table)


def _add_events(table: Table, counts: dict[str, Any]) -> None:
    for key in ("rows_read", "kept", "customers", "items", "baskets"):
        table.add_row(key.replace("_", " "), f"{counts[key]:,}")
    table.add_row("first day", counts["first_day"])
    table.add_row("last day", counts["last_day"])
    for kind, rows in counts["event_types"].items():
        table.add_row(f"  {kind}", f"{rows:,}")
    catalogue = counts["catalogue"]
    table.add_row("catalogue items", f"{catalogue['kept']:,}")
    table.add_row("catalogue categories", f"{catalogue['categories']:,}")
    if catalogue["vectors"]:
        table.add_row("catalogue items with a vector", f"{catalogue['vectors']:,}")
    _add_rejects(table, "rejected events", counts["rejects"])
    _add_rejects(table, "rejected catalogue rows", catalogue["rejects"])


def _add_counts(table: Table, name: str, counts: dict[str, Any]) -> None:
    table.add_section()
    for key, value in counts.items():
        if isinstance(value, int):
            table.add_row(f"{name}: {key.replace('_', ' ')}", f"{value:,}")
    _add_rejects(table, f"rejected {name}", counts["rejects"])


def _add_rejects(table: Table, title: str, rejects: dict[str, int]) -> None:
    table.add_section()
    table.add_row(title, f"{sum(rejects.values()):,}")
    for reason, rows in rejects.items():
        table.add_row(f"  {reason}", f"{rows:,}")
