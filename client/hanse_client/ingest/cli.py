"""`hanse data`: commands that check a store's own data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse_common.commands import command_group
from hanse_common.errors import ConfigError, DataError, HanseError
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
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the diagnosis as a page.")
    ] = None,
) -> None:
    """Read a store's data as training would, count rejected rows by reason, and say what is odd.

    Prints counts only, never a row or an id. Creates the store's pseudonym key if it is missing.
    """
    from hanse_client.ingest.check import StoreTables  # imported on use: polars
    from hanse_client.ingest.check_page import render
    from hanse_client.ingest.store_config import load_store

    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html} is in a folder that does not exist")
    config = load_store(store)
    refusal: DataError | None = None
    try:
        tables = StoreTables.read(config)
    except DataError as error:
        refusal = error
        try:
            tables = StoreTables.read_leniently(config)
        except HanseError:
            raise error from None  # it cannot be read at all
    counts = {"store": config.name, **tables.summary()}
    if html is not None:
        refused = None if refusal is None else f"{refusal.message} ({refusal.hint})"
        html.write_text(render(counts, refused), encoding="utf-8")
    if output is Format.JSON and refusal is None:
        echo(json_text(counts))
    elif output is Format.TABLE:
        _print_table(counts)
        _print_findings(counts)
    if refusal is not None:
        raise refusal


@data.command(name="map")
def propose(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of events and of the catalogue.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="The store's name.")] = "my-shop",
) -> None:
    """Propose a store.toml from the columns of files and their first thousand rows.

    Prints names of columns and formats, never a cell.
    """
    from hanse_client.ingest.proposal import proposal  # imported on use: polars

    echo(proposal(files, name=name))


def _print_findings(counts: dict[str, Any]) -> None:
    for finding in counts.get("diagnosis", {}).get("findings", ()):
        echo(f"Look at this: {finding['what']}.\n  {finding['do']}")


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
    diagnosis = counts["diagnosis"]
    for part in ("customers", "baskets", "times"):
        for key, value in diagnosis[part].items():
            table.add_row(f"{part}: {key.replace('_', ' ')}", _figure(value))
    table.add_row("encoding", ", ".join(diagnosis["encodings"]) or "not text")
    _add_rejects(table, "rejected events", counts["rejects"], counts["reasons"])
    _add_rejects(table, "rejected catalogue rows", catalogue["rejects"], catalogue["reasons"])


def _figure(value: object) -> str:
    if value is None:
        return "too few customers"
    if isinstance(value, float):
        return f"{value:.1%}" if value <= 1 else f"{value:,g}"
    return str(value)


def _add_counts(table: Table, name: str, counts: dict[str, Any]) -> None:
    table.add_section()
    for key, value in counts.items():
        if isinstance(value, int):
            table.add_row(f"{name}: {key.replace('_', ' ')}", f"{value:,}")
    _add_rejects(table, f"rejected {name}", counts["rejects"])


def _add_rejects(
    table: Table,
    title: str,
    rejects: dict[str, int],
    reasons: dict[str, dict[str, Any]] | None = None,
) -> None:
    table.add_section()
    table.add_row(title, f"{sum(rejects.values()):,}")
    for reason, rows in rejects.items():
        judged = (reasons or {}).get(reason)
        share = "" if judged is None else f" ({judged['share']:.1%})"
        table.add_row(f"  {reason}", f"{rows:,}{share}")
